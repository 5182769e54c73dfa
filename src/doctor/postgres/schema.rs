//! Our tables: whether they are as the migrations made them, whether we may use them, and what
//! waits in them.

use std::time::Duration;

use crate::doctor::report::names as names_of;
use crate::doctor::{Check, Fault, Report, count, error, list, warning};
use crate::store::doctor::{Made, Presence, Rows, Schema, Version};

/// The constraint that keeps bookings apart; it has a check of its own.
const NO_OVERLAP: &str = "allocations_no_overlap";

/// What was seen of the tables, and by whom.
pub(super) struct Seen {
    pub version: Version,
    pub schema: Result<Schema, String>,
    pub rows: Result<Rows, String>,
    pub role: String,
}

struct Tables {
    schema: Schema,
    role: String,
}

struct Waiting {
    rows: Rows,
    partitions: u16,
    patience: Duration,
}

const VERSION: &[Check<Version>] = &[Check { name: "postgres.schema-version", judge: version }];

const TABLES: &[Check<Tables>] = &[
    Check { name: "postgres.extension", judge: |t| extension(&t.schema) },
    Check { name: "postgres.tables", judge: |t| tables(&t.schema) },
    Check { name: "postgres.privileges", judge: privileges },
    Check {
        name: "postgres.no-overlap",
        judge: |t| {
            constraint(
                &t.schema,
                |name| name == NO_OVERLAP,
                "nothing keeps two bookings of one calendar from taking the same time",
            )
        },
    },
    Check {
        name: "postgres.constraints",
        judge: |t| {
            constraint(
                &t.schema,
                |name| name != NO_OVERLAP,
                "rows can be written that nothing in this program expects",
            )
        },
    },
    Check { name: "postgres.triggers", judge: |t| triggers(&t.schema) },
    Check { name: "postgres.indexes", judge: |t| indexes(&t.schema) },
    Check { name: "postgres.table-autovacuum", judge: |t| autovacuum(&t.schema) },
];

const ROWS: &[Check<Waiting>] = &[
    Check { name: "postgres.partitions", judge: partitions },
    Check { name: "postgres.dead-letters", judge: |w| dead_letters(&w.rows) },
    Check { name: "postgres.outbox-age", judge: outbox },
    Check { name: "postgres.undecided-age", judge: undecided },
    Check { name: "postgres.webhooks-age", judge: webhooks },
];

pub(super) fn names() -> Vec<&'static str> {
    [names_of(VERSION), names_of(TABLES), names_of(ROWS)].concat()
}

pub(super) fn leave_out(reason: &str, report: &mut Report) {
    report.judge(VERSION, Err(reason));
    report.judge(TABLES, Err(reason));
    report.judge(ROWS, Err(reason));
}

pub(super) fn judge(
    Seen { version, schema, rows, role }: Seen,
    partitions: u16,
    patience: Duration,
    report: &mut Report,
) {
    report.judge(VERSION, Ok(&version));
    match schema {
        Ok(schema) => report.judge(TABLES, Ok(&Tables { schema, role })),
        Err(reason) => report.judge(TABLES, Err(&reason)),
    }
    match rows {
        Ok(rows) => report.judge(ROWS, Ok(&Waiting { rows, partitions, patience })),
        Err(reason) => report.judge(ROWS, Err(&reason)),
    }
}

fn version(version: &Version) -> Option<Fault> {
    let Version { present, wanted, broken, altered, hidden } = version;
    if *hidden {
        return Some(error(
            "the role may not read _sqlx_migrations",
            "no process starts: it cannot tell whether the schema fits",
            "GRANT SELECT ON _sqlx_migrations to the role of DATABASE_URL",
        ));
    }
    if let Some(broken) = broken.first() {
        return Some(error(
            format!("migration {broken} has begun and not succeeded"),
            "the schema is half way between two releases",
            format!(
                "look what of it is there, undo it, DELETE FROM _sqlx_migrations WHERE version = \
                 {broken}; and `booking migrate`"
            ),
        ));
    }
    if present < wanted {
        return Some(error(
            format!("the schema is at version {present}, this binary needs {wanted}"),
            "this release does not start on it",
            "booking migrate",
        ));
    }
    if let Some(altered) = altered.first() {
        return Some(error(
            format!("migration {altered} was made by another text than this binary has"),
            "the schema is that of some other build; `booking migrate` refuses to go on",
            "run the release that made it, or restore the backup from before",
        ));
    }
    (present > wanted).then(|| {
        warning(
            format!("the schema is at version {present}, this binary knows {wanted}"),
            "a newer release has migrated the database; this one works on it beside the newer one \
             only for the time of an upgrade",
            "upgrade this binary",
        )
    })
}

