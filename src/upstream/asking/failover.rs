//! Which endpoint is asked: the configured ones in their order, and the registry itself at the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics::Metrics;
use crate::oci::name::Repository;
use crate::upstream::error::{CertificateError, Error};
use crate::upstream::login::kinds::Login;
use crate::upstream::settings::{BaseUrl, Settings};

use super::client::Client;

/// How long an endpoint whose body broke off is not asked for blobs of that repository.
const AVOIDED: Duration = Duration::from_secs(15);

pub(crate) struct Endpoints {
    /// Asked before the registry, in this order, without credentials.
    before: Vec<Client>,
    registry: Client,
    namespace: Arc<str>,
}

/// One endpoint to ask, with its share of the time.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    pub(crate) client: &'a Client,
    pub(crate) until: Instant,
    /// There is no other endpoint after it.
    pub(crate) last: bool,
}

impl Endpoints {
    pub(crate) fn new(
        settings: &Settings,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        let before = |place: &BaseUrl| {
            let anonymous = Settings {
                registry: place.clone(),
                logins: vec![Login::Anonymous],
                realms: Vec::new(),
                ..settings.clone()
            };
            Client::new(&anonymous, false, metrics)
        };
        let before = settings.endpoints.iter().map(before);
        Ok(Self {
            before: before.collect::<Result<_, _>>()?,
            registry: Client::new(settings, true, metrics)?,
            namespace: settings.namespace.as_str().into(),
        })
    }

    pub(crate) fn registry(&self) -> &Client {
        &self.registry
    }

    /// The registry alone, with all of the time.
    pub(crate) fn registry_turn(&self) -> Turn<'_> {
        Turn {
            client: &self.registry,
            until: self.registry.deadline(),
            last: true,
        }
    }

    /// Those that are asked before the registry.
    pub(crate) fn before(&self) -> &[Client] {
        &self.before
    }

    /// The first answer: an endpoint that gives none is followed by the next one. All of them together have the time
    /// that a response header may take. For the body of a blob of `repository`, endpoints
    /// that lately broke one off are left out.
    pub(crate) async fn first_answer<'a, T, F>(
        &'a self,
        for_body: Option<&Repository>,
        ask: impl Fn(Turn<'a>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let until = self.registry.deadline();
        let broke =
            |client: &Client| for_body.is_some_and(|name| client.broke_within(name, AVOIDED));
        let sound = |client: &&Client| !broke(client);
        let mut left = u32::try_from(self.before.iter().filter(sound).count()).unwrap_or(u32::MAX);
        let mut before = self.before.iter().filter(sound);
        loop {
            let turn = match before.next() {
                Some(client) => {
                    // One that hangs must leave time for the others.
                    let now = Instant::now();
                    let share = until.saturating_duration_since(now) / left.saturating_add(1);
                    left = left.saturating_sub(1);
                    Turn {
                        client,
                        until: now + share,
                        last: false,
                    }
                }
                None => Turn {
                    client: &self.registry,
                    until,
                    last: true,
                },
            };
            match ask(turn).await {
                Err(error) if !turn.last => {
                    let (upstream, endpoint) = (&self.namespace, turn.client.base());
                    tracing::debug!(%upstream, endpoint, %error, "asking the next");
                }
                result => return result,
            }
        }
    }

    /// A body from an endpoint was wrong: for a while, blobs of this repository are asked of the registry itself alone.
    pub(crate) fn distrust(&self, repository: &Repository) {
        self.before
            .iter()
            .for_each(|client| client.distrust(repository));
    }
}
