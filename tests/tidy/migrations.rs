//! Migrations expand first and contract a release later, and what is released never changes.
//!
//! The release before works on the new schema: during an upgrade, and after the way back. So a
//! migration only adds. What takes away is a release of its own, after the last that needs it, and
//! says so in a comment within the statement: `-- contract: since … nobody reads it`.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{holds, source::read};

/// Tables that may be large: a constraint on one is added `not valid`, without reading all of it.
const LARGE: [&str; 6] =
    ["commands", "bookings", "audit", "allocations", "webhook_deliveries", "webhook_attempts"];
const MARK: &str = "contract:";

/// A statement in small letters with one space between two words, and its comments. It ends with its
/// line.
struct Statement {
    text: String,
    comments: String,
}

fn statements(sql: &str) -> Vec<Statement> {
    let (mut found, mut text, mut comments) = (Vec::new(), String::new(), String::new());
    for line in sql.lines() {
        let (code, comment) = line.split_once("--").unwrap_or((line, ""));
        text.push_str(&code.to_lowercase());
        text.push(' ');
        comments.push_str(comment);
        let in_a_body = text.matches("$$").count() % 2 == 1;
        if code.trim_end().ends_with(';') && !in_a_body {
            let words: Vec<&str> = text.trim_end_matches([' ', ';']).split_whitespace().collect();
            let comments = std::mem::take(&mut comments);
            found.push(Statement { text: words.join(" "), comments });
            text.clear();
        }
    }
    found
}

/// What in a migration would break the release before, or make it wait.
fn breaks(sql: &str) -> Vec<String> {
    let statements = statements(sql);
    let made = |text: &str| Some(name(text.strip_prefix("create table ")?));
    let new: BTreeSet<String> = statements.iter().filter_map(|s| made(&s.text)).collect();
    let judged = statements.iter().filter(|statement| !statement.comments.contains(MARK));
    judged
        .filter_map(|Statement { text, .. }| Some(format!("{}: {text}", wrong(text, &new)?)))
        .collect()
}

fn wrong(text: &str, new: &BTreeSet<String>) -> Option<&'static str> {
    if text.starts_with("drop ") || text.starts_with("truncate ") {
        return Some("the release before needs it");
    }
    if let Some((_, table)) = text.split_once(" on ").filter(|_| is_index(text)) {
        let waits = !new.contains(&name(table)) && !text.contains(" concurrently ");
        return waits.then_some("writers wait while the index is built; use `concurrently`");
    }
    let table = name(text.strip_prefix("alter table ")?);
    if new.contains(&table) {
        return None;
    }
    let changes = text.split(", ").map(|change| format!(" {change} "));
    let dropped = |change: &str| change.contains(" drop ") && !change.contains(" drop not null ");
    let replaced = |change: &str| {
        let constraint = change.split(" drop constraint ").nth(1).map(name);
        constraint.is_some_and(|name| text.contains(&format!("add constraint {name} ")))
    };
    for change in changes {
        if dropped(&change) && !replaced(&change) {
            return Some("the release before needs it");
        }
        if change.contains(" rename ") || change.contains(" type ") {
            return Some("the release before knows it as it was");
        }
        let added = change.contains(" add column ");
        if change.contains(" set not null ")
            || added && change.contains(" not null ") && !change.contains(" default ")
        {
            return Some("the release before writes rows without it");
        }
    }
    let checked = text.contains("add constraint ") && !text.contains(" not valid");
    (checked && LARGE.contains(&table.as_str()))
        .then_some("everybody waits for the check; add it `not valid`")
}

fn is_index(text: &str) -> bool {
    text.starts_with("create index ") || text.starts_with("create unique index ")
}

/// The name at the beginning.
fn name(text: &str) -> String {
    let text = text.trim_start_matches("if not exists ").trim_start_matches("only ");
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The sums of what is released, as `sha256sum` writes them.
fn released() -> Vec<(String, String)> {
    let lines = read("migrations/released");
    let pairs = lines.lines().filter_map(|line| line.split_once("  "));
    pairs.map(|(sum, file)| (file.to_owned(), sum.to_owned())).collect()
}

fn all() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".sql")).collect()
}

#[test]
fn a_released_migration_never_changes() {
    let released = released();
    assert!(released.len() >= 5, "{released:?}");
    let sum = |file: &str| {
        let digest = Sha256::digest(read(&format!("migrations/{file}")));
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let present = all();
    let changed =
        released.iter().filter(|(file, before)| !present.contains(file) || sum(file) != *before);
    holds(
        "databases were migrated with it, and every release compares; write a new migration",
        changed.map(|(file, _)| file.clone()),
    );
}

#[test]
fn a_migration_lets_the_release_before_work_on() {
    let released: BTreeSet<String> = released().into_iter().map(|(file, _)| file).collect();
    let mut broken = Vec::new();
    for file in all().difference(&released) {
        let found = breaks(&read(&format!("migrations/{file}")));
        broken.extend(found.into_iter().map(|what| format!("{file}: {what}")));
    }
    holds("a migration expands, and contracts a release later", broken);
}

#[test]
fn what_breaks_the_release_before_is_found() {
    for bad in [
        "drop table outbox;",
        "alter table outbox drop column partition;",
        "alter table outbox rename column partition to place;",
        "alter table commands alter column caller type citext;",
        "alter table commands alter column caller set not null;",
        "alter table commands add column a int, add column b int not null;",
        "alter table outbox drop constraint outbox_stream;",
        "create index outbox_by_kind on outbox (kind);",
        "alter table audit add constraint audit_actor check (actor <> '');",
    ] {
        assert_eq!(breaks(bad).len(), 1, "{bad}");
    }
    for good in [
        "create table a (b int not null);\ncreate index a_b on a (b);",
        "create table a (b int);\nalter table a alter column b set not null;",
        "alter table commands add column a int not null default 0, alter column b drop not null;",
        "alter table outbox drop constraint outbox_stream, add constraint outbox_stream check (true);",
        "create index concurrently outbox_by_kind on outbox (kind);",
        "alter table audit add constraint audit_actor check (actor <> '') not valid;",
        "alter table a\n  -- contract: since release 3 nobody reads it\n  drop column b;",
        "create function f() returns trigger as $$ begin\n  drop table a;\nend $$;",
    ] {
        assert!(breaks(good).is_empty(), "{good}: {:?}", breaks(good));
    }
}
