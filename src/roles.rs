//! Which stages a role runs, and the order in which they end.
//!
//! The front door and the queue door close first, so that nothing new comes in; then acceptance
//! ends, when the last request and the last message are answered; ownership gives the partitions
//! back and the worker ends with it, as do the sweep and, when what is under way has been
//! answered, the webhooks;
//! the relays end last, because they carry what the others have just committed.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::accept::request::Rules;
use crate::backlog::{self, Backlog};
use crate::booking::Stream;
use crate::config::Config;
use crate::config::identity::Identity;
use crate::http::door::Door;
use crate::http::room::Room;
use crate::http::{self, Gateway, WebhookRules, ops, serve};
use crate::identity::Identities;
use crate::intake::Intake;
use crate::limits::{self, Limits};
use crate::metrics::Metrics;
use crate::ownership::{self, Ownership};
use crate::pace::Pace;
use crate::process::{most_open_files, stopped_within, supervise};
use crate::relay::Relay;
use crate::retry::Backoff;
use crate::store::partitions;
use crate::store::reads::ClientReads;
use crate::sweep::Sweep;
use crate::telemetry::Seldom;
use crate::vitals::{self, Vitals};
use crate::waiters::{self, Waiters};
use crate::wake::{self, Wake};
use crate::webhooks::Webhooks;
use crate::webhooks::address::Policy;
use crate::worker::{self, Worker};
use crate::{accept, lease, store};

/// Messages that wait between the queues and the worker; more wait in the channels.
const MAX_ARRIVALS: usize = 256;

/// Which stages a process runs; all run the relays, of which one leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The HTTP API, and the queue for other services.
    Gateway,
    /// Decisions.
    Worker,
    /// Deliveries to webhook endpoints.
    Webhooks,
    /// All of them.
    Serve,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Webhooks => "webhooks",
            Self::Serve => "serve",
        }
    }

    /// Whether it serves the API; the others serve health and metrics only.
    fn has_api(self) -> bool {
        matches!(self, Self::Gateway | Self::Serve)
    }
}

/// A running role.
pub struct Running {
    /// Where its HTTP listens: the API, or a worker's health and metrics.
    pub address: SocketAddr,
    stages: JoinSet<()>,
    /// Ends the relays and the vitals, after all else has ended.
    last: CancellationToken,
    background: JoinSet<()>,
}

impl Running {
    /// Returns when the stop has been asked for and all stages have ended.
    pub async fn ended(mut self) {
        while let Some(stage) = self.stages.join_next().await {
            if let Err(panic) = stage {
                // A stage that holds deliveries or answers cannot be begun again half way. To
                // end here is as safe as kill -9; the supervisor starts a fresh process.
                error!(cause = %panic, "a stage died; ending the process");
                std::process::exit(1);
            }
        }
        self.last.cancel();
        while self.background.join_next().await.is_some() {}
        info!("stopped");
    }
}

/// Starts the stages of `role`; they end in their order after `stop`.
///
/// # Errors
/// When the port is taken, or the database is away or does not fit this binary.
pub async fn start(role: Role, config: Config, stop: CancellationToken) -> anyhow::Result<Running> {
    await_database(&config, &stop).await.context("checking the database")?;
    let address = if role.has_api() { config.http } else { config.ops };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("listening on {address}; set another PORT (OPS_PORT for a worker or webhooks)")
    })?;
    let address = listener.local_addr()?;
    let mut running = Running {
        address,
        stages: JoinSet::new(),
        last: CancellationToken::new(),
        background: JoinSet::new(),
    };
    let shared = Shared::start(&config, &mut running)?;
    if matches!(role, Role::Worker | Role::Serve) {
        start_worker(&shared, &config, &mut running, &stop)?;
        start_sweep(&shared, &config, &mut running, &stop);
    }
    if matches!(role, Role::Webhooks | Role::Serve) {
        start_webhooks(&shared, &config, &mut running, &stop)?;
    }
    let routes = if role.has_api() {
        warn_of_open_door(&config, address);
        // Before the first request; should it fail, the vitals look again within a second.
        let _ = shared.vitals.look_at_workers(&shared.reads).await;
        let identities = start_identities(&shared, &config, &mut running).await?;
        http::routes(start_gateway(&shared, &config, identities, &mut running, &stop)?)
    } else {
        ops::routes(ops::Ops {
            vitals: shared.vitals.clone(),
            metrics: shared.metrics.clone(),
            needs_broker: role == Role::Worker,
        })
    };
    let room = Room::new(most_open_files(), &config.door);
    running.stages.spawn(serve::serve(listener, routes, room, shared.vitals, stop));
    info!(role = role.name(), %address, "started");
    Ok(running)
}

