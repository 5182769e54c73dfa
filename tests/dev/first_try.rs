//! The first try: paste what is printed, stop, come again, be killed, come again.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::run::{Dir, Run, output, sql, wait_until};

#[tokio::test]
async fn what_is_printed_can_be_pasted_and_the_next_run_goes_on_with_it() {
    let dir = Dir::new();
    let mut run = Run::start(&dir, &[]);
    let [book, poll] = curls(&run.welcome());
    assert_eq!(health(&dir), Some(0));

    let accepted = paste(&book);
    assert!(accepted.starts_with("HTTP/1.1 202"), "{accepted}");
    let id = body(&accepted)["commandId"].as_str().unwrap().to_owned();
    let poll = poll.replace("COMMAND_ID", &id);
    let mut decided = Value::Null;
    wait_until("the booking is decided", || {
        decided = body(&paste(&poll));
        decided["status"] != "accepted"
    });
    assert_eq!(decided["status"], "succeeded", "{decided}");
    assert!(paste(&book).contains("idempotency-replayed: true"));
    verifies(&dir);
    given_servers_are_used(&dir).await;

    // The next one comes at once, while the guard of the killed one is still at work.
    run.kill();
    let mut run = Run::start(&dir, &[]);
    let [another, _] = curls(&run.welcome());
    let kept = paste(&poll.replace(&address_in(&poll), &dir.env("BOOKING_URL")));
    assert_eq!(body(&kept), decided);
    assert!(paste(&another).starts_with("HTTP/1.1 202"));
    wait_until("that one is decided too", || {
        output(&["verify", "--patience", "0"], &[data_dir(&dir)]).0 == Some(0)
    });
    run.interrupt();
    assert!(run.ended().success());
    dir.has_no_process();
    assert_eq!(health(&dir), Some(1));
}

/// What `booking health` says of the last run, to whoever reads its exit code.
fn health(dir: &Dir) -> Option<i32> {
    let address = dir.env("BOOKING_URL");
    let (_, port) = address.rsplit_once(':').unwrap();
    output(&["health", "--port", port], &[]).0
}

/// A second one, on the servers of the first, starts none.
async fn given_servers_are_used(first: &Dir) {
    let second = Dir::new();
    sql(&first.env("DATABASE_URL"), "create database another").await;
    let database = first.env("DATABASE_URL").replace("/booking", "/another");
    let (rabbitmq, redis) = (first.env("AMQP_URL"), first.env("REDIS_URL"));
    let given = [
        ("DATABASE_URL", database.as_str()),
        ("AMQP_URL", &rabbitmq),
        ("REDIS_URL", &redis),
        ("REDIS_PREFIX", "another"),
    ];
    let mut run = Run::start(&second, &given);
    run.welcome();
    for (name, value) in given {
        assert_eq!(second.env(name), value);
    }
    let ready = format!("{}/health/ready", second.env("BOOKING_URL"));
    let up = async || reqwest::get(&ready).await.unwrap().json::<Value>().await.unwrap();
    for _ in 0..200 {
        if up().await["status"] == "ready" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(up().await["status"], "ready", "all three answer");
    for server in ["postgres", "rabbitmq", "redis"] {
        assert!(!second.0.join(server).exists(), "{server} was started");
    }
    verifies(&second);
    run.interrupt();
    assert!(run.ended().success());
}

/// `booking verify` needs no arguments where the folder is known.
fn verifies(dir: &Dir) {
    let (code, text) = output(&["verify"], &[data_dir(dir)]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("all promises hold") && text.contains("RabbitMQ: 0 messages"), "{text}");
}

fn data_dir(dir: &Dir) -> (&'static str, &str) {
    ("BOOKING_DATA_DIR", dir.0.to_str().unwrap())
}

/// The two commands of the printed block: one books, one polls.
fn curls(welcome: &[String]) -> [String; 2] {
    let curls: Vec<String> =
        welcome.iter().filter(|line| line.starts_with("curl ")).cloned().collect();
    curls.try_into().unwrap()
}

/// What a shell makes of a line.
fn paste(line: &str) -> String {
    let pasted = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8(pasted.stdout).unwrap();
    assert!(pasted.status.success(), "{line}: {text}");
    text
}

/// The JSON body of what `curl -i` shows.
fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn address_in(curl: &str) -> String {
    let path = curl.find("/api/").unwrap();
    let begin = curl.find("http://").unwrap();
    curl[begin..path].to_owned()
}
