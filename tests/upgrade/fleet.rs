//! The processes of two releases, and the balancer in front of their gateways.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use crate::servers::Set;
use crate::stage::{Process, Stage, until};

const PARTITIONS: u16 = 8;

/// The load comes from few callers at one address; receivers are on this machine.
const SETTINGS: [(&str, &str); 3] = [
    ("RATE_LIMIT_PRINCIPAL_MAX", "0"),
    ("RATE_LIMIT_POLL_MAX", "0"),
    ("WEBHOOK_ALLOW_INSECURE", "true"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    Previous,
    This,
}

/// Which gateways get requests, as a load balancer would have it.
#[derive(Default)]
pub struct Balancer(RwLock<Vec<(Release, String)>>);

impl Balancer {
    /// The gateway of the n-th request.
    pub fn pick(&self, n: usize) -> (Release, String) {
        let gateways = self.0.read().unwrap();
        gateways[n % gateways.len()].clone()
    }

    fn add(&self, release: Release, gateway: &Process) {
        self.0.write().unwrap().push((release, gateway.url("")));
    }

    fn remove(&self, gateway: &Process) {
        let url = gateway.url("");
        self.0.write().unwrap().retain(|(_, known)| *known != url);
    }
}

pub struct Fleet {
    pub stage: Stage,
    pub balancer: Arc<Balancer>,
    previous: PathBuf,
    gateways: Vec<(Release, Process)>,
    workers: Vec<(Release, Process)>,
    webhooks: Vec<Process>,
}

impl Fleet {
    pub async fn new() -> Self {
        let previous = std::env::var_os("BOOKING_PREVIOUS").expect(
            "BOOKING_PREVIOUS names the binary of the previous release; `make upgrade` sets it",
        );
        Self {
            stage: Stage::created(Set::plain().await, "upgrade", PARTITIONS).await,
            balancer: Arc::default(),
            previous: previous.into(),
            gateways: Vec::new(),
            workers: Vec::new(),
            webhooks: Vec::new(),
        }
    }

    pub fn spawn(&self, release: Release, role: &str) -> Process {
        match release {
            Release::Previous => self.stage.spawn_from(&self.previous, role, &SETTINGS),
            Release::This => self.stage.spawn(role, &SETTINGS),
        }
    }

    async fn start(&self, release: Release, role: &str) -> Process {
        let mut process = self.spawn(release, role);
        process.address = process.logged("started", "address").await;
        process.is_ready().await;
        process
    }

    pub async fn migrates(&self, release: Release) {
        let mut migrating = self.spawn(release, "migrate");
        assert!(migrating.ended().await.success(), "{}", migrating.log_text());
    }

    /// Returns when each of all workers owns partitions.
    pub async fn add_workers(&mut self, release: Release, count: usize) {
        for _ in 0..count {
            let worker = self.start(release, "worker").await;
            self.workers.push((release, worker));
        }
        for (release, worker) in &self.workers {
            until(&format!("a worker of {release:?} owns partitions"), async || {
                worker.metric("booking_partitions_owned").await > 0.0
            })
            .await;
        }
    }

    pub async fn add_gateways(&mut self, release: Release, count: usize) {
        for _ in 0..count {
            let gateway = self.start(release, "gateway").await;
            self.balancer.add(release, &gateway);
            self.gateways.push((release, gateway));
        }
    }

    pub async fn add_webhooks(&mut self) {
        let webhooks = self.start(Release::This, "webhooks").await;
        self.webhooks.push(webhooks);
    }

    /// One after the other: no new requests for it, then SIGTERM, while it still has some inside.
    pub async fn stop_gateways(&mut self, release: Release) {
        let (leaving, staying) = std::mem::take(&mut self.gateways)
            .into_iter()
            .partition::<Vec<_>, _>(|(of, _)| *of == release);
        self.gateways = staying;
        for (_, mut gateway) in leaving {
            self.balancer.remove(&gateway);
            assert!(gateway.terminate().await.success(), "{}", gateway.log_text());
        }
    }

    /// One after the other.
    pub async fn stop_workers(&mut self, release: Release) {
        let (leaving, staying) = std::mem::take(&mut self.workers)
            .into_iter()
            .partition::<Vec<_>, _>(|(of, _)| *of == release);
        self.workers = staying;
        for (_, mut worker) in leaving {
            assert!(worker.terminate().await.success(), "{}", worker.log_text());
        }
    }

    /// One of the gateways of a release.
    pub fn gateway(&self, release: Release) -> &Process {
        let found = self.gateways.iter().find(|(of, _)| *of == release);
        &found.expect("a gateway of the release runs").1
    }

    /// A metric's sum over the gateways of a release.
    pub async fn metric(&self, release: Release, name: &str) -> f64 {
        let mut sum = 0.0;
        for (_, gateway) in self.gateways.iter().filter(|(of, _)| *of == release) {
            sum += gateway.metric(name).await;
        }
        sum
    }

    /// Stops all that runs, which must end by itself.
    pub async fn ends_well(mut self) {
        self.stop_gateways(Release::This).await;
        self.stop_workers(Release::This).await;
        for mut webhooks in self.webhooks {
            assert!(webhooks.terminate().await.success(), "{}", webhooks.log_text());
        }
    }
}
