//! Origins and hosts: what decides where credentials may be sent and where a request may go.

use std::net::{IpAddr, Ipv4Addr};

use http::Uri;
use http::uri::{Authority, Scheme};

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
pub(super) fn ip(host: &str) -> Option<IpAddr> {
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

/// Whether a host, as written, is this machine. A form of IPv6 that embeds an IPv4 address is none that is usual.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || ip(host).is_some_and(|ip| ip.is_loopback())
}

/// Whether an entry of a list, a host with or without a port, means the host of this URL.
pub(crate) fn names(listed: &str, uri: &Uri) -> bool {
    let Ok(listed) = listed.parse::<Authority>() else {
        return false;
    };
    let same_host = uri
        .host()
        .is_some_and(|host| host.eq_ignore_ascii_case(listed.host()));
    same_host
        && listed
            .port_u16()
            .is_none_or(|port| origin(uri).2 == Some(port))
}

/// The same host as `uri`, without a path, and with this port if it has none.
pub(super) fn with_port(uri: &Uri, scheme: Scheme, port: u16) -> Result<Uri, http::Error> {
    let port = uri.port_u16().unwrap_or(port);
    Uri::builder()
        .scheme(scheme)
        .authority(format!("{}:{port}", uri.host().unwrap_or_default()))
        .path_and_query("/")
        .build()
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
    fn an_address_is_known_in_every_spelling() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        for host in [
            "127.0.0.1",
            "2130706433",
            "127.1",
            "0x7f.1",
            "017700000001",
            "127.0.0.1.",
        ] {
            assert_eq!(ip(host), Some(loopback), "{host}");
        }
        assert!(ip("[::ffff:10.0.0.1]").is_some());
        for host in [
            "registry-1.docker.io",
            "10.example.com",
            "1.2.3.4.5",
            "localhost",
            "",
        ] {
            assert_eq!(ip(host), None, "{host}");
        }
    }

    #[test]
    fn a_listed_host_means_its_port_if_it_has_one() {
        let names = |listed: &str, uri: &str| names(listed, &uri.parse().unwrap());
        assert!(names("a.example", "https://A.example/x"));
        assert!(names("a.example", "https://a.example:8443/x"));
        assert!(names("a.example:443", "https://a.example/x"));
        assert!(!names("a.example:8443", "https://a.example/x"));
        assert!(!names("a.example", "https://b.a.example/x"));
    }

    #[test]
    fn a_port_is_added_where_there_is_none() {
        let with = |uri: &str| with_port(&uri.parse().unwrap(), Scheme::HTTP, 1080).unwrap();
        assert_eq!(with("socks5://proxy"), "http://proxy:1080/");
        assert_eq!(with("socks5://proxy:1/x"), "http://proxy:1/");
        assert_eq!(with("https://[::1]"), "http://[::1]:1080/");
    }
}
