//! `WWW-Authenticate` (RFC 9110 11.6.1): how a registry wants to be told who is asking.

use http::HeaderValue;
use http_auth::{ChallengeRef, parse_challenges};

/// One challenge, as far as a registry's client can answer it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Challenge {
    /// User name and password with every request (RFC 7617).
    Basic {
        /// What the credentials are for; empty when it is missing, which some registries get wrong
        /// and which changes nothing.
        realm: String,
    },
    /// A token, which `realm` gives out (docker/distribution, "Token Authentication Specification";
    /// RFC 6750 3).
    Bearer {
        /// The token server's URL.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it must allow. More than one scope is separated by spaces.
        scope: Option<String>,
        /// Why the token that was sent is not enough: `insufficient_scope`, `invalid_token`.
        error: Option<String>,
    },
    /// One that cannot be answered: another scheme, or a `Bearer` that does not say where to ask.
    Other {
        /// The scheme as it was written.
        scheme: String,
    },
}

/// All challenges of all the header's lines, in order.
///
/// A line that is malformed contributes nothing: half a challenge could send credentials to half a
/// realm.
pub fn parse<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<Challenge> {
    values.into_iter().flat_map(parse_line).collect()
}

fn parse_line(value: &HeaderValue) -> Vec<Challenge> {
    let parsed = value
        .to_str()
        .ok()
        .and_then(|text| parse_challenges(text).ok());
    parsed.unwrap_or_default().iter().map(challenge).collect()
}

fn challenge(parsed: &ChallengeRef<'_>) -> Challenge {
    let parameter = |name| parameter(parsed, name);
    match (parsed.scheme, parameter("realm")) {
        (scheme, realm) if scheme.eq_ignore_ascii_case("basic") => Challenge::Basic {
            realm: realm.unwrap_or_default(),
        },
        (scheme, Some(realm)) if scheme.eq_ignore_ascii_case("bearer") => Challenge::Bearer {
            realm,
            service: parameter("service"),
            scope: parameter("scope"),
            error: parameter("error"),
        },
        (scheme, _) => Challenge::Other {
            scheme: scheme.to_owned(),
        },
    }
}

/// Parameter names are compared without case (RFC 9110 11.2); of a repeated one the first counts.
fn parameter(parsed: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let found = parsed
        .params
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_unescaped())
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    fn parsed(lines: &[&str]) -> Vec<Challenge> {
        let values: Vec<_> = lines
            .iter()
            .map(|line| HeaderValue::from_str(line).unwrap())
            .collect();
        parse(&values)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let [service, scope] = [service, scope].map(|text| text.map(str::to_owned));
        Challenge::Bearer {
            realm: realm.into(),
            service,
            scope,
            error: None,
        }
    }

    fn other(scheme: &str) -> Challenge {
        Challenge::Other {
            scheme: scheme.into(),
        }
    }

    #[test]
    fn commas_inside_quotes_are_not_separators() {
        let line = r#"Bearer realm="https://a.example/token",service="a.example",scope="repository:x/y:pull,push""#;
        assert_eq!(
            parsed(&[line]),
            [bearer(
                "https://a.example/token",
                Some("a.example"),
                Some("repository:x/y:pull,push")
            )]
        );
    }

    #[test]
    fn several_per_line_and_several_lines() {
        let found = parsed(&[
            r#"Negotiate, BASIC Realm="a \"b\"", bearer REALM="https://t", Scope=s"#,
            r#"Basic realm="c""#,
        ]);
        let basic = |realm: &str| Challenge::Basic {
            realm: realm.into(),
        };
        assert_eq!(
            found,
            [
                other("Negotiate"),
                basic("a \"b\""),
                bearer("https://t", None, Some("s")),
                basic("c")
            ]
        );
    }

    #[test]
    fn an_error_is_kept() {
        let found = parsed(&[r#"Bearer realm="https://t",error="insufficient_scope""#]);
        assert!(
            matches!(&found[..], [Challenge::Bearer { error: Some(error), .. }] if error == "insufficient_scope")
        );
    }

    #[test]
    fn a_bearer_without_realm_cannot_be_answered() {
        assert_eq!(
            parsed(&[r#"Bearer service="x""#, "Bearer"]),
            [other("Bearer"), other("Bearer")]
        );
    }

    #[test]
    fn a_malformed_line_does_not_spoil_the_others() {
        let broken = [
            r#"Bearer realm="https://t"#,
            "=",
            "",
            r#"Bearer realm="a" "b""#,
        ];
        assert_eq!(parsed(&broken), []);
        assert_eq!(
            parsed(&[broken[0], r#"Basic realm="x""#]),
            [Challenge::Basic { realm: "x".into() }]
        );
        assert_eq!(
            parse(&[HeaderValue::from_bytes(b"Basic realm=\"\xff\"").unwrap()]),
            []
        );
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes: Vec<u8>, text in r#"((Basic|Bearer|x)? ?(realm|y)?=?("[ -~]{0,9}"|[a-z,= \\"]{0,5}),? ?){0,4}"#) {
            for bytes in [bytes, text.into_bytes()] {
                let _ = parse(HeaderValue::from_bytes(&bytes).iter());
            }
        }

        #[test]
        fn quoted_values_come_back_as_they_were(realm in "[ -~]{0,40}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(parsed(&[&format!("Bearer realm=\"{quoted}\"")]), [bearer(&realm, None, None)]);
        }
    }
}
