//! Who acts in a test: users with a calendar at a gateway, and the answers they get.

use reqwest::header::{HeaderMap, LOCATION};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::{Process, at, until};

/// Someone with a calendar, at a gateway.
#[derive(Clone)]
pub struct User {
    pub id: Uuid,
    base: String,
    client: reqwest::Client,
    wait: Option<u32>,
}

impl User {
    pub fn new(gateway: &Process) -> Self {
        Self {
            id: Uuid::now_v7(),
            base: gateway.url(""),
            client: reqwest::Client::new(),
            wait: None,
        }
    }

    /// The same user, asking another gateway.
    pub fn at(&self, gateway: &Process) -> Self {
        Self { base: gateway.url(""), ..self.clone() }
    }

    /// The same user, who waits for decisions.
    pub fn who_waits(&self) -> Self {
        Self { wait: Some(30), ..self.clone() }
    }

    /// The body of a booking from one minute of [`at`] to another.
    pub fn slot(&self, start: i64, end: i64) -> Value {
        json!({ "userId": self.id, "startTime": at(start), "endTime": at(end) })
    }

    /// Books with a key of its own.
    pub async fn books(&self, start: i64, end: i64) -> Answer {
        self.books_with_key(&Uuid::now_v7().to_string(), self.slot(start, end)).await
    }

    pub async fn books_with_key(&self, key: &str, body: Value) -> Answer {
        self.post("/api/bookings", &[("Idempotency-Key", key)], body).await
    }

    /// Holds the time for so many seconds.
    pub async fn holds(&self, start: i64, end: i64, seconds: i64) -> Answer {
        let mut body = self.slot(start, end);
        body["hold"] = json!(seconds);
        self.books_with_key(&Uuid::now_v7().to_string(), body).await
    }

    pub async fn confirms(&self, booking: &str) -> Answer {
        self.post(&format!("/api/bookings/{booking}/confirm"), &[], json!({})).await
    }

    pub async fn cancels(&self, booking: &str) -> Answer {
        self.post(&format!("/api/bookings/{booking}/cancel"), &[], json!({})).await
    }

    pub async fn reschedules(&self, booking: &str, start: i64, end: i64) -> Answer {
        let body = json!({ "startTime": at(start), "endTime": at(end) });
        self.post(&format!("/api/bookings/{booking}/reschedule"), &[], body).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.post_text(path, headers, &body.to_string()).await
    }

    /// Sends a body as it is written here.
    pub async fn post_text(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.client.post(format!("{}{path}", self.base)).body(body.to_owned());
        request = request.header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request).await
    }

    pub async fn put(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request = self.client.put(format!("{}{path}", self.base)).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(self.client.patch(format!("{}{path}", self.base)).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.client.delete(format!("{}{path}", self.base))).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.client.get(format!("{}{path}", self.base))).await
    }

    /// Reads what has another ETag than the given one.
    pub async fn get_unless(&self, path: &str, tag: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.base));
        self.send(request.header("If-None-Match", tag)).await
    }

    /// Polls the command of an answer until it has a final state.
    pub async fn polls(&self, answer: &Answer) -> Answer {
        let path = format!("/api/commands/{}", answer.text("commandId"));
        let mut last = self.get(&path).await;
        until("the command is decided", async || {
            last = self.get(&path).await;
            last.text("status") != "accepted"
        })
        .await;
        last
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Answer {
        request = request.header("X-User-ID", self.id.to_string());
        if let Some(seconds) = self.wait {
            request = request.header("Prefer", format!("wait={seconds}"));
        }
        Answer::of(request.send().await.unwrap()).await
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    /// The body as it came.
    pub raw: String,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let raw = response.text().await.unwrap();
        let body = serde_json::from_str(&raw).unwrap_or(Value::Null);
        Self { status, headers, body, raw }
    }

    /// A field of the body; empty when it is not a text.
    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn location(&self) -> &str {
        self.header(LOCATION.as_str())
    }

    /// The problem's code, of a refusal or of a decided command.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().or(self.body["error"]["code"].as_str()).unwrap_or_default()
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:#}", self.body);
        self
    }
}
