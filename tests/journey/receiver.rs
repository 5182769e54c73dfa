//! Receivers of webhooks on this machine, each with a manner of its own, that note what came.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use booking::webhooks::signature::{Secret, sign};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::stage::{Stage, until};

/// How a receiver answers its n-th request, counted from 0.
pub type Manner = fn(usize) -> Reply;

/// An answer, after a while.
pub struct Reply {
    pub after: Duration,
    /// The status, and further header lines.
    pub head: &'static str,
}

pub fn at_once(head: &'static str) -> Reply {
    Reply { after: Duration::ZERO, head }
}

/// Takes everything.
pub fn fast(_: usize) -> Reply {
    at_once("204 No Content")
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Post {
    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether one of its signatures was made with this secret.
    pub fn is_signed_with(&self, secret: &Secret) -> bool {
        let timestamp = self.headers["webhook-timestamp"].parse().unwrap();
        let signature =
            sign(self.id(), timestamp, self.body.as_bytes(), std::slice::from_ref(secret));
        self.headers["webhook-signature"].split(' ').any(|given| given == signature)
    }
}

pub struct Receiver {
    port: u16,
    posts: Arc<Mutex<Vec<Post>>>,
    /// The most requests that were under way at a time.
    busiest: Arc<AtomicUsize>,
}

impl Receiver {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (posts, busiest) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let receiver = Self { port, posts: posts.clone(), busiest: busiest.clone() };
        let busy = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (posts, busy, busiest) = (posts.clone(), busy.clone(), busiest.clone());
                tokio::spawn(serve(stream, manner, posts, busy, busiest));
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.posts.lock().unwrap().len()
    }

    pub fn busiest(&self) -> usize {
        self.busiest.load(Ordering::Relaxed)
    }

    /// Waits for that many requests in all.
    pub async fn hears(&self, posts: usize) -> Vec<Post> {
        until("the receiver hears", async || self.count() >= posts).await;
        self.posts()
    }
}

async fn serve(
    mut stream: TcpStream,
    manner: Manner,
    posts: Arc<Mutex<Vec<Post>>>,
    busy: Arc<AtomicUsize>,
    busiest: Arc<AtomicUsize>,
) {
    let _ = stream.set_nodelay(true);
    let mut read = Vec::new();
    while let Some(post) = next_post(&mut stream, &mut read).await {
        busiest.fetch_max(busy.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let turn = {
            let mut posts = posts.lock().unwrap();
            posts.push(post);
            posts.len() - 1
        };
        let Reply { after, head } = manner(turn);
        if !after.is_zero() {
            tokio::time::sleep(after).await; // this is its manner
        }
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
        let sent = stream.write_all(answer.as_bytes()).await;
        busy.fetch_sub(1, Ordering::Relaxed);
        if sent.is_err() {
            return;
        }
    }
}

async fn next_post(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Post> {
    loop {
        let end = read.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            let mut lines = head.lines();
            let path = lines.next()?.split(' ').nth(1)?.to_owned();
            let header = |line: &str| {
                let (name, value) = line.split_once(": ")?;
                Some((name.to_ascii_lowercase(), value.to_owned()))
            };
            let headers: HashMap<String, String> = lines.filter_map(header).collect();
            let length: usize = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
            if read.len() >= end + 4 + length {
                let body = String::from_utf8(read[end + 4..end + 4 + length].to_vec()).unwrap();
                read.drain(..end + 4 + length);
                return Some(Post { path, headers, body });
            }
        }
        let mut more = [0; 16 * 1024];
        let length = stream.read(&mut more).await.ok().filter(|length| *length > 0)?;
        read.extend_from_slice(&more[..length]);
    }
}

/// An endpoint as its row shows it.
pub struct Endpoint {
    pub id: Uuid,
    pub secret: Secret,
}

impl Stage {
    /// Registers an endpoint for a user's calendar, or for all of them.
    pub async fn endpoint(&self, calendar: Option<Uuid>, url: &str, types: &[&str]) -> Endpoint {
        let (id, secret) = (Uuid::now_v7(), Secret::generate().unwrap());
        sqlx::query(
            "insert into webhook_endpoints (id, owner, calendar_id, url, event_types, secret)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id)
        .bind(calendar.map_or("service:test".to_owned(), |user| user.to_string()))
        .bind(calendar.unwrap_or_default())
        .bind(url)
        .bind(types)
        .bind(secret.as_bytes())
        .execute(&mut self.database().await)
        .await
        .unwrap();
        Endpoint { id, secret }
    }

    /// How many deliveries of a target wait, have arrived, and are given up.
    pub async fn deliveries(&self, target: Uuid) -> (i64, i64, i64) {
        sqlx::query_as(
            "select count(*) filter (where q.event_id is not null),
                    count(*) filter (where q.event_id is null and a.delivered),
                    count(*) filter (where q.event_id is null and not a.delivered)
             from webhook_deliveries d
             left join webhook_queue q on q.target_id = d.target_id and q.event_id = d.event_id
             cross join lateral (
               select exists (
                 select from webhook_attempts a
                 where a.target_id = d.target_id and a.event_id = d.event_id
                   and a.outcome = 'delivered') as delivered) a
             where d.target_id = $1",
        )
        .bind(target)
        .fetch_one(&mut self.database().await)
        .await
        .unwrap()
    }

    /// The outcomes of all attempts of a target, in their order.
    pub async fn outcomes(&self, target: Uuid) -> Vec<(String, Option<i16>, Option<String>)> {
        sqlx::query_as(
            "select outcome, status, detail from webhook_attempts where target_id = $1 order by at",
        )
        .bind(target)
        .fetch_all(&mut self.database().await)
        .await
        .unwrap()
    }

    /// Waits until nothing of a target waits any more.
    pub async fn nothing_waits_for(&self, target: Uuid) {
        until("nothing waits for it", async || self.deliveries(target).await.0 == 0).await;
    }

    /// Whether an endpoint is enabled, why not, and whether it fails.
    pub async fn state_of(&self, endpoint: Uuid) -> (bool, Option<String>, bool) {
        sqlx::query_as(
            "select enabled, disabled_reason, failing_since is not null
             from webhook_endpoints where id = $1",
        )
        .bind(endpoint)
        .fetch_one(&mut self.database().await)
        .await
        .unwrap()
    }
}
