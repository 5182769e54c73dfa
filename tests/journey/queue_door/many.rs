//! A program of another language at the queue door: `deploy/examples/submit.py`, as it is.

use serde_json::Value;

use super::open_gateway;
use crate::examples::python;
use crate::stage::{Stage, until};

#[tokio::test]
async fn a_thousand_commands_get_their_decisions_over_a_kill_of_a_door() {
    let stage = Stage::new("submit-py").await;
    let mut doomed = open_gateway(&stage, &[]).await;
    let (_gateway, _worker) = (open_gateway(&stage, &[]).await, stage.worker().await);
    let program = python(&[
        "deploy/examples/submit.py",
        "--url",
        &stage.amqp_url,
        "--commands",
        "1000",
        "--duplicates",
        "10",
        // Nothing is sent twice: what the killed door held must come back by itself.
        "--resubmit",
        "1000",
        "--timeout",
        "240",
    ]);
    let running = tokio::spawn(async move { { program }.output().await.unwrap() });

    let accepted = "select count(*) from commands";
    until("a third is accepted", async || {
        assert!(!running.is_finished(), "the program has ended");
        stage.number(accepted).await >= 300
    })
    .await;
    doomed.kill().await;
    let at_the_kill = stage.number(accepted).await;
    assert!(at_the_kill < 1000, "killed too late: {at_the_kill}");
    let _heir = open_gateway(&stage, &[]).await;

    let ended = running.await.unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    let summary: Value = serde_json::from_str(said.trim()).unwrap();
    for (member, count) in [
        ("messages", 1100),
        ("publishes", 1100),
        ("accepted", 1100),
        ("decided", 1100),
        ("refused", 0),
        ("unanswered", 0),
        ("decidedBeforeAccepted", 0),
        ("commands", 1000),
        ("keysWithSeveralCommands", 0),
        ("succeeded", 1000),
    ] {
        assert_eq!(summary[member], count, "{member}: {summary}");
    }
    assert_eq!(stage.number(accepted).await, 1000);
    assert_eq!(stage.number("select count(*) from bookings").await, 1000);
    let twice =
        "select count(*) from (select command_id from audit group by 1 having count(*) > 1) t";
    assert_eq!(stage.number(twice).await, 0);
    stage.everything_is_relayed().await;
    stage.all_promises_hold().await;
}
