//! Where a webhook may go: which URLs are taken, and which addresses may be connected.
//!
//! In: a URL as its owner wrote it, or an address that a name has. Out: the URL as it is used, or
//! what it must be. The same check is made when a URL is registered and before every attempt,
//! because settings change, and because a literal address never reaches the resolver. Whoever
//! registers a URL chooses where this process connects to, from inside its network: so only
//! addresses that anyone on the Internet can reach are taken ([`super::networks`]). Odd spellings of an address (`2130706433`, `0x7f.1`, `0177.0.0.1`) are made the
//! address itself by the URL parser, and then judged.

use std::net::IpAddr;

use url::{Host, Url};

use super::networks::{is_one_machine, is_public};

/// A longer URL is refused.
pub const MAX_URL_BYTES: usize = 2048;
/// A longer name cannot be looked up, nor one with a longer label (RFC 1035).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Last labels of names that are not, or not the same, everywhere (IANA's special-use names, and
/// those that ICANN keeps out of the root because private networks use them).
const PRIVATE_DOMAINS: &[&str] = &[
    "alt",
    "arpa",
    "corp",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "test",
];

/// What the settings allow (`WEBHOOK_PORTS`, `WEBHOOK_ALLOW_INSECURE`).
#[derive(Clone, Debug)]
pub struct Policy {
    ports: Vec<u16>,
    allow_insecure: bool,
}

impl Policy {
    /// With `allow_insecure` also http, any port, any name, and addresses of this machine and of
    /// private networks; meant for trying things out.
    pub fn new(ports: &[u16], allow_insecure: bool) -> Self {
        Self { ports: ports.to_vec(), allow_insecure }
    }

    pub fn allows_insecure(&self) -> bool {
        self.allow_insecure
    }

    /// Whether this address may be connected.
    pub fn allows(&self, address: IpAddr) -> bool {
        match self.allow_insecure {
            true => is_one_machine(address),
            false => is_public(address),
        }
    }

    fn check_scheme_and_port(&self, url: &Url) -> Result<(), String> {
        match url.scheme() {
            "https" => {}
            "http" if self.allow_insecure => {}
            _ if self.allow_insecure => return Err("must begin with https:// or http://".into()),
            _ => return Err("must begin with https://".into()),
        }
        let port = url.port_or_known_default().unwrap_or_default();
        match port != 0 && (self.allow_insecure || self.ports.contains(&port)) {
            true => Ok(()),
            false if self.allow_insecure => Err("must have a port from 1 to 65535".into()),
            false => {
                let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
                Err(format!(
                    "must have one of the ports that are allowed here: {}",
                    ports.join(", ")
                ))
            }
        }
    }

