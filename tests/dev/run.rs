//! A folder, and `booking` at work in it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use booking::dev::{self, Settings};
use sqlx::{Connection as _, PgConnection};

/// Longer than any limit of the guard.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A broker that is away, for those who need none: accepting and asking go on without it.
pub const NO_RABBITMQ: (&str, &str) = ("AMQP_URL", "amqp://127.0.0.1:1");

/// A folder for data, gone after the test unless that failed.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("booking-dev-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Dir(fs::canonicalize(dir).unwrap())
    }

    pub fn settings(&self) -> Settings {
        Settings {
            dir: self.0.clone(),
            postgres: true,
            rabbitmq: true,
            redis: true,
            vhosts: 2,
            tls: None,
        }
    }

    pub fn without_rabbitmq(&self) -> Settings {
        Settings { rabbitmq: false, ..self.settings() }
    }

    /// A value of the file `env` that `booking dev` writes.
    pub fn env(&self, name: &str) -> String {
        let text = fs::read_to_string(self.0.join("env")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap().trim_matches('\'').to_owned()
    }

    /// The processes, other than `booking` itself, that work in this folder or name it in their
    /// arguments or their environment.
    pub fn pids(&self) -> Vec<u32> {
        let names = fs::read_dir("/proc").unwrap().flatten();
        let pids = names.filter_map(|name| name.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let works_here =
                fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.0));
            let (line, environment) = (command_line(*pid), proc_file(*pid, "environ"));
            let named = |text: &str| text.contains(self.0.to_str().unwrap());
            let ours = line.starts_with(env!("CARGO_BIN_EXE_booking"));
            !ours && (works_here || named(&line) || named(&environment))
        })
        .collect()
    }

    pub fn processes(&self) -> Vec<String> {
        let pids = self.pids().into_iter();
        pids.map(|pid| format!("{pid} {}", command_line(pid))).collect()
    }

    #[track_caller]
    pub fn has_no_process(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
    }

    pub fn wait_until_no_process_runs(&self) {
        wait_until("no process is left", || self.pids().is_empty());
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            dev::remove(&self.0).unwrap();
        }
    }
}

/// `booking` with no settings but these.
pub fn booking(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_booking"));
    for name in ["DATABASE_URL", "AMQP_URL", "REDIS_URL", "BOOKING_DATA_DIR", "PARTITIONS"] {
        command.env_remove(name);
    }
    command.args(arguments).envs(settings.iter().copied()).env("PORT", "0").stdin(Stdio::null());
    command
}

/// Runs `booking` to its end.
pub fn output(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = booking(arguments, settings).output().unwrap();
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8(text).unwrap())
}

/// `booking dev` in a process of its own.
pub struct Run {
    child: Child,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Run {
    pub fn start(dir: &Dir, settings: &[(&str, &str)]) -> Run {
        let log = dir.0.join("run.log");
        let mut child = booking(&["dev", "--data-dir", dir.0.to_str().unwrap()], settings)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Run { child, output, log }
    }

    /// Waits for the block that says what to paste, and returns its lines.
    pub fn welcome(&mut self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut rulers = 0;
        for line in self.output.by_ref().lines().map(Result::unwrap) {
            rulers += u32::from(line.starts_with("----"));
            lines.push(line);
            if rulers == 2 {
                return lines;
            }
        }
        panic!("it has ended before it was ready:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn interrupt(&self) {
        kill("INT", self.child.id());
    }

    pub fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("the run has ended", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods)] // nothing else runs on this thread
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

pub fn command_line(pid: u32) -> String {
    proc_file(pid, "cmdline")
}

fn proc_file(pid: u32, name: &str) -> String {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join(name));
    String::from_utf8_lossy(&bytes.unwrap_or_default()).replace('\0', " ")
}

/// Runs statements on a database.
pub async fn sql(url: &str, statements: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statements = sqlx::AssertSqlSafe(statements.to_owned());
    sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
