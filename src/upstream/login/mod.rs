//! As whom the mirror asks an upstream: logins, their credentials, and tokens.
//!
//! It knows no cache of content and no client of the mirror. A secret leaves it only inside an `Authorization` header,
//! for the upstream itself or for a realm that may have it.
//!
//! Reading order: `account` (one account with its quota), `authenticator` (what it sends, how a challenge is answered),
//! `token` (bearer tokens that are kept), `exchange` (how one is obtained), `realm` (who may be sent a credential),
//! `wanted` (which token is asked for, and how), `granted` (what a realm gives), `cache` (a credential kept while it is
//! current), `hold` (one that was refused), [`kinds`] (the kinds of login), [`password`], `credential`.

pub(super) mod account;
pub(super) mod authenticator;
mod cache;
mod credential;
mod exchange;
pub(super) mod granted;
mod hold;
pub(super) mod kinds;
pub(super) mod password;
pub(super) mod realm;
mod token;
mod wanted;
