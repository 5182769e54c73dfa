//! The wave: a load that rises and falls, and a controller that keeps as many workers as it takes.
//!
//! `make wave` starts servers of its own, a gateway and one worker. For five minutes clients book
//! at a rate that rises to a peak, stays there and falls to nothing. The controller reads
//! `/metrics` of the workers, as an autoscaler does, and starts and stops worker processes. In the
//! end everything accepted is decided, all promises hold, and what waited longest was young.
//!
//! The workers reach PostgreSQL by a link that delays every byte, as if it were far away. One
//! worker then decides a few hundred commands a second and not thousands, so that one small
//! machine can need six of them. Nothing else is made slower.
//!
//! `WAVE_SECONDS`, `WAVE_PEAK` (bookings a second) and `WAVE_DISTANCE` (ms to PostgreSQL, and as
//! many back) make it another wave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // it fails by panicking

/// Virtual hosts of RabbitMQ; the stage takes one.
const VHOSTS: u16 = 1;

mod clients;
mod controller;
#[path = "../journey/link.rs"]
#[allow(dead_code, reason = "shared with the tests of the journey")]
mod link;
#[path = "../journey/secured.rs"]
#[allow(dead_code, reason = "shared with the tests of the journey")]
mod secured;
#[path = "../journey/servers.rs"]
#[allow(dead_code, reason = "shared with the tests of the journey")]
mod servers;
#[path = "../journey/stage.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests of the journey")]
mod stage;
#[path = "../journey/user.rs"]
#[allow(dead_code, reason = "shared with the tests of the journey")]
mod user;

use std::time::{Duration, Instant};

use clients::Clients;
use controller::{Controller, MOST, Seen};
use link::Link;
use stage::{Stage, until_within};

/// Eight for each of six workers. A worker holds 64 messages of a partition at most, so that with two
/// its batches would be small, and on so long a way more workers would decide no more.
const PARTITIONS: u16 = 48;
/// Between two looks of the controller.
const LOOK: Duration = Duration::from_secs(2);
/// Between two lines of the report.
const LINE: u64 = 10;
/// Nothing may wait longer once the first workers were added.
const OLDEST: f64 = 5.0;
/// The controller is back at one worker so long after the load at the latest.
const QUIET: Duration = Duration::from_secs(120);

/// Seconds of the whole wave, a third of it each of the three parts.
fn seconds() -> u64 {
    setting("WAVE_SECONDS", 300)
}

/// Bookings a second in the middle part.
fn peak() -> u64 {
    setting("WAVE_PEAK", 1_100)
}

/// What a byte takes to PostgreSQL or back.
fn distance() -> Duration {
    Duration::from_millis(setting("WAVE_DISTANCE", 200))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |given| given.parse().expect("a whole number"))
}

#[tokio::main]
async fn main() {
    let mut stage = Stage::with_partitions("wave", PARTITIONS).await;
    let gateway = stage.start("gateway", &[("MAX_UNDECIDED_PER_CALENDAR", "0")]).await;
    gateway.is_ready().await;
    let near = stage.database_url.clone();
    let link = Link::of_distance(&near, distance()).await;
    stage.database_url = link.instead_of(&near);
    let mut controller = Controller::start(&stage).await;
    stage.database_url = near;

    let clients = Clients::start(&gateway, peak() as f64, Duration::from_secs(seconds()));
    let (begun, mut line, mut oldest_later) = (Instant::now(), 0, 0.0_f64);
    println!(
        "    s  asked/s  accepted  decided/s  waiting  oldest s  drain s   load   busy  workers"
    );
    while !clients.is_over() {
        tokio::time::sleep(LOOK).await;
        let seen = controller.step(&stage).await;
        let at = begun.elapsed().as_secs();
        // The first ramp ends where as many workers as the peak needs have been added.
        if at >= seconds() / 3 {
            oldest_later = oldest_later.max(seen.oldest);
        }
        if at >= line {
            line = at - at % LINE + LINE;
            let Seen { undecided, oldest, drain, decided, load, busy } = seen;
            println!(
                "{at:>5} {:>8.0} {:>9} {decided:>10.0} {undecided:>8.0} {oldest:>9.1} {drain:>8.1} \
                 {load:>6.2} {busy:>6.2} {:>8}",
                clients.rate_at(begun.elapsed()),
                clients.accepted(),
                controller.workers()
            );
        }
    }
    let told = clients.end().await;
    until_within(QUIET, "one worker is left", async || {
        controller.step(&stage).await;
        tokio::time::sleep(LOOK).await;
        controller.workers() == 1
    })
    .await;
    stage.all_promises_hold().await;
    let decided = stage.number("select count(*) from commands where status <> 'accepted'").await;
    println!(
        "{} accepted of {} sent ({} held back), {decided} decided; most workers {}, oldest after \
         the first ramp {oldest_later:.1} s; all promises hold",
        told.accepted,
        told.sent,
        told.held_back,
        controller.most()
    );
    assert_eq!((told.failed.as_slice(), told.sent), (&[] as &[String], told.accepted));
    assert_eq!(u64::try_from(decided).unwrap(), told.accepted, "nothing accepted is lost");
    assert!(controller.most() == MOST, "the wave was too small for {MOST} workers");
    assert!(oldest_later < OLDEST, "something waited {oldest_later} s");
}
