//! Requests that a web page in a browser may have sent. No registry client, scraper or command sends them.
//!
//! A page of another site can make a browser ask this machine. That alone costs transfers and quota. If the page's own
//! name leads to a loopback address (DNS rebinding), it can also read the answer, as its browser takes both for one
//! site. Only `Host` tells that case: over plain http to another name, browsers send no `Sec-Fetch-Site`.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, Request, StatusCode, Version};

use super::origins::Origins;
use super::record::cut;

/// The header in which browsers say whose request it is (Fetch Metadata, W3C).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What every answer says to browsers: it is what its type says, and nothing in it may be run or shown as a page.
const CLOSED: [(HeaderName, HeaderValue); 2] = [
    (
        http::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        http::header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    ),
];

/// Between two warnings about hosts: each request could be one.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// Which requests an address answers.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    /// `None`: any host.
    hosts: Option<Arc<Hosts>>,
    origins: Origins,
}

/// The hosts that a loopback address is known by.
#[derive(Debug)]
struct Hosts {
    /// Besides those of loopback addresses.
    further: Vec<String>,
    warned: Mutex<Option<Instant>>,
}

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// It does not say, once and for all, which host it is for.
    NoHost,
    /// It gives a host that this address is not known by.
    Host(String),
    /// A page of another site sent it.
    Page,
}

impl Gate {
    /// The gate of a listener at `address`, where requests may also give one of `names` as their host.
    pub(crate) fn new(address: IpAddr, names: &[String]) -> Self {
        let any = !address.to_canonical().is_loopback() || names.iter().any(|name| name == "*");
        let hosts = || Hosts {
            further: names.to_vec(),
            warned: Mutex::default(),
        };
        Self {
            hosts: (!any).then(|| Arc::new(hosts())),
            origins: Origins::default(),
        }
    }

    /// The same gate, open to web pages of these origins.
    pub(crate) fn open_to(self, origins: Origins) -> Self {
        Self { origins, ..self }
    }

    /// Says in an answer which pages may read it.
    pub(crate) fn mark<B>(&self, request: &Request<B>, answer: &mut HeaderMap) {
        self.origins.mark(request, answer);
    }

    /// Whether to answer. `shown`: the answer may be shown to a person who follows a link on another site.
    pub(crate) fn judge<B>(&self, request: &Request<B>, shown: bool) -> Result<(), Turned> {
        let headers = request.headers();
        // RFC 9112 3.2, as every server in Go and nginx have it. With two, a proxy before this one may have read the other.
        let named = headers.get_all(HOST).iter().count();
        if named > 1 || named == 0 && request.version() == Version::HTTP_11 {
            return Err(Turned::NoHost);
        }
        let welcome = self.origins.welcome(headers).is_some();
        if let Some(site) = headers.get(SEC_FETCH_SITE)
            && !welcome
            && site != "none"
            && site != "same-origin"
            && !(shown && is_followed_link(request))
        {
            return Err(Turned::Page);
        }
        let host = request.uri().authority().map(http::uri::Authority::as_str);
        if !welcome && let Some(origin) = headers.get(ORIGIN) {
            let named = host.or_else(|| headers.get(HOST)?.to_str().ok());
            let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
            let own = origin.zip(named);
            if !own.is_some_and(|((_, origin), named)| origin.eq_ignore_ascii_case(named)) {
                return Err(Turned::Page);
            }
        }
        match &self.hosts {
            None => Ok(()),
            Some(hosts) => hosts
                .judge(host, headers)
                .inspect_err(|turned| hosts.warn(turned)),
        }
    }
}

impl Hosts {
    /// RFC 9112 3.2.2: with an absolute target, and over HTTP/2, `Host` does not count.
    fn judge(&self, target: Option<&str>, headers: &HeaderMap) -> Result<(), Turned> {
        if let Some(host) = target {
            return self.know(host);
        }
        // None is HTTP/1.0: a health check, and no browser.
        headers.get(HOST).map_or(Ok(()), |host| {
            let host = host.to_str().map_err(|_| Turned::Host("?".to_owned()))?;
            self.know(host)
        })
    }

    fn know(&self, host: &str) -> Result<(), Turned> {
        let name = without_port(host);
        let is_loopback = match name.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            // An empty one is what clients send that have no name for where they ask (RFC 9112 3.2).
            Err(_) => is_localhost(name) || host.is_empty(),
        };
        let given =
            |known: &String| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host);
        match is_loopback || self.further.iter().any(given) {
            true => Ok(()),
            false => Err(Turned::Host(cut(name).into_owned())),
        }
    }

    /// Clients that find no answer turn to the registry in silence, so the operator has to be told.
    fn warn(&self, turned: &Turned) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= BETWEEN_WARNINGS) {
            *warned = Some(Instant::now());
            tracing::warn!("a request is not answered: {turned}");
        }
    }
}

impl Turned {
    /// 421: the request is meant for another server (RFC 9110 15.5.20).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Page => StatusCode::FORBIDDEN,
        }
    }
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("an HTTP/1.1 request has one Host header"),
            Self::Host(host) => write!(
                f,
                "this address is for this machine alone, and the request is for the host {host:?}; if that is meant to lead here, add it to allowed_hosts"
            ),
            Self::Page => f.write_str(
                "web pages of other sites are not answered here; for a registry UI see allowed_origins",
            ),
        }
    }
}

/// Adds what every answer carries.
pub(super) fn close(headers: &mut HeaderMap) {
    for (name, value) in CLOSED {
        headers.insert(name, value);
    }
}

/// A person went there: the page that has the link sees nothing of the answer.
fn is_followed_link<B>(request: &Request<B>) -> bool {
    let mode = request.headers().get(SEC_FETCH_MODE);
    *request.method() == Method::GET && mode.is_some_and(|mode| mode == "navigate")
}

fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|it| it.split_once(']')) {
        return address;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// `localhost` and all names below it (RFC 6761 6.3).
fn is_localhost(name: &str) -> bool {
    const NAME: &str = "localhost";
    let name = name.strip_suffix('.').unwrap_or(name);
    let Some(start) = name.len().checked_sub(NAME.len()) else {
        return false;
    };
    let (below, end) = name.as_bytes().split_at(start);
    end.eq_ignore_ascii_case(NAME.as_bytes()) && matches!(below.last(), None | Some(b'.'))
}

#[cfg(test)]
mod tests;
