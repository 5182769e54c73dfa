//! PostgreSQL: the server, its settings, and what may go wrong with time. Our tables in it are in
//! `schema.rs`.

mod schema;
mod vacuum;

use std::time::Duration;

use crate::config::Config;
use crate::doctor::report::names as names_of;
use crate::doctor::{
    Check, Fault, LOOK_LIMIT, Report, address, error, limited, list, mends_tls, warning,
};
use crate::store::doctor::{self, Clock, Facts, Holders, Server};
use crate::store::{self, CONNECTIONS_OF_A_PROCESS};

/// `idle_session_timeout` came with 14, and the leaders' locks rest on it.
const OLDEST_VERSION: i32 = 140_000;
/// Clocks that differ by less are not told apart by anything we do.
const MAX_CLOCK_SKEW_MS: i64 = 2_000;
/// Of the connections that are allowed, more than so many in a hundred are open.
const MANY_CONNECTIONS_PERCENT: i32 = 90;

/// Why the server could not be looked at.
pub(super) struct Away {
    address: String,
    sqlstate: Option<String>,
    text: String,
}

/// What is judged of the server.
struct View {
    server: Server,
    clock: Clock,
    holders: Holders,
    session: Result<Vec<(String, String, String)>, String>,
    patience: Duration,
}

const CONNECTION: &[Check<Option<Away>>] = &[Check {
    name: "postgres.reachable",
    judge: |away| {
        let Away { address, sqlstate, text } = away.as_ref()?;
        Some(error(
            format!("{address}: {text}"),
            "nothing is accepted, decided or answered",
            remedy(sqlstate.as_deref(), text),
        ))
    },
}];

const CHECKS: &[Check<View>] = &[
    Check { name: "postgres.version", judge: |v| version(v.server.version_num, &v.server.version) },
    Check { name: "postgres.primary", judge: |v| primary(&v.server) },
    Check { name: "postgres.encoding", judge: |v| encoding(&v.server) },
    Check { name: "postgres.time-zone", judge: |v| time_zone(&v.server) },
    Check { name: "postgres.fsync", judge: |v| fsync(&v.server) },
    Check { name: "postgres.synchronous-commit", judge: |v| synchronous_commit(&v.server) },
    Check { name: "postgres.full-page-writes", judge: |v| full_page_writes(&v.server) },
    Check { name: "postgres.max-connections", judge: |v| max_connections(&v.server) },
    Check { name: "postgres.open-connections", judge: |v| open_connections(&v.server) },
    Check { name: "postgres.superuser", judge: |v| superuser(&v.server) },
    Check { name: "postgres.session-settings", judge: |v| session_settings(&v.session) },
    Check { name: "postgres.clock", judge: |v| clock(v.clock) },
];

pub(super) fn names() -> Vec<&'static str> {
    [names_of(CONNECTION), names_of(CHECKS), vacuum::names(), schema::names()].concat()
}

pub(super) async fn look(config: &Config) -> Result<Facts, Away> {
    let url = &config.database_url;
    let address = address(url, 5432);
    let looked = async {
        doctor::look(url).await.map_err(|error| Away {
            address: address.clone(),
            sqlstate: store::sqlstate(&error),
            text: error.to_string(),
        })
    };
    let silent = || Away {
        address: address.clone(),
        sqlstate: None,
        text: format!("not all was answered within {} s", LOOK_LIMIT.as_secs()),
    };
    limited(looked, silent).await
}

pub(super) fn judge(
    looked: Result<Facts, Away>,
    config: &Config,
    patience: Duration,
    report: &mut Report,
) {
    let (facts, away) = match looked {
        Ok(facts) => (Some(facts), None),
        Err(away) => (None, Some(away)),
    };
    report.judge(CONNECTION, Ok(&away));
    let Some(Facts { server, clock, holders, version, session, schema, rows }) = facts else {
        let reason = "PostgreSQL cannot be reached";
        report.judge(CHECKS, Err(reason));
        report.judge(vacuum::CHECKS, Err(reason));
        return schema::leave_out(reason, report);
    };
    let role = server.role.clone();
    let view = View { server, clock, holders, session, patience };
    report.judge(CHECKS, Ok(&view));
    report.judge(vacuum::CHECKS, Ok(&view));
    let seen = schema::Seen { version, schema, rows, role };
    schema::judge(seen, config.partitions, patience, report);
}

