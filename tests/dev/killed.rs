//! Killed or interrupted at any moment: nothing is left, and the next start is not blocked.

use std::fs;
use std::time::{Duration, Instant};

use booking::dev::Servers;

use crate::run::{Dir, NO_RABBITMQ, Run, command_line, kill, wait_until};

#[tokio::test]
async fn an_interrupt_during_the_start_stops_everything() {
    let dir = Dir::new();
    let servers = ["initdb", "rabbitmq", "postgres"];
    for server in servers {
        let mut run = Run::start(&dir, &[]);
        let pid_file = dir.0.join(server).with_extension("pid");
        wait_until("a server has been started", || pid_file.exists());
        run.interrupt();
        assert!(run.ended().success(), "interrupted at {server}");
        dir.has_no_process();
        for name in servers {
            let _ = fs::remove_file(dir.0.join(name).with_extension("pid"));
        }
    }
    // Nor does any of that stand in the way of the next.
    let mut run = Run::start(&dir, &[NO_RABBITMQ]);
    run.welcome();
    run.interrupt();
    assert!(run.ended().success());
    dir.has_no_process();
}

#[tokio::test]
async fn a_kill_at_any_moment_of_the_start_leaves_nothing() {
    let dir = Dir::new();
    for moment in 0..8 {
        let mut run = Run::start(&dir, &[]);
        let began = Instant::now();
        wait_until("the moment", || began.elapsed() > Duration::from_millis(moment * 40));
        run.kill();
        dir.wait_until_no_process_runs();
    }
}

#[tokio::test]
async fn servers_of_a_run_killed_together_with_its_guard_are_stopped_by_the_next() {
    let dir = Dir::new();
    let mut run = Run::start(&dir, &[NO_RABBITMQ]);
    run.welcome();
    let guard = dir.pids().into_iter().find(|pid| command_line(*pid).contains("booking-dev-guard"));
    kill("KILL", guard.unwrap());
    run.kill();
    // One of them is not even remembered.
    fs::remove_file(dir.0.join("postgres.pid")).unwrap();
    assert!(dir.processes().len() >= 2, "{:?}", dir.processes());
    let servers = Servers::start(&dir.without_rabbitmq()).await.unwrap();
    let postgres = servers.postgres.as_ref().unwrap();
    assert_eq!(postgres.sql("postgres", "select 1").await.unwrap(), "1");
    servers.stop().await;
    dir.wait_until_no_process_runs();
}

#[tokio::test]
async fn a_given_server_that_is_away_ends_the_others() {
    let dir = Dir::new();
    let away = ("DATABASE_URL", "postgres://127.0.0.1:1/none");
    let mut run = Run::start(&dir, &[away, NO_RABBITMQ]);
    assert_eq!(run.ended().code(), Some(1), "{}", run.log());
    assert!(run.log().contains("is DATABASE_URL right?"), "{}", run.log());
    dir.has_no_process();
}
