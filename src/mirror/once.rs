//! Asking upstream once for all who want the same thing, and believing for a moment what it refuses.
//!
//! Without the second, a loop of requests for a name that is mistyped would be a loop of requests upstream.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use moka::sync::Cache;

use crate::flight::{Flights, Landing, Lost};
use crate::oci::name::QualifiedName;
use crate::upstream;

use super::answer::Outcome;
use super::site::{Context, Site};

/// What a question to upstream brings.
pub(super) type Answered<T> = Result<T, upstream::Error>;

/// Enough for any moment; each is a name and an error.
const MAX_REFUSALS: u64 = 20_000;

/// The questions of one kind that are under way. Each is about something of a repository.
pub(super) struct Once<W, V> {
    under_way: Arc<Flights<(QualifiedName, W), Answered<V>>>,
    refusals: Refusals,
}

impl<W, V> Once<W, V>
where
    W: Hash + Eq + Clone + ToString + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Questions whose refusals are remembered in `refusals`.
    pub(super) fn new(refusals: &Refusals) -> Self {
        Self {
            under_way: Arc::default(),
            refusals: refusals.clone(),
        }
    }

    /// Joins the question about `what` if it is under way, else starts it with `work`, which continues if the
    /// client leaves. The outcome is that of an answer which is new.
    pub(super) fn ask<F>(
        &self,
        context: &Context,
        name: &QualifiedName,
        what: &W,
        work: impl FnOnce(Context, QualifiedName, W) -> F,
    ) -> (Asked<V>, Outcome)
    where
        F: Future<Output = Answered<V>> + Send + 'static,
    {
        let work = work(context.clone(), name.clone(), what.clone());
        let (refusals, site) = (self.refusals.clone(), Arc::clone(&context.site));
        let key = (name.clone(), what.clone());
        let id = key.clone();
        // An async block would keep room for the question twice: as what it has, and as what it waits for.
        let noted = work.inspect(move |answered| {
            if let Err(error) = answered {
                refusals.note(&site, &id.0, &id.1, error);
            }
        });
        join(context, &self.under_way, key, noted)
    }
}

/// Joins the flight for `key`, or starts it with `work`, which is a question that the client of `context` causes.
pub(super) fn join<K, V, F>(
    context: &Context,
    flights: &Arc<Flights<K, Answered<V>>>,
    key: K,
    work: F,
) -> (Asked<V>, Outcome)
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    F: Future<Output = Answered<V>> + Send + 'static,
{
    if let Some(landing) = flights.find(&key) {
        return (Asked::UnderWay(landing), Outcome::Joined);
    }
    if let Err(over) = context.miss() {
        return (Asked::Refused(over), Outcome::Error);
    }
    let (landing, role) =
        flights.join(key, |slot| work.map(move |answered| slot.publish(answered)));
    (Asked::UnderWay(landing), role.into())
}

/// A question that is under way, or why it is not.
pub(super) enum Asked<V> {
    UnderWay(Landing<Answered<V>>),
    Refused(upstream::Error),
}

impl<V: Clone> Asked<V> {
    pub(super) async fn answer(self) -> Answered<V> {
        match self {
            Self::UnderWay(landing) => landing.value().await.unwrap_or_else(called_off),
            Self::Refused(error) => Err(error),
        }
    }

    /// The same, but waits no longer than until the question is that old; `None` if it has no answer by then. A question
    /// that upstream has left open for so long is not worth waiting for, also for those who ask it again. It continues.
    pub(super) async fn answer_within(self, patience: Duration) -> Option<Answered<V>> {
        match self {
            Self::UnderWay(landing) => {
                let value = landing.value_within(patience).await?;
                Some(value.unwrap_or_else(called_off))
            }
            Self::Refused(error) => Some(Err(error)),
        }
    }
}

fn called_off<V>(_: Lost) -> Answered<V> {
    let words = "the request was called off";
    Err(upstream::Error::Unavailable(words.into()))
}

/// What upstream says it does not have, or will not give, by repository and reference. All clones are the same one.
#[derive(Clone)]
pub(super) struct Refusals(Cache<(QualifiedName, String), (upstream::Error, Instant)>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Cache::new(MAX_REFUSALS))
    }
}

impl Refusals {
    /// Fails with the refusal that is still believed.
    pub(super) fn check(&self, name: &QualifiedName, what: &impl ToString) -> Answered<()> {
        let key = (name.clone(), what.to_string());
        match self.0.get(&key) {
            Some((error, until)) if Instant::now() < until => Err(error),
            Some(_) => {
                self.0.invalidate(&key);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Remembers a refusal; errors that are not one are not remembered.
    pub(super) fn note(
        &self,
        site: &Site,
        name: &QualifiedName,
        what: &impl ToString,
        error: &upstream::Error,
    ) {
        use upstream::Error::{Denied, NotFound};
        let ttl = site.freshness().negative_ttl;
        if matches!(error, NotFound | Denied { .. }) && !ttl.is_zero() {
            let until = Instant::now() + ttl;
            let key = (name.clone(), what.to_string());
            self.0.insert(key, (error.clone(), until));
        }
    }
}
