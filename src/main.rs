//! The command line: run a role, or operate.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use booking::config::{Config, DEFAULT_PORT, LogConfig, Settings};
use booking::http::contract;
use booking::process::{exit_code, stop_on_signals};
use booking::roles::{self, Role};
use booking::{api_keys, dev, doctor, health, messages, store, telemetry, verify};
use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

/// A request is a dozen nested futures on the heap, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Message-queue driven bookings: nothing accepted is lost, nothing is booked twice.
#[derive(Parser)]
#[command(version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
A first try needs no settings: `booking dev` starts servers of its own and prints what to do.
In production run `booking migrate` once a release, then any number of `booking gateway`,
`booking worker` and `booking webhooks`, each with DATABASE_URL, AMQP_URL and REDIS_URL;
`booking doctor` tells what is wrong with them.";

#[derive(Subcommand)]
enum Command {
    /// Serve the HTTP API: accept commands, answer polls, relay to the broker
    Gateway(Settings),
    /// Decide commands: own partitions, write bookings, publish results
    Worker(Settings),
    /// Deliver events to webhook endpoints: signed POSTs, retried until they arrive
    Webhooks(Settings),
    /// Gateway, worker and webhooks in one process
    Serve(Settings),
    /// Serve with private PostgreSQL, RabbitMQ and Redis, started here and stopped with it
    Dev(DevArgs),
    /// Bring the database to this release's schema; safe to repeat
    Migrate(Settings),
    /// Check on the stored data that the promises hold: exit 0 if they do, 1 if not
    Verify(VerifyArgs),
    /// Check servers and settings, and say what is wrong, what that means and what mends it
    #[command(after_long_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Create, list and revoke the API keys of users and services (AUTH_MODE=api-key)
    ApiKeys(ApiKeysArgs),
    /// Ask whether the process at PORT lives: exit 0 if it does, 1 if not. For health checks of
    /// containers; it reads no other setting
    Health(HealthArgs),
    /// Print the contract of the HTTP API as an OpenAPI 3.1 document
    Openapi,
    /// Write the contract of messages: JSON Schema of each, and an AsyncAPI 3.0 document
    Schemas {
        /// The folder to write to; files of the same names are replaced
        folder: PathBuf,
    },
}

#[derive(Args)]
struct DevArgs {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    data: DataDir,
}

#[derive(Args)]
struct VerifyArgs {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    data: DataDir,

    /// Seconds that a command or message may be under way before that counts as broken
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    patience: u32,
}

/// Looks at PostgreSQL, RabbitMQ, Redis and the settings, and changes nothing. Where all is well it
/// prints one line; else each finding with what it means and the command or setting that mends it.
#[derive(Args)]
struct DoctorArgs {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    data: DataDir,

    /// Seconds that a command, a message or a transaction may be under way before that is a finding
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    patience: u32,

    /// Exit 1 for warnings too
    #[arg(long)]
    strict: bool,

    /// Print the report as JSON, for machines
    #[arg(long)]
    json: bool,
}

const DOCTOR_HELP: &str = "\
Exit codes:
  0  nothing is wrong, or there are warnings only
  1  an error was found (with --strict: or a warning), or some checks could not be made
  2  nothing could be looked at: the settings cannot be used, or no server answers

Run it with the settings of the processes it is to speak for, on their machine: before the first
start, after a change, and when something is odd. It may run beside them at any time. A server that
does not answer costs it at most half a minute. Passwords are never printed.";

#[derive(Args)]
struct ApiKeysArgs {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    data: DataDir,

    #[command(subcommand)]
    action: api_keys::Action,
}

#[derive(Args)]
struct HealthArgs {
    /// What to ask [default: http://127.0.0.1:PORT/health/live]
    #[arg(long)]
    url: Option<String>,

    /// Where the process listens on this machine: a gateway's PORT, a worker's OPS_PORT
    #[arg(long, env = "PORT", default_value = DEFAULT_PORT)]
    port: String,
}

