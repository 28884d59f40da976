//! URLs and hosts of upstreams and proxies.
//!
//! A URL is repeated in a message only when nothing in it can be a secret: no `@`, no query.

use http::Uri;
use http::uri::Authority;

use super::mistake::Fault;
use super::value::{Value, mistyped, quoted, text};
use crate::oci::name::Repository;
use crate::secret::Secret;
use crate::upstream::{BaseUrl, Proxy};

/// The URL of a registry: a host, perhaps a path before `/v2/`. Without a scheme it is `https`.
pub(super) fn registry(value: &Value) -> Result<Uri, Fault> {
    const RIGHT: &str = "write a URL such as \"https://registry.example.com\"";
    let written = text(value)?;
    let full = if written.contains("://") {
        written.to_owned()
    } else {
        format!("https://{written}")
    };
    if authority(&full).contains('@') {
        return Err(Fault::new(
            "has credentials in it",
            "move them to username and password_file",
        ));
    }
    let uri = parse(&full, written, RIGHT)?;
    if uri.path().trim_end_matches('/') == "/v2" {
        return Err(Fault::new(
            format!("{} ends in /v2/", quoted(written)),
            "leave that out: every request has it anyway",
        ));
    }
    if let Some(rest) = uri.path().strip_prefix("/v2/") {
        let host = full.strip_suffix(uri.path()).unwrap_or_default();
        let rest = rest.trim_end_matches('/');
        return Err(match written.contains('@') {
            true => Fault::new("has a path after /v2/", "move that to prefix"),
            false => Fault::new(
                format!("{} has a path after /v2/", quoted(written)),
                format!("write url = {host:?}, and prefix = {rest:?}"),
            ),
        });
    }
    Ok(uri)
}

/// What stands before the names of repositories in a registry that has more than those of one upstream.
pub(super) fn prefix(value: &Value) -> Result<Repository, Fault> {
    const RIGHT: &str =
        "write what stands between /v2/ and the names of repositories there, such as \"dockerhub\"";
    let written = text(value)?;
    if written.contains('@') {
        return Err(Fault::new("has credentials in it", RIGHT));
    }
    let wrong = |why: &str| Fault::new(format!("{} {why}", quoted(written)), RIGHT);
    if written.contains("://") {
        return Err(wrong("is a URL, which belongs to url"));
    }
    if written.starts_with('/') || written.ends_with('/') {
        return Err(wrong("begins or ends with a slash"));
    }
    if written == "v2" || written.starts_with("v2/") {
        return Err(wrong("begins with v2, which every request has anyway"));
    }
    let has_capitals = written.bytes().any(|byte| byte.is_ascii_uppercase());
    written.parse().map_err(|_| match has_capitals {
        true => wrong("has capital letters, which no repository has"),
        false => wrong("is no part of a repository's name"),
    })
}

/// Places to ask: each a URL, or a table of a URL and a prefix.
pub(super) fn base_urls(value: &Value) -> Result<Vec<BaseUrl>, Fault> {
    const RIGHT: &str = "write a list of URLs, such as [\"https://mirror.example.com\"]";
    match value {
        Value::List(urls) => urls.iter().map(|(_, it)| base_url(it)).collect(),
        // The default, as the table of keys has it.
        Value::Untyped(text) if text.expose() == "[]" => Ok(Vec::new()),
        other => Err(mistyped(other, "a list", RIGHT)),
    }
}

fn base_url(value: &Value) -> Result<BaseUrl, Fault> {
    const RIGHT: &str =
        "write { url = \"https://mirror.example.com\", prefix = \"dockerhub\" }, or the URL alone";
    let Value::Table(entries) = value else {
        let url = registry(value)?;
        return Ok(BaseUrl { url, prefix: None });
    };
    let of = |name: &str| entries.iter().find(|entry| entry.name == name);
    if let Some(unknown) = entries
        .iter()
        .find(|it| !["url", "prefix"].contains(&&*it.name))
    {
        let words = format!("has {}, which no endpoint has", quoted(&unknown.name));
        return Err(Fault::new(words, RIGHT));
    }
    let url = of("url").ok_or_else(|| Fault::new("has an endpoint without url", RIGHT))?;
    let read = of("prefix").map(|entry| prefix(&entry.value));
    Ok(BaseUrl {
        url: registry(&url.value)?,
        prefix: read.transpose()?,
    })
}

/// The schemes of proxies. To one of `https` the mirror speaks TLS; `socks5h` and `socks4a` resolve names themselves.
const PROXIES: [&str; 6] = ["http", "https", "socks5h", "socks5", "socks4a", "socks4"];

