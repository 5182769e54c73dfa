//! Faults of Redis, and of who owns what.

use redis::cmd;

use super::installation::{Installation, until};

/// A fault, the checks that find it with what the remedy says, and what heals it.
type Planted = (
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
);

const FAULTS: &[Planted] = &[
    (
        &["CONFIG SET maxmemory 100mb", "CONFIG SET maxmemory-policy allkeys-lru"],
        "warning",
        &["redis.eviction"],
        "redis-cli CONFIG SET maxmemory-policy noeviction",
        &["CONFIG SET maxmemory 0", "CONFIG SET maxmemory-policy noeviction"],
    ),
    (
        &["CONFIG SET maxmemory 1"],
        "error",
        &["redis.keys", "redis.memory"],
        "free its memory",
        &["CONFIG SET maxmemory 0"],
    ),
    (
        &["REPLICAOF 127.0.0.1 1"],
        "error",
        &["redis.role", "redis.keys"],
        "redis-cli REPLICAOF NO ONE",
        &["REPLICAOF NO ONE"],
    ),
    (
        &["SET booking:lease:p.01 a-stranger PX 600000"],
        "error",
        &["workers.owners"],
        "REDIS_PREFIX of its own",
        &["DEL booking:lease:p.01"],
    ),
];

pub async fn are_found(installation: &Installation) {
    for (plant, severity, checks, remedy, heal) in FAULTS {
        run(installation, plant).await;
        installation.examine(&[], &[]).is(plant[0], severity, checks, remedy);
        run(installation, heal).await;
        installation.is_as_before(plant[0]);
    }
    of_access_are_found(installation).await;
    assert_eq!(keys(installation).await, Vec::<String>::new(), "it leaves no keys behind");
}

async fn of_access_are_found(installation: &Installation) {
    let prefix = "ACL SETUSER other on >very-secret ~other:* &other:* +@all";
    run(installation, &[prefix]).await;
    let other = installation.redis.replace("redis://", "redis://other:very-secret@");
    let found = installation.examine(&[], &[("REDIS_URL", &other)]);
    let checks = ["redis.keys", "redis.scripts", "redis.hints"];
    found.is("a user of other keys", "error", &checks, "'~booking:*' '&booking:*'");
    assert!(!found.report.to_string().contains("very-secret"), "{:#}", found.report);
    let wrong = installation.redis.replace("redis://", "redis://other:not-this-one@");
    let found = installation.examine(&[], &[("REDIS_URL", &wrong)]);
    found.is("a wrong password", "error", &["redis.reachable"], "the right user and password");
    assert!(!found.report.to_string().contains("not-this-one"), "{:#}", found.report);
    run(installation, &["ACL DELUSER other"]).await;
}

pub async fn of_ownership_are_found(installation: &Installation) {
    // A worker that lives, and has three of four leases.
    run(installation, &["ZADD booking:workers 99999999999999 somebody"]).await;
    for partition in 0..3 {
        let take = format!("SET booking:lease:p.{partition:02} somebody");
        run(installation, &[&take]).await;
    }
    installation.admin_sql("update partitions set owner = 'somebody'").await;
    let found = installation.examine(&[], &[]);
    found.is(
        "a lease that nobody holds",
        "error",
        &["workers.leases"],
        "look at the workers' logs",
    );
    assert!(found.report.to_string().contains("the lease of p.03"), "{:#}", found.report);
    run(installation, &["FLUSHALL"]).await;
    installation.is_as_before("the leases");
}

pub async fn of_a_server_that_is_down_is_found(installation: &mut Installation) {
    installation.servers.redis.as_mut().unwrap().stop().await;
    let found = installation.examine(&[], &[]);
    found.is("Redis is down", "error", &["redis.reachable"], "start Redis, or mend host");
    installation.servers.redis.as_mut().unwrap().start().await.unwrap();
    until("Redis is back", async || installation.examine(&[], &[]).code == Some(0)).await;
    installation.is_as_before("Redis was down");
}

async fn run(installation: &Installation, commands: &[&str]) {
    let client = redis::Client::open(installation.redis.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for command in commands {
        let mut words = command.split(' ');
        let mut command = cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async::<()>(&mut connection).await.unwrap();
    }
}

async fn keys(installation: &Installation) -> Vec<String> {
    let client = redis::Client::open(installation.redis.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    cmd("KEYS").arg("*doctor*").query_async(&mut connection).await.unwrap()
}
