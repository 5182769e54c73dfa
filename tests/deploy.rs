//! What is deployed fits what is built: metrics, alerts, settings, limits of time, and the safety of
//! the containers. A file of `deploy/` that names what the binary does not have fails here, not at
//! three in the morning. `deploy/files.rs` reads the files; what alerts do is tested by `make alerts`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "deploy/files.rs"]
mod files;

use std::collections::{BTreeMap, BTreeSet};

use booking::metrics::Metrics;
use files::{
    interpolated, manifests, metric, metrics_named_in, mistakes, pods, read, services, settings,
    yaml, yaml_files,
};
use serde_json::Value;

const DASHBOARD: &str = "deploy/grafana/booking.json";
const ALERTS: &str = "deploy/prometheus/alerts.yml";
const SCALING: [&str; 2] = [
    "deploy/kubernetes/keda/worker-scaling.yaml",
    "deploy/kubernetes/keda/worker-scaling-by-queue.yaml",
];

#[track_caller]
fn holds(law: &str, broken: impl IntoIterator<Item = String>) {
    let broken: Vec<String> = broken.into_iter().collect();
    assert!(broken.is_empty(), "{law}:\n  {}\n", broken.join("\n  "));
}

#[test]
fn every_metric_that_is_asked_for_is_measured() {
    let mut broken = BTreeSet::new();
    let mut seen = 0;
    let files = [DASHBOARD, ALERTS, "deploy/prometheus/alerts.test.yml"];
    for file in files.iter().chain(&SCALING) {
        let text = read(file);
        for written in metrics_named_in(&text) {
            seen += 1;
            if metric(written).is_none() {
                broken.insert(format!("{file}: {written}"));
            }
        }
    }
    assert!(seen > 80, "only {seen} names");
    holds(
        "a name is one of Metrics::NAMES, with _total for a counter and _bucket, _sum or _count for \
         a histogram",
        broken,
    );
}

#[test]
fn the_dashboard_shows_every_metric() {
    let text = read(DASHBOARD);
    let shown: BTreeSet<&str> =
        metrics_named_in(&text).iter().filter_map(|name| Some(metric(name)?.0)).collect();
    let hidden = Metrics::NAMES.iter().filter(|name| !shown.contains(**name));
    holds("each metric has a panel", hidden.map(|name| (*name).to_owned()));
}

#[test]
fn panels_lie_beside_each_other_and_say_what_they_show() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let (mut places, mut ids, mut broken) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let number = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let (left, top) = (number("x"), number("y"));
        let mut cells =
            (left..left + number("w")).flat_map(|x| (top..top + number("h")).map(move |y| (x, y)));
        if !cells.all(|cell| places.insert(cell)) {
            broken.push(format!("{title} lies upon another"));
        }
        if !ids.insert(panel["id"].as_u64().unwrap()) {
            broken.push(format!("{title} has the id of another"));
        }
        let explained = panel["description"].as_str().is_some_and(|text| text.len() > 10);
        if panel["type"] != "row" && !explained {
            broken.push(format!("{title} has no description"));
        }
    }
    holds("a dashboard can be read", broken);
}

#[test]
fn every_alert_says_what_to_do_and_is_in_the_runbook() {
    let readme = read("README.md");
    let runbook = readme.split("## Runbook").nth(1).expect("a chapter Runbook");
    let runbook = runbook.split("\n## ").next().unwrap();
    let mut broken = Vec::new();
    for (name, alert) in alerts() {
        let text = |field: &str| alert["annotations"][field].as_str().unwrap_or_default();
        if !["critical", "warning"].iter().any(|s| alert["labels"]["severity"] == *s) {
            broken.push(format!("{name} is neither critical nor a warning"));
        }
        if text("summary").is_empty() || text("description").len() < 80 {
            broken.push(format!("{name} does not say what is wrong and what to do"));
        }
        if text("runbook") != "README.md#runbook" || !runbook.contains(&format!("| `{name}` |")) {
            broken.push(format!("{name} has no row in the Runbook"));
        }
    }
    let rows = runbook.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let known: Vec<String> = alerts().into_iter().map(|(name, _)| name).collect();
    broken.extend(
        rows.filter(|row| !known.iter().any(|name| name == row))
            .map(|row| format!("{row} is in the Runbook and is no alert")),
    );
    holds("an alert is of use to whoever is woken by it", broken);
}

