//! What the migrations of this binary make, read from their text: so the doctor knows of every
//! table, trigger, index and constraint as soon as its migration is written, and can show the very
//! statement that makes a lost one again.
//!
//! It reads the SQL that is written in `migrations/`: lower case, one name each, functions between
//! `$$`. What it misreads, the tests on a migrated database show.

use crate::store::schema::MIGRATOR;

/// What a migrated database holds.
#[derive(Debug, Default)]
pub struct Expected {
    pub tables: Vec<String>,
    pub extensions: Vec<String>,
    pub triggers: Vec<Made>,
    pub indexes: Vec<Made>,
    pub constraints: Vec<Made>,
}

/// Something on a table, and the statement that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub name: String,
    pub table: String,
    pub statement: String,
}

/// What all migrations together make.
pub fn expected() -> Expected {
    let mut expected = Expected::default();
    for migration in MIGRATOR.iter() {
        for statement in statements(migration.sql.as_str()) {
            expected.read(&statement);
        }
    }
    expected
}

/// The statements without comments and function bodies, each on one line.
fn statements(sql: &str) -> Vec<String> {
    let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join(" ");
    // Every other part lies between two `$$`.
    let outside: String = text.split("$$").step_by(2).collect();
    let statements = outside.split(';');
    statements
        .map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|statement| !statement.is_empty())
        .collect()
}

impl Expected {
    fn read(&mut self, statement: &str) {
        let said = |start: &str| statement.strip_prefix(start).map(name_in);
        if let Some(table) = said("create table ") {
            self.read_constraints(statement, &table);
            self.tables.push(table);
        } else if let Some(table) = said("alter table ") {
            self.read_constraints(statement, &table);
        } else if let Some(extension) = said("create extension if not exists ") {
            self.extensions.push(extension);
        } else if let Some(name) = said("create trigger ") {
            self.triggers.push(made_on_table(name, statement));
        } else if let Some(name) = said("create index ").or_else(|| said("create unique index ")) {
            self.indexes.push(made_on_table(name, statement));
        } else if let Some(name) = said("drop table ") {
            self.tables.retain(|table| *table != name);
            let others = |made: &Made| made.table != name;
            self.triggers.retain(others);
            self.indexes.retain(others);
            self.constraints.retain(others);
        } else if let Some(name) = said("drop index ") {
            self.indexes.retain(|made| made.name != name);
        } else if let Some(name) = said("drop trigger ") {
            self.triggers.retain(|made| made.name != name);
        }
    }

    /// The named constraints of a `create table` or an `alter table`.
    fn read_constraints(&mut self, statement: &str, table: &str) {
        for (at, word) in statement.match_indices("constraint ") {
            let name = name_in(&statement[at + word.len()..]);
            if statement[..at].ends_with("drop ") {
                self.constraints.retain(|made| made.name != name);
                continue;
            }
            let definition = until_its_end(&statement[at..]);
            let statement = format!("alter table {table} add {definition}");
            self.constraints.push(Made { name, table: table.to_owned(), statement });
        }
    }
}

/// The first word: a name ends at a blank or a parenthesis.
fn name_in(text: &str) -> String {
    text.split([' ', '(', ',']).next().unwrap_or_default().to_owned()
}

fn made_on_table(name: String, statement: &str) -> Made {
    let table = statement.split(" on ").nth(1).map(name_in).unwrap_or_default();
    Made { name, table, statement: statement.to_owned() }
}

/// Up to the comma or the parenthesis that ends a definition inside a list.
fn until_its_end(text: &str) -> &str {
    let mut depth = 0;
    for (at, sign) in text.char_indices() {
        match sign {
            '(' => depth += 1,
            ')' if depth == 0 => return text[..at].trim_end(),
            ')' => depth -= 1,
            ',' if depth == 0 => return &text[..at],
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_read_with_the_statements_that_mend() {
        let expected = expected();
        for table in ["commands", "outbox", "bookings", "allocations", "audit", "partitions"] {
            assert!(expected.tables.iter().any(|name| name == table), "{table}");
        }
        assert_eq!(expected.extensions, ["btree_gist"]);
        let statement = |made: &[Made], name: &str| {
            let found = made.iter().find(|made| made.name == name);
            found.unwrap_or_else(|| panic!("{name} in {made:?}")).statement.clone()
        };
        assert_eq!(
            statement(&expected.constraints, "allocations_no_overlap"),
            "alter table allocations add constraint allocations_no_overlap exclude using gist \
             (calendar_id with =, during with &&)"
        );
        assert_eq!(
            statement(&expected.triggers, "audit_append_only"),
            "create trigger audit_append_only before update or delete on audit for each row \
             execute function refuse_change()"
        );
        assert_eq!(
            statement(&expected.indexes, "allocations_due"),
            "create index allocations_due on allocations (least(lapses_at, upper(during)))"
        );
    }

    #[test]
    fn what_a_later_migration_drops_is_not_expected() {
        let mut expected = Expected::default();
        for statement in statements(
            "create table a (id int, constraint a_id check (id in (1, 2)), constraint a_two check (id = 2));
             create index a_by_id on a (id); -- create index none on a (id);
             create function f() returns trigger language plpgsql as $$ begin drop table a; end $$;
             create trigger a_final before update on a for each row execute function f();
             alter table a drop constraint a_two, add constraint a_three check (id > 3);
             drop index a_by_id",
        ) {
            expected.read(&statement);
        }
        let names: Vec<_> = expected.constraints.iter().map(|made| made.name.as_str()).collect();
        assert_eq!(names, ["a_id", "a_three"]);
        assert_eq!(
            expected.constraints[0].statement,
            "alter table a add constraint a_id check (id in (1, 2))"
        );
        assert_eq!(expected.triggers[0].table, "a");
        assert!(expected.indexes.is_empty(), "{:?}", expected.indexes);
    }
}
