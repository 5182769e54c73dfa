//! How callers prove who they are.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use url::{Host, Url};

/// Shorter secrets of HS256 are refused: the signature would be no stronger than they are.
const MIN_SECRET_BYTES: usize = 32;

/// The settings as given. The comments are the `--help` text.
#[derive(Args, Clone, Debug)]
pub struct IdentitySettings {
    /// How callers are known: trusted-header (by X-User-ID, which only a proxy in front may set),
    /// jwt, api-key, or jwt,api-key
    #[arg(long, env = "AUTH_MODE", default_value = "trusted-header")]
    pub auth_mode: String,

    /// Secret of tokens signed with HS256, at least 32 bytes
    #[arg(
        long,
        env = "JWT_SECRET",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub jwt_secret: String,

    /// File of the public keys (a JSON Web Key Set) of tokens signed with RS256 or ES256; read
    /// again when it changes
    #[arg(long, env = "JWKS_FILE", default_value = "", hide_default_value = true)]
    pub jwks_file: String,

    /// The same at an address: https, or http on this machine
    #[arg(long, env = "JWKS_URL", default_value = "", hide_default_value = true)]
    pub jwks_url: String,

    /// Whose tokens are taken: the claim iss must be this. Empty: anybody's who has the key
    #[arg(long, env = "JWT_ISSUER", default_value = "", hide_default_value = true)]
    pub jwt_issuer: String,

    /// For whom tokens must be meant: the claim aud must hold this. Empty: only tokens without aud
    #[arg(long, env = "JWT_AUDIENCE", default_value = "", hide_default_value = true)]
    pub jwt_audience: String,
}

/// How callers are known.
#[derive(Clone)]
pub enum Identity {
    /// By the header `X-User-ID`, which whoever can reach the port can set.
    TrustedHeader,
    /// By what each request proves.
    Proof { tokens: Option<Tokens>, api_keys: bool },
}

/// Which tokens are taken. Never log it: it may hold the secret.
#[derive(Clone, Default)]
pub struct Tokens {
    pub secret: Option<String>,
    pub published: Option<KeySource>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

/// Where the public keys of tokens are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    Url(Url),
}

impl IdentitySettings {
    pub(super) fn check(&self, errors: &mut Vec<String>) -> Identity {
        let modes: Vec<&str> = self.auth_mode.split(',').map(str::trim).collect();
        let has = |mode| modes.contains(&mode);
        if modes != ["trusted-header"] && !modes.iter().all(|m| ["jwt", "api-key"].contains(m)) {
            let given = &self.auth_mode;
            errors.push(format!(
                "AUTH_MODE is {given:?}; it must be trusted-header, jwt, api-key or jwt,api-key"
            ));
        }
        let tokens = self.tokens(errors);
        if !has("jwt") {
            self.refuse_unused(errors);
        } else if tokens.secret.is_none() && tokens.published.is_none() {
            errors.push(format!(
                "AUTH_MODE is {:?}; jwt needs JWT_SECRET, JWKS_FILE or JWKS_URL",
                self.auth_mode
            ));
        }
        match (has("jwt"), has("api-key")) {
            (false, false) => Identity::TrustedHeader,
            (jwt, api_keys) => Identity::Proof { tokens: jwt.then_some(tokens), api_keys },
        }
    }

    /// Who sets a key wants it asked for. To ignore it would leave the door open unnoticed.
    fn refuse_unused(&self, errors: &mut Vec<String>) {
        let given = [
            ("JWT_SECRET", &self.jwt_secret),
            ("JWKS_FILE", &self.jwks_file),
            ("JWKS_URL", &self.jwks_url),
            ("JWT_ISSUER", &self.jwt_issuer),
            ("JWT_AUDIENCE", &self.jwt_audience),
        ];
        for (name, _) in given.iter().filter(|(_, value)| !value.is_empty()) {
            errors.push(format!("{name} is set, but AUTH_MODE does not say jwt"));
        }
    }

