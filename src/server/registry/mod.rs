//! Requests to the registry API and their answers.
//!
//! It decides nothing that a mirror decides, and knows no connection. Reading order: [`service`] (the steps of every
//! request), `manifest`, `blob` and `lists` (what each kind is answered), `page` (parts of lists), `respond` (the
//! headers of answers), `problem` (errors as responses: the only place that chooses an error's status).

mod blob;
mod lists;
mod manifest;
mod page;
mod problem;
mod respond;
pub(crate) mod service;
