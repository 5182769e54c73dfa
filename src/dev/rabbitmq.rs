//! A private RabbitMQ: one node, its own name server (epmd), no plugins.
//!
//! The node's name and data stay with the folder: a restart finds its queues again. The name holds
//! the folder's id, and the name server has a port of its own, so that any number of nodes run side
//! by side on one machine.
//!
//! Most of a start is spent on looking through plugins. This node is shown a plugin folder with
//! nothing but RabbitMQ itself in it, which saves about a quarter of the time; if it does not start
//! that way (another version may want more), it is started with all of them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::guard::Guard;
use super::ports::Tries;
use super::server::{Program, Server, connect};
use super::{Settings, Tls};
use crate::tls::RABBITMQ_AUTHORITIES;

/// A start that takes longer has failed.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A node closes its queues in about a second; one that takes longer is killed, and recovers later.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// The name server has nothing to save.
const EPMD_PATIENCE: Duration = Duration::from_secs(2);

/// An answer that takes longer counts as none, and the question is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How RabbitMQ stores the password `guest`: base64 of a salt and SHA-256 of salt and password.
/// RabbitMQ lets this user in over loopback only.
const GUEST: &str = "Ym9va4dpjAq3lXY9dkeLiJIsnWyfHbOi6rhUQhfjQV0mPYXE";

pub struct RabbitMq {
    server: Server,
    epmd: Server,
    port: u16,
    node: String,
    control: Control,
    tls: Option<Tls>,
}

/// What it takes to run `rabbitmqctl` on a node.
#[derive(Clone, Debug)]
pub struct Control {
    pub program: PathBuf,
    pub env: Vec<(&'static str, OsString)>,
}

/// What one start of the node depends on.
struct Node<'a> {
    dir: &'a Path,
    name: &'a str,
    settings: &'a Settings,
    lean: bool,
}

impl RabbitMq {
    pub(super) async fn start_in(
        dir: &Path,
        id: &str,
        settings: &Settings,
        guard: &Arc<Guard>,
    ) -> anyhow::Result<RabbitMq> {
        tracing::info!("starting RabbitMQ");
        let began = Instant::now();
        let name = format!("booking-{id}");
        let home = dir.join("rabbitmq");
        fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        discard_unfinished(&home)?;
        let lean = lean_plugins(&home)?;
        let node = Node { dir, name: &name, settings, lean };
        let rabbitmq = match start(&node, guard).await {
            Err(error) if lean => {
                tracing::warn!("RabbitMQ is started again with all its plugins: {error:#}");
                discard_unfinished(&home)?;
                start(&Node { lean: false, ..node }, guard).await?
            }
            outcome => outcome?,
        };
        fs::write(home.join("complete"), "").context("noting that RabbitMQ has started once")?;
        super::report("RabbitMQ", rabbitmq.port, began);
        Ok(rabbitmq)
    }

    pub fn url(&self, vhost: &str) -> String {
        let vhost = vhost.replace('%', "%25").replace('/', "%2f");
        match &self.tls {
            None => format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.port),
            Some(tls) => format!(
                "amqps://guest:guest@localhost:{}/{vhost}?{RABBITMQ_AUTHORITIES}={}",
                self.port,
                tls.authority_in_url()
            ),
        }
    }

    /// For whoever wants to make users, or to look inside.
    pub fn control(&self) -> &Control {
        &self.control
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops the node; its name server stays.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// SIGKILL to the node.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }

    /// Again on the same port, with the same data.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.server.start_again().await?;
        self.ready().await
    }

    /// Node and name server.
    pub(super) async fn stop_all(mut self) {
        self.server.stop().await;
        self.epmd.stop().await;
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while greets(self.port, self.tls.as_ref(), &self.node).await != Some(true) {
            self.server.still_starting(began, START_LIMIT).await?;
        }
        self.server.started()
    }
}

async fn start(node: &Node<'_>, guard: &Arc<Guard>) -> anyhow::Result<RabbitMq> {
    let mut tries = Tries::new(node.dir.join("rabbitmq.port"))?;
    loop {
        match start_on(tries.ports(), node, guard).await {
            Ok(rabbitmq) => return Ok(rabbitmq),
            Err(failure) => tries.again(failure)?,
        }
    }
}

