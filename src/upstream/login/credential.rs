//! A credential: what the mirror shows to prove who it is.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::secret::Secret;
use crate::upstream::error::Error;

pub(crate) struct Credential {
    pub(super) user: String,
    pub(super) secret: Secret,
    /// When it has to be read again; `None`: never.
    pub(super) until: Option<Instant>,
}

impl Credential {
    /// Whether it may still be used without reading it again.
    pub(super) fn is_current(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Whether both say the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.user == other.user && self.secret.expose() == other.secret.expose()
    }

    /// The value of `Authorization` for HTTP's basic authentication (RFC 7617).
    pub(super) fn basic(&self) -> Result<HeaderValue, Error> {
        let pair = Secret::concat(&[&self.user, ":", self.secret.expose()]);
        let encoded = Secret::new(STANDARD.encode(pair.expose()));
        sensitive(&Secret::concat(&["Basic ", encoded.expose()]))
    }
}

/// A header's value that no log prints.
pub(super) fn sensitive(text: &Secret) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text.expose()).map_err(|_| {
        Error::Credentials("a credential has characters that no HTTP header can carry".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}