#[derive(Args)]
struct DataDir {
    /// Folder of the private servers' data, and of the file `env` with the addresses in use.
    /// `verify`, `doctor` and `api-keys` read that file for what is not set
    #[arg(long, env = "BOOKING_DATA_DIR", default_value = ".booking")]
    data_dir: PathBuf,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(cause) => {
            eprintln!("error: the runtime cannot be started: {cause}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Gateway(settings) => run_role(Role::Gateway, &settings).await,
        Command::Worker(settings) => run_role(Role::Worker, &settings).await,
        Command::Webhooks(settings) => run_role(Role::Webhooks, &settings).await,
        Command::Serve(settings) => run_role(Role::Serve, &settings).await,
        Command::Dev(args) => run_dev(args).await,
        Command::Migrate(settings) => operate(migrate(&settings).await),
        Command::Verify(args) => operate(run_verify(args).await),
        Command::Doctor(args) => run_doctor(args).await,
        Command::ApiKeys(args) => operate(run_api_keys(args).await),
        Command::Health(args) => run_health(args).await,
        Command::Openapi => {
            let printed = std::io::stdout().write_all(contract::document_text().as_bytes());
            operate(printed.map(|()| ExitCode::SUCCESS).context("printing the contract"))
        }
        Command::Schemas { folder } => operate(write_schemas(&folder)),
    }
}

fn write_schemas(folder: &Path) -> anyhow::Result<ExitCode> {
    for (name, text) in messages::files() {
        let path = folder.join(name);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        written
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_role(role: Role, settings: &Settings) -> ExitCode {
    let (config, log) = match checked(settings) {
        Ok(checked) => checked,
        Err(code) => return code,
    };
    let telemetry = match telemetry::start(&log, role.name()) {
        Ok(telemetry) => telemetry,
        Err(cause) => return operate(Err(cause)),
    };
    if config.webhooks.allow_insecure {
        tracing::warn!(
            "WEBHOOK_ALLOW_INSECURE IS ON: webhooks go to plain http and to private addresses, so \
             whoever registers an endpoint reaches into this network"
        );
    }
    let stop = CancellationToken::new();
    let result = async {
        stop_on_signals(&stop, config.shutdown).context("listening to signals")?;
        let starting = roles::start(role, config, stop.clone());
        tokio::select! {
            started = starting => started?.ended().await,
            () = stop.cancelled() => {} // nothing is held yet
        }
        Ok(())
    };
    let code = exit_code(result.await);
    telemetry.shutdown().await;
    code
}

async fn run_dev(args: DevArgs) -> ExitCode {
    let mut settings = args.settings;
    if settings.log_format.is_empty() {
        settings.log_format = "text".to_owned();
    }
    // Servers that are not given get addresses when they start; all else is checked before.
    let mut assumed = settings.with_database_only();
    if assumed.database_url.is_empty() {
        assumed.database_url = "postgres://unused".to_owned();
    }
    let log = match checked(&assumed) {
        Ok((_, log)) => log,
        Err(code) => return code,
    };
    let telemetry = match telemetry::start(&log, "dev") {
        Ok(telemetry) => telemetry,
        Err(cause) => return operate(Err(cause)),
    };
    let stop = CancellationToken::new();
    let code = match stop_on_signals(&stop, dev::session::STOP_LIMIT) {
        Ok(()) => exit_code(dev::session::run(settings, args.data.data_dir, stop).await),
        Err(cause) => operate(Err(cause.into())),
    };
    telemetry.shutdown().await;
    code
}

async fn migrate(settings: &Settings) -> anyhow::Result<ExitCode> {
    let settings = settings.with_database_only();
    let config = settings.check().map_err(|errors| anyhow::anyhow!(errors.join("\n")))?;
    store::migrate(&config.database_url, config.partitions).await?;
    println!("the database is at this release's schema, with {} partitions", config.partitions);
    Ok(ExitCode::SUCCESS)
}

async fn run_verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let mut settings = args.settings;
    settings.fill_from(&args.data.data_dir.join("env"));
    let asks_broker = !settings.amqp_url.is_empty();
    let settings = settings.with_database_only();
    let config = settings.check().map_err(|errors| anyhow::anyhow!(errors.join("\n")))?;
    let broker = asks_broker.then_some(config.amqp_url.as_str());
    let report = verify::run(&config.database_url, broker, args.patience).await?;
    print!("{}", report.text);
    println!("{}", if report.holds { "all promises hold" } else { "a promise is BROKEN" });
    Ok(if report.holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_doctor(args: DoctorArgs) -> ExitCode {
    let mut settings = args.settings;
    settings.fill_from(&args.data.data_dir.join("env"));
    let patience = Duration::from_secs(args.patience.into());
    let report = doctor::run(&settings, patience).await;
    print!("{}", if args.json { report.json() } else { report.text() });
    ExitCode::from(report.exit_code(args.strict))
}

async fn run_api_keys(args: ApiKeysArgs) -> anyhow::Result<ExitCode> {
    let mut settings = args.settings;
    settings.fill_from(&args.data.data_dir.join("env"));
    let settings = settings.with_database_only();
    let config = settings.check().map_err(|errors| anyhow::anyhow!(errors.join("\n")))?;
    print!("{}", api_keys::run(&config.database_url, args.action).await?);
    Ok(ExitCode::SUCCESS)
}

async fn run_health(args: HealthArgs) -> ExitCode {
    let here = || format!("http://127.0.0.1:{}/health/live", args.port);
    match health::check(&args.url.unwrap_or_else(here)).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(cause) => {
            eprintln!("error: {cause:#}");
            ExitCode::FAILURE
        }
    }
}

fn checked(settings: &Settings) -> Result<(Config, LogConfig), ExitCode> {
    match (settings.check(), settings.check_log()) {
        (Ok(config), Ok(log)) => Ok((config, log)),
        (config, log) => {
            let errors = [config.err(), log.err()].into_iter().flatten().flatten();
            Err(refuse(&errors.collect::<Vec<_>>()))
        }
    }
}

fn refuse(errors: &[String]) -> ExitCode {
    eprintln!("error: the settings are not usable:");
    for error in errors {
        eprintln!("  {error}");
    }
    eprintln!("`booking help gateway` lists all settings.");
    ExitCode::from(2)
}

fn operate(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|cause| {
        eprintln!("error: {cause:#}");
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_tree_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
