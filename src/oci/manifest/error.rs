//! Why bytes are not a manifest.

use std::fmt;

/// Why bytes are not a manifest.
#[derive(Debug)]
pub enum ManifestError {
    /// They are not JSON, or not an object, or there is something after it.
    Json(serde_json::Error),
    /// `Content-Type` and the manifest's own `mediaType` name different types.
    TwoTypes {
        /// What `Content-Type` said.
        said: String,
        /// What the bytes say.
        own: String,
    },
    /// Neither `Content-Type` nor the bytes name the type of a manifest.
    NoType(String),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "not a JSON object: {error}"),
            Self::TwoTypes { said, own } => {
                write!(f, "Content-Type says {said}, the manifest itself {own}")
            }
            Self::NoType(said) => write!(f, "{said} is not the type of a manifest"),
        }
    }
}

impl std::error::Error for ManifestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::TwoTypes { .. } | Self::NoType(_) => None,
        }
    }
}
