//! One question as one account: sent, and sent again with what is demanded on the way. Each origin may demand an
//! authorization once: upstream itself, and every host that it redirects to. What is sent to one goes to no other.

use std::time::Instant;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;

use crate::headers::challenge::{self, Challenge};
use crate::oci::endpoint::Endpoint;
use crate::oci::name::Repository;
use crate::upstream::error::FailedTry;
use crate::upstream::login::authenticator::{Authenticator, LoginAnswer, Tried};
use crate::upstream::wire::http::parse_uri;
use crate::upstream::wire::origin::{Origin, origin};
use crate::upstream::wire::zone::Zone;

use super::request::Question;
use super::transport::{Arrival, Transport};

/// How often one question is sent again: three origins on the way, a token that has expired, a realm that has moved.
const MOST_ANSWERS: usize = 5;

pub(super) struct Dialogue<'a> {
    pub(super) transport: &'a Transport,
    pub(super) authenticator: &'a Authenticator,
    pub(super) question: &'a Question,
    /// The repository it is about, by the name that it has there.
    pub(super) repository: Option<Repository>,
    pub(super) until: Instant,
}

/// An authorization, and the only origin that it was sent to.
struct ShownAuthorization {
    header: HeaderValue,
    to: Origin,
}

impl Dialogue<'_> {
    /// Asks with the token at hand, and answers what is demanded. Returns the response at which that ended.
    pub(super) async fn run(self) -> Result<Arrival, FailedTry> {
        let mut tried = Tried::default();
        let home = self.transport.uri(self.question)?;
        let repository = self.repository.as_ref();
        let known = self.authenticator.authorization(repository, &mut tried);
        let known = known.await?;
        let arrival = self
            .send(home.clone(), Zone::Public, known.as_ref())
            .await?;
        match arrival.response.status().as_u16() {
            // In a box, because every question that waits for upstream would have room for it.
            400 | 401 | 403 | 404 => {
                let sent = known.map(|header| ShownAuthorization {
                    header,
                    to: origin(&home),
                });
                Box::pin(self.answer_all(home, arrival, sent, tried)).await
            }
            _ => Ok(arrival),
        }
    }

    async fn answer_all(
        &self,
        home: Uri,
        mut arrival: Arrival,
        mut sent: Option<ShownAuthorization>,
        mut tried: Tried,
    ) -> Result<Arrival, FailedTry> {
        for _ in 0..MOST_ANSWERS {
            let at = origin(&arrival.at);
            let shown = sent.as_ref().filter(|sent| sent.to == at);
            let shown = shown.map(|sent| &sent.header);
            let here = self.transport.is_here(&arrival.at);
            let answer = match here {
                true => self.answer_here(&arrival, shown, &mut tried).await?,
                false => self.answer_elsewhere(&arrival, shown, &mut tried).await?,
            };
            let LoginAnswer::Again(authorization) = answer else {
                break;
            };
            self.transport.drain(arrival.response).await;
            let again = if here { home.clone() } else { arrival.at };
            let to = origin(&again);
            arrival = self
                .send(again, arrival.zone, authorization.as_ref())
                .await?;
            sent = authorization.map(|header| ShownAuthorization { header, to });
        }
        Ok(arrival)
    }

    /// What to answer to a response of upstream itself, to which `shown` was sent.
    async fn answer_here(
        &self,
        arrival: &Arrival,
        shown: Option<&HeaderValue>,
        tried: &mut Tried,
    ) -> Result<LoginAnswer, FailedTry> {
        let status = arrival.response.status();
        let repository = self.repository.as_ref();
        let challenges = match (status, shown) {
            (StatusCode::UNAUTHORIZED, _) => self.challenges(arrival).await,
            (StatusCode::FORBIDDEN, Some(shown)) if self.authenticator.forget_expired(shown) => {
                let again = self.authenticator.authorization(repository, tried).await?;
                return Ok(LoginAnswer::Again(again));
            }
            (_, None) if repository.is_some() && self.authenticator.suspects(status) => {
                self.challenges_of_base(arrival).await
            }
            _ => return Ok(LoginAnswer::Nothing),
        };
        let zone = arrival.zone;
        let answer = self
            .authenticator
            .answer(&challenges, zone, repository, shown, tried)
            .await?;
        match (&answer, shown) {
            (LoginAnswer::Nothing, Some(shown)) if status == StatusCode::UNAUTHORIZED => {
                match self.judge_login(shown, tried).await {
                    true => Ok(LoginAnswer::Again(None)),
                    false => Ok(answer),
                }
            }
            _ => Ok(answer),
        }
    }

    /// What to answer to a response of a host that upstream redirected to, if `shown` was sent there.
    async fn answer_elsewhere(
        &self,
        arrival: &Arrival,
        shown: Option<&HeaderValue>,
        tried: &mut Tried,
    ) -> Result<LoginAnswer, FailedTry> {
        match (arrival.response.status(), shown) {
            (StatusCode::UNAUTHORIZED, _) => {
                let challenges = self.challenges(arrival).await;
                let host = arrival.at.authority().map_or("", |host| host.as_str());
                let repository = self.repository.as_ref();
                self.authenticator
                    .answer_elsewhere(&challenges, (host, arrival.zone), repository, shown, tried)
                    .await
            }
            (StatusCode::FORBIDDEN, Some(shown)) if self.authenticator.forget_expired(shown) => {
                Ok(LoginAnswer::Again(None))
            }
            _ => Ok(LoginAnswer::Nothing),
        }
    }

    /// After a 401 to a password: whether the registry refuses that itself or only this question, which `/v2/` tells.
    /// Returns whether to ask without it.
    async fn judge_login(&self, shown: &HeaderValue, tried: &mut Tried) -> bool {
        if !self.authenticator.is_doubtful(shown).await {
            return false;
        }
        if self.question.endpoint == Endpoint::Base {
            return self.authenticator.judge(false, tried).await;
        }
        let base = Question::new(Method::GET, Endpoint::Base);
        let Ok(uri) = self.transport.uri(&base) else {
            return false;
        };
        let asked = self
            .transport
            .send(&base, uri, Zone::Public, Some(shown), self.until)
            .await;
        let Ok(base) = asked else { return false };
        match base.response.status() {
            StatusCode::UNAUTHORIZED => self.authenticator.judge(false, tried).await,
            status if status.is_success() => self.authenticator.judge(true, tried).await,
            _ => false,
        }
    }

    /// What a 401 asks for. Some registries (Artifact Registry) refuse without a challenge, or with one that cannot be
    /// answered; `/v2/` has it.
    async fn challenges(&self, refusal: &Arrival) -> Vec<Challenge> {
        let is_usable = |challenges: &[Challenge]| challenges.iter().any(Challenge::is_usable);
        let stated = challenges(&refusal.response);
        if is_usable(&stated) || self.question.endpoint == Endpoint::Base {
            return stated;
        }
        let of_base = self.challenges_of_base(refusal).await;
        match is_usable(&of_base) {
            true => of_base,
            false => stated,
        }
    }

    /// What `/v2/` asks for at the origin of a response, if that is a registry.
    async fn challenges_of_base(&self, refusal: &Arrival) -> Vec<Challenge> {
        let base = Question::new(Method::GET, Endpoint::Base);
        let at = &refusal.at;
        let uri = match (self.transport.is_here(at), at.scheme_str(), at.authority()) {
            (true, ..) => self.transport.uri(&base),
            (false, Some(scheme), Some(host)) if at.path().starts_with("/v2/") => {
                parse_uri(&format!("{scheme}://{host}/v2/"))
            }
            _ => return Vec::new(),
        };
        let Ok(uri) = uri else { return Vec::new() };
        match self
            .transport
            .send(&base, uri, refusal.zone, None, self.until)
            .await
        {
            Ok(base) if origin(&base.at) == origin(at) => challenges(&base.response),
            _ => Vec::new(),
        }
    }

    async fn send(
        &self,
        uri: Uri,
        zone: Zone,
        authorization: Option<&HeaderValue>,
    ) -> Result<Arrival, FailedTry> {
        self.transport
            .send(self.question, uri, zone, authorization, self.until)
            .await
    }
}

fn challenges(response: &Response<Incoming>) -> Vec<Challenge> {
    challenge::parse(response.headers().get_all(WWW_AUTHENTICATE))
}
