//! Exemplars, as the OpenMetrics parser of Prometheus' client for Python reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::python;
use crate::stage::Process;

/// Prints the exemplars of a text; fails when it is no OpenMetrics.
const PARSER: &str = "import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print(json.dumps([
    [sample.name, sample.labels, sample.exemplar.labels, sample.exemplar.value, float(sample.exemplar.timestamp)]
    for family in parse(sys.stdin.read()) for sample in family.samples if sample.exemplar]))";

/// Name, labels, the exemplar's labels, its value and its time, of each that a process shows.
pub async fn of(process: &Process) -> Vec<Value> {
    let text = reqwest::get(process.url("/metrics")).await.unwrap().text().await.unwrap();
    let mut parser = python(&["-c", PARSER]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let read = parser.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{said}\n{text}");
    serde_json::from_slice(&read.stdout).unwrap()
}

/// The times of a command's journey lead to its trace; it was the last that was traced.
pub async fn lead_to(trace: &str, [gateway, worker, webhooks]: &[Process; 3]) {
    for (process, metric) in [
        (gateway, "booking_http_request_seconds_bucket"),
        (gateway, "booking_accept_seconds_bucket"),
        (worker, "booking_decision_seconds_bucket"),
        (webhooks, "booking_webhook_lag_seconds_bucket"),
    ] {
        let shown = of(process).await;
        let found = shown.iter().find(|shown| shown[0] == metric && shown[2]["trace_id"] == trace);
        let found = found.unwrap_or_else(|| panic!("{metric} of {trace} in {shown:#?}"));
        assert_eq!(found[2], json!({ "trace_id": trace }));
        let most = match found[1]["le"].as_str().unwrap() {
            "+Inf" => f64::MAX,
            most => most.parse().unwrap(),
        };
        assert!(found[3].as_f64().unwrap() <= most, "{found}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..3600.0).contains(&(now - found[4].as_f64().unwrap())), "{found}");
    }
}
