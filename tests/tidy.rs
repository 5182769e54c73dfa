//! The laws of the house, held by a machine so that nobody has to police them.
//!
//! They keep the code navigable: small files and functions, one direction of imports, each
//! server's client in one place, and a README that names everything there is. The tables below
//! are the laws, with that of `tidy/imports.rs`; to change one, change its row and its reason.
//! `tidy/source.rs` reads Rust; `tidy/migrations.rs` has the laws of migrations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/migrations.rs"]
mod migrations;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;

use booking::booking::problem::Code;
use booking::metrics::Metrics;
use imports::IMPORTS;
use source::{Source, read, sources};

/// A longer file holds more than one idea.
const MAX_FILE_LINES: usize = 400;
/// A longer function does not fit on a screen.
const MAX_FUNCTION_LINES: usize = 70;

/// Names that say nothing of what is inside, so that everything ends up there.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "core", "types", "manager"];

/// Where a crate may be named, so that a change of it is a change in one place.
const CLIENTS: &[(&str, &[&str])] = &[
    ("lapin", &["src/queue/"]),
    // `dev/` has a module of that name, which starts the server; the doctor's looks at it.
    ("redis", &["src/lease.rs", "src/limits/", "src/wake.rs", "src/dev/", "src/doctor/"]),
    ("axum", &["src/http/"]),
    // An exchange that failed says why in hyper's words.
    ("hyper", &["src/http/", "src/webhooks/sender.rs"]),
    ("hyper_util", &["src/http/"]),
    ("backoff", &["src/retry.rs"]),
    ("jsonwebtoken", &["src/identity/"]),
    ("reqwest", &["src/identity/", "src/webhooks/"]),
    ("sqlx", HOLDS_A_CONNECTION),
];

/// Statements live in `store/`; these hold the connections or pools that they run on.
const HOLDS_A_CONNECTION: &[&str] = &[
    "src/store/",
    "src/accept/",        // the connection that commits what is accepted
    "src/backlog.rs",     // the pool that tells what waits
    "src/http/status.rs", // answers a failed read
    "src/identity/",      // the pool that looks up API keys
    "src/ownership/",     // the connection that takes fences
    "src/relay/",         // the connection that leads and deletes
    "src/roles.rs",       // makes the pool
    "src/sweep.rs",       // the connection that leads and commits
    "src/waiters.rs",     // the pool that answers those who wait
    "src/vitals.rs",      // the pool that looks whether Postgres answers
    "src/webhooks/",      // the connection that owns the shards
    "src/worker/",        // the connection that decides
];

/// Where statements are: in the store; before there is a schema; shown to a person, who runs them.
const STATEMENTS_IN: &[&str] = &["src/store/", "src/dev/postgres.rs", "src/doctor/postgres/"];

/// How a statement begins. All words of an entry must occur, the first at the start.
const STATEMENTS: &[&[&str]] = &[
    &["select "],
    &["insert into "],
    &["update ", " set "],
    &["delete from "],
    &["create ", "table "],
    &["create database"],
    &["alter "],
    &["drop "],
    &["truncate "],
    &["with ", " as ("],
    &["begin isolation"],
    &["lock table"],
    &["listen "],
    &["notify "],
];

#[track_caller]
fn holds(law: &str, broken: impl IntoIterator<Item = String>) {
    let broken: Vec<String> = broken.into_iter().collect();
    assert!(broken.is_empty(), "{law}:\n  {}\n", broken.join("\n  "));
}

fn src() -> impl Iterator<Item = Source> {
    sources().into_iter().filter(|source| source.path.starts_with("src/"))
}

#[test]
fn files_are_short() {
    let long = sources().into_iter().filter(|s| s.text.lines().count() > MAX_FILE_LINES);
    holds(
        "a file has at most 400 lines; split it along an idea",
        long.map(|s| format!("{}: {} lines", s.path, s.text.lines().count())),
    );
}

#[test]
fn functions_fit_on_a_screen() {
    let long = sources().into_iter().flat_map(|source| {
        let functions = source.functions().into_iter();
        let long = functions.filter(|f| f.lines > MAX_FUNCTION_LINES);
        long.map(|f| format!("{}:{}: fn {}: {} lines", source.path, f.line, f.name, f.lines))
            .collect::<Vec<_>>()
    });
    holds("a function has at most 70 lines", long);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|source| {
        let begin = if source.path == "src/lib.rs" {
            "#![doc = include_str!(\"../README.md\")]"
        } else {
            "//! "
        };
        !source.text.starts_with(begin)
    });
    holds("a file begins with `//!`; lib.rs with the README", silent.map(|s| s.path));
}

#[test]
fn names_say_what_is_inside() {
    let empty = sources().into_iter().filter(|source| {
        let path = source.path.trim_end_matches(".rs");
        path.split('/').any(|part| EMPTY_NAMES.contains(&part))
    });
    holds("no file or folder has a name without meaning", empty.map(|s| s.path));
}