fn extension(schema: &Schema) -> Option<Fault> {
    let missing: Vec<_> = schema.extensions.iter().filter(|(_, present)| !present).collect();
    let (name, _) = missing.first()?;
    Some(error(
        format!("the extension {name} is missing"),
        "the constraint that keeps bookings apart rests on it",
        format!("CREATE EXTENSION {name}; -- as the owner of the database"),
    ))
}

fn tables(schema: &Schema) -> Option<Fault> {
    let missing = schema.access.iter().filter(|access| !access.table_present);
    let mut missing: Vec<String> = missing.map(|access| access.table.clone()).collect();
    missing.dedup();
    (!missing.is_empty()).then(|| {
        error(
            format!("tables are missing, or hidden from the role: {}", list(&missing)),
            "the stages that need them fail",
            "GRANT USAGE ON SCHEMA public to the role of DATABASE_URL; if they are gone, restore \
             the backup",
        )
    })
}

fn privileges(Tables { schema, role }: &Tables) -> Option<Fault> {
    let missing = schema.access.iter().filter(|access| access.table_present && !access.granted);
    let missing: Vec<_> = missing.collect();
    let first = missing.first()?;
    let named = missing.iter().map(|a| format!("{} on {}", a.privilege, a.table));
    let grants = missing
        .chunk_by(|a, b| a.table == b.table)
        .map(|of_table| {
            let privileges: Vec<_> = of_table.iter().map(|a| a.privilege.as_str()).collect();
            let table = of_table.first().map_or(&first.table, |a| &a.table);
            format!("GRANT {} ON {table} TO \"{role}\";", privileges.join(", "))
        })
        .collect::<Vec<_>>();
    Some(error(
        format!("the role {role} may not {}", list(&named.collect::<Vec<_>>())),
        "the stages that need them fail again and again",
        grants.join("\n"),
    ))
}

fn constraint(schema: &Schema, ours: fn(&str) -> bool, means: &'static str) -> Option<Fault> {
    let ours = schema.constraints.iter().filter(|constraint| ours(&constraint.made.name));
    let broken: Vec<_> = ours.filter(|found| !found.present || !found.in_force).collect();
    (!broken.is_empty()).then(|| {
        let (names, mend) = told(&broken, |made| {
            format!("alter table {} validate constraint {}", made.table, made.name)
        });
        error(format!("constraints that are missing or not validated: {names}"), means, mend)
    })
}

fn triggers(schema: &Schema) -> Option<Fault> {
    let broken: Vec<_> =
        schema.triggers.iter().filter(|found| !found.present || !found.in_force).collect();
    (!broken.is_empty()).then(|| {
        let (names, mend) = told(&broken, |made| {
            format!("alter table {} enable trigger {}", made.table, made.name)
        });
        error(
            format!("triggers that are missing or disabled: {names}"),
            "final states and the audit can be changed afterwards, and nobody would notice",
            mend,
        )
    })
}

fn indexes(schema: &Schema) -> Option<Fault> {
    let missing: Vec<_> = schema.indexes.iter().filter(|found| !found.present).collect();
    let means = "some statement scans its whole table, which gets slower every day";
    if !missing.is_empty() {
        let (names, mend) = told(&missing, |made| made.statement.clone());
        return Some(error(format!("indexes that are missing: {names}"), means, mend));
    }
    let invalid = &schema.invalid_indexes;
    (!invalid.is_empty()).then(|| {
        let mend = invalid.iter().map(|name| format!("REINDEX INDEX CONCURRENTLY {name};"));
        error(
            format!("indexes whose build was cut off: {}", list(invalid)),
            means,
            mend.collect::<Vec<_>>().join("\n"),
        )
    })
}

