//! Realms: where a registry's challenge sends the mirror for a token, and what it may be sent there.
//!
//! A registry that is not trusted must not be able to name any host as the place to send passwords to.

use http::Uri;

use crate::upstream::error::Error;
use crate::upstream::restraint::breaker::Breaker;
use crate::upstream::restraint::throttle::Throttle;
use crate::upstream::wire::origin::{is_loopback, names, origin, same_domain};
use crate::upstream::wire::zone::{Reach, Zone};

/// Where one upstream may send the mirror for a token.
pub(crate) struct Realms {
    home: Uri,
    /// Hosts that the operator allows besides the upstream's own domain.
    listed: Vec<String>,
    /// The one in front of the realm, for all accounts.
    breaker: Breaker,
    /// Its limits, likewise.
    throttle: Throttle,
}

impl Realms {
    pub(crate) fn new(
        home: Uri,
        listed: Vec<String>,
        breaker: Breaker,
        throttle: Throttle,
    ) -> Self {
        Self {
            home,
            listed,
            breaker,
            throttle,
        }
    }

    pub(super) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The way to a realm. Refuses one where no token may be asked for, or where the credentials may not be sent. `zone` is
    /// where the host is that named the realm.
    pub(super) fn way(&self, with_credentials: bool, realm: Uri, zone: Zone) -> Result<Way, Error> {
        let (realm, over_tls_instead) = match over_tls(&self.home, &realm) {
            Some(instead) => (instead, true),
            None => (realm, false),
        };
        check(with_credentials, &self.home, &realm, &self.listed)?;
        let listed = self.listed.iter().any(|listed| names(listed, &realm));
        let reach = match listed || origin(&self.home) == origin(&realm) {
            true => Reach::Anywhere,
            false => Reach::Beside(zone),
        };
        Ok(Way {
            realm,
            reach,
            over_tls_instead,
        })
    }
}

/// How a realm is asked.
pub(super) struct Way {
    pub(super) realm: Uri,
    /// How far it may lead.
    pub(super) reach: Reach,
    /// The registry names it with plain http.
    pub(super) over_tls_instead: bool,
}

impl Way {
    pub(super) fn realm_host(&self) -> &str {
        self.realm.host().unwrap_or_default()
    }
}

/// What is asked where a registry that is reached over TLS names a realm with plain http, because it does not know of the
/// proxy that does TLS for it: the same over TLS. In clear nothing is asked that could be a secret.
fn over_tls(home: &Uri, realm: &Uri) -> Option<Uri> {
    let (home_host, host) = (home.host()?, realm.host()?);
    if home.scheme_str() != Some("https") || realm.scheme_str() != Some("http") {
        return None;
    }
    let authority = match realm.port_u16() {
        // It knows its own port as little.
        None | Some(80) if host.eq_ignore_ascii_case(home_host) => home.authority()?.as_str(),
        None | Some(80) => host,
        Some(_) => realm.authority()?.as_str(),
    };
    let path = realm.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query(path)
        .build()
        .ok()
}

