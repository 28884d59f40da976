//! As whom the mirror asks an upstream: passwords, tokens, and where they may be sent.
//!
//! Reading order: `password` (where secrets come from), `token` (a registry's challenge is answered), `account` (one
//! login with its tokens and its quota).

pub(super) mod account;
pub(super) mod password;
pub(super) mod token;