fn remedy(sqlstate: Option<&str>, text: &str) -> String {
    if let Some(mend) = mends_tls(text) {
        return mend.to_owned();
    }
    match sqlstate {
        Some("28P01" | "28000") => {
            "put the right user and password in DATABASE_URL; pg_hba.conf says who may come from where"
        }
        Some("3D000") => "CREATE DATABASE, or name another one in DATABASE_URL; then `booking migrate`",
        Some("42501") => "GRANT CONNECT ON DATABASE to the role of DATABASE_URL",
        Some("53300") => "raise max_connections and restart PostgreSQL, or run fewer processes",
        Some("57P03") => "wait until PostgreSQL has started; its log says what it recovers",
        _ if text.contains("startup parameter") => {
            "let DATABASE_URL lead to PostgreSQL itself: a pooler in between refuses the session \
             settings that leaders and limits rest on"
        }
        _ => "start PostgreSQL, or mend host, port and TLS in DATABASE_URL; `pg_isready` asks it too",
    }
    .to_owned()
}

fn version(number: i32, name: &str) -> Option<Fault> {
    (number < OLDEST_VERSION).then(|| {
        error(
            format!("PostgreSQL {name}"),
            "a relay or sweep that freezes keeps its lock: idle_session_timeout came with 14",
            "upgrade PostgreSQL to 14 or later (pg_upgrade)",
        )
    })
}

fn primary(server: &Server) -> Option<Fault> {
    let means = "nothing can be written: the gateway answers 503, the workers wait";
    if server.in_recovery {
        let mend = "let DATABASE_URL lead to the primary (several hosts, or the name that moves \
                    with a failover)";
        return Some(error("the server is a standby in recovery", means, mend));
    }
    server.read_only.then(|| {
        let (database, role) = (&server.database, &server.role);
        error(
            "default_transaction_read_only is on",
            means,
            format!(
                "ALTER DATABASE \"{database}\" SET default_transaction_read_only = off; ALTER ROLE \
                 \"{role}\" RESET default_transaction_read_only; and look at postgresql.conf"
            ),
        )
    })
}

fn encoding(server: &Server) -> Option<Fault> {
    (server.encoding != "UTF8").then(|| {
        error(
            format!("the database is encoded as {}", server.encoding),
            "commands with other characters fail, and are given up",
            format!(
                "CREATE DATABASE another ENCODING 'UTF8' TEMPLATE template0, and pg_dump \"{}\" into it",
                server.database
            ),
        )
    })
}

/// Each connection asks for UTC; a pooler in between may forget it.
fn time_zone(server: &Server) -> Option<Fault> {
    (!["UTC", "Etc/UTC", "GMT"].contains(&server.time_zone.as_str())).then(|| {
        warning(
            format!("a session's TimeZone is {}, though it asked for UTC", server.time_zone),
            "what something in between forgets here, it forgets of other settings too",
            "let DATABASE_URL lead to PostgreSQL itself, or to a pooler in session mode",
        )
    })
}

fn fsync(server: &Server) -> Option<Fault> {
    (!server.fsync).then(|| {
        error(
            "fsync is off",
            "what was answered 202 is lost, and the database damaged, when the machine crashes",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
        )
    })
}

/// Every other value waits for our own disk at least.
fn synchronous_commit(server: &Server) -> Option<Fault> {
    (server.synchronous_commit == "off").then(|| {
        let (database, role) = (&server.database, &server.role);
        error(
            "synchronous_commit is off",
            "what was answered 202 in the last moments is lost when PostgreSQL crashes",
            format!(
                "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf(); ALTER DATABASE \
                 \"{database}\" RESET synchronous_commit; ALTER ROLE \"{role}\" RESET synchronous_commit;"
            ),
        )
    })
}

fn full_page_writes(server: &Server) -> Option<Fault> {
    (!server.full_page_writes).then(|| {
        error(
            "full_page_writes is off",
            "a page that was half written when the machine crashed cannot be recovered",
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        )
    })
}

fn max_connections(server: &Server) -> Option<Fault> {
    let most = server.most_connections;
    (most < CONNECTIONS_OF_A_PROCESS).then(|| {
        error(
            format!("the role may open {most} connections, one process needs {CONNECTIONS_OF_A_PROCESS}"),
            "stages of a process wait for each other's connections, or never start",
            format!(
                "ALTER SYSTEM SET max_connections = 100; and restart PostgreSQL; or raise the limit \
                 of the role: ALTER ROLE \"{}\" CONNECTION LIMIT -1; or of the database: ALTER \
                 DATABASE \"{}\" CONNECTION LIMIT -1;",
                server.role, server.database
            ),
        )
    })
}

fn open_connections(server: &Server) -> Option<Fault> {
    let (open, most) = (server.open_connections, server.server_connections);
    let many = i64::from(open) * 100 > i64::from(most) * i64::from(MANY_CONNECTIONS_PERCENT);
    many.then(|| {
        warning(
            format!("{open} of {most} connections are open"),
            "the next process may find no connection",
            "ALTER SYSTEM SET max_connections to more and restart PostgreSQL; or run fewer \
             processes. SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1; tells \
             whose they are",
        )
    })
}