/// Names what is broken, and the statements that mend it: those that made what is missing, or
/// `in_force` for what is there.
fn told(broken: &[&Presence], in_force: impl Fn(&Made) -> String) -> (String, String) {
    let names = broken.iter().map(|found| format!("{} on {}", found.made.name, found.made.table));
    let mend = broken.iter().map(|found| {
        let made = &found.made;
        format!("{};", if found.present { in_force(made) } else { made.statement.clone() })
    });
    (list(&names.collect::<Vec<_>>()), mend.collect::<Vec<_>>().join("\n"))
}

fn autovacuum(schema: &Schema) -> Option<Fault> {
    let tables = &schema.unvacuumed;
    (!tables.is_empty()).then(|| {
        let mend = tables.iter().map(|t| format!("ALTER TABLE {t} RESET (autovacuum_enabled);"));
        error(
            format!("autovacuum leaves out {}", list(tables)),
            "these tables and their indexes grow without end",
            mend.collect::<Vec<_>>().join("\n"),
        )
    })
}

fn partitions(Waiting { rows, partitions, .. }: &Waiting) -> Option<Fault> {
    let present = rows.partitions;
    (present != i64::from(*partitions)).then(|| {
        error(
            format!("PARTITIONS is {partitions}, the database was laid out with {present}"),
            "no process starts: commands of one calendar would lose their order",
            format!("set PARTITIONS={present} for all processes"),
        )
    })
}

fn dead_letters(rows: &Rows) -> Option<Fault> {
    let letters = usize::try_from(rows.dead_letters).unwrap_or_default();
    (letters > 0).then(|| {
        let newest = rows.newest_dead_letter.clone().unwrap_or_default();
        warning(
            format!("dead_letters holds {}; the newest: {newest}", count(letters, "row")),
            "these commands were given up: their callers got INTERNAL_ERROR",
            "SELECT parked_at, source, reason, command_id FROM dead_letters ORDER BY parked_at \
             DESC; mend the reason, let the callers ask again, and delete the rows",
        )
    })
}

fn outbox(Waiting { rows, patience, .. }: &Waiting) -> Option<Fault> {
    (rows.oldest_message_seconds > patience.as_secs_f64()).then(|| {
        error(
            format!(
                "the oldest of {} messages has waited {:.0} s for the broker",
                rows.waiting_messages, rows.oldest_message_seconds
            ),
            "commands are not decided and events not published; at OUTBOX_MAX_AGE the gateway \
             answers 503",
            "start a gateway or a worker, each of which relays; their logs and \
             booking_relay_refusals say what the broker refuses",
        )
    })
}

fn undecided(Waiting { rows, patience, .. }: &Waiting) -> Option<Fault> {
    (rows.oldest_command_seconds > patience.as_secs_f64()).then(|| {
        error(
            format!(
                "the oldest of {} undecided commands has waited {:.0} s",
                rows.undecided_commands, rows.oldest_command_seconds
            ),
            "callers wait for decisions",
            "start more `booking worker` (up to PARTITIONS); if there are enough, their logs say \
             what they wait for, and workers.consumers which partitions nobody has",
        )
    })
}

/// A warning only: one receiver that is slow or does not answer is enough.
fn webhooks(Waiting { rows, patience, .. }: &Waiting) -> Option<Fault> {
    (rows.oldest_webhook_seconds > patience.as_secs_f64()).then(|| {
        warning(
            format!(
                "the oldest of {} webhooks has been due for {:.0} s",
                rows.waiting_webhooks, rows.oldest_webhook_seconds
            ),
            "some subscriber is not told what happened",
            "start `booking webhooks` or `booking serve`; if one runs, a receiver is slow or away: \
             SELECT target_id, count(*), min(due_at) FROM webhook_queue GROUP BY 1 ORDER BY 3; names \
             it",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_judged_by_its_migrations() {
        let at = |present| Version { present, wanted: 5, ..Version::default() };
        assert!(version(&at(5)).is_none());
        assert!(version(&at(4)).is_some_and(|fault| fault.is_error()));
        assert!(version(&at(6)).is_some_and(|fault| !fault.is_error()));
        assert!(version(&Version { broken: vec![5], ..at(4) }).is_some());
        assert!(version(&Version { altered: vec![2], ..at(5) }).is_some());
        assert!(version(&Version { hidden: true, ..at(0) }).is_some());
    }
}
