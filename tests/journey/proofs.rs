//! The life of what callers prove themselves with: keys of tokens that come and go, API keys that
//! are given out and taken back, and the header that is believed unless told otherwise.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::issuer::{Address, SECRET, Signer, key_set};
use crate::stage::{Answer, Process, Stage, User, at, until};

/// The caller's list of their own bookings.
async fn asks(gateway: &Process, user: Uuid, proof: &str) -> Answer {
    let url = gateway.url(&format!("/api/users/{user}/bookings"));
    let request =
        reqwest::Client::new().get(url).header("Authorization", format!("Bearer {proof}"));
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn keys_at_an_address_count_while_it_is_away() {
    let stage = Stage::new("jwks-url").await;
    let (user, signer) = (Uuid::now_v7(), Signer::ec("one"));
    let address = Address::new("500 Oops", "").await;
    let settings = [("AUTH_MODE", "jwt"), ("JWKS_URL", address.url.as_str())];
    let gateway = stage.start("gateway", &settings).await;
    let token = || signer.token(&json!({ "sub": user, "nonce": Uuid::now_v7() }));

    let refused = asks(&gateway, user, &token()).await.is(503);
    assert_eq!(refused.code(), "DEPENDENCY_UNAVAILABLE");
    address.answers("200 OK", &key_set(&[&signer]));
    until("the keys are fetched", async || asks(&gateway, user, &token()).await.status == 200)
        .await;
    address.answers("500 Oops", "");
    let made_up = Signer::ec("made up").token(&json!({ "sub": user }));
    assert_eq!(asks(&gateway, user, &made_up).await.is(401).code(), "UNAUTHENTICATED");
    asks(&gateway, user, &token()).await.is(200);
}

#[tokio::test]
async fn keys_in_a_file_are_read_at_the_start() {
    let stage = Stage::new("jwks-file").await;
    let (user, (signer, public)) = (Uuid::now_v7(), Signer::rsa("one"));
    let file = std::env::temp_dir().join(format!("booking-{}.json", Uuid::now_v7()));
    let settings = [("AUTH_MODE", "jwt"), ("JWKS_FILE", file.to_str().unwrap())];

    let mut gateway = stage.spawn("gateway", &settings);
    assert!(!gateway.ended().await.success());
    assert!(gateway.log_text().contains("JWKS_FILE"), "{}", gateway.log_text());

    std::fs::write(&file, key_set(&[&signer])).unwrap();
    let gateway = stage.start("gateway", &settings).await;
    std::fs::remove_file(&file).unwrap();
    gateway.is_ready().await;
    let claims = json!({ "sub": user });
    asks(&gateway, user, &signer.token(&claims)).await.is(200);
    let n = signer.jwk()["n"].as_str().unwrap().to_owned();
    for secret in [public, n.into_bytes(), SECRET.into()] {
        let forged = Signer::secret(&secret).named(signer.kid.clone()).token(&claims);
        asks(&gateway, user, &forged).await.is(401);
    }
    let (_, key) = stage.new_api_key(&["--user", &user.to_string()]).await;
    asks(&gateway, user, &key).await.is(401); // keys are not taken here
    let log = gateway.log_text();
    assert!(!log.contains(&key) && !log.contains(&signer.token(&claims)), "{log}");
}

#[tokio::test]
async fn an_api_key_is_shown_once_and_can_be_taken_back() {
    let stage = Stage::new("api-keys").await;
    let gateway = stage.start("gateway", &[("AUTH_MODE", "api-key")]).await;
    gateway.is_ready().await;
    let user = Uuid::now_v7();
    let (id, key) =
        stage.new_api_key(&["--user", &user.to_string(), "--description", "my phone"]).await;

    asks(&gateway, user, &key).await.is(200);
    let (_, listed) = stage.api_keys(&["list"]).await;
    assert!(listed.contains(&id) && listed.contains("my phone"), "{listed}");
    assert!(!listed.contains(key.rsplit_once('_').unwrap().1), "{listed}");
    assert!(!gateway.log_text().contains(&key));

    // No request costs a query: the key is good while nobody could look it up.
    sqlx::query("alter table api_keys rename to gone")
        .execute(&mut stage.database().await)
        .await
        .unwrap();
    asks(&gateway, user, &key).await.is(200);
    sqlx::query("alter table gone rename to api_keys")
        .execute(&mut stage.database().await)
        .await
        .unwrap();

    let (revoked, said) = stage.api_keys(&["revoke", &id]).await;
    let since = Instant::now();
    assert!(revoked, "{said}");
    until("the key is refused", async || asks(&gateway, user, &key).await.status == 401).await;
    assert!(since.elapsed() < Duration::from_secs(11), "{:?}", since.elapsed());
    assert!(stage.api_keys(&["list"]).await.1.contains("revoked"));
    assert!(!stage.api_keys(&["revoke", "0123"]).await.0);
}

#[tokio::test]
async fn a_key_is_made_for_one_holder_who_can_use_it() {
    let stage = Stage::new("holders").await;
    let user = Uuid::now_v7().to_string();
    let long = "x".repeat(129);
    for wrong in [
        &[][..],
        &["--user", "somebody"],
        &["--user", &user, "--service", "desk", "--scope", "bookings.read"],
        &["--user", &user, "--scope", "bookings.read"],
        &["--service", "desk"],
        &["--service", "desk", "--scope", "bookings.delete"],
        &["--service", "two words", "--scope", "bookings.read"],
        &["--service", &long, "--scope", "bookings.read"],
        &["--user", &user, "--expires-days", "0"],
    ] {
        let (made, said) = stage.api_keys(&[&["create"], wrong].concat()).await;
        assert!(!made, "{wrong:?}: {said}");
    }
    assert_eq!(stage.number("select count(*) from api_keys").await, 0);
    assert_eq!(stage.api_keys(&["list"]).await.1, "there are no API keys\n");
}

#[tokio::test]
async fn idempotency_keys_belong_to_who_sent_them() {
    let stage = Stage::new("tenancy").await;
    let settings = [("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];
    let (gateway, plain) = tokio::join!(stage.start("gateway", &settings), stage.gateway());
    let _worker = stage.worker().await;
    let user = User::new(&plain).who_waits();
    let service = json!({ "sub": "desk", "scope": "bookings.write" });
    let proof = format!("Bearer {}", Signer::secret(SECRET.as_bytes()).token(&service));
    // The same client at the other gateway sends X-User-ID too: on behalf of the user.
    let desk = user.at(&gateway);
    let books = async |start| {
        let headers = [("Idempotency-Key", "same"), ("Authorization", proof.as_str())];
        desk.post("/api/bookings", &headers, desk.slot(start, start + 30)).await
    };

    let own = user.books_with_key("same", user.slot(0, 30)).await.is(201);
    let by_desk = books(60).await.is(201);
    assert_ne!(own.text("id"), by_desk.text("id"));
    let again = books(60).await.is(201);
    assert_eq!((again.header("idempotency-replayed"), &again.raw), ("true", &by_desk.raw));
    assert_eq!(books(90).await.is(422).code(), "IDEMPOTENCY_KEY_REUSED");
    user.get(&format!("/api/bookings/{}", by_desk.text("id"))).await.is(200);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_door_that_believes_everybody_says_so() {
    let stage = Stage::new("open-door").await;
    let warns = |process: &Process| process.log_text().contains("CAN ACT AS ANY USER");
    let open = stage.start("gateway", &[("HOST", "0.0.0.0")]).await;
    assert!(warns(&open), "{}", open.log_text());
    let proofs = [("HOST", "0.0.0.0"), ("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];
    for settings in [&[("HOST", "127.0.0.1")][..], &proofs] {
        let quiet = stage.start("gateway", settings).await;
        assert!(!warns(&quiet), "{}", quiet.log_text());
    }
}

/// Also of the commands that it sent itself: what it asks for one user is shown to that user.
#[tokio::test]
async fn a_service_that_names_a_user_reaches_only_what_is_theirs() {
    let stage = Stage::new("on-behalf").await;
    let settings = [("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];
    let gateway = stage.start("gateway", &settings).await;
    gateway.is_ready().await;
    let claims = json!({ "sub": "desk", "scope": "bookings.write" });
    let token = Signer::secret(SECRET.as_bytes()).token(&claims);
    let (client, owner) = (reqwest::Client::new(), Uuid::now_v7());
    let body = json!({ "userId": owner, "startTime": at(0), "endTime": at(30) });
    let booked = client
        .post(gateway.url("/api/bookings"))
        .header("Authorization", format!("Bearer {token}"))
        .header("Idempotency-Key", "one")
        .header("Content-Type", "application/json")
        .body(body.to_string());
    let booked = Answer::of(booked.send().await.unwrap()).await.is(202);
    let command = gateway.url(&format!("/api/commands/{}", booked.text("commandId")));
    for (named, status) in [(None, 200), (Some(owner), 200), (Some(Uuid::now_v7()), 404)] {
        let mut asked = client.get(&command).header("Authorization", format!("Bearer {token}"));
        if let Some(user) = named {
            asked = asked.header("X-User-ID", user.to_string());
        }
        Answer::of(asked.send().await.unwrap()).await.is(status);
    }
}
