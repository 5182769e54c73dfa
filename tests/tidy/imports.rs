//! Which module may import which: the direction of the house.

/// What each module of `src/` may import of ours. Roles and tools (`roles`, `dev`, `main`) put
/// stages together; a stage knows what is below it; the servers' modules know only the rules.
pub const IMPORTS: &[(&str, &[&str])] = &[
    // The rules, and what needs nothing.
    ("booking", &[]),
    ("config", &["tls"]),
    ("failpoint", &[]),
    ("metrics", &[]),
    ("pace", &[]),
    ("retry", &[]),
    ("tls", &[]),
    ("process", &["retry"]),
    ("telemetry", &["config"]),
    // The servers. None imports another, except that hints use the link to Redis of the leases.
    ("store", &["booking", "tls"]),
    ("queue", &["tls"]),
    ("lease", &["tls"]),
    ("limits", &["lease", "metrics", "process", "retry"]),
    ("wake", &["booking", "lease", "metrics", "process", "retry"]),
    // The stages. None imports another, except: the doors hand over to acceptance, and
    // the worker (with its batches) decides what ownership brings.
    ("identity", &["booking", "config", "process", "retry", "store", "telemetry"]),
    ("backlog", &["process", "store", "telemetry"]),
    ("accept", ACCEPT),
    ("intake", INTAKE),
    ("waiters", &["booking", "store", "telemetry", "wake"]),
    ("relay", STAGE),
    ("ownership", OWNERSHIP),
    ("worker", WORKER),
    ("sweep", &["booking", "metrics", "process", "retry", "store", "telemetry", "wake"]),
    ("webhooks", WEBHOOKS),
    ("http", HTTP),
    ("messages", &["booking", "queue"]),
    ("vitals", &["booking", "lease", "metrics", "pace", "process", "queue", "store"]),
    // What puts them together, and the tools.
    ("api_keys", &["identity", "store"]),
    ("health", &[]),
    ("verify", &["queue", "store"]),
    ("doctor", &["config", "lease", "queue", "store"]),
    ("roles", ROLES),
    ("dev", &["config", "roles", "store", "tls"]),
    ("main", MAIN),
    ("lib", &[]),
];
const OWNERSHIP: &[&str] =
    &["config", "lease", "metrics", "pace", "process", "queue", "store", "telemetry"];
const WEBHOOKS: &[&str] = &[
    "booking",
    "config",
    "failpoint",
    "metrics",
    "process",
    "retry",
    "store",
    "telemetry",
    "wake",
];
const ACCEPT: &[&str] = &[
    "backlog",
    "booking",
    "failpoint",
    "identity",
    "metrics",
    "store",
    "telemetry",
    "vitals",
    "wake",
    "webhooks",
];
const INTAKE: &[&str] = &[
    "accept",
    "booking",
    "identity",
    "metrics",
    "process",
    "queue",
    "retry",
    "telemetry",
    "waiters",
];
const MAIN: &[&str] = &[
    "api_keys",
    "config",
    "dev",
    "doctor",
    "health",
    "http",     // prints the contract
    "messages", // writes the schemas
    "process",
    "roles",
    "store",
    "telemetry",
    "verify",
];
const HTTP: &[&str] = &[
    "accept",
    "booking",
    "config",
    "identity",
    "limits",
    "messages",
    "metrics",
    "store",
    "telemetry",
    "vitals",
    "waiters",
    "webhooks", // where they may go, and secrets
];
const STAGE: &[&str] =
    &["booking", "failpoint", "metrics", "process", "queue", "retry", "store", "telemetry", "wake"];
const WORKER: &[&str] = &[
    "booking",
    "failpoint",
    "metrics",
    "ownership",
    "pace",
    "process",
    "retry",
    "store",
    "telemetry",
    "wake",
];
const ROLES: &[&str] = &[
    "accept",
    "backlog",
    "booking",
    "config",
    "http",
    "identity",
    "intake",
    "lease",
    "limits",
    "metrics",
    "ownership",
    "pace",
    "process",
    "relay",
    "retry",
    "store",
    "sweep",
    "telemetry",
    "vitals",
    "waiters",
    "wake",
    "webhooks",
    "worker",
];
