//! Faults of PostgreSQL and of our tables in it.

use std::fs;

use sqlx::{Connection as _, PgConnection};

use super::installation::{Installation, until};

/// A fault, the check that finds it with what its remedy says, and how it is healed.
struct Planted {
    plant: &'static str,
    /// What a session sees once the fault is there; settings are read by the servers' processes
    /// one after the other.
    visible: &'static str,
    severity: &'static str,
    checks: &'static [&'static str],
    remedy: &'static str,
    heal: Heal,
}

enum Heal {
    /// By the very SQL that the doctor names, for all that it found.
    AsSaid,
    By(&'static str),
}

const AT_ONCE: &str = "true";

const SERVER: &[Planted] = &[
    Planted {
        plant: "alter system set fsync = off; select pg_reload_conf()",
        visible: "current_setting('fsync') = 'off'",
        severity: "error",
        checks: &["postgres.fsync"],
        remedy: "ALTER SYSTEM SET fsync = on",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter database booked set synchronous_commit = off",
        visible: "current_setting('synchronous_commit') = 'off'",
        severity: "error",
        checks: &["postgres.synchronous-commit"],
        remedy: "ALTER SYSTEM SET synchronous_commit = on",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter system set full_page_writes = off; select pg_reload_conf()",
        visible: "current_setting('full_page_writes') = 'off'",
        severity: "error",
        checks: &["postgres.full-page-writes"],
        remedy: "ALTER SYSTEM SET full_page_writes = on",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter system set autovacuum = off; select pg_reload_conf()",
        visible: "current_setting('autovacuum') = 'off'",
        severity: "error",
        checks: &["postgres.autovacuum"],
        remedy: "ALTER SYSTEM SET autovacuum = on",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter database booked set default_transaction_read_only = on",
        visible: "current_setting('default_transaction_read_only') = 'on'",
        severity: "error",
        checks: &["postgres.primary"],
        remedy: "ALTER DATABASE \"booked\" SET default_transaction_read_only = off",
        // From the database where it does not hold.
        heal: Heal::By(
            "set default_transaction_read_only = off;
                        alter database booked reset default_transaction_read_only",
        ),
    },
    Planted {
        plant: "alter role front_desk connection limit 5",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.max-connections"],
        remedy: "ALTER ROLE \"front_desk\" CONNECTION LIMIT -1",
        heal: Heal::By("alter role front_desk connection limit -1"),
    },
    Planted {
        plant: "select pg_create_physical_replication_slot('forgotten')",
        visible: AT_ONCE,
        severity: "warning",
        checks: &["postgres.replication-slots"],
        remedy: "SELECT pg_drop_replication_slot('forgotten')",
        heal: Heal::By("select pg_drop_replication_slot('forgotten')"),
    },
];

const TABLES: &[Planted] = &[
    Planted {
        plant: "create table kept as select * from _sqlx_migrations order by version desc limit 1;
                delete from _sqlx_migrations where version = (select version from kept)",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.schema-version"],
        remedy: "booking migrate",
        heal: Heal::By("insert into _sqlx_migrations select * from kept; drop table kept"),
    },
    Planted {
        plant:
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                values (9999, 'of a newer release', true, '', 0)",
        visible: AT_ONCE,
        severity: "warning",
        checks: &["postgres.schema-version"],
        remedy: "upgrade this binary",
        heal: Heal::By("delete from _sqlx_migrations where version = 9999"),
    },
    Planted {
        plant: "drop extension btree_gist cascade",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.extension", "postgres.no-overlap"],
        remedy: "CREATE EXTENSION btree_gist",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter table allocations drop constraint allocations_no_overlap",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.no-overlap"],
        remedy: "add constraint allocations_no_overlap exclude using gist (calendar_id with =",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter table bookings drop constraint bookings_interval;
                alter table bookings drop constraint bookings_hold;
                alter table bookings add constraint bookings_hold
                  check ((status = 'PENDING') = (hold_expires_at is not null)) not valid",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.constraints"],
        remedy: "alter table bookings validate constraint bookings_hold",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "drop trigger audit_append_only on audit",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.triggers"],
        remedy: "create trigger audit_append_only before update or delete on audit",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter table commands disable trigger commands_final",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.triggers"],
        remedy: "alter table commands enable trigger commands_final",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "drop index commands_undecided",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.indexes"],
        remedy: "create index commands_undecided on commands",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "update pg_index set indisvalid = false
                where indexrelid = 'bookings_of_calendar'::regclass",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.indexes"],
        remedy: "REINDEX INDEX CONCURRENTLY bookings_of_calendar",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "alter table outbox set (autovacuum_enabled = false)",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.table-autovacuum"],
        remedy: "ALTER TABLE outbox RESET (autovacuum_enabled)",
        heal: Heal::AsSaid,
    },
    Planted {
        plant: "revoke insert, select on audit from front_desk;
                revoke update on partitions from front_desk",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.privileges"],
        remedy: "GRANT SELECT, INSERT ON audit TO \"front_desk\";\nGRANT UPDATE ON partitions",
        heal: Heal::AsSaid,
    },
];