#[test]
fn imports_go_in_one_direction() {
    let mut broken = BTreeSet::new();
    for source in src() {
        let module = source.module();
        let row = IMPORTS.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = row else {
            broken.insert(format!("{module} has no row in IMPORTS of tests/tidy/imports.rs"));
            continue;
        };
        for import in source.imports() {
            if import != module && !allowed.contains(&import.as_str()) {
                broken.insert(format!("{} imports {import}", source.path));
            }
        }
    }
    holds("a module imports only what its row in IMPORTS lists", broken);
}

#[test]
fn each_client_stays_in_its_place() {
    let mut broken = Vec::new();
    for source in src() {
        for (name, places) in CLIENTS {
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            if !allowed && source.names_crate(name) {
                broken.push(format!("{} uses {name}; it belongs to {places:?}", source.path));
            }
        }
    }
    holds("a crate is used only where CLIENTS says", broken);
}

#[test]
fn statements_are_in_the_store() {
    let mut broken = Vec::new();
    for source in src() {
        let allowed = STATEMENTS_IN.iter().any(|place| source.path.starts_with(place));
        for (line, string) in source.strings.iter().filter(|_| !allowed) {
            let string = string.trim_start().to_lowercase();
            let is_statement = |words: &&[&str]| {
                string.starts_with(words[0]) && words.iter().all(|word| string.contains(word))
            };
            if STATEMENTS.iter().any(is_statement) {
                broken.push(format!("{}:{line}: {string:?}", source.path));
            }
        }
    }
    holds("SQL is written only under src/store/", broken);
}

#[test]
fn production_code_does_not_panic_by_choice() {
    let mut broken = Vec::new();
    for source in src() {
        for (line, text) in source.production_lines() {
            if text.contains(".unwrap()") || text.contains(".expect(") {
                broken.push(format!("{}:{line}: {}", source.path, text.trim()));
            }
        }
    }
    holds("no unwrap() or expect() outside tests", broken);
}

#[test]
fn nothing_is_left_for_later() {
    let mut broken = Vec::new();
    for source in sources() {
        let code = ["todo!", "unimplemented!", "#[ignore"];
        let notes = ["TODO", "FIXME", "XXX", "HACK"];
        let left = code.iter().filter(|word| source.code.contains(*word));
        let left = left.chain(notes.iter().filter(|word| source.comments.contains(*word)));
        broken.extend(left.map(|word| format!("{}: {word}", source.path)));
    }
    holds("what is left for later is an issue, not a note in the code", broken);
}

#[test]
fn the_readme_names_every_metric() {
    let unnamed = Metrics::NAMES.iter().filter(|name| !readme().contains(&format!("`{name}`")));
    holds("the README names every metric", unnamed.map(|name| (*name).to_owned()));
}

#[test]
fn the_readme_names_every_setting() {
    let readme = readme();
    let configs = src().filter(|source| source.path.starts_with("src/config/"));
    let mut settings: Vec<String> = configs.flat_map(|source| settings_of(&source.path)).collect();
    assert!(settings.len() > 10, "{settings:?}");
    settings.extend(settings_of("src/main.rs"));
    settings.retain(|name| !readme.contains(&format!("| `{name}` |")));
    holds("the README has a row for every setting", settings);
}

#[test]
fn the_readme_names_every_code_with_its_status() {
    let readme = readme();
    let rows = Code::ALL.iter().map(|code| format!("| `{}` | {} |", code.as_str(), code.status()));
    holds("the README has a row for every code", rows.filter(|row| !readme.contains(row)));
}

#[test]
fn the_readme_names_every_route() {
    let readme = readme();
    let mut routes = Vec::new();
    for source in src().filter(|source| source.path.starts_with("src/http/")) {
        let parts = source.text.split(".route(\"").skip(1);
        routes.extend(parts.filter_map(|part| part.split('"').next()).map(str::to_owned));
    }
    assert!(routes.len() > 5, "{routes:?}");
    // As in "`GET /health`," or "`POST /api/bookings` `{userId, …}`".
    routes.retain(|route| {
        !["GET", "POST", "PUT", "PATCH", "DELETE"]
            .iter()
            .any(|m| readme.contains(&format!("`{m} {route}`")))
    });
    holds("the README names every route", routes);
}

#[test]
fn the_readme_gives_a_reason_for_every_dependency() {
    let readme = readme();
    let table = readme.split("## Dependencies").nth(1).expect("a chapter on dependencies");
    let table = table.split("\n## ").next().unwrap();
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && let Some((name, _)) = line.split_once(" = ")
            && !name.starts_with('#')
            && name != "booking"
        {
            names.insert(name.to_owned());
        }
    }
    assert!(names.len() > 20, "{names:?}");
    names.retain(|name| !table.contains(&format!("`{name}`")));
    holds("the README gives a reason for every dependency", names);
}

fn settings_of(path: &str) -> Vec<String> {
    let text = read(path);
    let parts = text.split("env = \"").skip(1);
    parts.filter_map(|part| part.split('"').next()).map(str::to_owned).collect()
}

fn readme() -> String {
    read("README.md")
}
