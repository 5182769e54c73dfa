//! Whose events an endpoint is told of, by who registered it.

use serde_json::{Value, json};
use uuid::Uuid;

use super::URL;
use crate::stage::{Answer, Process, Stage};

/// Somebody with an API key, who may name a user.
struct Holder<'a> {
    gateway: &'a Process,
    key: String,
    names: Option<Uuid>,
}

impl Holder<'_> {
    async fn asks(&self, method: reqwest::Method, path: &str, body: &Value) -> Answer {
        let client = reqwest::Client::new();
        let mut request = client.request(method, self.gateway.url(path)).json(body);
        request = request.header("X-API-Key", &self.key);
        if let Some(user) = self.names {
            request = request.header("X-User-ID", user.to_string());
        }
        Answer::of(request.send().await.unwrap()).await
    }

    async fn registers(&self) -> Answer {
        let body = json!({ "url": URL, "eventTypes": ["*"] });
        self.asks(reqwest::Method::POST, "/api/webhooks", &body).await
    }

    async fn reads(&self, path: &str) -> Answer {
        self.asks(reqwest::Method::GET, path, &json!({})).await
    }
}

#[tokio::test]
async fn a_service_is_told_of_everybody_or_of_the_user_it_names() {
    let stage = Stage::new("hooks-owners").await;
    let gateway = stage.start("gateway", &[("AUTH_MODE", "api-key")]).await;
    gateway.is_ready().await;
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let holder = async |who: &[&str], names: Option<Uuid>| {
        let (_, key) = stage.new_api_key(who).await;
        Holder { gateway: &gateway, key, names }
    };
    let desk = ["--service", "desk", "--scope", "bookings.read"];
    let (service, named, stranger, user) = (
        holder(&desk, None).await,
        holder(&desk, Some(one)).await,
        holder(&desk, Some(other)).await,
        holder(&["--user", &one.to_string()], None).await,
    );

    let of_all = service.registers().await.is(201);
    let of_one = named.registers().await.is(201);
    let of_user = user.registers().await.is(201);
    assert_eq!(of_all.body.get("userId"), None);
    assert_eq!(of_one.text("userId"), one.to_string());
    assert_eq!(of_user.text("userId"), one.to_string());
    let calendars: Vec<(String, Uuid)> =
        sqlx::query_as("select owner, calendar_id from webhook_endpoints order by id")
            .fetch_all(&mut stage.database().await)
            .await
            .unwrap();
    let desk = "service:desk".to_owned();
    assert_eq!(calendars, [(desk.clone(), Uuid::nil()), (desk, one), (one.to_string(), one)]);

    let path = |answer: &Answer| format!("/api/webhooks/{}", answer.text("id"));
    for (who, reaches) in [
        (&service, [200, 200, 404]),
        (&named, [404, 200, 404]),
        (&stranger, [404, 404, 404]),
        (&user, [404, 404, 200]),
    ] {
        for (endpoint, status) in [&of_all, &of_one, &of_user].into_iter().zip(reaches) {
            who.reads(&path(endpoint)).await.is(status);
        }
        let listed = who.reads("/api/webhooks").await;
        let many = listed.body["endpoints"].as_array().map_or(0, Vec::len);
        assert_eq!(many, reaches.iter().filter(|status| **status == 200).count());
    }
}