const ROWS: &[Planted] = &[
    Planted {
        plant: "insert into dead_letters (id, source, reason, body)
                values (gen_random_uuid(), 'booking.commands.p.01', 'it was no command', '{}')",
        visible: AT_ONCE,
        severity: "warning",
        checks: &["postgres.dead-letters"],
        remedy: "SELECT parked_at, source, reason, command_id FROM dead_letters",
        heal: Heal::By("delete from dead_letters"),
    },
    Planted {
        plant: "insert into outbox (stream, message_id, subject, routing_key, body, appended_at)
                values (2, gen_random_uuid(), gen_random_uuid(), 'booking.held', '{}',
                        now() - interval '1 hour')",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.outbox-age"],
        remedy: "start a gateway or a worker, each of which relays",
        heal: Heal::By("delete from outbox"),
    },
    Planted {
        plant: "insert into commands (id, booking_id, calendar_id, partition, kind, caller,
                  fingerprint, content, accepted_at)
                values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 'cancel', 'me',
                        sha256(''), '{}', now() - interval '1 hour')",
        visible: AT_ONCE,
        severity: "error",
        checks: &["postgres.undecided-age"],
        remedy: "start more `booking worker`",
        heal: Heal::By("delete from commands where status = 'accepted'"),
    },
    Planted {
        plant: "insert into webhook_queue (shard, target_id, due_at, event_id)
                values (1, gen_random_uuid(), now() - interval '1 hour', gen_random_uuid())",
        visible: AT_ONCE,
        severity: "warning",
        checks: &["postgres.webhooks-age"],
        remedy: "start `booking webhooks`",
        heal: Heal::By("delete from webhook_queue"),
    },
];

pub async fn are_found(installation: &Installation) {
    for planted in SERVER.iter().chain(TABLES).chain(ROWS) {
        let Planted { plant, visible, severity, checks, remedy, heal } = planted;
        installation.admin_sql(plant).await;
        until(plant, async || installation.sees(visible).await).await;
        let found = installation.examine(&[], &[]);
        found.is(plant, severity, checks, remedy);
        match heal {
            Heal::By(statements) => installation.admin_sql(statements).await,
            Heal::AsSaid => {
                for check in *checks {
                    installation.admin_sql(found.mend(check)).await;
                }
            }
        }
        if *visible != AT_ONCE {
            until("it is healed", async || !installation.sees(visible).await).await;
        }
        installation.is_as_before(plant);
    }
    an_open_transaction_is_found(installation).await;

    let found = installation.examine(&[], &[("DATABASE_URL", &installation.admin)]);
    found.is("a superuser", "warning", &["postgres.superuser"], "CREATE ROLE booking LOGIN");
    let found = installation.examine(&[], &[("PARTITIONS", "3")]);
    found.is("other PARTITIONS", "error", &["postgres.partitions"], "set PARTITIONS=4");
}

async fn an_open_transaction_is_found(installation: &Installation) {
    let mut holder = PgConnection::connect(&installation.database).await.unwrap();
    let open = "set application_name = 'a forgotten report';
                begin isolation level repeatable read; select 1";
    sqlx::raw_sql(open).execute(&mut holder).await.unwrap();
    let patient = installation.examine(&[], &[]);
    assert!(!patient.checks().contains(&"postgres.open-transaction"), "{:#}", patient.report);
    let found = installation.examine(&["--patience", "0"], &[]);
    let checks = ["postgres.open-transaction"];
    found.is("an open transaction", "warning", &checks, "SELECT pg_terminate_backend");
    assert!(found.report.to_string().contains("a forgotten report"), "{:#}", found.report);
    holder.close().await.unwrap();
}

pub async fn that_keep_us_out_are_found(installation: &Installation) {
    let elsewhere = installation.database.replace("/booked", "/nowhere");
    let found = installation.examine(&[], &[("DATABASE_URL", &elsewhere)]);
    found.is("no database", "error", &["postgres.reachable"], "CREATE DATABASE");
    assert!(found.left_out() > 20, "{:#}", found.report);

    // Everybody is trusted here, until the first line says otherwise.
    let rules = installation.dir.0.join("postgres/data/pg_hba.conf");
    let before = fs::read_to_string(&rules).unwrap();
    let strict = format!("host booked front_desk 127.0.0.1/32 scram-sha-256\n{before}");
    installation.admin_sql("alter role front_desk password 'the-right-one'").await;
    fs::write(&rules, strict).unwrap();
    installation.admin_sql("select pg_reload_conf()").await;
    let wrong = installation.database.replace("front_desk@", "front_desk:the-wrong-one@");
    let right = installation.database.replace("front_desk@", "front_desk:the-right-one@");
    until("the wrong one is refused", async || PgConnection::connect(&wrong).await.is_err()).await;
    let found = installation.examine(&[], &[("DATABASE_URL", &wrong)]);
    found.is("a wrong password", "error", &["postgres.reachable"], "the right user and password");
    assert!(!found.report.to_string().contains("the-wrong-one"), "{:#}", found.report);
    let found = installation.examine(&[], &[("DATABASE_URL", &right)]);
    found.is_idle("the right password");
    fs::write(&rules, before).unwrap();
    installation.admin_sql("select pg_reload_conf()").await;
    let trusted = &installation.database;
    until("all are trusted", async || PgConnection::connect(trusted).await.is_ok()).await;
}
