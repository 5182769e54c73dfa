//! Those who want to keep others out, all at once, and what the others notice of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use booking::process::most_open_files;
use sqlx::PgConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::load::{Load, Try};
use crate::stage::{Process, Stage, until};

const IDLE: usize = 10_000;
const SLOW_HEADS: usize = 200;
const SLOW_BODIES: usize = 50;
const HUGE_BODIES: usize = 4;
const LONG_POLLS: usize = 500;
/// Twice what a slow head or body is granted, for a busy machine.
const CUT_LIMIT: Duration = Duration::from_secs(20);
/// What it may use with all of them inside, in MiB.
const MEMORY_LIMIT: u64 = 512;
/// For the unluckiest of a hundred requests. Only to notice that something is badly wrong: how much
/// slower it is than without the attack depends on who else uses the machine, and is printed.
const P99_LIMIT: Duration = Duration::from_secs(2);

/// What the attackers have come to.
#[derive(Default)]
struct Seen {
    idle: AtomicUsize,
    heads_cut: AtomicUsize,
    bodies_ended: AtomicUsize,
    huge_refused: AtomicUsize,
    polling: AtomicUsize,
    longest: std::sync::Mutex<Duration>,
}

impl Seen {
    fn note_end(&self, counter: &AtomicUsize, begun: Instant) {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut longest = self.longest.lock().unwrap();
        *longest = longest.max(begun.elapsed());
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

/// The attackers, on a thread of their own.
struct Attack {
    seen: Arc<Seen>,
    over: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Attack {
    fn on(gateway: &Process, commands: Vec<(Uuid, Uuid)>) -> Self {
        let (seen, over) = (Arc::new(Seen::default()), CancellationToken::new());
        let (address, inside, until) = (gateway.address.clone(), seen.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for _ in 0..SLOW_HEADS {
                    tokio::spawn(slow_heads(address.clone(), inside.clone()));
                }
                for _ in 0..SLOW_BODIES {
                    tokio::spawn(slow_bodies(address.clone(), inside.clone()));
                }
                for number in 0..HUGE_BODIES {
                    tokio::spawn(huge_bodies(address.clone(), number % 2 == 0, inside.clone()));
                }
                for (command, user) in commands {
                    tokio::spawn(long_polls(address.clone(), command, user, inside.clone()));
                }
                tokio::spawn(idle_connections(address, inside));
                until.cancelled().await;
            });
        });
        Self { seen, over, thread: Some(thread) }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.over.cancel();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Connections that ask once and then keep their place.
async fn idle_connections(address: String, seen: Arc<Seen>) {
    let mut kept = Vec::with_capacity(IDLE);
    while kept.len() < IDLE {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        kept.push(stream);
        seen.idle.store(kept.len(), Ordering::Relaxed);
    }
    std::future::pending::<()>().await;
}

/// Sends a byte a second until the other end closes; comes again.
async fn slow_heads(address: String, seen: Arc<Seen>) {
    loop {
        let head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ";
        let begun = drip(&address, head).await;
        seen.note_end(&seen.heads_cut, begun);
    }
}

async fn slow_bodies(address: String, seen: Arc<Seen>) {
    let user = Uuid::now_v7();
    let head = format!(
        "POST /api/bookings HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\nIdempotency-Key: x\r\n\
         Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    );
    loop {
        let begun = drip(&address, head.as_bytes()).await;
        seen.note_end(&seen.bodies_ended, begun);
    }
}

/// When the first byte was sent, once the other end has closed.
async fn drip(address: &str, head: &[u8]) -> Instant {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    let (mut reading, mut writing) = stream.split();
    let (mut all, mut answer) = (writing.write_all(head).await, Vec::new());
    let dripping = async {
        while all.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            all = writing.write_all(b"a").await;
        }
    };
    tokio::select! {
        () = dripping => {}
        _ = reading.read_to_end(&mut answer) => {}
    }
    begun
}

/// Sends 64 MiB, announced or in chunks, as fast as they are taken; comes again.
async fn huge_bodies(address: String, announced: bool, seen: Arc<Seen>) {
    const SIZE: usize = 64 << 20;
    const PART: usize = 64 << 10;
    let user = Uuid::now_v7();
    let length = match announced {
        true => format!("Content-Length: {SIZE}"),
        false => "Transfer-Encoding: chunked".to_owned(),
    };
    let head = format!(
        "POST /api/bookings HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\nIdempotency-Key: x\r\n\
         Content-Type: application/json\r\n{length}\r\n\r\n"
    );
    let mut part = if announced { Vec::new() } else { format!("{PART:x}\r\n").into_bytes() };
    part.extend([b' '; PART]);
    part.extend(if announced { &b""[..] } else { b"\r\n" });
    loop {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let mut sent = stream.write_all(head.as_bytes()).await;
        for _ in 0..SIZE / PART {
            if sent.is_err() {
                break;
            }
            sent = stream.write_all(&part).await;
        }
        if sent.is_err() {
            seen.huge_refused.fetch_add(1, Ordering::Relaxed); // it was closed half way
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits again and again for a command that nobody decides.
async fn long_polls(address: String, command: Uuid, user: Uuid, seen: Arc<Seen>) {
    let request = format!(
        "GET /api/commands/{command} HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\n\
         Prefer: wait=30\r\nConnection: close\r\n\r\n"
    );
    loop {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        seen.polling.fetch_add(1, Ordering::Relaxed);
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

/// Commands that no worker hears of, each with its calendar.
async fn undecided(database: &mut PgConnection) -> Vec<(Uuid, Uuid)> {
    sqlx::query_as(
        "insert into commands (id, booking_id, calendar_id, partition, kind, caller, fingerprint,
                               content, accepted_at)
         select gen_random_uuid(), gen_random_uuid(), user_id, 0, 'create', user_id::text,
                sha256(''), '{}', now()
         from (select gen_random_uuid() as user_id from generate_series(1, $1)) as users
         returning id, calendar_id",
    )
    .bind(i32::try_from(LONG_POLLS).unwrap())
    .fetch_all(database)
    .await
    .unwrap()
}

/// The median and the 99th percentile of what booking took. All of it must have succeeded.
fn times(tries: &[Try]) -> (Duration, Duration) {
    let refused = tries.iter().find(|tried| !tried.is_accepted());
    assert!(refused.is_none(), "refused: {:?}", refused.map(|tried| &tried.answer));
    let mut times: Vec<Duration> = tries.iter().map(|tried| tried.took).collect();
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

#[tokio::test]
async fn attackers_all_at_once_keep_nobody_out() {
    let files = most_open_files();
    assert!(files > 12_000, "this test needs 12,000 open files (ulimit -n), not {files}");
    let stage = Stage::new("attack").await;
    let (gateway, _worker) = tokio::join!(stage.gateway(), stage.worker());
    let commands = undecided(&mut stage.database().await).await;
    let pause = Duration::from_millis(10);

    let load = Load::start(4, pause, &[&gateway]);
    load.is_accepted(1000).await;
    let quiet = times(&load.end().await);
    let memory = gateway.memory();

    let attack = Attack::on(&gateway, commands);
    let seen = attack.seen.clone();
    until("the attack stands", async || {
        count(&seen.idle) == IDLE && count(&seen.polling) >= LONG_POLLS
    })
    .await;
    let load = Load::start(4, pause, &[&gateway]);
    until("all that is slow was cut twice", async || {
        count(&seen.heads_cut) >= 2 * SLOW_HEADS && count(&seen.bodies_ended) >= 2 * SLOW_BODIES
    })
    .await;
    let (inside, memory_attacked) = (gateway.open_files(), gateway.memory());
    load.is_accepted(1000).await;
    let attacked = times(&load.end().await);
    println!("quiet: p50 {:?}, p99 {:?}, {memory} MiB", quiet.0, quiet.1);
    println!("under attack: p50 {:?}, p99 {:?}, {memory_attacked} MiB", attacked.0, attacked.1);
    println!("{inside} open files, {} huge bodies refused", count(&seen.huge_refused));

    assert!(inside > IDLE + LONG_POLLS, "only {inside} were inside");
    assert!(count(&seen.huge_refused) >= HUGE_BODIES, "huge bodies were taken");
    let longest = *seen.longest.lock().unwrap();
    assert!(longest < CUT_LIMIT, "something slow was suffered for {longest:?}");
    assert!(memory_attacked < MEMORY_LIMIT, "{memory_attacked} MiB");
    assert!(attacked.1 < P99_LIMIT, "p99 {:?}", attacked.1);
}
