//! Sends a question to one origin and follows its redirects, with the authorization that its caller gives.

use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, IF_NONE_MATCH, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::metrics::Metrics;
use crate::oci::endpoint::Endpoint;
use crate::oci::name::Repository;
use crate::upstream::error::{Error, FailedTry};
use crate::upstream::restraint::backoff::limited_for;
use crate::upstream::restraint::breaker::{Breaker, Permission, Subject};
use crate::upstream::restraint::circuit::FailureKind;
use crate::upstream::restraint::holds::Probed;
use crate::upstream::settings::{BaseUrl, Settings};
use crate::upstream::wire::http::{AGENT, Http, Request};
use crate::upstream::wire::location::redirect;
use crate::upstream::wire::origin::{Origin, names, origin};
use crate::upstream::wire::zone::{Reach, Zone};

use super::redirect::is_registrys;
use super::request::Question;

/// Registries redirect once, regional ones twice; more is a loop.
const MAX_REDIRECTS: usize = 5;
/// How much of an unused body is read, and how long that may take.
const MAX_DRAINED: usize = 16 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_millis(100);

/// The way to one origin and to where it redirects.
pub(super) struct Transport {
    http: Http,
    place: BaseUrl,
    base: String,
    origin: Origin,
    /// Hosts that may be anywhere, as the operator says.
    redirects: Vec<String>,
    breaker: Breaker,
}

/// A response, and where it came from.
pub(super) struct Arrival {
    pub(super) response: Response<Incoming>,
    pub(super) at: Uri,
    /// Where the host is that redirected there, or this origin itself.
    pub(super) zone: Zone,
}

impl Transport {
    pub(super) fn new(settings: &Settings, http: Http, metrics: &Metrics) -> Self {
        let host = settings
            .registry
            .url
            .authority()
            .map_or("", |host| host.as_str());
        Self {
            http,
            base: settings
                .registry
                .url
                .to_string()
                .trim_end_matches('/')
                .to_owned(),
            origin: origin(&settings.registry.url),
            place: settings.registry.clone(),
            redirects: settings.redirects.clone(),
            breaker: Breaker::new(settings.namespace.as_str(), host, metrics),
        }
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// What the repository is called here that a question is about.
    pub(super) fn name_of(&self, question: &Question) -> Option<Repository> {
        let repository = question.endpoint.repository();
        repository.map(|repository| self.place.name_of(repository))
    }

    /// The URL of a question here. It and the scope of a token have the names of this place; all else has those of the
    /// upstream.
    pub(super) fn uri(&self, question: &Question) -> Result<Uri, Error> {
        match self.name_of(question) {
            Some(name) if self.place.prefix.is_some() => {
                let endpoint = question.endpoint.clone().with_repository(name);
                let question = Question {
                    endpoint,
                    ..question.clone()
                };
                question.uri(&self.base)
            }
            _ => question.uri(&self.base),
        }
    }

    /// Whether `uri` is at this origin and not where it redirected to.
    pub(super) fn is_here(&self, uri: &Uri) -> bool {
        origin(uri) == self.origin
    }

    /// Sends the question to `uri` and follows redirects; returns where it ended. The authorization is sent to the
    /// origin of `uri` alone: elsewhere it would be a leak, and S3 refuses a request that has both it and a signed URL.
    ///
    /// `zone` is where the host is that named `uri`, if it is not at this origin.
    pub(super) async fn send(
        &self,
        question: &Question,
        mut uri: Uri,
        mut zone: Zone,
        authorization: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<Arrival, FailedTry> {
        let first = origin(&uri);
        let mut redirected = None;
        for _ in 0..=MAX_REDIRECTS {
            let at = origin(&uri);
            let authorization = authorization.filter(|_| at == first);
            let request = request(question, uri.clone(), authorization)?;
            // The circuit is of this origin alone: where it redirects to can fail for its own reasons.
            let permission = match at == self.origin {
                true => Some(self.admit(question, until).await?),
                false => None,
            };
            let kind = question.endpoint.kind().as_str();
            let reach = self.reach(&uri, zone);
            let result = self.http.send(request, kind, reach, until).await;
            if let Some(permission) = permission {
                report(permission, &result);
            }
            if result.is_err()
                && at != self.origin
                && let Some(redirected) = redirected.take()
            {
                return Ok(redirected);
            }
            let response = result.map_err(|failed| FailedTry {
                // The registry may name another host, and the circuit is not for this one.
                transient: failed.transient
                    || at != self.origin && matches!(failed.error, Error::Unavailable(_)),
                ..failed
            })?;
            if at == self.origin {
                zone = self.http.zone(&uri, &response);
            }
            let next = redirect(&response, &uri)?;
            let arrival = Arrival {
                response,
                at: uri,
                zone,
            };
            let Some(next) = next else {
                return Ok(match redirected {
                    Some(redirected) if !arrival.response.status().is_success() => redirected,
                    _ => arrival,
                });
            };
            tracing::debug!(upstream = %self.http.namespace(), to = next.host(), "redirected");
            if question.tries_redirects && !is_registrys(&question.endpoint, &next) {
                redirected = redirected.or(Some(arrival));
            } else {
                Box::pin(self.drain(arrival.response)).await;
            }
            uri = next;
        }
        let endless = || Error::wrong(format!("more than {MAX_REDIRECTS} redirects")).into();
        redirected.ok_or_else(endless)
    }

    /// Where a connection for `uri` may lead, if a host in `zone` named it.
    fn reach(&self, uri: &Uri, zone: Zone) -> Reach {
        let named =
            origin(uri) == self.origin || self.redirects.iter().any(|listed| names(listed, uri));
        match named {
            true => Reach::Anywhere,
            false => Reach::Beside(zone),
        }
    }

    async fn admit<'a>(
        &'a self,
        question: &'a Question,
        until: Instant,
    ) -> Result<Permission<'a>, Error> {
        let subject = Subject {
            repository: question.endpoint.repository().map(Repository::as_str),
            question: question.subject(),
        };
        let ping = async { Box::pin(self.ping(until)).await.map(drop) };
        self.breaker.admit(subject, ping).await
    }

