//! Where attempts do not go, whatever was registered and whatever the names say now.

use std::process::Command;
use std::time::Duration;

use booking::webhooks::address::Policy;
use booking::webhooks::sender::{Limits, Outcome, Sender};

use crate::attempt::{AMPLE, names, outcome, send, sender};
use crate::receiver::{Answer, Receiver};

const NOT_PUBLIC: &str = "the host name has an address that is not public";
/// Public by its number, but given to nobody: no test leaves this machine.
const NOBODYS: &str = "2d00::1";

/// A sender that guards, with the port of a receiver on this machine among its ports, and its
/// names answered so.
fn guarded(receiver: &Receiver, answers: &[&[&str]]) -> Sender {
    let policy = Policy::new(&[443, receiver.port], false);
    let limits = Limits { connect: Duration::from_millis(500), ..AMPLE };
    Sender::with(policy, limits, names(answers)).unwrap()
}

#[tokio::test]
async fn every_attempt_checks_the_address_again() {
    let receiver = Receiver::answering("200 OK").await;
    let sender = guarded(&receiver, &[&[NOBODYS]]);
    let port = receiver.port;
    for url in [
        format!("https://127.0.0.1:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        format!("https://localhost:{port}/"),
        "https://169.254.169.254/latest/meta-data/".into(),
        "https://10.0.0.1/".into(),
        "https://[64:ff9b::7f00:1]/".into(),
        "https://hooks.example.org:22/".into(),
        "http://hooks.example.org:443/".into(),
        "https://user:secret@hooks.example.org/".into(),
    ] {
        let reply = send(&sender, &url).await;
        match reply.outcome {
            Outcome::Forbidden { reason } => {
                assert!(reason.starts_with("the URL must "), "{url}: {reason}");
                assert!(!reason.contains("secret"), "{reason}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_turns_to_this_machine_is_refused_at_the_next_attempt() {
    let receiver = Receiver::answering("200 OK").await;
    let sender = guarded(&receiver, &[&[NOBODYS], &["127.0.0.1"]]);
    let url = format!("https://hooks.example.org:{}/", receiver.port);
    let first = outcome(&sender, &url).await;
    assert!(matches!(first, Outcome::Unreachable { .. }), "it is public: {first:?}");
    for _ in 0..2 {
        let forbidden = Outcome::Forbidden { reason: NOT_PUBLIC.into() };
        assert_eq!(outcome(&sender, &url).await, forbidden);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_with_a_public_and_a_private_address_is_refused() {
    let receiver = Receiver::answering("200 OK").await;
    let url = format!("https://hooks.example.org:{}/", receiver.port);
    for mixed in [
        ["127.0.0.1", NOBODYS],
        [NOBODYS, "127.0.0.1"],
        [NOBODYS, "::ffff:127.0.0.1"],
        [NOBODYS, "2002:7f00:1::"],
    ] {
        let sender = guarded(&receiver, &[&mixed]);
        let forbidden = Outcome::Forbidden { reason: NOT_PUBLIC.into() };
        assert_eq!(outcome(&sender, &url).await, forbidden, "{mixed:?}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_without_an_address_is_not_found() {
    let receiver = Receiver::answering("200 OK").await;
    let sender = guarded(&receiver, &[&[]]);
    let reply = outcome(&sender, "https://hooks.example.org/").await;
    assert_eq!(reply, Outcome::Unreachable { reason: "name not found" });
}

#[tokio::test]
async fn only_the_checked_addresses_are_connected() {
    // The name is nobody's; what is connected is what the look-up gave and the check let through.
    let receiver = Receiver::answering("200 OK").await;
    let policy = Policy::new(&[443], true);
    let sender = Sender::with(policy, AMPLE, names(&[&["127.0.0.1"]])).unwrap();
    let url = format!("http://hooks.example.org:{}/", receiver.port);
    assert_eq!(outcome(&sender, &url).await, Outcome::Delivered { status: 200 });
    let host = format!("hooks.example.org:{}", receiver.port);
    assert_eq!(receiver.requests()[0].header("host"), Some(&*host));
}

#[tokio::test]
async fn a_url_that_is_taken_can_be_sent_to() {
    let receiver = Receiver::answering("200 OK").await;
    let sender = sender();
    for path in ["/a|b^c[d]{e}?f='g'&h=\"i\"`<>\\j", "/%zz?%", "/ü?ü", "//x//../y;z", "/?a=b?c"] {
        let url = format!("http://127.0.0.1:{}{path}", receiver.port);
        assert_eq!(outcome(&sender, &url).await, Outcome::Delivered { status: 200 }, "{path}");
    }
}

/// The variables are read when a client is made, so the attempt is made by a process of its own
/// that runs another of these tests.
#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let proxy = Receiver::start(Answer::Last("HTTP/1.1 502 Proxy\r\n\r\n".into())).await;
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let attempt = "answers::attempts_to_one_receiver_share_a_connection";
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", attempt]).env_remove("NO_PROXY").env_remove("no_proxy");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        test.env(name, &address).env(name.to_lowercase(), &address);
    }
    let run = tokio::task::spawn_blocking(move || test.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(proxy.connections(), 0);
}
