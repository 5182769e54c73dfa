//! Whether our tables are what the migrations made, and whether we may use them.

use sqlx::PgConnection;

use super::expected::{Expected, Made, expected};
use crate::store::schema::MIGRATOR;
use crate::store::sqlstate;

/// Which migrations the database has seen.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// The newest migration of the database, and of this binary.
    pub present: i64,
    pub wanted: i64,
    /// Migrations that began and did not succeed.
    pub broken: Vec<i64>,
    /// Migrations that the database knows by another text than this binary.
    pub altered: Vec<i64>,
    /// The role may not read which migrations there were.
    pub hidden: bool,
}

impl Version {
    /// Whether all tables that this binary uses should be there.
    pub fn migrated(&self) -> bool {
        !self.hidden && self.present >= self.wanted && self.broken.is_empty()
    }
}

/// What is there of what the migrations make.
#[derive(Debug)]
pub struct Schema {
    pub extensions: Vec<(String, bool)>,
    pub access: Vec<Access>,
    pub triggers: Vec<Presence>,
    pub constraints: Vec<Presence>,
    pub indexes: Vec<Presence>,
    /// Indexes of our tables that are there, but not used: the build of one was cut off.
    pub invalid_indexes: Vec<String>,
    /// Our tables that are left out by autovacuum.
    pub unvacuumed: Vec<String>,
}

/// Whether the role may do this to a table.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Access {
    pub table: String,
    pub privilege: String,
    pub table_present: bool,
    pub granted: bool,
}

/// Whether something that a migration makes is there and in force.
#[derive(Clone, Debug)]
pub struct Presence {
    pub made: Made,
    pub present: bool,
    /// Constraints: validated; triggers: enabled; indexes: always.
    pub in_force: bool,
}