/// Judges a realm by what its URL says; the address is judged when it is connected to.
///
/// Without credentials: `https` (or `http` if the upstream has it), and no private address unless the upstream is at one.
/// With credentials also: the upstream's own host, its registrable domain (`registry-1.docker.io` and `auth.docker.io`),
/// or a host the operator listed.
fn check(with_credentials: bool, home: &Uri, realm: &Uri, listed: &[String]) -> Result<(), Error> {
    let named = |named: &str, why: &str, advice: &str| {
        let words = format!("upstream names {named} as its token realm, {why}; {advice}");
        Err(Error::Credentials(words.into()))
    };
    let (Some(home_host), Some(host)) = (home.host(), realm.host()) else {
        return named(
            "what is no URL",
            "so there is none to ask",
            "the registry's own configuration has to be mended",
        );
    };
    let refuse = |why: &str| {
        let advice = "if that is right, list the host under `realms` of this upstream";
        named(host, why, advice)
    };
    match realm.scheme_str() {
        Some("https") => {}
        Some("http") if home.scheme_str() == Some("http") => {}
        scheme => {
            let realm = format!("{}://{host}", scheme.unwrap_or_default());
            return named(
                &realm,
                "which is neither http nor https",
                "a proxy before the registry has to tell it the scheme (X-Forwarded-Proto), or its configuration its own URL",
            );
        }
    }
    if origin(home) == origin(realm) || listed.iter().any(|listed| names(listed, realm)) {
        return Ok(());
    }
    let zone = |host| Zone::of_host(host).unwrap_or(Zone::Public);
    if zone(host) != Zone::Public && zone(home_host) == Zone::Public {
        return refuse("a private address");
    }
    if !with_credentials || host.eq_ignore_ascii_case(home_host) || same_domain(home_host, host) {
        return Ok(());
    }
    if is_loopback(host) && is_loopback(home_host) {
        return Ok(());
    }
    refuse("which is another domain than its own")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(credentials: bool, home: &str, realm: &str) -> bool {
        let listed = ["login.example".to_owned(), "ported.example:8443".to_owned()];
        check(
            credentials,
            &home.parse().unwrap(),
            &realm.parse().unwrap(),
            &listed,
        )
        .is_ok()
    }

    #[test]
    fn credentials_stay_within_the_upstreams_own_domain() {
        assert!(allowed(
            true,
            "https://registry-1.docker.io",
            "https://auth.docker.io/token"
        ));
        assert!(allowed(true, "https://ghcr.io", "https://ghcr.io/token"));
        assert!(allowed(
            true,
            "https://r.example.co.uk",
            "https://auth.example.co.uk/t"
        ));
        assert!(
            allowed(true, "https://r.corp.example", "https://login.example/t"),
            "listed"
        );
        let home = "https://r.corp.example";
        assert!(allowed(true, home, "https://ported.example:8443/t"));
        assert!(!allowed(true, home, "https://ported.example/t"));
        assert!(!allowed(
            true,
            "https://r.example.co.uk",
            "https://evil.co.uk/t"
        ));
        assert!(!allowed(
            true,
            "https://registry-1.docker.io",
            "https://auth.docker.io.evil.example/token"
        ));
        assert!(!allowed(
            true,
            "https://registry-1.docker.io",
            "http://auth.docker.io/token"
        ));
        assert!(!allowed(true, "https://10.0.0.1", "https://10.0.0.2/token"));
    }

    #[test]
    fn no_realm_reaches_into_a_private_network() {
        for realm in [
            "https://127.0.0.1/t",
            "https://169.254.169.254/t",
            "https://[::1]/t",
            "https://10.1.2.3/t",
        ] {
            assert!(
                !allowed(false, "https://registry.example", realm),
                "{realm}"
            );
        }
        assert!(allowed(
            false,
            "http://127.0.0.1:5000",
            "http://127.0.0.1:5001/token"
        ));
        assert!(allowed(
            true,
            "http://127.0.0.1:5000",
            "http://localhost:5001/token"
        ));
    }

    #[test]
    fn anonymous_tokens_may_come_from_anywhere_public() {
        assert!(allowed(
            false,
            "https://registry.gitlab.example",
            "https://gitlab.other/jwt"
        ));
        assert!(!allowed(
            true,
            "https://registry.gitlab.example",
            "https://gitlab.other/jwt"
        ));
    }

    #[test]
    fn a_realm_of_plain_http_is_asked_over_tls_where_upstream_is() {
        let asked = |home: &str, realm: &str| {
            let asked = over_tls(&home.parse().unwrap(), &realm.parse().unwrap());
            asked.map(|uri| uri.to_string())
        };
        for (home, realm, expected) in [
            (
                "https://h.example",
                "http://h.example:80/token?x=1",
                "https://h.example/token?x=1",
            ),
            (
                "https://h.example",
                "http://H.example/token",
                "https://h.example/token",
            ),
            (
                "https://h.example:8443",
                "http://h.example/t",
                "https://h.example:8443/t",
            ),
            (
                "https://h.example:5000",
                "http://h.example:5000/t",
                "https://h.example:5000/t",
            ),
            (
                "https://h.example",
                "http://h.example:5001/t",
                "https://h.example:5001/t",
            ),
            (
                "https://h.example:8443",
                "http://auth.example/t",
                "https://auth.example/t",
            ),
            (
                "https://h.example",
                "http://auth.example:80",
                "https://auth.example/",
            ),
        ] {
            assert_eq!(asked(home, realm).as_deref(), Some(expected), "{realm}");
        }
        assert_eq!(asked("http://h.example", "http://h.example/t"), None);
        assert_eq!(asked("https://h.example", "https://h.example/t"), None);
        assert_eq!(asked("https://h.example", "null://h.example/t"), None);
    }

    #[test]
    fn what_is_no_address_is_called_so() {
        let words = |realm: &str| {
            let home = "https://h.example".parse().unwrap();
            check(false, &home, &realm.parse().unwrap(), &[])
                .unwrap_err()
                .to_string()
        };
        let scheme = words("null://h.example/v2/token");
        assert!(
            scheme.contains("null://h.example") && scheme.contains("X-Forwarded-Proto"),
            "{scheme}"
        );
        assert!(words("/token").contains("no URL"));
        for realm in ["null://h.example/t", "/token"] {
            assert!(
                !words(realm).contains("`realms`"),
                "advice that cannot help"
            );
        }
    }
}