/// A proxy: `none`, or its URL with the scheme spelt out, because `https` is rarely what a proxy speaks.
pub(super) fn proxy(value: &Value) -> Result<Proxy, Fault> {
    const RIGHT: &str = "write a URL such as \"http://proxy.example.com:3128\" or \"socks5h://127.0.0.1:1080\", or \"none\"";
    let written = text(value)?;
    if written == "none" {
        return Ok(Proxy::Direct);
    }
    if authority(written).contains('@') {
        return Err(Fault::new(
            "has credentials in it",
            "leave the key out and set HTTPS_PROXY in the environment, which is not logged",
        ));
    }
    let uri = parse_as(&PROXIES, written, written, "a proxy's URL", RIGHT)?;
    if !matches!(uri.path(), "" | "/") {
        return Err(Fault::new(
            format!("{} has a path, which no proxy has", quoted(written)),
            RIGHT,
        ));
    }
    Ok(Proxy::Url(uri))
}

/// A proxy as a variable of the environment names it: with credentials or without, and `http` is meant if there is no
/// scheme. Its text is never repeated.
pub(super) fn check_proxy_variable(text: &str) -> Result<(), Fault> {
    const RIGHT: &str = "write a URL such as http://proxy.example.com:3128, https://... or socks5h://..., or unset it";
    let uri = text.parse::<Uri>().ok();
    let known = uri.is_some_and(|uri| {
        uri.authority().is_some_and(|it| !it.host().is_empty())
            && uri
                .scheme_str()
                .is_none_or(|scheme| PROXIES.contains(&scheme))
    });
    match known || text.is_empty() {
        true => Ok(()),
        false => Err(Fault::new("names no proxy that can be spoken to", RIGHT)),
    }
}

/// Hosts, each with a port or without, in lower case.
pub(super) fn hosts(value: &Value) -> Result<Vec<String>, Fault> {
    list(
        value,
        host,
        "write a list of hosts, such as [\"auth.example.com\"]",
    )
}

/// Origins of web pages, in the form that browsers send.
pub(super) fn origins(value: &Value) -> Result<Vec<String>, Fault> {
    list(
        value,
        origin,
        "write a list of origins, such as [\"https://ui.example.com\"]",
    )
}

fn list(
    value: &Value,
    of_one: impl Fn(&Value) -> Result<String, Fault>,
    right: &str,
) -> Result<Vec<String>, Fault> {
    match value {
        Value::List(all) => all.iter().map(|(_, written)| of_one(written)).collect(),
        // The default, as the table of keys has it.
        Value::Untyped(text) if text.expose() == "[]" => Ok(Vec::new()),
        // In the environment, where there are no lists.
        Value::Untyped(text) => {
            let all = text.expose().split(',').map(str::trim);
            all.map(|written| of_one(&Value::Text(Secret::new(written.to_owned()))))
                .collect()
        }
        other => Err(mistyped(other, "a list", right)),
    }
}

/// RFC 6454 6.2: a scheme, a host, and the port where it is not the scheme's own.
fn origin(value: &Value) -> Result<String, Fault> {
    const RIGHT: &str = "write what stands before the path of the page's address, such as \"https://ui.example.com\" or \"http://ui.example.com:8080\"";
    let written = text(value)?;
    if written.contains('@') {
        return Err(Fault::new("has an origin with credentials in it", RIGHT));
    }
    if written == "*" {
        return Err(Fault::new(
            "would open this mirror to every web page that a person on its network looks at",
            RIGHT,
        ));
    }
    let wrong = || {
        Fault::new(
            format!("{} is not the origin of a web page", quoted(written)),
            RIGHT,
        )
    };
    let lower = written.to_ascii_lowercase();
    let (scheme, rest) = lower.split_once("://").ok_or_else(wrong)?;
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(wrong()),
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    match host.parse::<Authority>() {
        Ok(authority) if port_is_good(&authority) => {
            let host = host.strip_suffix(own_port).unwrap_or(host);
            Ok(format!("{scheme}://{host}"))
        }
        _ => Err(wrong()),
    }
}

fn host(value: &Value) -> Result<String, Fault> {
    const RIGHT: &str =
        "write a host alone, such as \"auth.example.com\" or \"auth.example.com:8443\"";
    let written = text(value)?;
    if written.contains('@') {
        return Err(Fault::new("has a host with credentials in it", RIGHT));
    }
    match written.parse::<Authority>() {
        Ok(authority) if port_is_good(&authority) => Ok(written.to_ascii_lowercase()),
        _ => Err(Fault::new(
            format!("{} is not a host", quoted(written)),
            RIGHT,
        )),
    }
}

/// Whether the port, if there is one, is a number that a port can be. [`Authority`] takes any digits.
fn port_is_good(authority: &Authority) -> bool {
    let after_host = authority
        .as_str()
        .strip_prefix(authority.host())
        .unwrap_or_default();
    after_host.is_empty() || authority.port_u16().is_some_and(|port| port > 0)
}

