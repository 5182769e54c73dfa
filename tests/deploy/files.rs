//! The files of `deploy/` and beside it, as data.

use std::collections::BTreeMap;
use std::path::Path;

use booking::config::Settings;
use booking::metrics::Metrics;
use clap::{Args as _, Command, FromArgMatches as _};
use serde_json::Value;

pub fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|cause| panic!("{path}: {cause}"))
}

/// The documents of a YAML file.
pub fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|cause| panic!("{path}: {cause}"))
}

/// All files under `folder` that are YAML.
pub fn yaml_files(folder: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// All objects of the Kubernetes manifests, with their files.
pub fn manifests() -> Vec<(String, Value)> {
    let files = yaml_files("deploy/kubernetes").into_iter();
    let objects: Vec<_> = files
        .flat_map(|file| yaml(&file).into_iter().map(move |object| (file.clone(), object)))
        .collect();
    assert!(objects.len() > 15, "only {} objects", objects.len());
    objects
}

/// The pods that the manifests make: file, name, pod.
pub fn pods() -> Vec<(String, Value)> {
    let made = manifests().into_iter().filter(|(_, object)| object["spec"]["template"].is_object());
    let pods: Vec<_> =
        made.map(|(file, object)| (file, object["spec"]["template"]["spec"].clone())).collect();
    assert!(pods.len() >= 4, "only {} pods", pods.len());
    pods
}

/// The services of docker-compose.yml that run a role, and the one that migrates.
pub fn services() -> Vec<(String, Value)> {
    let compose = yaml("docker-compose.yml").remove(0);
    let services = compose["services"].as_object().unwrap().clone().into_iter();
    let ours: Vec<_> = services.filter(|(_, service)| service["build"] == ".").collect();
    assert!(ours.len() >= 4, "only {} services", ours.len());
    ours
}

/// What a variable of docker-compose.yml becomes, without an environment: `${NAME:-default}`.
pub fn interpolated(value: &str) -> String {
    match value.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (variable, after))) => {
            let default = variable.split_once(":-").map_or("given", |(_, default)| default);
            format!("{before}{default}{}", interpolated(after))
        }
        None => value.to_owned(),
    }
}

/// The settings of the binary, by name, with the flag of each.
pub fn settings() -> BTreeMap<String, String> {
    let command = Settings::augment_args(Command::new("booking"));
    let flags = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?.to_str()?.to_owned();
        Some((name, argument.get_long()?.to_owned()))
    });
    flags.collect()
}

/// What the binary finds wrong with these settings.
pub fn mistakes(given: &BTreeMap<String, String>) -> Vec<String> {
    let flags = settings();
    let mut arguments = vec!["booking".to_owned()];
    for (name, value) in given {
        match flags.get(name) {
            Some(flag) => arguments.push(format!("--{flag}={value}")),
            None => return vec![format!("{name} is no setting")],
        }
    }
    let command = Settings::augment_args(Command::new("booking"));
    let matches = command.try_get_matches_from(arguments).unwrap();
    let settings = Settings::from_arg_matches(&matches).unwrap();
    settings.check().err().unwrap_or_default()
}

/// The names of metrics in a text, as they are written there.
pub fn metrics_named_in(text: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c));
    words.filter(|word| word.starts_with("booking_")).collect()
}

/// A metric's name in `Metrics::NAMES`, and which kind it is, for a name of the exposition format.
pub fn metric(written: &str) -> Option<(&'static str, &'static str)> {
    let source = read("src/metrics.rs");
    for (suffix, kind) in [
        ("_total", "Counter"),
        ("_bucket", "Histogram"),
        ("_sum", "Histogram"),
        ("_count", "Histogram"),
        ("", "Gauge"),
    ] {
        let Some(name) = written.strip_suffix(suffix) else { continue };
        let Some(known) = Metrics::NAMES.iter().copied().find(|known| *known == name) else {
            continue;
        };
        // As declared: `accepted: Family<Kind, Counter> = …, "commands_accepted", "…";`
        let literal = format!("\"{}\"", name.trim_start_matches("booking_"));
        let (before, _) = source.split_once(&format!(", {literal},")).unwrap();
        let declared = before.rsplit(';').next().unwrap();
        if declared.contains(kind) {
            return Some((known, kind));
        }
    }
    None
}
