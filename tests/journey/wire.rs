//! Requests written to the socket byte by byte, for what an HTTP client would mend or refuse.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{Answer, PATIENCE, Process};

/// A request before it is bytes. Each method gives a changed copy.
#[derive(Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Request {
    /// A request without headers or a body.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
        }
    }

    pub fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    pub fn path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Where it goes, and its body as it will be sent.
    pub fn parts(&self) -> (&str, &[u8]) {
        (&self.path, &self.body)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// With this header instead of any of the name.
    pub fn with(&self, name: &'static str, value: impl Into<String>) -> Self {
        self.without(name).also(name, value)
    }

    /// With this header too.
    pub fn also(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn without(&self, name: &str) -> Self {
        let mut without = self.clone();
        without.headers.retain(|(n, _)| *n != name);
        without
    }

    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// With this field in the JSON body.
    pub fn set(self, field: &str, value: impl Into<Value>) -> Self {
        self.edit(|object| {
            object.insert(field.to_owned(), value.into());
        })
    }

    /// Without this field in the JSON body.
    pub fn lacking(self, field: &str) -> Self {
        self.edit(|object| {
            object.remove(field);
        })
    }

    fn edit(self, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).unwrap();
        edit(body.as_object_mut().unwrap());
        self.body(body.to_string())
    }

    /// With the body in chunks and no announced length.
    pub fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let Self { method, path, headers, body, chunked } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = match chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {}", body.len()),
        };
        let mut bytes = format!("{head}{length}\r\n\r\n").into_bytes();
        if *chunked {
            for chunk in body.chunks(16 * 1024) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(body);
        }
        bytes
    }
}

/// Sends the request and gives the answer; nothing when the gateway only closes.
pub async fn exchange(gateway: &Process, bytes: &[u8]) -> Option<Answer> {
    parsed(&raw_exchange(gateway, bytes, PATIENCE).await)
}

/// Sends the bytes and reads until the gateway closes; hangs up when it has not after a while.
/// Both at once, because the gateway may answer before it has read everything.
pub async fn raw_exchange(gateway: &Process, bytes: &[u8], hangs_up_after: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(&gateway.address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let mut received = Vec::new();
    let write = async {
        let _ = writing.write_all(bytes).await; // fails once the gateway has closed
        tokio::time::sleep(hangs_up_after).await;
        let _ = writing.shutdown().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        _ = reading.read_to_end(&mut received) => {}
        () = write => panic!("the gateway does not close: {:?}", String::from_utf8_lossy(bytes)),
    }
    received
}

/// The first answer in the bytes.
pub fn parsed(text: &[u8]) -> Option<Answer> {
    let end = text.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&text[..end]).unwrap(), &text[end + 4..]);
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<Vec<(reqwest::header::HeaderName, _)>>();
    let raw = String::from_utf8_lossy(body).into_owned();
    let body = serde_json::from_str(&raw).unwrap_or(Value::Null);
    Some(Answer { status, headers: headers.into_iter().collect(), body, raw })
}
