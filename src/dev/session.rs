//! `booking dev`: everything on this machine, for a first try and for working on the code.
//!
//! In: the settings; a server whose URL is given is used, the others are started. Out: a
//! migrated database, all roles, the addresses in a file, and what to paste on the screen. It
//! stops the roles first and the servers after them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{TimeDelta, Timelike as _, Utc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Servers, Settings as ServerSettings};
use crate::config::{Config, DEFAULT_PORT, Settings};
use crate::roles::{self, Role};
use crate::store;

/// The stop of the roles and of three servers takes no longer; then the guard ends the servers.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The database in the private PostgreSQL.
const DATABASE: &str = "booking";

/// Runs until `stop`; also a stop during the start ends everything.
///
/// # Errors
/// When a server cannot be started or reached, or a setting is wrong.
pub async fn run(
    mut settings: Settings,
    dir: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let wanted = ServerSettings {
        dir: dir.clone(),
        postgres: settings.database_url.is_empty(),
        rabbitmq: settings.amqp_url.is_empty(),
        redis: settings.redis_url.is_empty(),
        vhosts: 0,
        tls: None,
    };
    let servers = tokio::select! {
        servers = Servers::start(&wanted) => servers?,
        () = stop.cancelled() => return Ok(()),
    };
    let served = serve(&mut settings, &servers, &dir, stop).await;
    servers.stop().await;
    served
}

async fn serve(
    settings: &mut Settings,
    servers: &Servers,
    dir: &Path,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if let Some(postgres) = &servers.postgres {
        postgres.create_database(DATABASE).await?;
        settings.database_url = postgres.url(DATABASE);
    }
    if let Some(rabbitmq) = &servers.rabbitmq {
        settings.amqp_url = rabbitmq.url("/");
    }
    if let Some(redis) = &servers.redis {
        settings.redis_url = redis.url();
    }
    if settings.port.is_empty() && !is_free(DEFAULT_PORT).await {
        settings.port = "0".to_owned();
    }
    let mut config = settings
        .check()
        .map_err(|errors| anyhow::anyhow!("the settings are not usable:\n{}", errors.join("\n")))?;
    config.webhooks.allow_insecure = true; // a newcomer's receiver is on this machine
    tokio::select! {
        migrated = store::migrate(&config.database_url, config.partitions) => migrated?,
        () = stop.cancelled() => return Ok(()),
    }
    let running = roles::start(Role::Serve, config.clone(), stop).await?;
    let address = format!("http://{}", running.address);
    write_env(dir, &config, &address)?;
    println!("{}", welcome(&address, dir));
    running.ended().await;
    Ok(())
}

async fn is_free(port: &str) -> bool {
    TcpListener::bind(format!("127.0.0.1:{port}")).await.is_ok()
}

/// The addresses in use, for `. env` in a shell and for `booking verify`.
fn write_env(dir: &Path, config: &Config, address: &str) -> anyhow::Result<()> {
    let file = dir.join("env");
    let text = format!(
        "DATABASE_URL='{}'\nAMQP_URL='{}'\nREDIS_URL='{}'\nREDIS_PREFIX='{}'\nPARTITIONS='{}'\nBOOKING_URL='{address}'\n",
        config.database_url,
        config.amqp_url,
        config.redis_url,
        config.redis_prefix,
        config.partitions,
    );
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

fn welcome(address: &str, dir: &Path) -> String {
    let user = Uuid::now_v7();
    let start = (Utc::now() + TimeDelta::days(1)).with_minute(0).and_then(|t| t.with_second(0));
    let start = start.and_then(|t| t.with_nanosecond(0)).unwrap_or_else(Utc::now);
    let time = |minutes| (start + TimeDelta::minutes(minutes)).format("%Y-%m-%dT%H:%M:%SZ");
    let dir = dir.display();
    format!(
        r#"
------------------------------------------------------------------------
booking is ready at {address}

Book (the answer is 202 and carries a commandId):

curl -i -X POST {address}/api/bookings -H 'Content-Type: application/json' -H 'X-User-ID: {user}' -H 'Idempotency-Key: first-{user}' -d '{{"userId":"{user}","startTime":"{}","endTime":"{}","metadata":{{"title":"First booking"}}}}'

Poll (with the commandId of the answer):

curl -i {address}/api/commands/COMMAND_ID -H 'X-User-ID: {user}'

Ctrl-C stops everything; the data stays in {dir}. For other programs:
set -a; . {dir}/env; set +a; psql "$DATABASE_URL"; booking worker; booking verify
------------------------------------------------------------------------"#,
        time(0),
        time(30),
    )
}
