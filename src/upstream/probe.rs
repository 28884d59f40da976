//! Questions that only find out whether upstream answers, and as whom: `check --online`.

use std::time::Duration;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use crate::oci::endpoint::Endpoint;
use crate::oci::manifest;
use crate::oci::name::{Reference, Repository};

use super::asking::client::Client;
use super::asking::failover::Endpoints;
use super::asking::request::{Question, Reply, content_type};
use super::error::Error;
use super::login::account::Account;
use super::manifests;
use super::restraint::quota::RateLimit;
use super::settings::{BaseUrl, Settings};

/// How registries refuse what is not there, and what else they say of `/v2/`.
const REFUSALS: &[u16] = &[401, 403, 404, 405];
const AT_BASE: &[u16] = &[401, 403, 404, 405, 451, 500];
/// An image that does not exist.
const NO_IMAGE: (&str, &str) = ("pierglass/check", "latest");
/// How much of an answer is read, and how long that may take.
const MAX_ANSWER: usize = 16 * 1024;
const READ_WITHIN: Duration = Duration::from_secs(2);

/// What answers `/v2/`.
pub(crate) enum Reached {
    /// A registry.
    Well,
    /// A registry, whose answer says nothing of whether images can be pulled.
    Oddly(String),
}

/// One account at the registry itself, or one of the endpoints that are asked before it.
pub(crate) struct Probe<'a> {
    client: &'a Client,
    account: Option<&'a Account>,
    endpoint: Option<&'a BaseUrl>,
}

/// The accounts in the order they are tried, then the endpoints.
pub(super) fn all<'a>(
    settings: &'a Settings,
    endpoints: &'a Endpoints,
) -> impl Iterator<Item = Probe<'a>> {
    let client = endpoints.registry();
    let accounts = client.accounts().iter().map(move |account| Probe {
        client,
        account: Some(account),
        endpoint: None,
    });
    let before = endpoints.before().iter().zip(&settings.endpoints);
    let before = before.map(|(client, place)| Probe {
        client,
        account: None,
        endpoint: Some(place),
    });
    accounts.chain(before)
}

impl Probe<'_> {
    pub(crate) fn identity(&self) -> &str {
        self.account.map_or("anonymous", Account::name)
    }

    /// The place, for an endpoint that is asked before the registry.
    pub(crate) fn endpoint(&self) -> Option<&BaseUrl> {
        self.endpoint
    }

    /// What the registry last stated of this account's pull quota; `None` if it never did.
    pub(crate) fn stated_quota(&self) -> Option<RateLimit> {
        self.account?.quota().stated()
    }

    /// Asks for `/v2/`, with a token if that is wanted. What answers it as no registry does is told as that.
    pub(crate) async fn ping(&self) -> Result<Reached, Error> {
        let question = Question {
            answers: AT_BASE,
            ..Question::new(Method::GET, Endpoint::Base)
        };
        let reply = match self.ask(question).await {
            Ok(reply) => reply,
            Err(error) => return self.of_realm(error),
        };
        if let Some(refusal) = self.refusal() {
            return Err(Error::Credentials(refusal.into()));
        }
        let status = reply.status;
        let answer = match status.is_success() {
            true if is_html(&reply.headers) => "with a page".to_owned(),
            true => "otherwise than a registry".to_owned(),
            false => status.as_u16().to_string(),
        };
        let base = self.client.base();
        let is_page = status.is_success() && is_html(&reply.headers);
        if speaks_the_api(reply).await {
            return Ok(match status.is_success() {
                true => Reached::Well,
                false => Reached::Oddly(format!(
                    "it is a registry, but answers {answer} to {base}/v2/; images may work"
                )),
            });
        }
        // There are registries that have nothing at `/v2/`, or something else, and everything below it.
        if !is_page && self.has_api_below().await {
            return Ok(Reached::Oddly(format!(
                "{base}/v2/ answers {answer}, but below it is a registry; images may work"
            )));
        }
        if status.is_server_error() {
            return Err(Error::unavailable(format!("{base}/v2/ answers {status}")));
        }
        let words = format!("{base}/v2/ answers {answer}: there is no registry; is its url right?");
        Err(Error::Wrong(words.into()))
    }

    /// What it means that `/v2/` was not answered. A realm that was asked was named by a registry; some (ghcr.io) refuse a
    /// token for what `/v2/` itself asks for.
    fn of_realm(&self, error: Error) -> Result<Reached, Error> {
        match error.refuses_who_asks() && self.refusal().is_none() {
            true => Ok(Reached::Oddly(format!(
                "it is a registry, but gives no token for /v2/ itself ({}); public images may work",
                error.detail()
            ))),
            false => Err(error),
        }
    }

    /// Why the account's password is not shown any more.
    fn refusal(&self) -> Option<String> {
        self.account
            .and_then(|account| account.authenticator().refusal())
    }

    /// Whether a question about an image is answered in the words of the API. No registry has this one.
    async fn has_api_below(&self) -> bool {
        let (Ok(repository), Ok(reference)) = (NO_IMAGE.0.parse(), NO_IMAGE.1.parse()) else {
            return false;
        };
        let question = Question {
            accept: Some(manifest::ACCEPT),
            answers: REFUSALS,
            ..Question::new(Method::GET, manifests::endpoint(&repository, &reference))
        };
        match self.ask(question).await {
            Ok(reply) => !reply.status.is_success() && speaks_the_api(reply).await,
            Err(error) => self.of_realm(error).is_ok(),
        }
    }

    /// Asks for a manifest with a HEAD, for what the registry states of the quota.
    pub(crate) async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<(), Error> {
        let endpoint = manifests::endpoint(repository, reference);
        self.ask(Question {
            accept: Some(manifest::ACCEPT),
            ..Question::new(Method::HEAD, endpoint)
        })
        .await
        .map(drop)
    }

    async fn ask(&self, question: Question) -> Result<Reply, Error> {
        let until = self.client.deadline();
        match self.account {
            Some(account) => Ok(self.client.ask_as(account, &question, until).await?),
            None => self.client.send(&question, until).await,
        }
    }
}

/// Whether an answer is that of a registry: it says so, it wants to know who asks, or it is JSON as the API has it. Quay
/// answers `/v2/` with `true`, which it calls `text/html`.
async fn speaks_the_api(reply: Reply) -> bool {
    let headers = &reply.headers;
    if headers.contains_key("docker-distribution-api-version")
        || reply.status == StatusCode::UNAUTHORIZED && headers.contains_key(WWW_AUTHENTICATE)
    {
        return true;
    }
    let is_html = is_html(headers);
    let body = tokio::time::timeout(READ_WITHIN, reply.body.collect_up_to(MAX_ANSWER)).await;
    let Ok(Ok(body)) = body else { return false };
    let json = serde_json::from_slice::<Value>(&body);
    match (reply.status.is_success(), json) {
        (true, Ok(Value::Object(fields))) => fields.is_empty(),
        (true, Ok(_)) => true,
        (true, Err(_)) => body.is_empty() && !is_html,
        (false, json) => {
            let json = json.unwrap_or_default();
            json.pointer("/errors/0/code").is_some()
        }
    }
}

fn is_html(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|it| it.to_ascii_lowercase().starts_with("text/html"))
}
