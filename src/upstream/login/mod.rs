//! As whom the mirror asks an upstream: logins, their credentials, and tokens.
//!
//! It knows no cache of content and no client of the mirror. A secret leaves it only inside an `Authorization` header,
//! for the upstream itself or for a realm that may have it.
//!
//! Reading order: `account` (one account with its quota), `authenticator` (what it sends, how a challenge is answered),
//! `token` (bearer tokens), `realm` (who may be sent a credential), `cache` (a credential kept while it is current),
//! `hold` (one that was refused), [`kinds`] (the kinds of login), [`password`], `credential`.

pub(super) mod account;
mod authenticator;
mod cache;
mod credential;
mod hold;
pub(super) mod kinds;
pub(super) mod password;
pub(super) mod realm;
pub(super) mod token;
