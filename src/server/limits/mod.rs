//! What one client may take of what all clients use, and which idle connections give way to new ones.
//!
//! It knows neither HTTP nor what is asked for. Reading order: `share` (one client's part), `places` (all
//! connections), `seats` (one client's connections), `activity` (whether anything moves on one).

pub(crate) mod activity;
pub(crate) mod places;
mod seats;
pub(crate) mod share;
