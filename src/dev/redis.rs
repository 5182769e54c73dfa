//! A private Redis.
//!
//! Redis holds leases and wake-up calls, nothing that must last: it is started without persistence,
//! and a restart is an empty Redis on the same port. The tests restart it for exactly that reason.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Tls;
use super::guard::Guard;
use super::ports::Tries;
use super::server::{Program, Server, connect};
use crate::tls::REDIS_AUTHORITIES;

/// A start that takes longer has failed.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A Redis without persistence has nothing to save; a slower one is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// An answer that takes longer counts as none, and the question is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

pub struct Redis {
    server: Server,
    port: u16,
    tls: Option<Tls>,
}

impl Redis {
    pub(super) async fn start_in(
        dir: &Path,
        tls: Option<&Tls>,
        guard: &Arc<Guard>,
    ) -> anyhow::Result<Redis> {
        tracing::info!("starting Redis");
        let began = Instant::now();
        let home = dir.join("redis");
        std::fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        let mut tries = Tries::new(dir.join("redis.port"))?;
        let redis = loop {
            let [port] = tries.ports();
            match Redis::start_on(port, dir, tls, guard).await {
                Ok(redis) => break redis,
                Err(failure) => tries.again(failure)?,
            }
        };
        super::report("Redis", redis.port, began);
        Ok(redis)
    }

    async fn start_on(
        port: u16,
        dir: &Path,
        tls: Option<&Tls>,
        guard: &Arc<Guard>,
    ) -> anyhow::Result<Redis> {
        let server = Server::start(program(dir, port, tls), Arc::clone(guard)).await?;
        let mut redis = Redis { server, port, tls: tls.cloned() };
        redis.ready().await?;
        Ok(redis)
    }

    pub fn url(&self) -> String {
        match &self.tls {
            None => format!("redis://127.0.0.1:{}/0", self.port),
            Some(tls) => format!(
                "rediss://localhost:{}/0?{REDIS_AUTHORITIES}={}",
                self.port,
                tls.authority_in_url()
            ),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }

    /// Again on the same port, with no data.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.server.start_again().await?;
        self.ready().await
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while process_id(self.port, self.tls.as_ref()).await != Some(self.server.pid()) {
            self.server.still_starting(began, START_LIMIT).await?;
        }
        self.server.started()
    }
}

fn program(dir: &Path, port: u16, tls: Option<&Tls>) -> Program {
    let port = port.to_string();
    let mut args: Vec<OsString> =
        ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]
            .map(Into::into)
            .into();
    if let Some(Tls { authority, certificate, key }) = tls {
        args.extend(["0", "--tls-port", &port, "--tls-auth-clients", "no"].map(Into::into));
        args.extend(["--tls-ca-cert-file".into(), authority.into()]);
        args.extend(["--tls-cert-file".into(), certificate.into()]);
        args.extend(["--tls-key-file".into(), key.into()]);
    } else {
        args.push(port.into());
    }
    Program {
        name: "Redis",
        path: super::program("REDIS_SERVER", "redis-server"),
        args,
        env: Vec::new(),
        user: None,
        work_dir: dir.join("redis"),
        log: dir.join("redis.log"),
        pid_file: dir.join("redis.pid"),
        stop_signal: "TERM",
        patience: STOP_PATIENCE,
    }
}

/// The process that answers on this port, by Redis' own word: it could be somebody else's Redis.
async fn process_id(port: u16, tls: Option<&Tls>) -> Option<u32> {
    let mut stream = connect(port, tls).await?;
    stream.write_all(b"INFO server\r\nQUIT\r\n").await.ok()?;
    let mut answer = String::new();
    timeout(ANSWER_LIMIT, stream.read_to_string(&mut answer)).await.ok()?.ok()?;
    let line = answer.lines().find_map(|line| line.strip_prefix("process_id:"))?;
    line.parse().ok()
}
