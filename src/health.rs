//! `booking health`: whether the process beside it lives, for supervisors in images without a shell.
//!
//! In: the address of a running role. Out: one line, and exit code 0 or 1. One request is sent and
//! only its first line read. Whatever goes wrong means "does not live": nothing is tried again,
//! because supervisors ask again by themselves.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

/// A process that does not answer within this time does not live.
const LIMIT: Duration = Duration::from_secs(2);
/// What there is of an answer's first line that is read: `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

/// Asks `url`, and returns what to print when the answer is 200.
///
/// # Errors
/// When the URL is not one of plain HTTP, nothing answers in time, or the answer is another.
pub async fn check(url: &str) -> anyhow::Result<String> {
    let place = Url::parse(url).with_context(|| format!("--url is {url:?}"))?;
    ensure!(
        place.scheme() == "http" && place.has_host(),
        "--url is {url:?}; it must be like http://127.0.0.1:3000/health/live"
    );
    let status = tokio::time::timeout(LIMIT, status(&place)).await;
    let status = status.with_context(|| format!("{url}: no answer in {} s", LIMIT.as_secs()))?;
    match status.with_context(|| format!("{url} does not answer"))?.as_str() {
        "200" => Ok(format!("{url} answers 200")),
        other => bail!("{url} answers {other}"),
    }
}

/// The status of the answer to a `GET` of `place`.
async fn status(place: &Url) -> anyhow::Result<String> {
    let host = place.host_str().unwrap_or_default();
    let address = (host.trim_matches(['[', ']']), place.port_or_known_default().unwrap_or(80));
    let mut stream = TcpStream::connect(address).await?;
    let path = place.path();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut begin = [0; STATUS_BYTES];
    stream.read_exact(&mut begin).await?;
    let begin = String::from_utf8_lossy(&begin);
    let status =
        begin.strip_prefix("HTTP/1.1 ").context("what answers there speaks no HTTP/1.1")?;
    Ok(status.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The answer of `check` to a server that says `answer` to whoever asks.
    async fn told(answer: &'static str) -> anyhow::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health/live", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(check(&url), serve).0
    }

    #[tokio::test]
    async fn only_200_is_alive() {
        told("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        for answer in ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", ""] {
            told(answer).await.unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_process_is_not_waited_for() {
        // Connections are taken by the kernel, and nobody answers them.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health/live", listener.local_addr().unwrap());
        let cause = format!("{:#}", check(&url).await.unwrap_err());
        assert!(cause.contains("no answer in 2 s"), "{cause}");
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_named() {
        for url in ["nonsense", "https://127.0.0.1/", "file:///etc/hosts"] {
            let cause = format!("{:#}", check(url).await.unwrap_err());
            assert!(cause.contains("--url is"), "{cause}");
        }
    }
}
