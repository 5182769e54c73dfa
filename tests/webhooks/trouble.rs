//! Receivers that do not answer, or not as HTTP has it. None of them holds an attempt for long,
//! or makes it take in much.

use std::time::Duration;

use booking::webhooks::sender::{Limits, MAX_KEPT_BYTES, Outcome};
use tokio::net::TcpListener;

use crate::attempt::{AMPLE, outcome, send, sender, with_limits};
use crate::receiver::{Answer, Receiver};

const SOON: Duration = Duration::from_millis(200);

fn unreachable(reason: &'static str) -> Outcome {
    Outcome::Unreachable { reason }
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up() {
    let receiver = Receiver::start(Answer::Silent(String::new())).await;
    let sender = with_limits(Limits { total: SOON, ..AMPLE });
    let reply = send(&sender, &receiver.url()).await;
    assert_eq!(reply.outcome, unreachable("timeout"));
    assert!(reply.took >= SOON, "{:?}", reply.took);
    let slow_head = Receiver::start(Answer::Silent("HTTP/1.1 200 OK\r\nX-Slow: ".into())).await;
    assert_eq!(outcome(&sender, &slow_head.url()).await, unreachable("timeout"));
}

#[tokio::test]
async fn a_receiver_that_only_takes_the_connection_is_given_up() {
    // TLS is part of connecting, and this one never says a word of it.
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", receiver.local_addr().unwrap());
    let sender = with_limits(Limits { connect: SOON, ..AMPLE });
    assert_eq!(outcome(&sender, &url).await, unreachable("timeout"));
}

#[tokio::test]
async fn an_answer_counts_though_its_body_never_ends() {
    for head in ["200 OK\r\nContent-Length: 100", "200 OK\r\nTransfer-Encoding: chunked"] {
        let silent = Answer::Silent(format!("HTTP/1.1 {head}\r\n\r\n"));
        let receiver = Receiver::start(silent).await;
        let sender = with_limits(Limits { rest: SOON, ..AMPLE });
        let reply = send(&sender, &receiver.url()).await;
        assert_eq!(reply.outcome, Outcome::Delivered { status: 200 });
        assert_eq!(reply.answer, "");
    }
    // This one is cut by its size: no limit of time is in reach.
    let endless = Answer::Endless("HTTP/1.1 500 No\r\n\r\nit says: ".into());
    let receiver = Receiver::start(endless).await;
    let reply = send(&sender(), &receiver.url()).await;
    assert_eq!(reply.outcome, Outcome::Refused { status: 500, retry_after: None });
    assert!(reply.answer.starts_with("it says: xxx"), "{}", reply.answer);
    assert_eq!(reply.answer.len(), MAX_KEPT_BYTES);
}

#[tokio::test]
async fn a_connection_with_an_unread_body_is_not_used_again() {
    let body = "x".repeat(1024 * 1024);
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let receiver = Receiver::start(Answer::Bytes(long)).await;
    let sender = sender();
    for _ in 0..2 {
        let reply = send(&sender, &receiver.url()).await;
        assert_eq!(reply.outcome, Outcome::Delivered { status: 200 });
    }
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn what_is_no_answer_is_none() {
    let many = "X-Header: yes\r\n".repeat(10_000);
    let huge = format!("X-Header: {}\r\n", "y".repeat(1024 * 1024));
    for (answer, reason) in [
        (String::new(), "broke off"),
        ("HTTP/1.1 200 OK\r\nContent-".into(), "broke off"),
        ("SSH-2.0-OpenSSH_9.9\r\n".into(), "answer is not HTTP"),
        ("HTTP/1.1 2000 OK\r\n\r\n".into(), "answer is not HTTP"),
        (format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "answer headers too large"),
        (format!("HTTP/1.1 200 OK\r\n{huge}\r\n"), "answer headers too large"),
    ] {
        let shown: String = answer.chars().take(40).collect();
        let receiver = Receiver::start(Answer::Last(answer)).await;
        assert_eq!(outcome(&sender(), &receiver.url()).await, unreachable(reason), "{shown}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_told_from_one_without_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(outcome(&sender(), &nobody).await, unreachable("connection refused"));

    let plain = Receiver::start(Answer::Bytes("HTTP/1.1 400 This is plain HTTP\r\n\r\n".into()));
    let plain = format!("https://127.0.0.1:{}/", plain.await.port);
    // It reads a TLS greeting as a request that does not end, so somebody has to hang up.
    let sender = with_limits(Limits { connect: SOON, ..AMPLE });
    assert_eq!(outcome(&sender, &plain).await, unreachable("timeout"));

    let garbage = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", garbage.local_addr().unwrap());
    let answering = async {
        let (mut stream, _) = garbage.accept().await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 No\r\n\r\n").await;
        stream
    };
    let ample = with_limits(AMPLE);
    let (reply, _stream) = tokio::join!(outcome(&ample, &url), answering);
    assert_eq!(reply, unreachable("tls"));
}
