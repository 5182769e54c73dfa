//! PostgreSQL, RabbitMQ and Redis that speak TLS and nothing else, and let in one user of ours, with
//! a password, who is nobody's administrator.

use std::path::{Path, PathBuf};
use std::process::Command;

use booking::dev::{Servers, Settings, Tls};
use booking::lease;
use serde_json::json;
use url::Url;

use crate::servers::{SECURED_VHOSTS, Set};

const USER: &str = "front_desk";
/// Full of what means something in a URL.
const PASSWORD: &str = "p@ss/w:rd?#&=";

/// Starts them in a folder, and locks them: the users they began with do not get in any more.
pub async fn start(dir: &Path) -> (Servers, Set) {
    let certificates = Certificates::within(dir);
    let tls = certificates.servers();
    let authority = tls.authority.clone();
    let settings = Settings {
        dir: dir.to_owned(),
        postgres: true,
        rabbitmq: true,
        redis: true,
        vhosts: SECURED_VHOSTS,
        tls: Some(tls),
    };
    let servers = Servers::start(&settings).await.unwrap();
    let set = Set::of(&servers, SECURED_VHOSTS);
    tokio::join!(lock_postgres(&servers, dir), lock_rabbitmq(&set, dir), lock_redis(&set.redis),);
    let ours = Set {
        postgres: as_us(&set.postgres),
        rabbitmq: as_us(&set.rabbitmq),
        redis: as_us(&set.redis),
        authority: Some(authority),
        ..set
    };
    (servers, ours)
}

fn as_us(url: &str) -> String {
    let mut url = Url::parse(url).unwrap();
    url.set_username(USER).unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.into()
}

/// A role that may make databases, as whoever installs us does, and that comes by TLS.
async fn lock_postgres(servers: &Servers, dir: &Path) {
    let postgres = servers.postgres.as_ref().unwrap();
    let create = format!("create role {USER} login createdb password '{PASSWORD}'");
    postgres.sql("postgres", &create).await.unwrap();
    let only = format!("hostssl all {USER} 127.0.0.1/32 scram-sha-256\n");
    std::fs::write(dir.join("postgres/data/pg_hba.conf"), only).unwrap();
    postgres.sql("postgres", "select pg_reload_conf()").await.unwrap();
}

async fn lock_rabbitmq(set: &Set, dir: &Path) {
    let permissions = (1..=SECURED_VHOSTS).map(|number| {
        let vhost = format!("t{number}");
        json!({ "user": USER, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*" })
    });
    let definitions = json!({
        "users": [{ "name": USER, "password": PASSWORD, "tags": "" }],
        "permissions": permissions.collect::<Vec<_>>(),
    });
    let file = dir.join("user.json");
    std::fs::write(&file, definitions.to_string()).unwrap();
    for words in [["import_definitions", file.to_str().unwrap()], ["delete_user", "guest"]] {
        let mut command = tokio::process::Command::new(&set.control.program);
        command.args(words).envs(set.control.env.iter().map(|(name, value)| (name, value)));
        let done = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.success(), "{words:?}: {said}");
    }
}

/// What the doctor advises: keys and channels of ours, and nothing dangerous.
async fn lock_redis(url: &str) {
    let client = lease::client(url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let password = format!(">{PASSWORD}");
    for words in [
        &["ACL", "SETUSER", USER, "on", &password, "~t*", "&t*", "+@all", "-@dangerous", "+info"][..],
        &["ACL", "SETUSER", "default", "off"],
    ] {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async::<()>(&mut redis).await.unwrap();
    }
}

/// Two authorities, and certificates for `localhost`.
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn within(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let made = Self(dir.to_owned());
        made.authority("authority");
        made.authority("stranger");
        made.certificate("server", "authority");
        made
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn servers(&self) -> Tls {
        Tls {
            authority: self.file("authority.pem"),
            certificate: self.file("server.pem"),
            key: self.file("server.key"),
        }
    }

    fn authority(&self, name: &str) {
        self.openssl(
            name,
            &["-subj", &format!("/CN={name}")],
            &["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"],
        );
    }

    fn certificate(&self, name: &str, authority: &str) {
        let (by, key) =
            (self.file(&format!("{authority}.pem")), self.file(&format!("{authority}.key")));
        let signed =
            ["-subj", "/CN=server", "-CA", by.to_str().unwrap(), "-CAkey", key.to_str().unwrap()];
        self.openssl(
            name,
            &signed,
            &["basicConstraints=critical,CA:FALSE", "subjectAltName=DNS:localhost"],
        );
    }

    /// By the program that every machine with Debian's PostgreSQL has.
    fn openssl(&self, name: &str, words: &[&str], extensions: &[&str]) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-nodes", "-days", "2"]).args(words);
        openssl.args(extensions.iter().flat_map(|extension| ["-addext", *extension]));
        openssl.arg("-keyout").arg(self.file(&format!("{name}.key")));
        openssl.arg("-out").arg(self.file(&format!("{name}.pem")));
        let made = openssl.output().expect("openssl is needed: apt-get install openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}
