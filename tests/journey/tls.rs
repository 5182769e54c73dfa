//! All servers by TLS, as a user with a password: the main road, and what is refused.
//!
//! The tests have the authority in their URLs; the processes are told by `TLS_CA_FILE`.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use booking::queue::{Connection, QueueError};
use booking::store::{self, Purpose};
use booking::{lease, tls};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use url::Url;

use crate::link::Link;
use crate::servers::{Set, scratch, without_authority};
use crate::stage::{PATIENCE, Stage, User, until};
use crate::{fleet, main_road};

#[tokio::test]
async fn the_main_road_leads_over_tls() {
    let stage = Stage::secured("tls-main-road").await;
    main_road::a_booking_goes_its_way(&stage).await;
}

#[tokio::test]
async fn a_client_waits_over_tls() {
    main_road::a_client_waits(&Stage::secured("tls-waits").await).await;
}

#[tokio::test]
async fn a_fleet_is_at_work_over_tls() {
    fleet::a_fleet_is_at_work(&Stage::secured_with_partitions("tls-fleet", 8).await).await;
}

#[tokio::test]
async fn operators_find_all_well_over_tls_and_hear_what_is_not() {
    let stage = Stage::secured("tls-operators").await;
    let serve = stage.start("serve", &[]).await;
    serve.is_ready().await;
    User::new(&serve).who_waits().books(0, 30).await.is(201);
    stage.everything_is_relayed().await;

    assert!(said(stage.command("verify").output().await).contains("all promises hold"));
    let doctor = async |settings: &[(&str, &str)]| {
        let mut doctor = stage.command("doctor");
        doctor.arg("--strict").env("RATE_LIMIT_MAX", "100").envs(settings.iter().copied());
        said(doctor.output().await)
    };
    let healthy = doctor(&[]).await;
    assert!(healthy.starts_with("healthy: ") && healthy.lines().count() == 1, "{healthy}");

    let stranger = scratch().join("secured/stranger.pem");
    let text = doctor(&[("TLS_CA_FILE", stranger.to_str().unwrap())]).await;
    for server in ["postgres", "rabbitmq", "redis"] {
        let found = format!("ERROR   {server}.reachable: localhost:");
        let finding = text.split(&found).nth(1).unwrap_or_else(|| panic!("no {server} in {text}"));
        let finding = finding.split("mend: ").take(2).collect::<Vec<_>>().join("mend: ");
        assert!(finding.contains("UnknownIssuer"), "{finding}");
        let mend = finding.split("mend: ").nth(1).unwrap();
        assert!(mend.contains("authority in TLS_CA_FILE"), "{finding}");
    }
    assert!(!text.contains("p@ss") && !text.contains("p%40ss"), "{text}");
}

fn said(output: std::io::Result<Output>) -> String {
    let Output { stdout, stderr, .. } = output.unwrap();
    String::from_utf8([stdout, stderr].concat()).unwrap()
}

/// Why no server can be reached with these URLs, one after the other.
async fn refusals(database: &str, broker: &str, redis: &str) -> [String; 3] {
    let postgres = store::connect(database, Purpose::Read).await.expect_err("no PostgreSQL");
    let rabbitmq = Connection::open(broker, "tests").await.err().expect("no RabbitMQ");
    let client = lease::client(redis).unwrap();
    let away = client.get_multiplexed_async_connection().await.expect_err("no Redis");
    [postgres.to_string(), error_text(&rabbitmq), lease::said(redis, away)]
}

