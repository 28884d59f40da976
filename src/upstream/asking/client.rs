//! One endpoint: asks it a question as an account that may ask, with a token, again where that helps, and within a time
//! limit.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, StatusCode};

use crate::metrics::Metrics;
use crate::oci::endpoint::Endpoint;
use crate::oci::name::Repository;
use crate::upstream::error::{CertificateError, Error, FailedTry, LimitKind};
use crate::upstream::login::account::{Account, who_may};
use crate::upstream::login::realm::Realms;
use crate::upstream::restraint::breaker::Breaker;
use crate::upstream::restraint::jitter;
use crate::upstream::restraint::quota::RateLimit;
use crate::upstream::restraint::throttle::Throttle;
use crate::upstream::settings::Settings;
use crate::upstream::wire::breaks::Breaks;
use crate::upstream::wire::coding::Coding;
use crate::upstream::wire::http::Http;
use crate::upstream::wire::zone::Zone;

use super::dialogue::Dialogue;
use super::redirect::is_registrys;
use super::refusal;
use super::request::{Question, Reply, content_length};
use super::retry::Retries;
use super::transport::{Arrival, Transport};
use super::warnings::Warnings;

/// Asks one endpoint: the registry itself, or one of those that are asked before it.
pub(crate) struct Client {
    transport: Transport,
    /// In the order they are tried; never empty.
    accounts: Vec<Account>,
    throttle: Throttle,
    /// Whether a spent quota is the account's, as Docker Hub's is, even if no header says so.
    has_quotas: bool,
    breaks: Arc<Breaks>,
    warnings: Warnings,
}

impl Client {
    /// A client for the registry itself, if `is_registry`; else for an entry of `endpoints`.
    pub(super) fn new(
        settings: &Settings,
        is_registry: bool,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        let namespace = settings.namespace.as_str();
        let metrics = Arc::clone(metrics);
        let http = Http::new(
            namespace,
            is_registry,
            &settings.connection,
            Arc::clone(&metrics),
        )?;
        let host = settings
            .registry
            .url
            .authority()
            .map_or("", |host| host.as_str());
        let endpoint = format!("{host} token");
        let breaker = Breaker::new(namespace, &endpoint, &metrics);
        let throttle = Throttle::new(namespace, &endpoint, Arc::clone(&metrics));
        let (home, listed) = (settings.registry.url.clone(), settings.realms.clone());
        let realms = Realms::new(home, listed, breaker, throttle);
        let realms = Arc::new(realms);
        let account = |login| Account::new(login, Arc::clone(&realms), http.clone());
        let accounts = settings.logins.iter().map(account).collect();
        let transport = Transport::new(settings, http.clone(), &metrics);
        Ok(Self {
            accounts,
            throttle: Throttle::new(namespace, transport.base(), metrics),
            has_quotas: settings.is_docker_hub(),
            transport,
            breaks: Arc::default(),
            warnings: Warnings::default(),
        })
    }