/// Waits until the database answers, and checks that it fits this binary.
async fn await_database(config: &Config, stop: &CancellationToken) -> anyhow::Result<()> {
    let (mut backoff, told) = (Backoff::server_away(), Seldom::new());
    loop {
        let checked = store::check(&config.database_url, config.partitions).await;
        let Err(cause) = &checked else { return checked };
        // What the server itself says (wrong password, wrong schema) does not mend itself, nor do
        // our settings.
        let unanswered = |error: &sqlx::Error| {
            error.as_database_error().is_none() && !matches!(error, sqlx::Error::Configuration(_))
        };
        if !cause.downcast_ref().is_some_and(unanswered) {
            return checked;
        }
        if let Some(times) = told.times() {
            warn!(server = "postgres", %cause, times, "the server does not answer; trying again");
        }
        if stopped_within(stop, backoff.next_wait()).await {
            return Ok(()); // the stages start and end at once
        }
    }
}

/// What the stages of a process share.
struct Shared {
    reads: PgPool,
    wake: Arc<Wake>,
    vitals: Arc<Vitals>,
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Starts what serves the other stages and ends after them: relays, hints and vitals.
    fn start(config: &Config, running: &mut Running) -> anyhow::Result<Self> {
        let metrics = Metrics::new();
        let (wake, outbound) = Wake::new(metrics.clone());
        let shared = Self {
            reads: store::read_pool(&config.database_url)?,
            wake,
            vitals: Arc::new(Vitals::default()),
            pace: Arc::new(Pace::new(worker::MAX_BATCH, ownership::PREFETCH)),
            metrics,
        };
        let last = &running.last;
        let carrier = wake::Carrier::new(&config.redis_url, &config.redis_prefix)?;
        running.background.spawn(wake::run(shared.wake.clone(), outbound, carrier, last.clone()));
        shared.start_relays(config, running);
        let views = vitals::Views {
            reads: shared.reads.clone(),
            amqp_url: config.amqp_url.clone(),
            partitions: config.partitions,
            redis: lease::link(&config.redis_url)?,
            pace: shared.pace.clone(),
        };
        let (vitals, metrics, last) =
            (shared.vitals.clone(), shared.metrics.clone(), running.last.clone());
        running.background.spawn(supervise("vitals", last.clone(), move || {
            vitals::run(vitals.clone(), views.clone(), metrics.clone(), last.clone())
        }));
        Ok(shared)
    }

    fn start_relays(&self, config: &Config, running: &mut Running) {
        for stream in Stream::ALL {
            let relay = Arc::new(Relay {
                stream,
                database_url: config.database_url.clone(),
                amqp_url: config.amqp_url.clone(),
                partitions: config.partitions,
                wake: self.wake.clone(),
                metrics: self.metrics.clone(),
            });
            let last = running.last.clone();
            running
                .background
                .spawn(supervise("relay", last.clone(), move || relay.clone().run(last.clone())));
        }
    }
}

/// Whoever reaches the port may be anybody, unless callers prove who they are.
fn warn_of_open_door(config: &Config, address: SocketAddr) {
    if matches!(config.identity, Identity::TrustedHeader) && !address.ip().is_loopback() {
        warn!(
            %address,
            "ANYBODY WHO REACHES THIS PORT CAN ACT AS ANY USER: AUTH_MODE is trusted-header and \
             HOST is not loopback. Let only a proxy that sets X-User-ID reach it, or set \
             AUTH_MODE to jwt or api-key"
        );
    }
}

