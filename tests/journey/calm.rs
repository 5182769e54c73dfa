//! What a process logs while a server is away: a line for each failure, not for each that it hits.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::stage::{Process, until};

/// How often a failure that goes on is told of, in seconds.
const PERIOD: i64 = 30;
/// Lines of one failure beside those: a server that is slow to start comes and goes.
const A_HANDFUL: i64 = 5;

impl Process {
    /// Every line can be read by a machine and says what it is about, failures with their cause;
    /// and none is told again and again.
    pub fn log_is_calm(&self) {
        let mut failures: HashMap<(String, String, String), i64> = HashMap::new();
        let mut times: Vec<DateTime<Utc>> = Vec::new();
        for text in self.log_text().lines() {
            let line: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"));
            times.push(line["timestamp"].as_str().unwrap().parse().unwrap());
            let (level, message) = (line["level"].as_str().unwrap(), line["message"].as_str());
            let message = message.expect(text).to_owned();
            if ["WARN", "ERROR"].contains(&level) {
                let causes = ["cause", "reason", "code", "status"];
                assert!(causes.iter().any(|cause| !line[cause].is_null()), "{text}");
                let of = (message, line["server"].to_string(), line["stream"].to_string());
                *failures.entry(of).or_default() += 1;
            }
        }
        let seconds = (*times.last().unwrap() - times[0]).num_seconds();
        let noisy = failures.iter().find(|(_, lines)| **lines > A_HANDFUL + seconds / PERIOD);
        assert_eq!(noisy, None, "in {seconds} s: {failures:#?}");
    }

    /// Waits until it has said that the server went away, and at last that it answers again.
    pub async fn tells_of_loss_and_return(&self, server: &str) {
        until("the log tells of loss and return", async || {
            let lines = self.log_lines().into_iter().filter(|line| line["server"] == server);
            let told = lines.filter(|line| line["target"] == "booking::vitals");
            let told: Vec<Value> = told.map(|line| line["message"].clone()).collect();
            told.contains(&"the server does not answer".into())
                && told.last() == Some(&"the server answers".into())
        })
        .await;
    }
}