    fn tokens(&self, errors: &mut Vec<String>) -> Tokens {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let secret = given(&self.jwt_secret);
        if secret.as_ref().is_some_and(|secret| secret.len() < MIN_SECRET_BYTES) {
            errors.push(format!("JWT_SECRET is too short; it must have {MIN_SECRET_BYTES} bytes"));
        }
        let published = match (given(&self.jwks_file), given(&self.jwks_url)) {
            (Some(_), Some(_)) => {
                errors.push("JWKS_URL is set, and JWKS_FILE too; set one of them".to_owned());
                None
            }
            (Some(file), None) => Some(KeySource::File(file.into())),
            (None, Some(url)) => key_url(&url, errors).map(KeySource::Url),
            (None, None) => None,
        };
        let (issuer, audience) = (given(&self.jwt_issuer), given(&self.jwt_audience));
        Tokens { secret, published, issuer, audience }
    }
}

/// Whoever can change the keys on their way can be anybody, so they come over TLS.
fn key_url(given: &str, errors: &mut Vec<String>) -> Option<Url> {
    let url = Url::parse(given).ok().filter(|url| match url.scheme() {
        "https" => url.has_host(),
        "http" => is_this_machine(url),
        _ => false,
    });
    if url.is_none() {
        errors.push(
            "JWKS_URL is not usable; it must be a URL that begins with https://, or with http:// \
             on this machine"
                .to_owned(),
        );
    }
    url
}

/// Whether the URL's host is this machine.
pub fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: IdentitySettings,
    }

    const SECRET: &str = "--jwt-secret=0123456789abcdef0123456789abcdef";

    fn check(flags: &[&str]) -> (Identity, Vec<String>) {
        let mut errors = Vec::new();
        let cli = Cli::parse_from([&["booking"], flags].concat());
        (cli.settings.check(&mut errors), errors)
    }

    #[test]
    fn the_default_trusts_the_header() {
        let (identity, errors) = check(&[]);
        assert!(matches!(identity, Identity::TrustedHeader) && errors.is_empty());
    }

    #[test]
    fn proofs_can_be_combined() {
        let (identity, errors) = check(&["--auth-mode=jwt, api-key", SECRET]);
        assert!(errors.is_empty(), "{errors:?}");
        assert!(matches!(identity, Identity::Proof { tokens: Some(_), api_keys: true }));
        let (identity, errors) = check(&["--auth-mode=api-key"]);
        assert!(matches!(identity, Identity::Proof { tokens: None, api_keys: true }));
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn what_would_leave_the_door_open_is_refused_by_name() {
        for (name, flags) in [
            ("AUTH_MODE is \"none\"", &["--auth-mode=none"][..]),
            ("AUTH_MODE is \"\"", &["--auth-mode="]),
            ("AUTH_MODE is \"jwt\"", &["--auth-mode=jwt"]),
            ("AUTH_MODE is \"trusted-header,jwt\"", &["--auth-mode=trusted-header,jwt", SECRET]),
            ("JWT_SECRET is set", &[SECRET]),
            ("JWT_ISSUER is set", &["--auth-mode=api-key", "--jwt-issuer=me"]),
            ("JWT_SECRET is too short", &["--auth-mode=jwt", "--jwt-secret=secret"]),
            ("JWKS_URL is not usable", &["--auth-mode=jwt", "--jwks-url=http://keys.example/"]),
            ("JWKS_URL is not usable", &["--auth-mode=jwt", "--jwks-url=file:///etc/passwd"]),
            ("JWKS_URL is set", &["--auth-mode=jwt", "--jwks-url=https://k/", "--jwks-file=k"]),
        ] {
            let (_, errors) = check(flags);
            assert!(errors.iter().any(|error| error.starts_with(name)), "{name} in {errors:?}");
            assert!(!errors.concat().contains("0123456789"), "{errors:?}");
        }
        for url in ["https://keys.example/jwks", "http://127.0.0.1:1/", "http://[::1]/"] {
            assert_eq!(check(&["--auth-mode=jwt", "--jwks-url", url]).1, Vec::<String>::new());
        }
    }
}