#[test]
fn every_alert_is_tested_both_ways() {
    let tests = yaml("deploy/prometheus/alerts.test.yml").remove(0);
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_array().unwrap() {
        for asked in test["promql_expr_test"].as_array().unwrap() {
            let query = asked["expr"].as_str().unwrap();
            let name = query.split("alertname=\"").nth(1).and_then(|rest| rest.split('"').next());
            let seen =
                if asked["exp_samples"] == Value::Array(vec![]) { &mut silent } else { &mut fires };
            seen.extend(name.map(str::to_owned));
        }
    }
    let names = alerts().into_iter().map(|(name, _)| name);
    let untested = names.filter(|name| !fires.contains(name) || !silent.contains(name));
    holds("of each alert alerts.test.yml has a moment of silence and one of noise", untested);
}

fn alerts() -> Vec<(String, Value)> {
    let file = yaml(ALERTS).remove(0);
    let groups = file["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap().clone());
    let alerts: Vec<_> =
        rules.map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule)).collect();
    assert!(alerts.len() > 10, "only {} alerts", alerts.len());
    alerts
}

#[test]
fn every_yaml_file_can_be_read() {
    let files = yaml_files("deploy");
    assert!(files.len() > 15, "{files:?}");
    let empty = files.iter().filter(|file| yaml(file).iter().any(Value::is_null));
    holds("each document says something", empty.cloned());
}

#[test]
fn images_are_pinned() {
    let mut images: Vec<String> = Vec::new();
    for line in read("Dockerfile").lines().filter_map(|line| line.strip_prefix("FROM ")) {
        images.extend(line.split_whitespace().next().map(str::to_owned));
    }
    let compose = yaml("docker-compose.yml").remove(0);
    let services = compose["services"].as_object().unwrap().values();
    let others = services.filter(|service| service["build"].is_null());
    images.extend(others.map(|service| service["image"].as_str().unwrap().to_owned()));
    assert!(images.len() >= 7, "{images:?}");
    images.retain(|image| {
        let version = image.split_once(':').map(|(_, tag)| tag.trim_start_matches('v'));
        let numbers = version.map(|v| v.split('-').next().unwrap_or_default().split('.').count());
        let numeric = version.is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()));
        !(numeric && numbers >= Some(2))
    });
    for (file, object) in manifests() {
        for image in object["images"].as_array().into_iter().flatten() {
            if image["newTag"] != env!("CARGO_PKG_VERSION") {
                images.push(format!("{file}: {image}"));
            }
        }
    }
    holds("an image is of a version, and ours of this one", images);
}

#[test]
fn every_setting_that_is_given_exists_and_is_accepted() {
    let urls = [
        ("DATABASE_URL", "postgres://booking@postgres/booking"),
        ("AMQP_URL", "amqp://rabbitmq"),
        ("REDIS_URL", "redis://redis"),
    ];
    let urls: BTreeMap<String, String> = urls.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let mut broken = Vec::new();
    let mut check = |place: &str, given: BTreeMap<String, String>| {
        broken.extend(mistakes(&given).into_iter().map(|mistake| format!("{place}: {mistake}")));
    };
    for (name, service) in services() {
        let given = service["environment"].as_object().unwrap().iter();
        let given = given.map(|(name, v)| (name.clone(), interpolated(v.as_str().unwrap())));
        check(&name, urls.clone().into_iter().chain(given).collect());
    }
    let dockerfile = read("Dockerfile");
    let given = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")).flat_map(|line| {
        line.split_whitespace().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
    });
    check("Dockerfile", urls.clone().into_iter().chain(given).collect());
    let given = config_map().into_iter();
    check("ConfigMap", urls.into_iter().chain(given).collect());
    let known = settings();
    for (file, pod) in pods() {
        for variable in pod["containers"][0]["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            if !known.contains_key(name) {
                broken.push(format!("{file}: {name} is no setting"));
            }
        }
    }
    holds("the binary takes what the files give it", broken);
}

