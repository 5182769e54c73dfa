//! Signatures as others check them: a receiver with the library of Standard Webhooks.

use std::collections::HashSet;

use booking::webhooks::signature::Secret;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::webhooks;
use crate::examples::python;
use crate::stage::{PATIENCE, Stage, User, until};

/// `deploy/examples/receive.py`, as it is.
struct Example {
    _program: Child,
    events: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Example {
    async fn start(secret: &Secret) -> Self {
        let arguments = ["deploy/examples/receive.py", "--port", "0", "--secret", &secret.reveal()];
        let mut program = python(&arguments).spawn().unwrap();
        let mut said = BufReader::new(program.stderr.take().unwrap()).lines();
        // Its packages may have to be installed first.
        let first = tokio::time::timeout(4 * PATIENCE, said.next_line()).await;
        let first = first.expect("it starts").unwrap().expect("it says where it listens");
        let url = first.strip_prefix("listening on ").expect(&first).to_owned();
        let events = BufReader::new(program.stdout.take().unwrap()).lines();
        Self { _program: program, events, url }
    }

    async fn hears(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.events.next_line()).await;
        serde_json::from_str(&line.expect("it hears").unwrap().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn the_library_of_standard_webhooks_verifies_what_we_sign() {
    let stage = Stage::new("webhook-verified").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();
    let secret = Secret::generate().unwrap();
    let mut example = Example::start(&secret).await;
    let known = stage.endpoint(Some(user.id), &example.url, &["*"]).await;
    sqlx::query("update webhook_endpoints set secret = $1")
        .bind(secret.as_bytes())
        .execute(&mut stage.database().await)
        .await
        .unwrap();
    let other = stage.endpoint(Some(user.id), &example.url, &["*"]).await;
    let _webhooks = webhooks(&stage, &[]).await;

    let mut told = HashSet::new();
    for start in 0..10 {
        let mut body = user.slot(start * 30, start * 30 + 30);
        body["metadata"] = serde_json::json!({ "title": "Zahnärztin: „um zehn“ 🦷" });
        user.books_with_key(&start.to_string(), body).await.is(201);
        let event = example.hears().await;
        assert_eq!(event["data"]["booking"]["metadata"]["title"], "Zahnärztin: „um zehn“ 🦷");
        told.insert(event["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(told.len(), 10);
    stage.nothing_waits_for(known.id).await;
    assert_eq!(stage.deliveries(known.id).await, (0, 10, 0));
    // The other endpoint signs with a secret that the receiver does not know.
    until("the other is refused", async || !stage.outcomes(other.id).await.is_empty()).await;
    let outcomes = stage.outcomes(other.id).await;
    assert!(outcomes.iter().all(|(what, status, _)| what == "refused" && *status == Some(401)));
}
