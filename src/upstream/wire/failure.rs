//! Why a request got no response, in words that say what to do about it.

use std::error::Error as StdError;
use std::io;

use http::Uri;

use crate::upstream::error::{Error, FailedTry};

use super::connect::ProxyFailed;
use super::resolve::Refused;

/// The host of a request and the proxy on the way, as an error names them. Without user names and passwords.
pub(super) struct Destination {
    host: String,
    is_https: bool,
    proxy: Option<Uri>,
}

impl Destination {
    pub(super) fn new(uri: &Uri, proxy: Option<Uri>) -> Self {
        let host = uri.host().unwrap_or_default();
        let port = uri.port().map(|port| format!(":{port}"));
        Self {
            host: format!("{host}{}", port.unwrap_or_default()),
            is_https: uri.scheme_str() == Some("https"),
            proxy,
        }
    }

    /// A request that ended in `error`; another try may help if there was a connection.
    pub(super) fn failed(&self, error: &hyper_util::client::legacy::Error) -> FailedTry {
        if let Some(refused) = find::<Refused>(error) {
            return Error::wrong(refused.to_string()).into();
        }
        let words = match find::<ProxyFailed>(error) {
            Some(failed) => {
                let cause = described(&*failed.cause, failed.proxy.scheme_str() == Some("https"));
                format!(
                    "the proxy {} on the way to {}: {cause}",
                    failed.proxy, self.host
                )
            }
            None => format!("{self}: {}", described(error, self.is_https)),
        };
        match error.is_connect() {
            true => Error::unavailable(words).into(),
            false => FailedTry::transient(Error::unavailable(words)),
        }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host)?;
        match &self.proxy {
            Some(proxy) => write!(f, " (through the proxy {proxy})"),
            None => Ok(()),
        }
    }
}

/// An error with its causes, and what to do about it if that is known.
fn described(error: &(dyn StdError + 'static), is_https: bool) -> String {
    let causes = causes(error);
    match advice(error, is_https) {
        Some(advice) => format!("{advice} ({causes})"),
        None => causes,
    }
}

fn advice(error: &(dyn StdError + 'static), is_https: bool) -> Option<&'static str> {
    use rustls::{CertificateError, Error as Tls};
    match find::<Tls>(error) {
        Some(Tls::InvalidMessage(_)) => {
            return Some("it does not speak TLS; if that is right, write http:// in its url");
        }
        Some(Tls::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            let advice = "its certificate is from an authority that is not trusted here; if that is right, set \
                          ca_file to the authority's certificate";
            return Some(advice);
        }
        _ => {}
    }
    let no_http = find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    (no_http && !is_https)
        .then_some("what it answers is not HTTP; if it speaks TLS, write https:// in its url")
}

/// The error of this type among the causes of another.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref::<T>() {
        return Some(found);
    }
    // What an I/O error wraps is not its source.
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    wrapped
        .and_then(|inner| find(inner))
        .or_else(|| error.source().and_then(find))
}

/// An error with its causes in one line: the outermost text alone rarely says enough.
pub(super) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_repeats_who_the_url_names() {
        let uri = "http://me:hunter2@a.example:81/x".parse().unwrap();
        assert_eq!(Destination::new(&uri, None).to_string(), "a.example:81");
        let proxy = Some("http://proxy:3128/".parse().unwrap());
        let way = Destination::new(&uri, proxy).to_string();
        assert_eq!(way, "a.example:81 (through the proxy http://proxy:3128/)");
    }

    #[test]
    fn what_an_io_error_wraps_is_found() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::other(io::Error::other(tls));
        assert!(advice(&error, true).unwrap().contains("ca_file"));
        let page = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let error = io::Error::other(io::Error::other(page));
        assert!(advice(&error, true).unwrap().contains("http://"));
        assert_eq!(advice(&io::Error::other("x"), true), None);
    }
}
