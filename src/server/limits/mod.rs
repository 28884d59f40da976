//! How many connections there may be, and which idle ones are closed for new ones.
//!
//! It knows neither HTTP nor what is asked for. Reading order: [`connections`] (the limit), `idle` (which one to
//! close), [`activity`] (whether anything moves on a connection).

pub(crate) mod activity;
pub(crate) mod connections;
mod idle;
