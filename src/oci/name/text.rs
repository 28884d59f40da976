//! What the name types have in common: their traits, and the error that says what is wrong with a
//! text.

use std::fmt;

/// The longest name taken. Many clients limit it so (OCI distribution-spec, "Pulling manifests"),
/// and so do file systems.
pub(super) const MAX_LENGTH: usize = 255;

/// A text that is not the name it was meant to be. The message quotes it and states the rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// How much of an offending text is quoted: enough to recognise it, too little to flood a log.
const QUOTED: usize = 80;

impl NameError {
    /// Quotes `text` as an invalid `what`: escaped, because it comes from the network and ends up
    /// in logs and terminals.
    pub(super) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        let mut quoted: String = text
            .chars()
            .take(QUOTED)
            .flat_map(char::escape_debug)
            .collect();
        if text.chars().nth(QUOTED).is_some() {
            quoted.push_str("...");
        }
        Self {
            what,
            text: quoted,
            rule,
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {} \"{}\": {}", self.what, self.text, self.rule)
    }
}

impl std::error::Error for NameError {}

/// Printing, and reading and writing as a string, for a tuple struct around an `Arc<str>` that
/// implements `FromStr`.
macro_rules! shared_traits {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(super) use shared_traits;
