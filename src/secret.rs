//! Passwords, tokens and keys: a type that cannot be printed by accident, and leaves no copy in memory when it is
//! dropped.

use std::fmt;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A secret text.
///
/// Wiped from memory on drop, and so is each clone. There is no `Display` and no `Serialize`, and `Debug` says
/// `[redacted]`, so that the only way to the text is [`Secret::expose`], which a reviewer can search for.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of the text. The caller must not keep a copy.
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The texts one after the other. Room is made at once: growing would leave copies behind.
    pub(crate) fn concat(parts: &[&str]) -> Self {
        let mut all = String::with_capacity(parts.iter().map(|part| part.len()).sum());
        all.extend(parts.iter().copied());
        Self::new(all)
    }

    /// The text itself, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_tell() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(format!("{:?}", Some(secret.clone())), "Some([redacted])");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn parts_are_joined_without_growing() {
        let secret = Secret::concat(&["Bearer ", "hunter2"]);
        assert_eq!(secret.expose(), "Bearer hunter2");
        assert_eq!(secret.0.capacity(), secret.0.len());
    }

    #[test]
    fn a_refused_value_is_not_quoted_in_the_error() {
        // serde quotes what it got when the type is wrong: a number in place of a password is shown, a text never is.
        let error = serde_json::from_str::<Secret>("[\"hunter2\"]").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
