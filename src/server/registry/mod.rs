//! Requests to the registry API and their answers.
//!
//! It decides nothing that a mirror decides, and knows no connection. Reading order: [`service`] (one request, step by
//! step), `manifest`, `blob` and `lists` (what each kind of request is answered), `page` (parts of lists), `respond`
//! (headers of answers), `problem` (errors as responses).

mod blob;
mod lists;
mod manifest;
mod page;
mod problem;
mod respond;
pub(crate) mod service;