    /// Asks, and waits for the response header until `until`: tokens, redirects, repetitions and pauses all count,
    /// because clients wait through all of them.
    pub(crate) async fn send(&self, question: &Question, until: Instant) -> Result<Reply, Error> {
        let mut retries = Retries::default();
        loop {
            let failed = match self.try_accounts(question, until).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            let left = until.saturating_duration_since(Instant::now());
            let Some(pause) = retries.pause(question, &failed, left, jitter::fraction()) else {
                return Err(failed.error);
            };
            tracing::debug!(upstream = %self.namespace(), error = %failed.error, ?pause, "asking again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks another host, without any credential.
    pub(crate) async fn send_openly(
        &self,
        base: &str,
        question: &Question,
        until: Instant,
    ) -> Result<Reply, Error> {
        let asking = async {
            let uri = question.uri(base)?;
            let sent = self
                .transport
                .send(question, uri, Zone::Public, None, until)
                .await?;
            self.reply(sent, question, None).await
        };
        self.in_time(Box::pin(asking), until)
            .await
            .map_err(Error::from)
    }

    /// Asks as the first account that may, and as the next one where that is refused.
    async fn try_accounts(&self, question: &Question, until: Instant) -> Result<Reply, FailedTry> {
        let repository = question.endpoint.repository();
        let ping = async { Box::pin(self.transport.ping(until)).await };
        self.throttle
            .admit(repository.map(Repository::as_str), ping)
            .await?;
        let mut last = None;
        for account in who_may(&self.accounts, question.spends_pull(), repository)? {
            let failed = match self.ask_as(account, question, until).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            match &failed.error {
                // What no account may have (451) is not asked for as each of them.
                refused if refused.refuses_who_asks() => {
                    if let Some(repository) = repository {
                        account.note_refused(repository);
                    }
                }
                Error::Credentials(_)
                | Error::RateLimited {
                    limit: LimitKind::Quota,
                    ..
                } => {}
                _ => return Err(failed),
            }
            tracing::debug!(upstream = %self.namespace(), identity = account.name(), error = %failed.error, "refused");
            last = Some(failed);
        }
        Err(last.unwrap_or_else(|| Error::Credentials("no account to ask as".into()).into()))
    }

    /// Asks as this account, once, even if its quota is spent.
    pub(crate) async fn ask_as(
        &self,
        account: &Account,
        question: &Question,
        until: Instant,
    ) -> Result<Reply, FailedTry> {
        // In a box, because every request of a client has room for it, and most are answered from the store.
        let asking = Box::pin(self.authenticate_and_send(account, question, until));
        self.in_time(asking, until).await
    }

    async fn in_time(
        &self,
        asking: impl Future<Output = Result<Reply, FailedTry>>,
        until: Instant,
    ) -> Result<Reply, FailedTry> {
        let started = Instant::now();
        // The parts have the same limit and know better what they wait for, so they are the first to give up.
        let limit = until + Duration::from_millis(50);
        match tokio::time::timeout_at(limit.into(), asking).await {
            Ok(reply) => reply,
            Err(_) => {
                let waited = started.elapsed().as_secs_f64();
                let words = format!("{} gave no answer within {waited:.1} s", self.base());
                Err(Error::Silent(words.into()).into())
            }
        }
    }

    async fn authenticate_and_send(
        &self,
        account: &Account,
        question: &Question,
        until: Instant,
    ) -> Result<Reply, FailedTry> {
        let authenticator = account.authenticator();
        let dialogue = Dialogue {
            transport: &self.transport,
            authenticator,
            question,
            repository: self.transport.name_of(question),
            until,
        };
        let reply = match dialogue.run().await {
            Ok(arrival) => self.reply(arrival, question, Some(account)).await,
            Err(failed) => Err(failed),
        };
        reply.map_err(|failed| match authenticator.refusal() {
            Some(words) if failed.error.refuses_who_asks() => failed.denied_because(&words),
            _ => failed,
        })
    }

    /// Turns a response into a reply or an error. What it says of limits counts for `account`, if the endpoint itself
    /// sent it.
    async fn reply(
        &self,
        arrival: Arrival,
        question: &Question,
        account: Option<&Account>,
    ) -> Result<Reply, FailedTry> {
        let Arrival { response, at, .. } = arrival;
        let account = account.filter(|_| self.transport.is_here(&at));
        let stated = RateLimit::read(response.headers(), self.has_quotas, SystemTime::now());
        let status = response.status();
        // Only answers about manifests state it.
        let ends =
            status == StatusCode::OK && matches!(question.endpoint, Endpoint::Manifest { .. });
        if let Some(account) = account.filter(|_| stated.is_some() || ends) {
            self.throttle.state(stated, account.quota());
        }
        let http = self.transport.http();
        if !question.takes(status) {
            let strike = |limit, told| match account {
                Some(account) => Some(self.strike(limit, told, question, account, stated)),
                None => told,
            };
            let (parts, body) = response.into_parts();
            if !is_registrys(&question.endpoint, &at) {
                let host = at.host().unwrap_or_default();
                return Err(refusal::of_storage(host, &question.method, &parts));
            }
            return Err(Box::pin(refusal::read(http, parts, body, stated, strike)).await);
        }
        if let Some(account) = account {
            let repository = question.endpoint.repository().map(Repository::as_str);
            self.throttle.answered(repository);
            account.quota().answered(question.spends_pull(), stated);
            self.warnings.note(&question.endpoint, response.headers());
        }
        let (mut parts, body) = response.into_parts();
        if status == StatusCode::OK && question.is_something_else(&parts.headers) {
            // What stands before the registry or its storage is in trouble for a moment.
            let words = "upstream has a page where a blob should be";
            return Err(FailedTry::transient(Error::wrong(words)));
        }
        let length = content_length(&parts.headers);
        let repository = question.endpoint.repository();
        let mut body = http.body(body).watched(&self.breaks, repository, length);
        let coding = Coding::of(&parts.headers);
        // A blob is what its digest says, and not what a label does.
        if !coding.is_identity() && !matches!(question.endpoint, Endpoint::Blob { .. }) {
            // That of the bytes as they come.
            parts.headers.remove(CONTENT_LENGTH);
            body = body.coded(coding);
        }
        Ok(Reply {
            status,
            headers: parts.headers,
            body,
        })
    }

    /// Notes a 429; returns how long not to ask. Only a registry that states a quota has one for the account: of any other
    /// the words may be those of a registry behind it, about one repository.
    fn strike(
        &self,
        limit: LimitKind,
        told: Option<Duration>,
        question: &Question,
        account: &Account,
        stated: Option<RateLimit>,
    ) -> Duration {
        let states_quotas = self.has_quotas || stated.is_some();
        if limit == LimitKind::Quota && states_quotas {
            let (name, quota) = (account.name(), account.quota());
            return self.throttle.spent(told, name, quota);
        }
        let repository = question.endpoint.repository().map(Repository::as_str);
        self.throttle.limited(limit, repository, told)
    }

    /// Until when the answer to a question that is asked now is waited for.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.transport.http().header_limit()
    }

    pub(crate) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Its URL, without a slash at the end.
    pub(crate) fn base(&self) -> &str {
        self.transport.base()
    }

    /// What the last answer about this warned of.
    pub(crate) fn warnings(&self, asked: &Endpoint) -> Option<Arc<[HeaderValue]>> {
        self.warnings.about(asked)
    }

    fn namespace(&self) -> &str {
        self.transport.http().namespace()
    }

    /// Whether a body of this repository broke off within the last `span`.
    pub(super) fn broke_within(&self, repository: &Repository, span: Duration) -> bool {
        self.breaks.within(repository, span)
    }

    /// Treats the endpoint as if a body of this repository had just broken off.
    pub(super) fn distrust(&self, repository: &Repository) {
        self.breaks.note(repository);
    }
}
