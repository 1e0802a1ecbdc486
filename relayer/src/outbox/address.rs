//! Where a webhook may point: https, and no address of the inside, looked up by the client that connects to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, bail, ensure};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// The longest URL, in bytes.
const URL_BYTES_MAX: usize = 2000;

/// Reads a webhook's URL; with `allow_private` also http and addresses of the inside, for development.
pub fn check_url(text: &str, allow_private: bool) -> anyhow::Result<Url> {
    ensure!(text.len() <= URL_BYTES_MAX, "url: expected at most {URL_BYTES_MAX} bytes, got {}", text.len());
    let url: Url = text.parse().context("url: expected https://host/path")?;
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        other => bail!("url: expected https, got {other}"),
    }
    ensure!(url.username().is_empty() && url.password().is_none(), "url: expected no user or password in it");
    ensure!(url.fragment().is_none(), "url: expected no fragment");
    let host = url.host_str().context("url: expected a host")?;
    // a literal address is never looked up, so it is checked here
    if !allow_private && let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        ensure!(is_public(address), "url: expected a public address, got {address}");
    }
    Ok(url)
}

/// Whether an address is of the public internet, by IANA's special-purpose registries (RFC 6890): what is reserved, private,
/// shared, loopback, link-local or embeds another address is not.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let [a, b, ..] = address.segments();
    let global_unicast = a & 0xe000 == 0x2000;
    // IETF protocol assignments with Teredo, documentation, 6to4, documentation
    let special = (a == 0x2001 && (b < 0x0200 || b == 0x0db8)) || a == 0x2002 || (a == 0x3fff && b < 0x1000);
    global_unicast && !special
}

/// Looks names up and gives public addresses only; the client connects to what was checked here and asks nobody again.
pub struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // one of the inside among them is a sign of an attack, not a reason to take the others
            // (which one is not said: the answer would map our network)
            if found.iter().any(|address| !is_public(address.ip())) {
                return Err(format!("{}: expected a name with public addresses only", name.as_str()).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_inside_are_told_from_public_ones() {
        let inside = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
        ];
        for text in inside {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        let outside = [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "8.8.8.8",
            "::ffff:8.8.8.8",
            "2606:4700::1111",
            "2a00::1",
        ];
        for text in outside {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_url_is_https_and_names_nothing_inside() {
        assert!(check_url("https://hooks.example.com/tidemark?x=1", false).is_ok());
        let refused = [
            "http://hooks.example.com/",
            "https://127.0.0.1/",
            "https://[::1]:8443/x",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://user:secret@hooks.example.com/",
            "ftp://hooks.example.com/",
            "https://",
            "hooks.example.com",
            "https://10.0.0.1/",
            "https://[fd00::1]/",
            "https://hooks.example.com/#part",
        ];
        for url in refused {
            assert!(check_url(url, false).is_err(), "{url}");
        }
        assert!(check_url(&format!("https://e.com/{}", "x".repeat(2000)), false).is_err());
        assert!(check_url("http://127.0.0.1:9/", true).is_ok() && check_url("ftp://127.0.0.1/", true).is_err());
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_connected_to() {
        let error = PublicOnly.resolve("localhost".parse().unwrap()).await.err().unwrap().to_string();
        assert!(error.contains("public addresses only"), "{error}");
    }
}
