//! What a realm gives: a bearer token (distribution's token specification; RFC 6750), as realms really write it.

use std::time::{Duration, Instant};

use http::HeaderValue;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::secret::Secret;
use crate::upstream::error::Error;

use super::credential::sensitive;

/// The life of a token whose realm does not state it, or not in a number that can be one (token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// The longest life that is believed: a token each day costs nothing.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A refusal this soon after a token was issued is not about its age.
const JUST_ISSUED: Duration = Duration::from_secs(5);

pub(super) struct Token {
    /// The value of `Authorization`. Kept as a secret, so that it is wiped when it is dropped.
    bearer: Secret,
    issued: Instant,
    renew_after: Duration,
}

impl Token {
    /// Reads a realm's answer to a question of `asked`; the error says what is wrong with it.
    pub(super) fn read(body: &[u8], asked: Instant) -> Result<Self, &'static str> {
        let answer: TokenAnswer =
            serde_json::from_slice(body).map_err(|_| "answers with what is not a token")?;
        let text = [&answer.access_token, &answer.token]
            .into_iter()
            .flatten()
            .map(|token| token.expose().trim())
            .find(|token| !token.is_empty())
            .ok_or("answers without a token")?;
        let token = Self {
            bearer: Secret::concat(&["Bearer ", text]),
            issued: asked,
            // Renewed when a tenth of its life is left: an exchange takes a moment, and clocks differ.
            renew_after: answer.expires_in.mul_f64(0.9),
        };
        // One that no header can carry is refused now.
        token
            .header()
            .map_err(|_| "answers with a token that no header can carry")?;
        Ok(token)
    }

    pub(super) fn header(&self) -> Result<HeaderValue, Error> {
        sensitive(&self.bearer)
    }

    pub(super) fn is(&self, header: &HeaderValue) -> bool {
        header.as_bytes() == self.bearer.expose().as_bytes()
    }

    pub(super) fn is_good(&self) -> bool {
        self.issued.elapsed() < self.renew_after
    }

    pub(super) fn is_just_issued(&self) -> bool {
        self.issued.elapsed() < JUST_ISSUED
    }

    pub(super) fn length(&self) -> usize {
        self.bearer.expose().len()
    }
}

/// Both names for the token are in use; ACR knows only the first, and there are realms that leave one empty.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    access_token: Option<Secret>,
    #[serde(default)]
    token: Option<Secret>,
    #[serde(default = "default_lifetime", deserialize_with = "lifetime")]
    expires_in: Duration,
}

fn default_lifetime() -> Duration {
    DEFAULT_LIFETIME
}

/// Seconds, as a number of any kind or as text with one.
fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let seconds = seconds.filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
    Ok(seconds.map_or(DEFAULT_LIFETIME, |seconds| {
        Duration::from_secs_f64(seconds.min(LONGEST_LIFETIME.as_secs_f64()))
    }))
}

pub(crate) fn is_token(body: &[u8]) -> bool {
    Token::read(body, Instant::now()).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn life_of(expires_in: &str) -> Option<f64> {
        let body = format!(r#"{{"token":"t","expires_in":{expires_in}}}"#);
        let token = Token::read(body.as_bytes(), Instant::now()).ok()?;
        Some((token.renew_after.as_secs_f64() / 0.9 * 1000.0).round() / 1000.0)
    }

    #[test]
    fn a_life_is_read_in_every_spelling() {
        for (written, seconds) in [
            ("300", 300.0),
            ("\"300\"", 300.0),
            ("\" 300 \"", 300.0),
            ("3599.75", 3599.75),
            ("\"3599.75\"", 3599.75),
            ("3e2", 300.0),
            ("2", 2.0),
            ("0", 60.0),
            ("-1", 60.0),
            ("\"-1\"", 60.0),
            ("\"soon\"", 60.0),
            ("\"NaN\"", 60.0),
            ("\"inf\"", 60.0),
            ("null", 60.0),
            ("{}", 60.0),
            ("18446744073709551615", 86400.0),
            ("1e300", 86400.0),
            ("\"1e300\"", 86400.0),
        ] {
            assert_eq!(life_of(written), Some(seconds), "{written}");
        }
    }

    #[test]
    fn the_first_of_both_names_that_says_something_counts() {
        let read = |body: &str| {
            let token = Token::read(body.as_bytes(), Instant::now());
            token.map(|token| token.bearer.expose().to_owned())
        };
        for body in [
            r#"{"token":"t"}"#,
            r#"{"access_token":"t"}"#,
            r#"{"token":"t","access_token":""}"#,
            r#"{"token":"","access_token":"t"}"#,
            r#"{"token":"t","access_token":null}"#,
            r#"{"token":"u","access_token":"t"}"#,
            r#"{"token":" t\n","access_token":" "}"#,
        ] {
            assert_eq!(read(body).as_deref(), Ok("Bearer t"), "{body}");
        }
        for body in [
            r#"{}"#,
            r#"{"token":""}"#,
            r#"{"token":" ","access_token":null}"#,
        ] {
            assert_eq!(read(body), Err("answers without a token"), "{body}");
        }
        for body in ["", "true", "<html>", r#"{"token":["t"]}"#] {
            assert_eq!(
                read(body),
                Err("answers with what is not a token"),
                "{body}"
            );
        }
        let (odd, why) = (
            r#"{"token":"a\nb"}"#,
            "answers with a token that no header can carry",
        );
        assert_eq!(read(odd), Err(why));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(body: Vec<u8>, number: f64, text in "\\PC{0,40}") {
            let _ = Token::read(&body, Instant::now());
            let written = serde_json::json!({"token": "t", "expires_in": number});
            let spelt = serde_json::json!({"token": text, "expires_in": number.to_string()});
            for answer in [written, spelt] {
                if let Ok(token) = Token::read(answer.to_string().as_bytes(), Instant::now()) {
                    prop_assert!(token.renew_after <= LONGEST_LIFETIME);
                }
            }
        }
    }
}
