//! Namespaces: how a client names the registry it wants.

use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use super::text::{self, MAX_LENGTH, NameError};

/// A registry's host with an optional port, as clients name it: `docker.io`, `localhost:5000`,
/// `[::1]:5000`.
///
/// It is what the `ns` query parameter holds (OCI distribution-spec, "Registry Proxying") and what
/// stands before the first slash of an image's name; the grammar is that of Docker's references.
/// Lower-case, because hosts are compared without case (RFC 9110 4.2.3), and never with a slash, an
/// empty label or `..`, because it becomes a directory's name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

text::shared_traits!(Namespace);

impl Namespace {
    /// Whether a path component is meant as a registry's host and not as part of a repository's
    /// name.
    ///
    /// Docker's rule for the first component of an image's name: it has a dot or a colon, or is
    /// `localhost`. True does not mean valid.
    pub(crate) fn is_host_like(component: &str) -> bool {
        component.contains(['.', ':']) || component == "localhost"
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let invalid = |rule| NameError::new("registry host", text, rule);
        if text.len() > MAX_LENGTH {
            return Err(invalid("it must not be longer than 255 bytes"));
        }
        let (host, port) = split_port(text);
        if !is_host(host) {
            return Err(invalid(
                "it must be a host name or an IP address (IPv6 in brackets), with an optional port",
            ));
        }
        if !port.is_none_or(is_port) {
            return Err(invalid("the port must be a number from 1 to 65535"));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// Splits at the last colon, unless that is inside the brackets of an IPv6 address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    }
}

fn is_label(label: &str) -> bool {
    let letters = label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    letters && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
}

/// Leading zeros are refused: one registry must not have two names.
fn is_port(port: &str) -> bool {
    !port.starts_with('0')
        && port.bytes().all(|b| b.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}
