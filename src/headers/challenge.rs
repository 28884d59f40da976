//! `WWW-Authenticate` (RFC 9110 11.6.1): how a registry wants to be told who is asking.

use http::{HeaderValue, Uri};
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

impl Challenge {
    /// Whether it can be answered: with a password, or with the token of a realm that has an address.
    pub(crate) fn is_usable(&self) -> bool {
        match self {
            Self::Basic { .. } => true,
            Self::Bearer { realm, .. } => realm.parse::<Uri>().is_ok_and(|uri| {
                let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
                is_http && uri.host().is_some_and(|host| !host.is_empty())
            }),
            Self::Other { .. } => false,
        }
    }
}

/// All challenges of all the header's lines, in order.
///
/// A line is read by the letter. One that is malformed is read as it was meant, as long as that is clear. What is not
/// contributes nothing: half a challenge could send credentials to half a realm.
pub fn parse<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<Challenge> {
    values.into_iter().flat_map(parse_line).collect()
}

fn parse_line(value: &HeaderValue) -> Vec<Challenge> {
    let line = String::from_utf8_lossy(value.as_bytes());
    match parse_challenges(&line) {
        Ok(parsed) => parsed.iter().map(by_the_letter).collect(),
        Err(_) => as_meant(&line),
    }
}

fn by_the_letter(parsed: &ChallengeRef<'_>) -> Challenge {
    challenge(parsed.scheme, |name| {
        let mut parameters = parsed.params.iter();
        let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    })
}

/// Parameter names are compared without case (RFC 9110 11.2); of a repeated one the first counts.
fn challenge(scheme: &str, parameter: impl Fn(&str) -> Option<String>) -> Challenge {
    // What no URL can have is not sent anywhere.
    let is_printable = |text: &String| text.chars().all(|c| matches!(c, ' '..='~' | '\t'));
    match (scheme, parameter("realm")) {
        (scheme, realm) if scheme.eq_ignore_ascii_case("basic") => Challenge::Basic {
            realm: realm.unwrap_or_default(),
        },
        (scheme, Some(realm)) if scheme.eq_ignore_ascii_case("bearer") && is_printable(&realm) => {
            Challenge::Bearer {
                realm,
                service: parameter("service"),
                scope: parameter("scope"),
                error: parameter("error"),
            }
        }
        (scheme, _) => Challenge::Other {
            scheme: scheme.to_owned(),
        },
    }
}

const SPACE: [char; 2] = [' ', '\t'];
const SEPARATORS: [char; 4] = [' ', '\t', ',', ';'];
const MARKS: [char; 6] = [' ', '\t', ',', ';', '=', '"'];

/// Reads a line that is not well-formed: values without quotes that need them, other spaces than one, other separators
/// than a comma. A word that no `=` follows begins a challenge.
fn as_meant(line: &str) -> Vec<Challenge> {
    let mut read: Vec<(&str, Vec<(&str, String)>)> = Vec::new();
    let mut rest = line.trim_start_matches(SEPARATORS);
    while !rest.is_empty() {
        let (name, after) = rest.split_at(rest.find(MARKS).unwrap_or(rest.len()));
        let value = after.trim_start_matches(SPACE).strip_prefix('=');
        rest = match (name, value) {
            (scheme, None) if !scheme.is_empty() => {
                read.push((scheme, Vec::new()));
                after
            }
            (name, Some(value)) if !name.is_empty() => {
                let Some((value, after)) = value_as_meant(name, value) else {
                    read.pop();
                    break;
                };
                if let Some((_, parameters)) = read.last_mut() {
                    parameters.push((name, value));
                }
                after
            }
            _ => {
                read.pop();
                break;
            }
        };
        rest = rest.trim_start_matches(SEPARATORS);
    }
    let challenges = read.into_iter().map(|(scheme, parameters)| {
        challenge(scheme, |name| {
            let mut parameters = parameters.iter();
            let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        })
    });
    challenges.collect()
}

/// The value at the beginning of `text`, and what comes after it; `None` if its quote is not closed.
fn value_as_meant<'a>(name: &str, text: &'a str) -> Option<(String, &'a str)> {
    let text = text.trim_start_matches(SPACE);
    if let Some(quoted) = text.strip_prefix('"') {
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return Some((value, quoted.get(at + 1..)?)),
                '\\' => value.push(characters.next()?.1),
                _ => value.push(character),
            }
        }
        return None;
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        let (value, rest) = quoted.split_once('\'')?;
        return Some((value.to_owned(), rest));
    }
    let is_end = |c: char| SPACE.contains(&c) || c == ',';
    let mut end = text.find(is_end).unwrap_or(text.len());
    // The actions of a scope have commas between them.
    while name.eq_ignore_ascii_case("scope")
        && let Some(next) = text.get(end..).and_then(|rest| rest.strip_prefix(','))
        && let action = next.split(is_end).next().unwrap_or_default()
        && matches!(action, "pull" | "push" | "delete" | "*")
    {
        end += 1 + action.len();
    }
    let (value, rest) = text.split_at(end);
    Some((value.to_owned(), rest))
}

#[cfg(test)]
mod tests;
