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

    /// Refuses a realm where no token may be asked for, or where the credentials may not be sent; how far the way there
    /// may lead. `zone` is where the host is that named the realm.
    pub(super) fn check(
        &self,
        with_credentials: bool,
        realm: &Uri,
        zone: Zone,
    ) -> Result<Reach, Error> {
        check(with_credentials, &self.home, realm, &self.listed)?;
        let listed = self.listed.iter().any(|listed| names(listed, realm));
        Ok(match listed || origin(&self.home) == origin(realm) {
            true => Reach::Anywhere,
            false => Reach::Beside(zone),
        })
    }
}

/// Judges a realm by what its URL says; the address is judged when it is connected to.
///
/// Without credentials: `https` (or the upstream's own plain `http`), and no private address unless the
/// upstream is at one. With credentials also: the upstream's own host, its registrable domain
/// (`registry-1.docker.io` and `auth.docker.io`), or a host the operator listed.
fn check(with_credentials: bool, home: &Uri, realm: &Uri, listed: &[String]) -> Result<(), Error> {
    let refuse = |why: &str| {
        let host = realm.host().unwrap_or("(no host)");
        let advice = "if that is right, list the host under `realms` of this upstream";
        Err(Error::Credentials(
            format!("upstream names {host} as its token realm, {why}; {advice}").into(),
        ))
    };
    let (Some(home_host), Some(host)) = (home.host(), realm.host()) else {
        return refuse("which is no URL");
    };
    if realm.scheme_str() != Some("https") && realm.scheme_str() != home.scheme_str() {
        return refuse("over plain http");
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
}
