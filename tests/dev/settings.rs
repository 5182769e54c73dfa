//! What the command line says: mistakes all at once and by name, and complete help.

use crate::run::{Dir, output};

const ROLES: [&str; 3] = ["gateway", "worker", "serve"];
const SERVERS: [&str; 3] = ["DATABASE_URL", "AMQP_URL", "REDIS_URL"];
const WRONG: [(&str, &str); 8] = [
    ("PARTITIONS", "100"),
    ("OUTBOX_MAX_AGE", "soon"),
    ("LEASE_SECONDS", "1"),
    ("AUTH_MODE", "none"),
    ("LOG_FORMAT", "xml"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere"),
    ("OTEL_TRACES_SAMPLER", "sometimes"),
    ("OTEL_TRACES_SAMPLER_ARG", "2"),
];

#[test]
fn a_role_names_all_that_is_wrong_and_starts_nothing() {
    for role in ROLES {
        let (code, text) = output(&[role], &WRONG);
        assert_eq!(code, Some(2), "{role}: {text}");
        for name in SERVERS.iter().chain(WRONG.iter().map(|(name, _)| name)) {
            assert!(text.contains(&format!("{name} is ")), "{role}: {name} in {text}");
        }
    }
}

#[test]
fn dev_names_all_that_is_wrong_before_it_starts_a_server() {
    let dir = Dir::new();
    let (code, text) = output(&["dev", "--data-dir", dir.0.to_str().unwrap()], &WRONG);
    assert_eq!(code, Some(2), "{text}");
    for (name, _) in WRONG {
        assert!(text.contains(&format!("{name} is ")), "{name} in {text}");
    }
    assert!(SERVERS.iter().all(|name| !text.contains(name)), "they would be started: {text}");
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn operating_needs_only_the_database() {
    let dir = Dir::new();
    for command in ["migrate", "verify"] {
        let (code, text) = output(&[command], &[("BOOKING_DATA_DIR", dir.0.to_str().unwrap())]);
        assert_eq!(code, Some(2), "{command}: {text}");
        assert!(text.contains("DATABASE_URL is not set"), "{command}: {text}");
        assert!(!text.contains("AMQP_URL") && !text.contains("REDIS_URL"), "{command}: {text}");
    }
}

#[test]
fn a_mistake_shows_no_password() {
    let given = [("DATABASE_URL", "mysql://me:secret@here/db"), ("AMQP_URL", "secret")];
    let (code, text) = output(&["gateway"], &given);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("DATABASE_URL is not usable") && !text.contains("secret"), "{text}");
}

#[test]
fn every_command_explains_itself() {
    let (code, text) = output(&["--help"], &[]);
    assert_eq!(code, Some(0));
    let commands = ["gateway", "worker", "serve", "dev", "migrate", "verify", "api-keys"];
    for command in commands {
        assert!(text.contains(&format!("\n  {command} ")), "{command} in {text}");
        let (code, help) = output(&[command, "--help"], &[]);
        assert_eq!(code, Some(0), "{help}");
        let settings =
            ["REDIS_PREFIX", "HOST", "PORT", "OPS_PORT", "SHUTDOWN_SECONDS", "LOG_LEVEL"];
        for name in SERVERS.iter().chain(&settings).chain(WRONG.iter().map(|(name, _)| name)) {
            assert!(help.contains(&format!("[env: {name}")), "{name} in {command} --help: {help}");
        }
        let has_folder = ["dev", "verify", "api-keys"].contains(&command);
        assert_eq!(help.contains("[env: BOOKING_DATA_DIR"), has_folder, "{help}");
    }
    assert_eq!(output(&["bogus"], &[]).0, Some(2));
}