    fn check_address(&self, address: IpAddr) -> Result<(), String> {
        match self.allows(address) {
            true => Ok(()),
            false => Err(format!("must lead to a public address; {address} is none")),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        let fits = |label: &str| !label.is_empty() && label.len() <= MAX_LABEL_BYTES;
        if name.len() > MAX_NAME_BYTES || !name.split('.').all(fits) {
            return Err("must have a host name that can be looked up".into());
        }
        if self.allow_insecure {
            return Ok(());
        }
        let Some((_, last)) = name.rsplit_once('.') else {
            return Err("must have the full name of a host, such as hooks.example.org".into());
        };
        match PRIVATE_DOMAINS.contains(&last) {
            true => Err(format!("must have a public host name; names in .{last} are none")),
            false => Ok(()),
        }
    }
}

/// The URL as it is used: the host in lower case and without a dot at its end.
///
/// # Errors
/// What the URL must be, for the field that holds it.
pub fn check_url(text: &str, policy: &Policy) -> Result<Url, String> {
    let fits = |length: usize| match length <= MAX_URL_BYTES {
        true => Ok(()),
        false => Err(format!("must have at most {MAX_URL_BYTES} characters")),
    };
    fits(text.len())?;
    // The parser would leave them out without a word.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("must not contain blanks or control characters".into());
    }
    let Ok(mut url) = Url::parse(text) else {
        return Err("must be a URL such as https://hooks.example.org/booking".into());
    };
    policy.check_scheme_and_port(&url)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or password; check the signature instead".into());
    }
    if url.fragment().is_some() {
        return Err("must not contain a fragment (#)".into());
    }
    if let Some(name) = url.domain().and_then(|name| name.strip_suffix('.')).map(str::to_owned)
        && url.set_host(Some(&name)).is_err()
    {
        return Err("must have a host name that can be looked up".into());
    }
    match url.host() {
        Some(Host::Domain(name)) => policy.check_name(name)?,
        Some(Host::Ipv4(address)) => policy.check_address(address.into())?,
        Some(Host::Ipv6(address)) => policy.check_address(address.into())?,
        None => return Err("must have a host".into()),
    }
    fits(url.as_str().len())?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refused without `WEBHOOK_ALLOW_INSECURE`, as hosts of an https URL with an allowed port.
    const REFUSED_HOSTS: &[&str] = &[
        // This machine, in every spelling.
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "0.1.2.3",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        // Private networks.
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.168.1",
        "100.64.0.1",
        "100.127.255.255",
        "[::ffff:10.0.0.1]",
        "[fc00::1]",
        "[fd12:3456:789a::1]",
        "[fec0::1]",
        // Link-local, and where clouds keep their metadata.
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "169.254.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "[fe80::1]",
        "[febf::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        // IPv4 inside IPv6.
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::a00:1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[2001::1]",
        "[2001:0:7f00:1::]",
        "[::ffff:0:127.0.0.1]",
        // Nobody's, or everybody's.
        "192.0.2.1",
        "198.51.100.7",
        "203.0.113.9",
        "198.18.0.1",
        "198.19.255.255",
        "192.88.99.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
        "[100::1]",
        "[2001:db8::1]",
        "[2001:2::1]",
        "[2001:20::1]",
        "[3fff::1]",
        "[3fff:fff::1]",
        "[5f00::1]",
        "[4000::1]",
        // Names of this machine and of private networks.
        "localhost",
        "LOCALHOST",
        "localhost.",
        "receiver.localhost",
        "printer.local",
        "db",
        "metadata",
        "metadata.google.internal",
        "router.home.arpa",
        "1.0.0.127.in-addr.arpa",
        "hidden.onion",
        "hooks.test",
        "hooks.invalid",
        "box.lan",
        "mail.corp",
        "pc.localdomain",
        "ｌｏｃａｌｈｏｓｔ",
    ];

    const TAKEN_HOSTS: &[&str] = &[
        "example.org",
        "hooks.example.org",
        "hooks.example.org.",
        "xn--bcher-kva.example",
        "local.example.org",
        "notlocalhost.com",
        "my_hooks.example.org",
        "1.1.1.1",
        "93.184.215.14",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "169.253.255.255",
        "192.0.1.1",
        "198.17.255.255",
        "223.255.255.255",
        "168.63.129.17",
        "[2606:4700::1111]",
        "[2a00:1450:4001:81b::200e]",
        "[::ffff:1.1.1.1]",
        "[2001:4860::8888]",
        "[2001:200::1]",
        "[2003::1]",
    ];

    fn strict() -> Policy {
        Policy::new(&[443, 8443], false)
    }

    #[test]
    fn hosts_that_are_not_public_are_refused_in_every_spelling() {
        assert!(REFUSED_HOSTS.len() >= 60);
        for host in REFUSED_HOSTS {
            let checked = check_url(&format!("https://{host}/hook"), &strict());
            let must = checked.expect_err(host);
            let why = ["a public address", "a public host name", "the full name of a host"];
            assert!(why.iter().any(|why| must.contains(why)), "{host}: {must}");
        }
    }

    #[test]
    fn public_hosts_are_taken() {
        for host in TAKEN_HOSTS {
            let checked = check_url(&format!("https://{host}:8443/hook"), &strict());
            assert!(checked.is_ok(), "{host}: {checked:?}");
        }
    }

    #[test]
    fn the_whole_url_is_checked_and_what_is_wrong_is_said() {
        let long = format!("https://example.org/{}", "x".repeat(MAX_URL_BYTES));
        let longer_inside = format!("https://example.org/{}", "ü".repeat(800));
        let long_label = format!("https://{}.org/", "x".repeat(64));
        let long_name = format!("https://{}org/", "x.".repeat(130));
        for (text, must) in [
            ("", "must be a URL"),
            ("hooks.example.org", "must be a URL"),
            ("/hook", "must be a URL"),
            ("https://", "must be a URL"),
            ("https://1.2.3.4.5/", "must be a URL"),
            ("https://256.1.1.1/", "must be a URL"),
            ("https://[::1", "must be a URL"),
            ("https://example.org:65536/", "must be a URL"),
            ("http://example.org/", "must begin with https://"),
            ("ftp://example.org/", "must begin with https://"),
            ("file:///etc/passwd", "must begin with https://"),
            ("gopher://example.org/", "must begin with https://"),
            ("javascript:alert(1)", "must begin with https://"),
            ("https://example.org:444/", "ports that are allowed here: 443, 8443"),
            ("https://example.org:0/", "ports that are allowed here"),
            ("https://user@example.org/", "user name or password"),
            ("https://:secret@example.org/", "user name or password"),
            ("https://example.org@10.0.0.1/", "user name or password"),
            ("https://example.org/#here", "fragment"),
            ("https://example.org/#", "fragment"),
            (" https://example.org/", "blanks"),
            ("https://exam\tple.org/", "blanks"),
            ("https://example.org/a b", "blanks"),
            ("https://example.org/\0", "blanks"),
            ("https://example..org/", "host name that can be looked up"),
            ("https://example.org../", "host name that can be looked up"),
            ("https://.example.org/", "host name that can be looked up"),
            (&long_label, "host name that can be looked up"),
            (&long_name, "host name that can be looked up"),
            (&long, "at most 2048"),
            (&longer_inside, "at most 2048"),
        ] {
            let said = check_url(text, &strict()).expect_err(text);
            assert!(said.starts_with("must ") && said.contains(must), "{text}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn the_url_is_used_as_it_was_checked() {
        for (text, used) in [
            ("HTTPS://Hooks.Example.ORG.:443/A?b=c", "https://hooks.example.org/A?b=c"),
            ("https:\\\\example.org\\@10.0.0.1/", "https://example.org/@10.0.0.1/"),
            ("https://example.org", "https://example.org/"),
        ] {
            assert_eq!(check_url(text, &strict()).unwrap().as_str(), used);
        }
    }

    #[test]
    fn to_try_things_out_any_machine_is_allowed_and_the_rest_of_the_rules_stay() {
        let policy = Policy::new(&[443], true);
        for text in [
            "http://localhost:8080/hook",
            "http://127.0.0.1:1/",
            "http://receiver/",
            "https://[::1]:65535/",
            "https://10.0.0.1/",
        ] {
            assert!(check_url(text, &policy).is_ok(), "{text}");
        }
        for text in [
            "ftp://localhost/",
            "http://localhost:0/",
            "http://user@localhost/",
            "http://localhost/#",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::ffff:0.0.0.0]/",
        ] {
            assert!(check_url(text, &policy).is_err(), "{text}");
        }
    }
}
