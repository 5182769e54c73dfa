//! One caller of every kind: users and services with tokens and keys, and whoever only claims to be
//! one.

use chrono::Utc;
use serde_json::json;
use uuid::Uuid;

use super::Door;
use super::routes::Standing::{self, Forbidden, Owner, Reader, Stranger, Unknown, Writer};
use crate::issuer::{SECRET, Signer};

pub struct Caller {
    pub what: &'static str,
    pub standing: Standing,
    pub headers: Vec<(&'static str, String)>,
}

fn bearer(what: &'static str, standing: Standing, proof: &str) -> Caller {
    Caller { what, standing, headers: vec![("Authorization", format!("Bearer {proof}"))] }
}

/// The same caller, who names a user.
fn naming(what: &'static str, standing: Standing, caller: &Caller, user: Uuid) -> Caller {
    let mut headers = caller.headers.clone();
    headers.push(("X-User-ID", user.to_string()));
    Caller { what, standing, headers }
}

/// One of every kind, whose tokens are signed by the secret or by the published keys.
pub async fn everybody(door: &Door, rsa: &Signer, public: &[u8], ec: &Signer) -> Vec<Caller> {
    let (owner, stranger) = (door.owner.id, Uuid::now_v7());
    let secret = Signer::secret(SECRET.as_bytes());
    let user = json!({ "sub": owner });
    let service = |scope: &str| secret.token(&json!({ "sub": "desk", "scope": scope }));
    let mut callers = vec![
        bearer("the owner", Owner, &secret.token(&user)),
        bearer("the owner, RS256", Owner, &rsa.token(&user)),
        bearer("the owner, ES256", Owner, &ec.token(&user)),
        bearer("a service that writes", Writer, &service("bookings.write")),
        bearer(
            "a service that reads",
            Reader,
            &rsa.token(&json!({ "sub": "eye", "scp": ["bookings.read"] })),
        ),
        bearer(
            "another user",
            Stranger,
            &ec.token(&json!({ "sub": stranger, "scope": "bookings.write" })),
        ),
        bearer("a service without scopes", Forbidden, &service("openid")),
    ];
    let [by_owner, by_service, by_stranger] = [0, 3, 5].map(|of: usize| &callers[of]);
    let named = [
        naming("the owner, who names themself", Owner, by_owner, owner),
        naming("a service that names the owner", Writer, by_service, owner),
        naming("a service that names another user", Stranger, by_service, stranger),
        naming("another user, who names the owner", Forbidden, by_stranger, owner),
    ];
    callers.extend(named);
    callers.extend(keyholders(door, stranger).await);
    callers.extend(impostors(owner, rsa, public));
    callers
}

/// API keys of all kinds.
async fn keyholders(door: &Door, stranger: Uuid) -> Vec<Caller> {
    let key = async |holder: &[&str]| door.stage.new_api_key(holder).await;
    let owner = door.owner.id.to_string();
    let (id, of_owner) = key(&["--user", &owner]).await;
    let (_, of_stranger) = key(&["--user", &stranger.to_string()]).await;
    let (_, writes) = key(&["--service", "desk", "--scope", "bookings.write"]).await;
    let (_, reads) = key(&["--service", "eye", "--scope", "bookings.read"]).await;
    let (revoked, of_former) = key(&["--user", &owner]).await;
    let (expired, of_late) = key(&["--user", &owner, "--expires-days", "1"]).await;
    assert!(door.stage.api_keys(&["revoke", &revoked]).await.0);
    sqlx::query("update api_keys set expires_at = now() where id = $1")
        .bind(&expired)
        .execute(&mut door.stage.database().await)
        .await
        .unwrap();
    let (_, other_secret) = of_stranger.rsplit_once('_').unwrap();
    vec![
        bearer("the owner's key", Owner, &of_owner),
        Caller {
            headers: vec![("X-API-Key", of_owner.clone())],
            ..bearer("in X-API-Key", Owner, "")
        },
        bearer("a key that writes", Writer, &writes),
        bearer("a key that reads", Reader, &reads),
        bearer("another user's key", Stranger, &of_stranger),
        bearer("a revoked key", Unknown, &of_former),
        bearer("an expired key", Unknown, &of_late),
        bearer("a key with another's secret", Unknown, &format!("bk_{id}_{other_secret}")),
        bearer("a key that never was", Unknown, &of_owner.replace(&id, "0123456789abcdef")),
    ]
}

/// Whoever claims to be the owner and proves nothing.
fn impostors(owner: Uuid, rsa: &Signer, public: &[u8]) -> Vec<Caller> {
    let secret = Signer::secret(SECRET.as_bytes());
    let user = json!({ "sub": owner });
    let good = secret.token(&user);
    let payload = good.split('.').nth(1).unwrap();
    let as_secret = |bytes: &[u8]| Signer::secret(bytes).named(rsa.kid.clone()).token(&user);
    let expired = json!({ "sub": owner, "exp": Utc::now().timestamp() - 60 });
    let early = json!({ "sub": owner, "nbf": Utc::now().timestamp() + 600 });
    let (namesake, _) = Signer::rsa(rsa.kid.as_deref().unwrap());
    let nobody = Caller { headers: Vec::new(), ..bearer("nobody", Unknown, "") };
    vec![
        naming("nobody, who names the owner", Unknown, &nobody, owner),
        nobody,
        bearer("an expired token", Unknown, &secret.token(&expired)),
        bearer("an expired token, RS256", Unknown, &rsa.token(&expired)),
        bearer("a token of tomorrow", Unknown, &secret.token(&early)),
        bearer("a wrong secret", Unknown, &Signer::secret(&[7; 32]).token(&user)),
        bearer("a wrong key of the same name", Unknown, &namesake.token(&user)),
        bearer("an unknown key", Unknown, &Signer::ec("unknown").token(&user)),
        // {"alg":"none"}
        bearer("no algorithm", Unknown, &format!("eyJhbGciOiJub25lIn0.{payload}.")),
        bearer("no signature", Unknown, good.rsplit_once('.').unwrap().0),
        bearer("a public key as the secret", Unknown, &as_secret(public)),
        bearer(
            "the same, as text",
            Unknown,
            &as_secret(rsa.jwk()["n"].as_str().unwrap().as_bytes()),
        ),
        bearer("a user's id as the proof", Unknown, &owner.to_string()),
    ]
}
