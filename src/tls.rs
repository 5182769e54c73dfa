//! TLS to our servers: whom we trust, and what a handshake that failed means to an operator.
//!
//! A server's URL says whether it is reached by TLS, and may name a file of authorities (PEM) in the
//! parameter that this server's own tools know; `TLS_CA_FILE` is put in there where a URL names none
//! (`config/authorities.rs`). Trusted are the authorities of the system and those of the file. Nothing
//! here switches the checks off. The cryptography is aws-lc-rs, for all of them.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};
use url::Url;

/// The parameter of a `postgres://` URL that names a file of authorities: libpq's.
pub const POSTGRES_AUTHORITIES: &str = "sslrootcert";
/// That of an `amqps://` URL: `RabbitMQ`'s.
pub const RABBITMQ_AUTHORITIES: &str = "cacertfile";
/// That of a `rediss://` URL: redis-py's.
pub const REDIS_AUTHORITIES: &str = "ssl_ca_certs";

/// Why there is no TLS connection, and what mends that. It begins in the middle of a sentence about
/// the server, and holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The file of authorities that the URL names in `parameter`.
pub fn named_in(url: &str, parameter: &str) -> Option<PathBuf> {
    let url = Url::parse(url).ok()?;
    let mut pairs = url.query_pairs();
    pairs.find(|(name, _)| name == parameter).map(|(_, file)| PathBuf::from(file.as_ref()))
}

/// The certificates of a file of authorities.
///
/// # Errors
/// When the file cannot be read, or holds no certificate, or one that is none of an authority.
pub fn authorities(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let wrong = |cause: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {cause}", file.display()))
    };
    let text = std::fs::read(file)
        .map_err(|cause| io::Error::new(cause.kind(), format!("{}: {cause}", file.display())))?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| wrong(format!("a certificate cannot be read: {cause}")))?;
    if certificates.is_empty() {
        return Err(wrong("it holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|cause| wrong(format!("a certificate cannot be used: {cause}")))?;
    }
    Ok(certificates)
}

/// The system's authorities that can be used, and those of the file.
fn trusted(file: Option<&Path>) -> io::Result<Vec<CertificateDer<'static>>> {
    let mut trusted = file.map_or_else(|| Ok(Vec::new()), authorities)?;
    // SSL_CERT_FILE and SSL_CERT_DIR name others. What cannot be read there is trusted by nobody.
    let mut usable = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs().certs.into_iter();
    trusted.extend(system.filter(|certificate| usable.add(certificate.clone()).is_ok()));
    if trusted.is_empty() {
        let cause = "no authority is trusted: the system has none, and TLS_CA_FILE names none";
        return Err(io::Error::other(Refused(cause.to_owned())));
    }
    Ok(trusted)
}

/// How we speak TLS to a server whose certificate has to be of the system's authorities or the file's.
///
/// # Errors
/// As [`authorities`]; and when there is no authority at all.
pub fn client(file: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted(file)?);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The same authorities in PEM, for a client that makes its own configuration: with the process's
/// cryptography, which is therefore settled here.
///
/// # Errors
/// As [`client`].
pub fn trusted_pem(file: Option<&Path>) -> io::Result<Vec<u8>> {
    // An error says that it is settled already.
    let _ = aws_lc_rs::default_provider().install_default();
    let mut pem = String::new();
    for certificate in trusted(file)? {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        STANDARD.encode_string(&certificate, &mut pem);
        pem.push_str("\n-----END CERTIFICATE-----\n");
    }
    Ok(pem.into_bytes())
}

/// What a failed connection means, if TLS is what it failed for.
pub fn explain(error: &(dyn Error + 'static)) -> Option<Refused> {
    if let Some(refused) = find::<Refused>(error) {
        return Some(refused.clone());
    }
    find::<rustls::Error>(error).map(|cause| Refused(meaning(cause)))
}

/// The error of this type among an error and its causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    if let Some(found) = error.downcast_ref::<E>() {
        return Some(found);
    }
    // Both hide what they hold from `source`, and tell of its cause instead.
    if let Some(held) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return find(held);
    }
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return find(shared.as_ref());
    }
    find(error.source()?)
}

fn meaning(cause: &rustls::Error) -> String {
    use CertificateError as Certificate;
    use rustls::Error as Tls;
    let mend = match cause {
        Tls::InvalidCertificate(
            Certificate::UnknownIssuer | Certificate::BadSignature | Certificate::Other(_),
        ) => {
            "no authority that is trusted here vouches for it: name the file of its authority in \
              TLS_CA_FILE"
        }
        Tls::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "let the URL have a name that is in the certificate, or give the server one for this name"
        }
        Tls::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => "give the server a new certificate, or set this machine's clock",
        Tls::InvalidCertificate(_) => "give the server another certificate",
        Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } => {
            "nobody speaks TLS at this port: let the URL have the TLS port, or a scheme without TLS"
        }
        _ => {
            "the server's log says more: perhaps it has neither TLS 1.2 nor 1.3, or asks for a \
              certificate of ours"
        }
    };
    format!("TLS fails: {cause}; {mend}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_beneath_what_hides_it() {
        let cause = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let io = io::Error::new(io::ErrorKind::InvalidData, cause());
        assert!(explain(&io).unwrap().0.contains("TLS_CA_FILE"));
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(io);
        assert!(explain(&shared).unwrap().0.contains("TLS_CA_FILE"));
        let twice = io::Error::other(io::Error::other(Refused("as it was said".to_owned())));
        assert_eq!(explain(&twice), Some(Refused("as it was said".to_owned())));
        assert_eq!(explain(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }

    #[test]
    fn a_url_names_its_file_in_its_own_parameter() {
        let url = "amqps://u:p@h/v?heartbeat=2&cacertfile=%2Fetc%2Four%20ca.pem";
        let file = named_in(url, RABBITMQ_AUTHORITIES);
        assert_eq!(file, Some(PathBuf::from("/etc/our ca.pem")));
        assert_eq!(named_in(url, REDIS_AUTHORITIES), None);
    }
}
