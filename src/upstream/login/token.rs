//! Bearer tokens: kept by realm, service and scope, for one login, renewed before they end, and each obtained by one
//! exchange however many requests wait for it.

use std::sync::Arc;

use http::HeaderValue;
use moka::sync::Cache;

use crate::flight::Flights;
use crate::upstream::error::{Error, FailedTry};
use crate::upstream::wire::http::Http;

use super::cache::CredentialCache;
use super::exchange::Exchange;
use super::granted::Token;
use super::realm::Realms;
use super::wanted::TokenId;

/// Bytes of tokens kept.
const TOKEN_MEMORY: u64 = 8 * 1024 * 1024;

pub(super) struct Tokens {
    kept: Cache<TokenId, Arc<Token>>,
    flights: Arc<Flights<TokenId, Result<Arc<Token>, FailedTry>>>,
    exchange: Arc<Exchange>,
}

impl Tokens {
    pub(super) fn new(credentials: Arc<CredentialCache>, realms: Arc<Realms>, http: Http) -> Self {
        let weigh = |_: &TokenId, token: &Arc<Token>| {
            u32::try_from(token.length() + 512).unwrap_or(u32::MAX)
        };
        Self {
            kept: Cache::builder()
                .max_capacity(TOKEN_MEMORY)
                .weigher(weigh)
                .build(),
            flights: Arc::default(),
            exchange: Arc::new(Exchange::new(credentials, realms, http)),
        }
    }

    /// The header with the token for `id`.
    pub(super) async fn get(&self, id: TokenId) -> Result<HeaderValue, FailedTry> {
        if let Some(token) = self.kept.get(&id).filter(|token| token.is_good()) {
            return Ok(token.header()?);
        }
        let (kept, exchange, key) = (self.kept.clone(), Arc::clone(&self.exchange), id.clone());
        let (landing, _) = self.flights.join(id, |slot| async move {
            // Another flight may have landed between the look above and this one's start.
            let token = match kept.get(&key).filter(|token| token.is_good()) {
                Some(token) => Ok(token),
                None => exchange.obtain(&key).await.map(Arc::new),
            };
            if let Ok(token) = &token {
                kept.insert(key, Arc::clone(token));
            }
            slot.publish(token);
        });
        let token = landing
            .value()
            .await
            .map_err(|_| Error::unavailable("the token exchange was called off"))??;
        Ok(token.header()?)
    }

    /// A token for `id` other than the one that was sent; `None` if there is none.
    pub(super) async fn other_than(
        &self,
        id: TokenId,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, FailedTry> {
        let kept = self.kept.get(&id);
        match kept.filter(|token| sent.is_some_and(|sent| token.is(sent))) {
            Some(_) => Ok(None),
            None => self.get(id).await.map(Some),
        }
    }

    /// Sends the token for `other` where the one for `id` would be sent, until it ends.
    pub(super) fn put_in_place_of(&self, id: TokenId, other: &TokenId) {
        if let Some(token) = self.kept.get(other) {
            self.kept.insert(id, token);
        }
    }

    /// Forgets the token that was sent and refused, wherever it is kept; returns whether it was too old for the refusal to
    /// be about what it allows. One that was just issued is not forgotten if `spare_new`.
    pub(super) fn forget(&self, sent: &HeaderValue, spare_new: bool) -> bool {
        let mut old = false;
        for (id, token) in self.kept.iter().filter(|(_, token)| token.is(sent)) {
            old |= !token.is_just_issued();
            if !(spare_new && token.is_just_issued()) {
                self.kept.invalidate(id.as_ref());
            }
        }
        old
    }
}
