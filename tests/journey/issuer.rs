//! Whoever gives out proofs in a test: an issuer of tokens with its published keys, and the
//! command line for API keys.

use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaKeyPair,
};
use chrono::Utc;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::stage::Stage;

/// The secret of tokens signed with HS256.
pub const SECRET: &str = "a secret of the tests, 32 bytes long";

/// A key that signs tokens.
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    pub kid: Option<String>,
}

impl Signer {
    pub fn secret(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::HS256, key: EncodingKey::from_secret(secret), kid: None }
    }

    pub fn ec(kid: &str) -> Self {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let key = EncodingKey::from_ec_der(pkcs8.unwrap().as_ref());
        Self { algorithm: Algorithm::ES256, key, kid: Some(kid.to_owned()) }
    }

    /// Also its public key as the bytes that others may know, for whoever misuses them.
    pub fn rsa(kid: &str) -> (Self, Vec<u8>) {
        const PKCS8_HEAD: usize = 26; // before the key itself, which is what the library takes
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = pair.as_der().unwrap();
        let key = EncodingKey::from_rsa_der(&pkcs8.as_ref()[PKCS8_HEAD..]);
        let public = pair.public_key().as_ref().to_vec();
        (Self { algorithm: Algorithm::RS256, key, kid: Some(kid.to_owned()) }, public)
    }

    pub fn named(self, kid: Option<String>) -> Self {
        Self { kid, ..self }
    }

    pub fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// A token with these claims, for ten minutes unless they say otherwise.
    pub fn token(&self, claims: &Value) -> String {
        let mut claims = claims.clone();
        if claims["exp"].is_null() {
            claims["exp"] = json!(Utc::now().timestamp() + 600);
        }
        let header = Header { kid: self.kid.clone(), ..Header::new(self.algorithm) };
        encode(&header, &claims, &self.key).unwrap()
    }
}

/// A JSON Web Key Set of these keys.
pub fn key_set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// An address that answers every request with what it was last told to.
pub struct Address {
    pub url: String,
    answer: Arc<Mutex<String>>,
}

impl Address {
    pub async fn new(status: &str, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let address = Self { url, answer: Arc::default() };
        address.answers(status, body);
        let answer = address.answer.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.lock().unwrap().clone();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await; // one small request arrives at once
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    pub fn answers(&self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
        let answer = format!("{head}Connection: close\r\n\r\n{body}");
        *self.answer.lock().unwrap() = answer;
    }
}

impl Stage {
    /// `booking api-keys …`, and whether it succeeded and all it said.
    pub async fn api_keys(&self, arguments: &[&str]) -> (bool, String) {
        let ran = Command::new(env!("CARGO_BIN_EXE_booking"))
            .arg("api-keys")
            .args(arguments)
            .env("DATABASE_URL", &self.database_url)
            .output();
        let ran = ran.await.unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        (ran.status.success(), String::from_utf8(said).unwrap())
    }

    /// A new API key: its id and its text.
    pub async fn new_api_key(&self, holder: &[&str]) -> (String, String) {
        let (made, said) = self.api_keys(&[&["create"], holder].concat()).await;
        assert!(made, "{said}");
        let key = said.lines().next().unwrap().to_owned();
        (key.split('_').nth(1).unwrap().to_owned(), key)
    }
}