async fn start_identities(
    shared: &Shared,
    config: &Config,
    running: &mut Running,
) -> anyhow::Result<Arc<Identities>> {
    // A queue of their own: made-up keys must not take the places of those who are known.
    let reads = ClientReads::new(shared.reads.clone());
    let identities = Arc::new(Identities::new(&config.identity, reads).await?);
    let (fresh, last) = (identities.clone(), running.last.clone());
    running.background.spawn(supervise("identities", last.clone(), move || {
        let (fresh, last) = (fresh.clone(), last.clone());
        async move { fresh.run(last).await }
    }));
    Ok(identities)
}

fn start_gateway(
    shared: &Shared,
    config: &Config,
    identities: Arc<Identities>,
    running: &mut Running,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Gateway>> {
    let (limits, asks) = Limits::new(shared.metrics.clone());
    let redis = limits::Shared::new(limits.clone(), asks, &config.redis_url, &config.redis_prefix)?;
    running.background.spawn(redis.run(running.last.clone()));
    let backlog = Backlog::new(shared.reads.clone(), config.door.undecided_per_calendar);
    let reads = ClientReads::new(shared.reads.clone());
    let rules = Rules {
        partitions: config.partitions,
        callbacks: Policy::new(&config.webhooks.ports, config.webhooks.allow_insecure),
        vitals: shared.vitals.clone(),
        outbox_max_age: config.outbox_max_age,
    };
    let (acceptor, lane) = accept::lane(
        rules,
        &config.database_url,
        reads.clone(),
        backlog.clone(),
        shared.wake.clone(),
        shared.metrics.clone(),
    );
    let last = running.last.clone();
    running.background.spawn(supervise("backlog", last.clone(), move || {
        backlog::run(backlog.clone(), last.clone())
    }));
    // Ends when the last handle on it is gone: after the last request and the last message.
    running.stages.spawn(lane.run());
    let waiters = Arc::new(Waiters::default());
    let (answered, looks, wake, last) =
        (waiters.clone(), shared.reads.clone(), shared.wake.clone(), running.last.clone());
    running.background.spawn(supervise("waiters", last.clone(), move || {
        waiters::run(answered.clone(), looks.clone(), wake.clone(), last.clone())
    }));
    let intake = Intake::new(
        &config.amqp_url,
        config.partitions,
        acceptor.clone(),
        waiters.clone(),
        shared.metrics.clone(),
    );
    running.stages.spawn(intake.run(stop.clone()));
    Ok(Arc::new(Gateway {
        acceptor,
        waiters,
        door: Door::new(&config.door, limits, shared.metrics.clone()),
        identities,
        reads,
        vitals: shared.vitals.clone(),
        metrics: shared.metrics.clone(),
        webhooks: WebhookRules::new(&config.webhooks),
        stop: stop.clone(),
    }))
}

fn start_worker(
    shared: &Shared,
    config: &Config,
    running: &mut Running,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let id = partitions::owner_name(Uuid::now_v7());
    let at_work = Arc::new(Mutex::new(()));
    let (sender, arrivals) = mpsc::channel(MAX_ARRIVALS);
    let ownership = Ownership::new(
        id.clone(),
        config.clone(),
        sender,
        at_work.clone(),
        shared.pace.clone(),
        shared.metrics.clone(),
    )?;
    let worker = Worker::new(
        arrivals,
        at_work,
        &config.database_url,
        shared.pace.clone(),
        shared.wake.clone(),
        shared.metrics.clone(),
    );
    running.stages.spawn(ownership.run(stop.clone()));
    running.stages.spawn(worker.run(stop.clone()));
    info!(worker = id, "the worker joins");
    Ok(())
}

fn start_sweep(shared: &Shared, config: &Config, running: &mut Running, stop: &CancellationToken) {
    let (url, wake, metrics, ends) =
        (config.database_url.clone(), shared.wake.clone(), shared.metrics.clone(), stop.clone());
    running.stages.spawn(supervise("sweep", stop.clone(), move || {
        Sweep::new(&url, wake.clone(), metrics.clone()).run(ends.clone())
    }));
}

fn start_webhooks(
    shared: &Shared,
    config: &Config,
    running: &mut Running,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let webhooks = Webhooks::new(
        &config.database_url,
        &config.webhooks,
        shared.wake.clone(),
        shared.metrics.clone(),
    )?;
    running.stages.spawn(webhooks.run(stop.clone()));
    Ok(())
}
