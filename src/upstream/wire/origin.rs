//! Origins and hosts: what decides where credentials may be sent and where a request may go.

use std::net::{IpAddr, Ipv4Addr};

use http::Uri;
use http::uri::Scheme;

/// Scheme, host and port (RFC 6454).
pub(crate) type Origin = (Option<Scheme>, Option<String>, Option<u16>);

/// The origin of a URL; the default port counts as written.
pub(crate) fn origin(uri: &Uri) -> Origin {
    let port = uri.port_u16().or_else(|| match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (
        uri.scheme().cloned(),
        uri.host().map(str::to_ascii_lowercase),
        port,
    )
}

/// Whether two host names belong to one registrable domain, by the public suffix list.
pub(crate) fn same_domain(a: &str, b: &str) -> bool {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let domain = |host: &str| psl::domain_str(host).map(str::to_owned);
    ip(&a).is_none() && ip(&b).is_none() && domain(&a).is_some() && domain(&a) == domain(&b)
}

/// An address, also in the other spellings that resolvers accept: `2130706433`, `127.1`, `0x7f.1`.
fn ip(host: &str) -> Option<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse()
        .ok()
        .or_else(|| short_v4(host.trim_end_matches('.')).map(IpAddr::V4))
}

/// An IPv4 address in the forms of inet_aton: one to four numbers, the last of which fills what is left.
fn short_v4(host: &str) -> Option<Ipv4Addr> {
    let number = |text: &str| match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    let numbers: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 || first.iter().any(|number| *number > 255) {
        return None;
    }
    let high = first
        .iter()
        .enumerate()
        .map(|(place, number)| number << (24 - 8 * place));
    Some(Ipv4Addr::from(high.sum::<u32>().checked_add(*last)?))
}

/// Whether a host, as written, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || ip(host).is_some_and(|ip| ip.is_loopback())
}

/// Whether a host, as written, is an address that is not public.
pub(crate) fn is_private(host: &str) -> bool {
    let private = match ip(host) {
        None => false,
        Some(IpAddr::V4(ip)) => ip.is_private(),
        Some(IpAddr::V6(ip)) => {
            ip.is_unique_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_private())
        }
    };
    private || is_local(host)
}

/// Whether a host, as written, is this machine or on its own link, where clouds serve the credentials of a machine.
pub(crate) fn is_local(host: &str) -> bool {
    let v4 = |ip: Ipv4Addr| ip.is_loopback() || ip.is_link_local() || ip.is_unspecified();
    match ip(host) {
        None => is_loopback(host),
        Some(IpAddr::V4(ip)) => v4(ip),
        Some(IpAddr::V6(ip)) => {
            let mapped = ip.to_ipv4_mapped().is_some_and(v4);
            ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || mapped
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_counts_the_default_port() {
        let origin = |text: &str| origin(&text.parse().unwrap());
        assert_eq!(
            origin("https://A.example/x"),
            origin("https://a.example:443/y")
        );
        assert_ne!(origin("https://a.example/"), origin("http://a.example/"));
        assert_ne!(
            origin("https://a.example/"),
            origin("https://a.example:444/")
        );
    }

    #[test]
    fn private_addresses_are_known_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "2130706433",
            "127.1",
            "0x7f.1",
            "017700000001",
            "localhost",
            "localhost.",
            "10.0.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "[::1]",
            "[fe80::1]",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
            "0.0.0.0",
        ] {
            assert!(is_private(host), "{host}");
        }
        for host in [
            "8.8.8.8",
            "registry-1.docker.io",
            "10.example.com",
            "[2001:db8::1]",
            "1.2.3.4.5",
        ] {
            assert!(!is_private(host), "{host}");
        }
        for host in ["10.0.0.1", "192.168.1.1", "[fd00::1]", "[::ffff:10.0.0.1]"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
