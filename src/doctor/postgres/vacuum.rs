//! What keeps PostgreSQL from cleaning up: old rows that pile up make everything slower, and in the
//! end it takes no more writes.

use super::View;
use crate::doctor::report::names as names_of;
use crate::doctor::{Check, Fault, error, list, warning};
use crate::store::doctor::{Holders, Server};

/// Old row versions pile up beyond this many transactions, and every query wades through them.
const OLD_XMIN: i32 = 1_000_000;
/// PostgreSQL itself freezes rows by 200 million; so far behind, it does not get to it.
const MANY_TRANSACTION_IDS: i32 = 500_000_000;
/// Of 2,100 million: from about 2,097 million on the server takes no more writes.
const TOO_MANY_TRANSACTION_IDS: i32 = 1_500_000_000;

pub(super) const CHECKS: &[Check<View>] = &[
    Check { name: "postgres.autovacuum", judge: |v| autovacuum(&v.server) },
    Check { name: "postgres.open-transaction", judge: |v| open_transaction(v) },
    Check { name: "postgres.prepared-transaction", judge: |v| prepared_transaction(v) },
    Check { name: "postgres.replication-slots", judge: |v| replication_slots(&v.holders) },
    Check { name: "postgres.xmin-age", judge: |v| xmin_age(v.holders.xmin_age) },
    Check { name: "postgres.wraparound", judge: |v| wraparound(&v.server) },
];

pub(super) fn names() -> Vec<&'static str> {
    names_of(CHECKS)
}

fn autovacuum(server: &Server) -> Option<Fault> {
    (!server.autovacuum || !server.track_counts).then(|| {
        error(
            "autovacuum is off (it needs track_counts as well)",
            "the outbox and the indexes grow without end, until the server refuses to write",
            "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT \
             pg_reload_conf();",
        )
    })
}

const HOLDS_BACK: &str =
    "vacuum removes nothing that was deleted since: the outbox gets slower with every message";

fn open_transaction(view: &View) -> Option<Fault> {
    let (name, seconds) = (view.holders.transaction.as_ref()?, view.holders.transaction_seconds?);
    (seconds > view.patience.as_secs_f64()).then(|| {
        warning(
            format!("a transaction has been open for {seconds:.0} s: {name}"),
            HOLDS_BACK,
            "end it in its program, or: SELECT pg_terminate_backend(its process); and ALTER ROLE \
             its role SET idle_in_transaction_session_timeout = '1min';",
        )
    })
}

fn prepared_transaction(view: &View) -> Option<Fault> {
    let (name, seconds) = (view.holders.prepared.as_ref()?, view.holders.prepared_seconds?);
    (seconds > view.patience.as_secs_f64()).then(|| {
        warning(
            format!("a prepared transaction has been waiting for {seconds:.0} s: {name}"),
            HOLDS_BACK,
            "ROLLBACK PREPARED or COMMIT PREPARED it, as its coordinator says",
        )
    })
}

fn replication_slots(holders: &Holders) -> Option<Fault> {
    (!holders.idle_slots.is_empty()).then(|| {
        warning(
            format!("replication slots that nobody reads: {}", list(&holders.idle_slots)),
            "PostgreSQL keeps all its log for them until the disk is full, and perhaps old rows too",
            format!(
                "start the replica again, or: SELECT pg_drop_replication_slot('{}');",
                holders.idle_slots.first().cloned().unwrap_or_default()
            ),
        )
    })
}

fn xmin_age(age: i32) -> Option<Fault> {
    (age > OLD_XMIN).then(|| {
        warning(
            format!("something holds a snapshot that is {age} transactions old"),
            HOLDS_BACK,
            "SELECT pid, usename, state, age(backend_xmin) FROM pg_stat_activity ORDER BY 4 DESC \
             NULLS LAST; and the same of pg_replication_slots (xmin, catalog_xmin) and \
             pg_prepared_xacts (transaction); end the oldest",
        )
    })
}

fn wraparound(server: &Server) -> Option<Fault> {
    let (used, database) = (server.used_transaction_ids, &server.oldest_database);
    let found = format!("database {database} has rows that are {used} transactions old");
    let mend = format!(
        "VACUUM (FREEZE) in {database}, as its owner, after ending what holds old snapshots \
         (postgres.xmin-age)"
    );
    match used {
        TOO_MANY_TRANSACTION_IDS.. => Some(error(
            found,
            "before 2,100 million PostgreSQL stops to take writes, for all databases",
            mend,
        )),
        MANY_TRANSACTION_IDS.. => {
            Some(warning(found, "vacuum does not keep up with freezing", mend))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sound;
    use super::*;

    #[test]
    fn ages_are_judged_by_how_near_the_end_is() {
        assert!(xmin_age(OLD_XMIN).is_none() && xmin_age(OLD_XMIN + 1).is_some());
        let used = |used_transaction_ids| {
            wraparound(&Server { used_transaction_ids, ..sound() }).map(|fault| fault.is_error())
        };
        assert_eq!(used(200_000_000), None);
        assert_eq!(used(600_000_000), Some(false));
        assert_eq!(used(1_900_000_000), Some(true));
    }
}