fn error_text(error: &QueueError) -> String {
    format!("{error} {:?}", std::error::Error::source(error).map(ToString::to_string))
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_by_name() {
    let set = Set::secured().await;
    let stranger = scratch().join("secured/stranger.pem");
    for trusted in [None, Some(stranger.as_path())] {
        let [database, broker, redis] = trusting(set, trusted);
        for text in refusals(&database, &broker, &redis).await {
            assert!(text.contains("UnknownIssuer") && text.contains("TLS_CA_FILE"), "{text}");
        }
    }
    // What PostgreSQL's own clients mean by it: encrypted, to whomever.
    let [database, ..] = trusting(set, None);
    let unchecked = database.replace("verify-full", "require");
    store::connect(&unchecked, Purpose::Read).await.unwrap();
    let [database, ..] = trusting(set, Some(&stranger));
    let by_anybody = database.replace("verify-full", "verify-ca");
    let refused = store::connect(&by_anybody, Purpose::Read).await.err().unwrap();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
}

/// The set's URLs with this file of authorities instead of its own.
fn trusting(set: &Set, file: Option<&Path>) -> [String; 3] {
    let with = |url: &str, parameter: &str| {
        let mut url = Url::parse(&without_authority(url)).unwrap();
        if let Some(file) = file {
            url.query_pairs_mut().append_pair(parameter, file.to_str().unwrap());
        }
        url.to_string()
    };
    [
        with(&set.database("postgres"), tls::POSTGRES_AUTHORITIES),
        with(&set.vhost("t1"), tls::RABBITMQ_AUTHORITIES),
        with(&set.redis, tls::REDIS_AUTHORITIES),
    ]
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let set = Set::secured().await;
    let elsewhere = |url: &str| url.replace("localhost", "127.0.0.1");
    let database = elsewhere(&set.database("postgres"));
    let texts = refusals(&database, &elsewhere(&set.vhost("t1")), &elsewhere(&set.redis)).await;
    for text in texts {
        assert!(text.contains("not valid for name \"127.0.0.1\""), "{text}");
        assert!(text.contains("let the URL have a name that is in the certificate"), "{text}");
    }
    let any_name = database.replace("verify-full", "verify-ca");
    store::connect(&any_name, Purpose::Read).await.unwrap();
}

#[tokio::test]
async fn servers_without_tls_are_not_talked_to_in_the_clear() {
    let set = Set::plain().await;
    let database = format!("{}?sslmode=require", set.database("postgres"));
    let broker = set.vhost("t1").replace("amqp://", "amqps://");
    let redis = set.redis.replace("redis://", "rediss://");
    let [postgres, rabbitmq, redis] = refusals(&database, &broker, &redis).await;
    assert!(postgres.contains("set ssl = on there, or leave sslmode out"), "{postgres}");
    assert!(rabbitmq.contains("nobody speaks TLS at this port"), "{rabbitmq}");
    assert!(redis.contains("REDIS_URL must begin with redis://"), "{redis}");
}

#[tokio::test]
async fn who_comes_without_tls_is_told_what_is_missing() {
    let set = Set::secured().await;
    let [database, broker, redis] = trusting(set, None);
    let plain = [
        database.replace("?sslmode=verify-full", ""),
        broker.replace("amqps://", "amqp://"),
        redis.replace("rediss://", "redis://"),
    ];
    let [postgres, rabbitmq, redis] = refusals(&plain[0], &plain[1], &plain[2]).await;
    assert!(postgres.contains("DATABASE_URL may need sslmode=verify-full"), "{postgres}");
    assert!(rabbitmq.contains("AMQP_URL must begin with amqps://"), "{rabbitmq}");
    assert!(redis.contains("REDIS_URL must begin with rediss://"), "{redis}");
    let greeting = booking::queue::inspect::greeting(&plain[1]).await.err().unwrap();
    assert!(greeting.to_string().contains("AMQP_URL must begin with amqps://"), "{greeting}");
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_and_leaves_nothing_behind() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqps://u:p@localhost:{}/v", silent.local_addr().unwrap().port());
    let opened = timeout(PATIENCE, Connection::open(&url, "silent")).await.unwrap();
    assert!(matches!(opened, Err(QueueError::Timeout { .. })), "{:?}", opened.err());
    let (mut socket, _) = timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    let mut heard = Vec::new();
    let ended = timeout(Duration::from_secs(2), socket.read_to_end(&mut heard)).await;
    assert!(ended.is_ok(), "our side hung up");
    assert_eq!(heard.first(), Some(&22), "a handshake of TLS, and nothing in the clear");
}

#[tokio::test]
async fn a_connection_by_tls_that_falls_silent_is_cut() {
    let stage = Stage::secured("tls-silent").await;
    let link = Link::to(&stage.amqp_url).await;
    let url = link.instead_of(&stage.amqp_url);
    let connection = Connection::open(&format!("{url}&heartbeat=1"), "tests").await.unwrap();
    connection.declare_topology(stage.partitions).await.unwrap();
    let before = link.open();
    assert_eq!(before, 1);

    link.falls_silent();
    timeout(PATIENCE, connection.closed()).await.expect("silence is noticed");
    until("our side of it is closed", async || link.open() == 0).await;
    let hung = Connection::open(&url, "tests").await;
    assert!(matches!(hung, Err(QueueError::Timeout { .. })), "{:?}", hung.err());
    until("nothing of the attempt is left", async || link.open() == 0).await;
    link.heals();
    Connection::open(&url, "tests").await.unwrap().close().await;
}