fn parse(full: &str, written: &str, right: &str) -> Result<Uri, Fault> {
    parse_as(
        &["http", "https"],
        full,
        written,
        "an http or https URL",
        right,
    )
}

fn parse_as(
    schemes: &[&str],
    full: &str,
    written: &str,
    what: &str,
    right: &str,
) -> Result<Uri, Fault> {
    // Looked for in the text, because `Uri` drops fragments silently.
    if full.contains(['?', '#']) {
        return Err(Fault::new("has a query or a fragment", right));
    }
    // An "@" that is no user name is still too close to a secret to repeat.
    let shown = if written.contains('@') {
        "this".to_owned()
    } else {
        quoted(written)
    };
    let good = |uri: &Uri| {
        uri.scheme_str()
            .is_some_and(|scheme| schemes.contains(&scheme))
            && uri
                .authority()
                .is_some_and(|it| !it.host().is_empty() && port_is_good(it))
    };
    full.parse()
        .ok()
        .filter(good)
        .ok_or_else(|| Fault::new(format!("{shown} is not {what}"), right))
}

/// What stands between the scheme and the path, read loosely: a broken URL can hold a password too.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn registry_of(url: &str) -> Result<String, Fault> {
        registry(&Value::Text(Secret::new(url.to_owned()))).map(|uri| uri.to_string())
    }

    #[test]
    fn https_is_meant_unless_http_is_written() {
        assert_eq!(
            registry_of("registry.example.com").unwrap(),
            "https://registry.example.com/"
        );
        assert_eq!(
            registry_of("localhost:5000").unwrap(),
            "https://localhost:5000/"
        );
        assert_eq!(
            registry_of("http://localhost:5000").unwrap(),
            "http://localhost:5000/"
        );
        assert_eq!(
            registry_of("https://[::1]:5000/prefix").unwrap(),
            "https://[::1]:5000/prefix"
        );
    }

    #[test]
    fn what_is_no_registry_is_refused() {
        for url in [
            "",
            "ftp://host",
            "https://",
            "https://host:port",
            "https://host:99999",
            "https://host:0",
            "a b",
            "/path",
            "https://host/v2/",
            "https://host/v2//",
            "https://host/v2/dockerhub/",
        ] {
            assert!(registry_of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_not_repeated() {
        let urls = [
            "https://me:hunter2@host",
            "me:hunter2@host",
            "https://host/?token=hunter2",
            "https://host/a#hunter2",
            "ftp://host/x@hunter2",
            "https://host/v2/x@hunter2",
            "https://me:hunter2@ho st",
        ];
        for url in urls {
            let fault = registry_of(url).unwrap_err();
            assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_as_a_prefix_makes_names_of_names(text in "[a-z./_-]{0,12}|.*|[a-z]+@hunter2", name in "[a-z]{1,9}(/[a-z]{1,9})?") {
            let read = prefix(&Value::Text(Secret::new(text.clone())));
            match read {
                Ok(prefix) => {
                    let name: Repository = name.parse().unwrap();
                    let below = name.below(&prefix);
                    prop_assert_eq!(below.as_str(), format!("{text}/{name}"));
                    prop_assert!(below.as_str().len() > 255 || below.as_str().parse::<Repository>().is_ok());
                }
                Err(fault) => {
                    let words = format!("{fault:?}");
                    prop_assert!(!words.contains("hunter2"), "{}", words);
                }
            }
        }
    }

    #[test]
    fn a_proxy_says_its_scheme() {
        let proxy_of = |text: &str| proxy(&Value::Text(Secret::new(text.to_owned())));
        assert!(matches!(proxy_of("none"), Ok(Proxy::Direct)));
        for right in [
            "http://proxy:3128",
            "https://proxy",
            "socks5://proxy",
            "socks5h://proxy:1080",
            "socks4a://[::1]:9050",
        ] {
            assert!(matches!(proxy_of(right), Ok(Proxy::Url(_))), "{right}");
        }
        for wrong in [
            "proxy:3128",
            "ftp://proxy",
            "socks://proxy",
            "http://proxy:3128/path",
            "http://me:hunter2@proxy:3128",
        ] {
            assert!(
                !format!("{:?}", proxy_of(wrong).unwrap_err()).contains("hunter2"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_proxy_variable_that_would_be_passed_over_is_refused() {
        for right in [
            "",
            "proxy:3128",
            "http://me:hunter2@proxy",
            "socks5h://proxy",
            "https://p/",
        ] {
            assert!(check_proxy_variable(right).is_ok(), "{right}");
        }
        for wrong in [
            "ftp://me:hunter2@proxy",
            "quic://proxy",
            "http://",
            "://",
            "a b",
        ] {
            let fault = check_proxy_variable(wrong).unwrap_err();
            assert!(!format!("{fault:?}").contains("hunter2"), "{wrong}");
        }
    }
}