fn superuser(server: &Server) -> Option<Fault> {
    server.superuser.then(|| {
        warning(
            format!("the role {} is a superuser", server.role),
            "whoever gets hold of DATABASE_URL owns the whole server, and no privilege holds us back",
            format!(
                "CREATE ROLE booking LOGIN PASSWORD '…'; ALTER DATABASE \"{}\" OWNER TO booking; and \
                 name it in DATABASE_URL",
                server.database
            ),
        )
    })
}

fn session_settings(session: &Result<Vec<(String, String, String)>, String>) -> Option<Fault> {
    let found = match session {
        Ok(lost) if lost.is_empty() => return None,
        Ok(lost) => {
            let lost = lost
                .iter()
                .map(|(name, wanted, got)| format!("{name} is {got} where {wanted} was asked for"));
            list(&lost.collect::<Vec<_>>())
        }
        Err(cause) => format!("a session with the settings of a stage is refused: {cause}"),
    };
    Some(error(
        found,
        "a frozen leader keeps its lock for ever, or a slow statement its connection",
        "let DATABASE_URL lead to PostgreSQL itself, or to a pooler in session mode that passes \
         startup options on",
    ))
}

fn clock(clock: Clock) -> Option<Fault> {
    let skew = skew_ms(clock);
    (skew.abs() > MAX_CLOCK_SKEW_MS).then(|| {
        let (seconds, way) = (skew.abs() / 1000, if skew > 0 { "ahead of" } else { "behind" });
        error(
            format!("PostgreSQL's clock is {seconds} s {way} this machine's"),
            "holds lapse, keys expire and notice is counted at the wrong moment",
            "let both machines keep their time by NTP: `timedatectl set-ntp true`, `chronyc tracking`",
        )
    })
}

/// How far the server's clock lies outside the time in which it was asked: what the network took
/// is no skew.
fn skew_ms(Clock { asked, server, answered }: Clock) -> i64 {
    if server > answered {
        (server - answered).num_milliseconds()
    } else if server < asked {
        (server - asked).num_milliseconds()
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Utc};

    use super::*;

    #[test]
    fn versions_are_judged_by_their_number() {
        assert!(version(130_016, "13.16").is_some_and(|fault| fault.is_error()));
        assert!(version(140_000, "14.0").is_none());
        assert!(version(180_001, "18.1").is_none());
    }

    #[test]
    fn only_what_the_network_cannot_explain_is_skew() {
        let asked = Utc::now();
        let at = |ms| asked + TimeDelta::milliseconds(ms);
        let skew = |server| skew_ms(Clock { asked, server: at(server), answered: at(3_000) });
        assert_eq!([skew(0), skew(2_900), skew(3_100), skew(-5_000)], [0, 0, 100, -5_000]);
        let judged = |server| clock(Clock { asked, server: at(server), answered: at(10) });
        assert!(judged(1_900).is_none() && judged(-1_900).is_none());
        assert!(judged(2_500).is_some_and(|fault| fault.is_error()));
        assert!(judged(-3_600_000).is_some());
    }

    #[test]
    fn a_pooler_that_forgets_settings_or_refuses_them_is_noticed() {
        let words = |text: &str| text.to_owned();
        assert!(session_settings(&Ok(Vec::new())).is_none());
        let lost = (words("idle_session_timeout"), words("5s"), words("0"));
        assert!(session_settings(&Ok(vec![lost])).is_some_and(|fault| fault.is_error()));
        assert!(session_settings(&Err(words("no such parameter"))).is_some());
        assert!(remedy(Some("08P01"), "unsupported startup parameter: jit").contains("pooler"));
    }

    #[test]
    fn what_no_test_server_shows_is_judged_too() {
        assert!(primary(&sound()).is_none() && encoding(&sound()).is_none());
        assert!(primary(&Server { in_recovery: true, ..sound() }).is_some());
        assert!(encoding(&Server { encoding: "LATIN1".to_owned(), ..sound() }).is_some());
        assert!(time_zone(&Server { time_zone: "Asia/Tokyo".to_owned(), ..sound() }).is_some());
        assert!(max_connections(&Server { most_connections: 10, ..sound() }).is_some());
        assert!(open_connections(&Server { open_connections: 95, ..sound() }).is_some());
        assert!(open_connections(&Server { open_connections: 90, ..sound() }).is_none());
    }

    pub(in crate::doctor::postgres) fn sound() -> Server {
        Server {
            version_num: 150_000,
            version: "15.0".to_owned(),
            in_recovery: false,
            read_only: false,
            encoding: "UTF8".to_owned(),
            time_zone: "UTC".to_owned(),
            fsync: true,
            synchronous_commit: "on".to_owned(),
            full_page_writes: true,
            autovacuum: true,
            track_counts: true,
            most_connections: 100,
            server_connections: 100,
            open_connections: 10,
            role: "booking".to_owned(),
            superuser: false,
            database: "booking".to_owned(),
            oldest_database: "booking".to_owned(),
            used_transaction_ids: 1_000,
        }
    }
}