async fn start_on(
    [port, distribution, names]: [u16; 3],
    node: &Node<'_>,
    guard: &Arc<Guard>,
) -> anyhow::Result<RabbitMq> {
    let mut epmd = Server::start(epmd(node, names), Arc::clone(guard)).await?;
    let began = Instant::now();
    while connect(names, None).await.is_none() {
        epmd.still_starting(began, START_LIMIT).await?;
    }
    epmd.started()?;
    configure(node, port)?;
    let server = Server::start(program(node, distribution, names), Arc::clone(guard)).await?;
    let control = control(node, names);
    let tls = node.settings.tls.clone();
    let mut rabbitmq = RabbitMq { server, epmd, port, node: node.name.to_owned(), control, tls };
    if let Err(failure) = rabbitmq.ready().await {
        rabbitmq.epmd.stop().await;
        return Err(failure);
    }
    Ok(rabbitmq)
}

/// Whether our node greets a client. The greeting names the cluster, and so the node.
async fn greets(port: u16, tls: Option<&Tls>, node: &str) -> Option<bool> {
    let mut stream = connect(port, tls).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
    let mut greeting = Vec::new();
    let name = node.as_bytes();
    loop {
        let read = timeout(ANSWER_LIMIT, stream.read_buf(&mut greeting)).await.ok()?.ok()?;
        if greeting.windows(name.len()).any(|part| part == name) {
            return Some(true);
        }
        if read == 0 {
            return Some(false);
        }
    }
}

fn epmd(node: &Node<'_>, port: u16) -> Program {
    let port = port.to_string();
    Program {
        name: "epmd",
        path: "epmd".into(),
        args: ["-port", &port, "-address", "127.0.0.1"].map(Into::into).into(),
        env: Vec::new(),
        user: None,
        work_dir: node.dir.join("rabbitmq"),
        log: node.dir.join("epmd.log"),
        pid_file: node.dir.join("epmd.pid"),
        stop_signal: "TERM",
        patience: EPMD_PATIENCE,
    }
}

fn control(node: &Node<'_>, names: u16) -> Control {
    let home = node.dir.join("rabbitmq");
    let env = vec![
        // The cookie that lets it in is there.
        ("HOME", home.clone().into()),
        ("RABBITMQ_NODENAME", format!("{}@localhost", node.name).into()),
        ("RABBITMQ_CONF_ENV_FILE", home.join("rabbitmq-env.conf").into()),
        ("RABBITMQ_LOG_BASE", home.join("log").into()),
        ("ERL_EPMD_PORT", names.to_string().into()),
    ];
    Control { program: script().with_file_name("rabbitmqctl"), env }
}

