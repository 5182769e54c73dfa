//! The servers that all tests of this process share: a set without TLS, and for `tls.rs` a set that
//! speaks nothing else.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use booking::dev::{self, Control, Servers};
use url::Url;

use crate::VHOSTS;
use crate::secured;
use crate::stage::Stage;

/// Those of the RabbitMQ with TLS.
pub const SECURED_VHOSTS: u16 = 8;
/// Stands in a URL for a database or a virtual host.
pub const PLACE: &str = "PLACE";

/// A set of servers, with places for many stages. The URLs have [`PLACE`] in them.
pub struct Set {
    pub postgres: String,
    pub rabbitmq: String,
    pub redis: String,
    pub control: Control,
    pub places: u16,
    /// The file of whoever vouches for servers that speak TLS.
    pub authority: Option<PathBuf>,
    pub taken: AtomicU16,
}

impl Set {
    /// Starts when the first test asks for it, as does [`Self::secured`].
    pub async fn plain() -> &'static Self {
        tokio::task::spawn_blocking(plain).await.unwrap()
    }

    pub async fn secured() -> &'static Self {
        static SET: OnceLock<Set> = OnceLock::new();
        let start = async || {
            let dir = scratch().join("secured");
            secured::start(&dir).await
        };
        tokio::task::spawn_blocking(move || SET.get_or_init(|| kept(start))).await.unwrap()
    }

    /// A set of servers as they are, in front of whose URLs nobody has put anything.
    pub fn of(servers: &Servers, places: u16) -> Self {
        let rabbitmq = servers.rabbitmq.as_ref().unwrap();
        Self {
            postgres: servers.postgres.as_ref().unwrap().url(PLACE),
            rabbitmq: rabbitmq.url(PLACE),
            redis: servers.redis.as_ref().unwrap().url(),
            control: rabbitmq.control().clone(),
            places,
            authority: None,
            taken: AtomicU16::new(0),
        }
    }

    /// The name of a virtual host, and of a database and a prefix that nobody has.
    pub fn next_place(&self) -> String {
        let number = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(number <= self.places, "there are too few virtual hosts for so many tests");
        format!("t{number}")
    }

    pub fn database(&self, name: &str) -> String {
        self.postgres.replace(PLACE, name)
    }

    pub fn vhost(&self, name: &str) -> String {
        self.rabbitmq.replace(PLACE, name)
    }

    /// What processes are told besides the URLs that the tests use: to trust the authority, instead
    /// of being told so by the URLs.
    pub fn settings(&self, stage: &Stage) -> Vec<(&'static str, String)> {
        let Some(authority) = &self.authority else { return Vec::new() };
        // The system's own are a hundred and fifty, read slowly by an unoptimised build, and at each
        // connection to PostgreSQL. One that vouches for nobody here stands in for them.
        let system = authority.with_file_name("stranger.pem");
        vec![
            ("SSL_CERT_FILE", system.to_str().unwrap().to_owned()),
            ("TLS_CA_FILE", authority.to_str().unwrap().to_owned()),
            ("DATABASE_URL", without_authority(&stage.database_url)),
            ("AMQP_URL", without_authority(&stage.amqp_url)),
            ("REDIS_URL", without_authority(&stage.redis_url)),
        ]
    }
}

/// The URL that does not say whom to trust.
pub fn without_authority(url: &str) -> String {
    let mut url = Url::parse(url).unwrap();
    let mode =
        url.query_pairs().find(|(name, _)| name == "sslmode").map(|(_, mode)| mode.into_owned());
    url.set_query(None);
    if let Some(mode) = mode {
        url.query_pairs_mut().append_pair("sslmode", &mode);
    }
    url.into()
}

fn plain() -> &'static Set {
    static SET: OnceLock<Set> = OnceLock::new();
    SET.get_or_init(|| {
        kept(async || {
            let servers = start("shared", (true, true, true), VHOSTS).await;
            let set = Set::of(&servers, VHOSTS);
            (servers, set)
        })
    })
}

/// A thread of their own keeps the servers.
fn kept(start: impl AsyncFnOnce() -> (Servers, Set) + Send + 'static) -> Set {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_servers, set) = start().await;
            sender.send(set).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().expect("the shared servers start")
}

/// How to run `rabbitmqctl` on the shared RabbitMQ.
pub fn rabbitmq_control() -> &'static Control {
    &plain().control
}

/// Starts servers for one test alone, which may stop them. The virtual host is `t1`: a RabbitMQ
/// that starts takes a tenth of a second for each.
pub async fn start_servers(name: &str, postgres: bool, rabbitmq: bool, redis: bool) -> Servers {
    start(name, (postgres, rabbitmq, redis), 1).await
}

async fn start(name: &str, which: (bool, bool, bool), vhosts: u16) -> Servers {
    let (dir, (postgres, rabbitmq, redis)) = (scratch().join(name), which);
    let settings = dev::Settings { dir, postgres, rabbitmq, redis, vhosts, tls: None };
    Servers::start(&settings).await.unwrap()
}

/// This run's folder for data and logs. Folders of runs that are over are removed.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for old in std::fs::read_dir(root).unwrap().flatten() {
            let name = old.file_name().into_string().unwrap_or_default();
            let over = |pid: &str| !Path::new("/proc").join(pid).exists();
            if name.strip_prefix("journey-").is_some_and(over) {
                let _ = std::fs::remove_dir_all(old.path());
            }
        }
        let dir = root.join(format!("journey-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    })
}
