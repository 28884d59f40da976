//! Bodies of pieces that are made while they are sent.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use super::{Body, State, Step};

impl Body {
    /// Whatever comes through the channel, until its other end is dropped.
    pub(crate) fn stream(pieces: Receiver<Bytes>) -> Self {
        Self::new(State::Waiting(next(pieces)), None)
    }
}

fn next(mut pieces: Receiver<Bytes>) -> Pin<Box<dyn Future<Output = Step> + Send>> {
    Box::pin(async move {
        Ok(match pieces.recv().await {
            Some(piece) => (State::Waiting(next(pieces)), Some(piece)),
            None => (State::Done, None),
        })
    })
}