fn program(node: &Node<'_>, distribution: u16, names: u16) -> Program {
    let home = node.dir.join("rabbitmq");
    let within = |name: &str| OsString::from(home.join(name));
    let mut env = vec![
        ("HOME", home.clone().into()),
        // The script then becomes the node instead of standing before it.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
        ("RABBITMQ_NODENAME", format!("{}@localhost", node.name).into()),
        ("RABBITMQ_CONF_ENV_FILE", within("rabbitmq-env.conf")),
        ("RABBITMQ_CONFIG_FILE", within("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", within("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", within("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", within("mnesia")),
        ("RABBITMQ_LOG_BASE", within("log")),
        ("RABBITMQ_PID_FILE", within("pid")),
        ("RABBITMQ_DIST_PORT", distribution.to_string().into()),
        ("ERL_EPMD_PORT", names.to_string().into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        // A node that is cut off while it starts would leave a name server of its own behind.
        ("ERL_FLAGS", "-start_epmd false".into()),
        ("ERL_CRASH_DUMP", within("erl_crash.dump")),
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
                .into(),
        ),
    ];
    if node.lean {
        env.push(("RABBITMQ_PLUGINS_DIR", within("plugins")));
    }
    Program {
        name: "RabbitMQ",
        path: script(),
        args: Vec::new(),
        env,
        user: None,
        work_dir: home,
        log: node.dir.join("rabbitmq.log"),
        pid_file: node.dir.join("rabbitmq.pid"),
        stop_signal: "TERM",
        patience: STOP_PATIENCE,
    }
}

/// Not the one in `/usr/sbin`, which insists on another user.
fn script() -> PathBuf {
    super::program("RABBITMQ_SERVER", "/usr/lib/rabbitmq/bin/rabbitmq-server")
}

fn configure(node: &Node<'_>, port: u16) -> anyhow::Result<()> {
    let home = node.dir.join("rabbitmq");
    let write = |name: &str, text: &str| {
        let file = home.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    };
    let mut settings = listener(port, node.settings.tls.as_ref());
    settings.push_str("disk_free_limit.absolute = 50MB\n");
    if node.settings.vhosts > 0 {
        write("definitions.json", &definitions(node.settings.vhosts))?;
        let file = home.join("definitions.json");
        writeln!(settings, "load_definitions = {}", file.display())?;
    }
    write("rabbitmq.conf", &settings)?;
    write("rabbitmq-env.conf", "")?;
    write("advanced.config", "[].\n")?;
    write("enabled_plugins", "[].\n")
}

fn listener(port: u16, tls: Option<&Tls>) -> String {
    let Some(Tls { authority, certificate, key }) = tls else {
        return format!("listeners.tcp.1 = 127.0.0.1:{port}\n");
    };
    let files = [("cacertfile", authority), ("certfile", certificate), ("keyfile", key)];
    let files = files.map(|(name, file)| format!("ssl_options.{name} = {}\n", file.display()));
    format!("listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\n{}", files.concat())
}

/// The virtual hosts `/` and `t1` to `tN`, with everything allowed to guest. A node that loads
/// definitions does not create its usual user and virtual host, so these are defined too.
fn definitions(vhosts: u16) -> String {
    let names: Vec<String> = std::iter::once("/".to_owned())
        .chain((1..=vhosts).map(|number| format!("t{number}")))
        .collect();
    let hosts: Vec<String> = names.iter().map(|name| format!(r#"{{"name":"{name}"}}"#)).collect();
    let permissions: Vec<String> = names
        .iter()
        .map(|name| {
            format!(
                r#"{{"user":"guest","vhost":"{name}","configure":".*","write":".*","read":".*"}}"#
            )
        })
        .collect();
    format!(
        r#"{{"users":[{{"name":"guest","password_hash":"{GUEST}","hashing_algorithm":"rabbit_password_hashing_sha256","tags":"administrator"}}],"vhosts":[{}],"permissions":[{}]}}"#,
        hosts.join(","),
        permissions.join(","),
    )
}

/// A node that was cut off in its very first start may have left half a database: it starts afresh.
fn discard_unfinished(home: &Path) -> anyhow::Result<()> {
    let mnesia = home.join("mnesia");
    if mnesia.exists() && !home.join("complete").exists() {
        fs::remove_dir_all(&mnesia).with_context(|| format!("removing {}", mnesia.display()))?;
    }
    Ok(())
}

/// Makes the plugin folder that holds RabbitMQ alone; false if this installation looks otherwise.
fn lean_plugins(home: &Path) -> anyhow::Result<bool> {
    let script = script();
    if !script.exists() {
        bail!("there is no {}; deploy/install-servers installs it", script.display());
    }
    let plugins = home.join("plugins");
    if plugins.exists() {
        fs::remove_dir_all(&plugins).with_context(|| format!("removing {}", plugins.display()))?;
    }
    let Some(rabbit) = rabbit_application(&script) else {
        return Ok(false);
    };
    fs::create_dir(&plugins)?;
    let link = plugins.join(rabbit.file_name().context("an application has a name")?);
    symlink(&rabbit, &link).with_context(|| format!("linking {}", link.display()))?;
    Ok(true)
}

/// `…/lib/rabbitmq_server-3.10.8/plugins/rabbit-3.10.8`, reached from the script's folder.
fn rabbit_application(script: &Path) -> Option<PathBuf> {
    let script = fs::canonicalize(script).ok()?;
    let plugins = script.parent()?.parent()?.join("plugins");
    let named_rabbit = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.is_dir() && name.is_some_and(|name| name.starts_with("rabbit-"))
    };
    let entries = fs::read_dir(plugins).ok()?.flatten();
    entries.map(|entry| entry.path()).find(named_rabbit)
}
