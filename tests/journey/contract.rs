//! Real answers against the document: status, content type, headers and body of each, and nothing
//! in a body that the document does not name.

use booking::http::contract::document;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cast::Cast;
use crate::stage::{Answer, Stage};

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