    /// Asks for `/v2/`, without authorization: whether the origin is well, and whether it limits all that is asked.
    pub(super) async fn ping(&self, until: Instant) -> Result<Probed, Error> {
        let question = Question::new(Method::GET, Endpoint::Base);
        let request = request(&question, self.uri(&question)?, None)?;
        let kind = question.endpoint.kind().as_str();
        let reach = Reach::Anywhere;
        let asked = self.http.send(request, kind, reach, until).await;
        let response = asked.inspect_err(|_| self.http.note_up(false))?;
        let status = response.status();
        let told = limited_for(response.headers(), SystemTime::now());
        self.drain(response).await;
        match status {
            StatusCode::TOO_MANY_REQUESTS => Ok(Probed::Limited(told)),
            status if is_trouble(status) => {
                self.http.note_up(false);
                let words = format!("{}/v2/ answers {status}", self.base);
                Err(Error::unavailable(words))
            }
            _ => Ok(Probed::Free),
        }
    }

    /// Reads a short body to its end, so that its connection can be used again; one that does not come at once is not
    /// worth waiting for.
    pub(super) async fn drain(&self, response: Response<Incoming>) {
        let body = self.http.body(response.into_body());
        let _ = tokio::time::timeout(DRAIN_WITHIN, body.collect_up_to(MAX_DRAINED)).await;
    }
}

fn request(
    question: &Question,
    uri: Uri,
    authorization: Option<&HeaderValue>,
) -> Result<Request, Error> {
    let mut request = http::Request::builder()
        .method(question.method.clone())
        .uri(uri);
    if let Some(headers) = request.headers_mut() {
        fill_headers(headers, question);
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
    }
    request
        .body(Full::default())
        .map_err(|error| Error::wrong(error.to_string()))
}

fn fill_headers(headers: &mut HeaderMap, question: &Question) {
    let optional = |text: Option<&str>| text.and_then(|text| HeaderValue::from_str(text).ok());
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    // A digest is of the bytes without an encoding.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for (name, value) in [
        (ACCEPT, optional(question.accept)),
        (IF_NONE_MATCH, optional(question.if_none_match.as_deref())),
        (RANGE, optional(question.range.as_deref())),
    ] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Tells the circuit how a request to its origin ended.
fn report(permission: Permission<'_>, result: &Result<Response<Incoming>, FailedTry>) {
    match result {
        Ok(response) if is_trouble(response.status()) => {
            let error = Error::unavailable(response.status().to_string());
            permission.failed(FailureKind::ServerError, &error);
        }
        Ok(_) => permission.succeeded(),
        Err(failed) if failed.transient => {
            permission.failed(FailureKind::ServerError, &failed.error);
        }
        Err(failed) => permission.judge(&failed.error),
    }
}

/// Whether a status says that the origin is not well, rather than something about the thing that was asked for.
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}
