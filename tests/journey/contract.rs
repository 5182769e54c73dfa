//! Real answers against the document: status, content type, headers and body of each, and nothing
//! in a body that the document does not name.

use booking::http::contract::document;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cast::Cast;
use crate::stage::{Answer, Stage, User};
use crate::webhooks::{Fate, plant};

/// The document, read strictly: its objects are closed.
struct Contract(Value);

impl Contract {
    fn new() -> Self {
        let mut document = document();
        for schema in document["components"]["schemas"].as_object_mut().unwrap().values_mut() {
            if schema["properties"].is_object() {
                schema["additionalProperties"] = false.into();
            }
        }
        Self(document)
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(path) = value["$ref"].as_str() else { return value };
        self.0.pointer(path.trim_start_matches('#')).unwrap()
    }

    /// Fails unless the document names this answer.
    #[track_caller]
    fn names(&self, method: &str, path: &str, answer: &Answer) {
        let responses = &self.0["paths"][path][method]["responses"];
        let response = self.resolved(&responses[answer.status.to_string()]);
        assert!(response.is_object(), "{method} {path}: {} is not named", answer.status);
        let headers = response["headers"].as_object().unwrap();
        for (name, header) in headers {
            let required = self.resolved(header)["required"] == true;
            assert!(!required || answer.headers.contains_key(name), "{method} {path}: no {name}");
        }
        let Some(content) = response["content"].as_object() else {
            assert_eq!(answer.raw, "");
            return;
        };
        let (media_type, content) = content.iter().next().unwrap();
        assert_eq!(answer.header("Content-Type"), media_type, "{method} {path}");
        if !media_type.ends_with("json") {
            return;
        }
        let schema = json!({
            "allOf": [content["schema"]], "components": self.0["components"]
        });
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(&answer.body).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{method} {path}: {errors:?}\n{:#}", answer.body);
    }
}

#[tokio::test]
async fn every_operation_answers_as_the_contract_says() {
    let stage = Stage::new("contract").await;
    let cast = Cast::of(&stage).await;
    let (user, contract) = (cast.user(), Contract::new());
    let waiting = user.who_waits();
    let create = "/api/bookings";
    let accepted = user.books(0, 30).await.is(202);
    contract.names("post", create, &accepted);
    contract.names("get", "/api/commands/{id}", &user.polls(&accepted).await);
    contract.names("post", create, &waiting.books(0, 30).await.is(409));
    let held = waiting.holds(60, 90, 600).await.is(201);
    contract.names("post", create, &held);
    let id = held.text("id").to_owned();
    contract.names("post", create, &user.post(create, &[], user.slot(1, 2)).await.is(400));
    contract.names("post", create, &user.post(create, &[], json!([])).await.is(400));
    contract.names("post", create, &cast.user().post(create, &[], user.slot(1, 2)).await.is(403));

    let one = "/api/bookings/{id}";
    contract.names("get", one, &user.get(&format!("/api/bookings/{id}")).await.is(200));
    contract.names("get", one, &user.get_unless(&format!("/api/bookings/{id}"), "*").await.is(304));
    contract.names("get", one, &user.get(&format!("/api/bookings/{}", Uuid::nil())).await.is(404));
    contract.names("post", &format!("{one}/confirm"), &waiting.confirms(&id).await.is(200));
    contract.names("post", &format!("{one}/confirm"), &waiting.confirms(&id).await.is(409));
    contract.names(
        "post",
        &format!("{one}/reschedule"),
        &waiting.reschedules(&id, 0, 30).await.is(409),
    );
    contract.names(
        "post",
        &format!("{one}/reschedule"),
        &waiting.reschedules(&id, 120, 150).await.is(200),
    );
    contract.names(
        "post",
        &format!("{one}/reschedule"),
        &waiting.reschedules(&id, 9, 5).await.is(422),
    );
    contract.names("post", &format!("{one}/cancel"), &waiting.cancels(&id).await.is(200));
    contract.names("post", &format!("{one}/cancel"), &waiting.cancels(&id).await.is(409));
    contract.names(
        "get",
        &format!("{one}/history"),
        &user.get(&format!("/api/bookings/{id}/history")).await.is(200),
    );

    let calendar = "/api/users/{id}";
    for (what, path) in [
        ("bookings", "bookings?limit=1"),
        ("bookings", "bookings"),
        ("availability", "availability"),
        ("slots", "slots?startDate=2031-03-03&endDate=2031-03-03"),
        ("slots", "slots?startDate=2031-03-03&endDate=2031-06-03"),
    ] {
        let answer = user.get(&format!("/api/users/{}/{path}", user.id)).await;
        contract.names("get", &format!("{calendar}/{what}"), &answer);
        let other = user.get(&format!("/api/users/{}/{path}", Uuid::nil())).await.is(403);
        contract.names("get", &format!("{calendar}/{what}"), &other);
    }
    for path in ["/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"] {
        contract.names("get", path, &user.get(path).await.is(200));
    }
}

#[tokio::test]
async fn every_operation_on_webhooks_answers_as_the_contract_says() {
    let stage = Stage::new("contract-hooks").await;
    let gateway = stage.gateway().await;
    let (user, contract) = (User::new(&gateway), Contract::new());
    let all = "/api/webhooks";
    let new = json!({ "url": "https://example.org", "eventTypes": ["*"], "description": "x" });
    let made = user.post(all, &[], new).await.is(201);
    contract.names("post", all, &made);
    contract.names("post", all, &user.post(all, &[], json!({})).await.is(400));
    contract.names("get", all, &user.get("/api/webhooks?limit=1").await.is(200));

    let (template, never) = (format!("{all}/{{id}}"), Uuid::now_v7().to_string());
    let id = made.text("id").to_owned();
    let body = |what: &str| match what {
        "recover" => json!({ "since": chrono::Utc::now() - chrono::TimeDelta::minutes(60) }),
        _ => json!({}),
    };
    for (path, status) in [(format!("{all}/{id}"), 200), (format!("{all}/{never}"), 404)] {
        contract.names("get", &template, &user.get(&path).await.is(status));
        let change = json!({ "enabled": true });
        contract.names("patch", &template, &user.patch(&path, change).await.is(status));
        for (what, done) in [("rotate-secret", 200), ("test", 202), ("recover", 202)] {
            let status = if status == 200 { done } else { status };
            let answer = user.post(&format!("{path}/{what}"), &[], body(what)).await.is(status);
            contract.names("post", &format!("{template}/{what}"), &answer);
        }
        let log = user.get(&format!("{path}/deliveries")).await.is(status);
        contract.names("get", &format!("{template}/deliveries"), &log);
    }
    let mut told = user.slot(0, 30);
    told["callbackUrl"] = json!("https://example.net/told");
    user.books_with_key("told", told).await.is(202);
    let listed = user.get(all).await.is(200).body["endpoints"].clone();
    let target = listed.as_array().unwrap().iter().find(|one| one["kind"] == "callback").unwrap();
    let target = format!("{all}/{}", target["id"].as_str().unwrap());
    let moved = user.patch(&target, json!({ "url": "https://example.org" })).await.is(409);
    contract.names("patch", &template, &moved);
    let early = user.post(&format!("{all}/{id}/recover"), &[], json!({ "since": EARLY })).await;
    contract.names("post", &format!("{template}/recover"), &early.is(422));

    let template = format!("{template}/deliveries/{{deliveryId}}");
    for fate in [Fate::Pending, Fate::Delivered, Fate::Exhausted, Fate::Retried] {
        let delivery = plant(&stage, &id, 5, "booking.held", fate).await;
        for (delivery, there) in [(&delivery, true), (&never, false)] {
            let status = |there_is| if there { there_is } else { 404 };
            let path = format!("{all}/{id}/deliveries/{delivery}");
            contract.names("get", &template, &user.get(&path).await.is(status(200)));
            let tried = user.get(&format!("{path}/attempts")).await.is(status(200));
            contract.names("get", &format!("{template}/attempts"), &tried);
            let again = user.post(&format!("{path}/redeliver"), &[], json!({})).await;
            contract.names("post", &format!("{template}/redeliver"), &again.is(status(202)));
        }
    }
    let path = format!("{all}/{id}");
    contract.names(
        "get",
        &format!("{all}/{{id}}/deliveries"),
        &user.get(&format!("{path}/deliveries")).await,
    );
    user.patch(&path, json!({ "enabled": false })).await.is(200);
    for what in ["test", "recover"] {
        let refused = user.post(&format!("{path}/{what}"), &[], body(what)).await.is(409);
        contract.names("post", &format!("{all}/{{id}}/{what}"), &refused);
    }
    for status in [204, 404] {
        contract.names("delete", &format!("{all}/{{id}}"), &user.delete(&path).await.is(status));
    }
}

/// Before anything that is kept.
const EARLY: &str = "2020-01-01T00:00:00Z";