/// What the roles do with each table; `booking migrate` needs to own them, besides.
const PRIVILEGES: &[(&str, &[&str])] = &[
    ("commands", &["SELECT", "INSERT", "UPDATE"]),
    ("outbox", &["SELECT", "INSERT", "DELETE"]),
    ("dead_letters", &["SELECT", "INSERT"]),
    ("bookings", &["SELECT", "INSERT", "UPDATE"]),
    ("allocations", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("audit", &["SELECT", "INSERT"]),
    ("partitions", &["SELECT", "UPDATE"]),
    ("calendars", &["SELECT", "INSERT", "UPDATE"]),
    ("api_keys", &["SELECT", "INSERT", "UPDATE"]),
    ("webhook_endpoints", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("webhook_deliveries", &["SELECT", "INSERT", "DELETE"]),
    ("webhook_queue", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("webhook_attempts", &["SELECT", "INSERT", "DELETE"]),
];

pub(super) async fn version(connection: &mut PgConnection) -> Result<Version, sqlx::Error> {
    let wanted = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
    let seen: Result<Vec<(i64, bool, Vec<u8>)>, _> =
        sqlx::query_as("select version, success, checksum from _sqlx_migrations order by version")
            .fetch_all(connection)
            .await;
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => match sqlstate(&error).as_deref() {
            Some("42P01") => Vec::new(), // no such table: never migrated
            Some("42501") => return Ok(Version { wanted, hidden: true, ..Version::default() }),
            _ => return Err(error),
        },
    };
    let altered = |(version, _, checksum): &&(i64, bool, Vec<u8>)| {
        let ours = MIGRATOR.iter().find(|migration| migration.version == *version);
        ours.is_some_and(|migration| *migration.checksum != **checksum)
    };
    Ok(Version {
        present: seen.iter().filter(|seen| seen.1).map(|seen| seen.0).max().unwrap_or(0),
        wanted,
        broken: seen.iter().filter(|seen| !seen.1).map(|seen| seen.0).collect(),
        altered: seen.iter().filter(altered).map(|seen| seen.0).collect(),
        hidden: false,
    })
}

pub(super) async fn look(connection: &mut PgConnection) -> Result<Schema, sqlx::Error> {
    let Expected { tables, extensions, triggers, indexes, constraints } = expected();
    let extensions = sqlx::query_as(
        "select name, exists (select from pg_extension where extname = name)
         from unnest($1::text[]) name",
    )
    .bind(extensions)
    .fetch_all(&mut *connection)
    .await?;
    Ok(Schema {
        extensions,
        access: access(connection).await?,
        triggers: present(connection, TRIGGERS, triggers).await?,
        constraints: present(connection, CONSTRAINTS, constraints).await?,
        indexes: present(connection, INDEXES, indexes).await?,
        invalid_indexes: named(connection, INVALID_INDEXES, &tables).await?,
        unvacuumed: named(connection, UNVACUUMED, &tables).await?,
    })
}

async fn access(connection: &mut PgConnection) -> Result<Vec<Access>, sqlx::Error> {
    let pairs = PRIVILEGES.iter().flat_map(|(table, privileges)| {
        privileges.iter().map(move |privilege| ((*table).to_owned(), (*privilege).to_owned()))
    });
    let (tables, privileges): (Vec<String>, Vec<String>) = pairs.unzip();
    sqlx::query_as(
        "select w.\"table\", w.privilege, to_regclass(w.\"table\") is not null as table_present,
           coalesce(has_table_privilege(to_regclass(w.\"table\")::oid, w.privilege), false)
             as granted
         from unnest($1::text[], $2::text[]) as w(\"table\", privilege)",
    )
    .bind(tables)
    .bind(privileges)
    .fetch_all(connection)
    .await
}

/// Each of `$1` on the table of the same place in `$2`: whether it is there, and in force.
const TRIGGERS: &str = "
    select t.tgname is not null, coalesce(t.tgenabled in ('O', 'A'), false)
    from unnest($1::text[], $2::text[]) with ordinality as w(name, on_table, place)
    left join pg_trigger t on t.tgname = w.name and t.tgrelid = to_regclass(w.on_table)
    order by place";
const CONSTRAINTS: &str = "
    select c.conname is not null, coalesce(c.convalidated, false)
    from unnest($1::text[], $2::text[]) with ordinality as w(name, on_table, place)
    left join pg_constraint c on c.conname = w.name and c.conrelid = to_regclass(w.on_table)
    order by place";
const INDEXES: &str = "
    select i.indexrelid is not null, true
    from unnest($1::text[], $2::text[]) with ordinality as w(name, on_table, place)
    left join pg_index i
      on i.indexrelid = to_regclass(w.name) and i.indrelid = to_regclass(w.on_table)
    order by place";

async fn present(
    connection: &mut PgConnection,
    query: &'static str,
    wanted: Vec<Made>,
) -> Result<Vec<Presence>, sqlx::Error> {
    let names: Vec<&str> = wanted.iter().map(|made| made.name.as_str()).collect();
    let tables: Vec<&str> = wanted.iter().map(|made| made.table.as_str()).collect();
    let found: Vec<(bool, bool)> =
        sqlx::query_as(query).bind(names).bind(tables).fetch_all(connection).await?;
    let found = wanted.into_iter().zip(found);
    Ok(found.map(|(made, (present, in_force))| Presence { made, present, in_force }).collect())
}

const INVALID_INDEXES: &str = "
    select i.indexrelid::regclass::text from pg_index i
    join unnest($1::text[]) name on i.indrelid = to_regclass(name)
    where not (i.indisvalid and i.indisready) order by 1";
const UNVACUUMED: &str = "
    select c.relname::text from pg_class c
    join unnest($1::text[]) name on c.oid = to_regclass(name)
    where exists (select from pg_options_to_table(c.reloptions)
                  where option_name = 'autovacuum_enabled' and not option_value::bool) order by 1";

async fn named(
    connection: &mut PgConnection,
    query: &'static str,
    tables: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(query).bind(tables).fetch_all(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_do_with_each_table_is_listed() {
        let mut listed: Vec<&str> = PRIVILEGES.iter().map(|(table, _)| *table).collect();
        let mut tables = expected().tables;
        listed.sort_unstable();
        tables.sort_unstable();
        assert_eq!(listed, tables);
    }
}