/// The settings that all pods share.
fn config_map() -> BTreeMap<String, String> {
    let map = manifests().into_iter().find(|(_, object)| object["kind"] == "ConfigMap").unwrap().1;
    let data = map["data"].as_object().unwrap().iter();
    data.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_process_may_finish_before_it_is_cut() {
    let mut broken = Vec::new();
    let seconds = |text: &Value| text.as_str().unwrap().trim_end_matches('s').parse::<u64>();
    for (name, service) in services().iter().filter(|(name, _)| name != "migrate") {
        let shutdown = seconds(&service["environment"]["SHUTDOWN_SECONDS"]).unwrap();
        if seconds(&service["stop_grace_period"]).unwrap() < shutdown + 5 {
            broken.push(format!("{name} of docker-compose.yml"));
        }
    }
    let shutdown: u64 = config_map()["SHUTDOWN_SECONDS"].parse().unwrap();
    for (file, pod) in pods().iter().filter(|(_, pod)| pod["restartPolicy"].is_null()) {
        let before = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
        let before = before.as_u64().unwrap_or_default();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or_default();
        if grace < shutdown + before + 5 {
            broken.push(format!("{file}: {grace} s"));
        }
    }
    holds("the grace period is longer than SHUTDOWN_SECONDS by 5 s and what goes before", broken);
}

#[test]
fn workers_are_scaled_to_the_number_of_partitions() {
    let partitions: u64 = config_map()["PARTITIONS"].parse().unwrap();
    let mut seen = 0;
    for object in SCALING.iter().flat_map(|file| yaml(file)) {
        if object["kind"] == "ScaledObject" {
            seen += 1;
            assert_eq!(object["spec"]["maxReplicaCount"], partitions, "{object}");
            for trigger in object["spec"]["triggers"].as_array().unwrap() {
                let ignores = &trigger["metadata"]["ignoreNullValues"];
                assert!(trigger["type"] != "prometheus" || ignores == "false", "{trigger}");
            }
        }
    }
    assert_eq!(seen, SCALING.len());
}

#[test]
fn containers_can_do_no_more_than_they_must() {
    let mut broken = Vec::new();
    for (file, pod) in pods() {
        let container = &pod["containers"][0];
        let security = &container["securityContext"];
        let safe = pod["automountServiceAccountToken"] == false
            && pod["securityContext"]["runAsNonRoot"] == true
            && pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
            && security["allowPrivilegeEscalation"] == false
            && security["readOnlyRootFilesystem"] == true
            && security["capabilities"]["drop"][0] == "ALL"
            && container["resources"]["requests"]["cpu"].is_string()
            && container["resources"]["limits"]["memory"].is_string();
        let runs_on = pod["restartPolicy"].is_null();
        let live = &container["livenessProbe"]["httpGet"]["path"];
        let ready = &container["readinessProbe"]["httpGet"]["path"];
        if !safe || (runs_on && (live != "/health/live" || ready != "/health/ready")) {
            broken.push(file);
        }
    }
    for (name, service) in services() {
        let safe = service["read_only"] == true
            && service["cap_drop"][0] == "ALL"
            && service["security_opt"][0] == "no-new-privileges:true"
            && service["deploy"]["resources"]["limits"]["memory"].is_string();
        if !safe {
            broken.push(format!("{name} of docker-compose.yml"));
        }
    }
    holds("a container is read-only, without capabilities, bounded and watched", broken);
}

#[test]
fn the_compose_stack_is_reached_from_its_machine_only_and_holds_no_secret() {
    let compose = yaml("docker-compose.yml").remove(0);
    let mut broken = Vec::new();
    for (name, service) in compose["services"].as_object().unwrap() {
        for port in service["ports"].as_array().into_iter().flatten() {
            if !port.as_str().unwrap().starts_with("127.0.0.1:") {
                broken.push(format!("{name} listens on {port}"));
            }
        }
        for (variable, value) in service["environment"].as_object().into_iter().flatten() {
            let secret = ["PASS", "SECRET", "AUTH", "_URL"].iter().any(|w| variable.contains(w));
            let given = value.as_str().is_some_and(|value| value.contains("${"));
            if secret && !given && variable != "AUTH_MODE" {
                broken.push(format!("{name} has a value for {variable}"));
            }
        }
    }
    for line in read(".env.example").lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.split_once('=')
            && (name.ends_with("PASSWORD") || name.ends_with("SECRET"))
            && !value.is_empty()
        {
            broken.push(format!(".env.example has a value for {name}"));
        }
    }
    holds("no port is open to the network, and no password is in the repository", broken);
}

#[test]
fn every_role_that_is_started_is_a_command() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_booking")).arg("--help").output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let composed = services().into_iter().map(|(name, service)| (name, service["command"].clone()));
    let started = pods().into_iter().map(|(f, pod)| (f, pod["containers"][0]["args"].clone()));
    let unknown = composed.chain(started).filter(|(_, arguments)| {
        let role = arguments[0].as_str().unwrap_or("nothing");
        !help.contains(&format!("\n  {role} "))
    });
    holds(
        "a container runs a command of booking",
        unknown.map(|(place, run)| format!("{place}: {run}")),
    );
}
