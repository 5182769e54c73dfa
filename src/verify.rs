//! `booking verify`: proves the promises on what is stored, for tests and for operators.
//!
//! In: Postgres, and RabbitMQ for the counts of what is still under way. Out: a table of what
//! was checked, on how many rows, and the first rows that contradict a promise. It only reads,
//! in one snapshot, so it can run on a system at work.

use std::fmt::Write as _;

use anyhow::Context as _;

use crate::queue::{Connection, DEAD_QUEUE, partition_queue};
use crate::store::verify::{CHECKS, snapshot};
use crate::store::{self, Purpose, partitions};

/// What was found: the table to print, and whether all promises hold.
pub struct Report {
    pub text: String,
    pub holds: bool,
}

/// Runs all checks. `patience` is how many seconds a command may stay undecided.
///
/// # Errors
/// When Postgres is away. RabbitMQ being away is part of the report.
pub async fn run(
    database_url: &str,
    amqp_url: Option<&str>,
    patience: u32,
) -> anyhow::Result<Report> {
    let patience = i32::try_from(patience).unwrap_or(i32::MAX);
    let mut connection = store::connect(database_url, Purpose::Operate)
        .await
        .context("PostgreSQL cannot be reached; is DATABASE_URL right?")?;
    let mut snapshot = snapshot(&mut connection).await?;
    let mut report = Report { text: String::new(), holds: true };
    let _ = writeln!(report.text, "{:<8} {:<62} {:>9}  result", "promise", "claim", "checked");
    for check in CHECKS {
        let found = check
            .run(&mut snapshot, patience)
            .await
            .with_context(|| format!("checking that {}", check.claim))?;
        let result = match found.offenders {
            0 => "holds".to_owned(),
            broken => format!("BROKEN {broken} times"),
        };
        let _ = writeln!(
            report.text,
            "{:<8} {:<62} {:>9}  {result}",
            check.promise, check.claim, found.checked
        );
        for offender in &found.first {
            let _ = writeln!(report.text, "         {offender}");
        }
        report.holds &= found.offenders == 0;
    }
    if let Some(amqp_url) = amqp_url {
        let partitions = u16::try_from(partitions::count(&mut snapshot).await?)?;
        report.text.push_str(&broker_counts(amqp_url, partitions).await);
    }
    Ok(report)
}

async fn broker_counts(amqp_url: &str, partitions: u16) -> String {
    let counts = async {
        let broker = Connection::open(amqp_url, "booking verify").await?;
        let mut waiting = 0;
        for partition in 0..partitions {
            waiting += broker.depth(&partition_queue(partition)).await?.ready;
        }
        let dead = broker.depth(DEAD_QUEUE).await?.ready;
        broker.close().await;
        Ok::<_, crate::queue::QueueError>((waiting, dead))
    };
    match counts.await {
        Ok((waiting, dead)) => format!(
            "RabbitMQ: {waiting} messages wait in {partitions} partitions, {dead} in {DEAD_QUEUE}\n"
        ),
        Err(cause) => format!("RabbitMQ: not counted, {cause}\n"),
    }
}
