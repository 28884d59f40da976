//! Questions that only find out whether upstream answers, and as whom: `check --online`.

use http::Method;

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
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let no_registry = |answer: &str| {
            let base = self.client.base();
            let words =
                format!("{base}/v2/ answers {answer}: there is no registry; is its url right?");
            Error::Wrong(words.into())
        };
        let asked = self.ask(Question::new(Method::GET, Endpoint::Base)).await;
        match asked {
            Err(Error::NotFound) => Err(no_registry("404")),
            Ok(reply) if content_type(&reply.headers).is_some_and(is_page) => {
                Err(no_registry("with a page"))
            }
            result => result.map(drop),
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

fn is_page(content_type: &str) -> bool {
    content_type.to_ascii_lowercase().starts_with("text/html")
}
