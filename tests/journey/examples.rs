//! Programs of other languages: the examples of `deploy/`, as they are.

use std::process::Stdio;

use tokio::process::Command;

/// Python, with what the examples need.
pub fn python(arguments: &[&str]) -> Command {
    python_with("deploy/examples/requirements.txt", arguments)
}

/// Python, with the packages of a file.
pub fn python_with(requirements: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("tests/journey/python");
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg(requirements)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
