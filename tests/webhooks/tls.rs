//! Receivers with certificates: the one for the name, from an authority that is known, or none.
//!
//! Which authorities are known is read when a process makes its first client, so the attempts
//! are made by a process of its own, which runs the same test again and knows one certificate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use booking::webhooks::address::Policy;
use booking::webhooks::sender::{Outcome, Sender};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::attempt::{AMPLE, names, outcome};
use crate::receiver::{Answer, Receiver};

const TEST: &str = "tls::only_a_known_certificate_for_the_name_is_trusted";
const FOLDER: &str = "BOOKING_TEST_CERTIFICATES";
const NAME: &str = "hooks.example.org";

#[tokio::test]
async fn only_a_known_certificate_for_the_name_is_trusted() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return attempts(Path::new(&folder)).await;
    }
    let folder = Folder::new();
    make_certificate(&folder.0, "known");
    make_certificate(&folder.0, "unknown");
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", TEST]).env(FOLDER, &folder.0);
    test.env("SSL_CERT_FILE", folder.0.join("known.pem")).env_remove("SSL_CERT_DIR");
    let run = tokio::task::spawn_blocking(move || test.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

async fn attempts(folder: &Path) {
    let policy = Policy::new(&[443], true);
    let sender = Sender::with(policy, AMPLE, names(&[&["127.0.0.1"]])).unwrap();
    let not_trusted = Outcome::Unreachable { reason: "tls" };
    for (certificate, name, expected) in [
        ("known", NAME, Outcome::Delivered { status: 200 }),
        ("known", "other.example.org", not_trusted.clone()),
        ("unknown", NAME, not_trusted),
    ] {
        let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
        let tls = acceptor(folder, certificate);
        let receiver = Receiver::start_tls(Answer::Bytes(bytes), tls).await;
        let url = format!("https://{name}:{}/hook", receiver.port);
        let delivered = usize::from(expected == Outcome::Delivered { status: 200 });
        assert_eq!(outcome(&sender, &url).await, expected, "{certificate} for {name}");
        assert_eq!(receiver.requests().len(), delivered, "{certificate} for {name}");
    }
}

fn acceptor(folder: &Path, name: &str) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()))
}

/// By the program that every machine with Debian's PostgreSQL has.
fn make_certificate(folder: &Path, name: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=receiver"]);
    openssl.args(["-addext", &format!("subjectAltName=DNS:{NAME}")]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.arg("-keyout").arg(folder.join(format!("{name}.key")));
    openssl.arg("-out").arg(folder.join(format!("{name}.pem")));
    let made = openssl.output().expect("openssl is needed: apt-get install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A folder for certificates, gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("booking-certificates-{}", uuid::Uuid::now_v7());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
