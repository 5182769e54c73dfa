//! A receiver of webhooks that answers as it is told, and notes what reached it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// How each request is answered.
#[derive(Clone)]
pub enum Answer {
    /// These bytes; the connection stays open.
    Bytes(String),
    /// These bytes, and then the connection is closed.
    Last(String),
    /// These bytes, and then more for ever.
    Endless(String),
    /// These bytes, and then silence on an open connection.
    Silent(String),
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value)
    }
}

pub struct Receiver {
    pub port: u16,
    noted: Arc<Mutex<Noted>>,
}

#[derive(Default)]
struct Noted {
    connections: usize,
    requests: Vec<Request>,
}

impl Receiver {
    pub async fn start(answer: Answer) -> Self {
        Self::listen(answer, None).await
    }

    pub async fn start_tls(answer: Answer, tls: TlsAcceptor) -> Self {
        Self::listen(answer, Some(tls)).await
    }

    async fn listen(answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let noted = Arc::new(Mutex::new(Noted::default()));
        let receiver = Self { port, noted: noted.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                noted.lock().unwrap().connections += 1;
                let (answer, noted, tls) = (answer.clone(), noted.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        return serve(stream, answer, noted).await;
                    };
                    // It may not trust this receiver, and hang up.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, answer, noted).await;
                    }
                });
            }
        });
        receiver
    }

    /// One that answers this status, without a body.
    pub async fn answering(status_and_headers: &str) -> Self {
        let bytes = format!("HTTP/1.1 {status_and_headers}\r\nContent-Length: 0\r\n\r\n");
        Self::start(Answer::Bytes(bytes)).await
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub fn connections(&self) -> usize {
        self.noted.lock().unwrap().connections
    }

    pub fn requests(&self) -> Vec<Request> {
        self.noted.lock().unwrap().requests.clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Answer,
    noted: Arc<Mutex<Noted>>,
) {
    let mut read = Vec::new();
    while let Some((head, body)) = next_request(&mut stream, &mut read).await {
        noted.lock().unwrap().requests.push(Request { head, body });
        let (Answer::Bytes(bytes)
        | Answer::Last(bytes)
        | Answer::Endless(bytes)
        | Answer::Silent(bytes)) = &answer;
        if stream.write_all(bytes.as_bytes()).await.is_err() {
            return; // it may hang up before the end
        }
        match &answer {
            Answer::Bytes(_) => {}
            Answer::Last(_) => return,
            Answer::Endless(_) => while stream.write_all(&[b'x'; 4096]).await.is_ok() {},
            Answer::Silent(_) => {
                let _ = stream.read(&mut [0]).await; // until it hangs up
                return;
            }
        }
    }
}

async fn next_request(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut Vec<u8>,
) -> Option<(String, String)> {
    loop {
        let text = String::from_utf8_lossy(read);
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let request = Request { head: head.into(), body: String::new() };
            let length: usize = request.header("content-length").unwrap_or("0").parse().unwrap();
            if rest.len() >= length {
                let body = rest[..length].to_owned();
                let head = head.to_owned();
                let taken = head.len() + 4 + length;
                read.drain(..taken);
                return Some((head, body));
            }
        }
        let mut more = [0; 4096];
        let length = stream.read(&mut more).await.ok().filter(|length| *length > 0)?;
        read.extend_from_slice(&more[..length]);
    }
}
