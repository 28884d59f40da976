//! Bodies: what a delivery says, carried to the socket.
//!
//! What the page cache has is read where it is sent, into a buffer that is used again, or handed to the kernel as a
//! part of a file; only what would make this thread wait for the disk goes to a blocking thread. The mirror
//! decides which bytes come next, and from where. A body that cannot be finished ends in an error, and hyper then cuts
//! the connection: a client must never take a torn body for a whole one.
//!
//! Reading order: this file, [`buffers`], `by_file` (which parts the kernel sends), [`sendfile`] (parts of files),
//! [`socket`] (what sends them).

pub(crate) mod buffers;
mod by_file;
pub(crate) mod sendfile;
pub(crate) mod socket;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc::Receiver;

use crate::mirror::blob::delivery::{Delivery, Next};
use crate::server::limits::activity::ActiveRequest;
use crate::server::record::{BodyError, RequestRecord, Transmission};

use by_file::{ByFile, Kernel};
use sendfile::{Data, Lane};

pub(crate) use buffers::Buffers;

/// A response's body, and the record that is closed when it is gone.
pub(crate) struct Body {
    state: BodyState,
    /// Bytes still to come, if that is known.
    left: Option<u64>,
    record: Option<Arc<RequestRecord>>,
    /// Over which parts of files can go out without being read here.
    lane: Option<Lane>,
    /// Hears when bytes are asked for.
    open: Option<ActiveRequest>,
}

enum BodyState {
    Done,
    Whole(Bytes),
    Sending(Box<Sending>),
    Waiting(Pin<Box<dyn Future<Output = BodyStep> + Send>>),
}

/// A delivery, and what it takes to send it.
struct Sending {
    delivery: Delivery,
    buffers: Buffers,
    kernel: Kernel,
}

/// What a wait led to: the next state, and a piece to send unless it is over.
type BodyStep = Result<(BodyState, Option<Bytes>), BodyError>;

impl Body {
    fn new(state: BodyState, left: Option<u64>) -> Self {
        Self {
            state,
            left,
            record: None,
            lane: None,
            open: None,
        }
    }

    /// Nothing.
    pub(crate) fn empty() -> Self {
        Self::new(BodyState::Done, Some(0))
    }

    /// Bytes that are in memory already.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let left = Some(bytes.len() as u64);
        Self::new(BodyState::Whole(bytes), left)
    }

    /// What `delivery` brings; its length in all, if that is known.
    pub(crate) fn delivery(mut delivery: Delivery, length: Option<u64>, buffers: &Buffers) -> Self {
        let sending = Sending {
            kernel: Kernel::new(delivery.stored().map_or(0, |stored| stored.longest())),
            delivery,
            buffers: buffers.clone(),
        };
        Self::new(BodyState::Sending(Box::new(sending)), length)
    }

    /// Whatever comes through the channel, until its other end is dropped.
    pub(crate) fn stream(pieces: Receiver<Bytes>) -> Self {
        Self::new(BodyState::Waiting(next(pieces)), None)
    }

    /// Has `record` count the bytes and closes it with the body.
    #[must_use]
    pub(crate) fn with_record(mut self, record: RequestRecord) -> Self {
        self.record = Some(Arc::new(record));
        self
    }

    /// Tells `open` whenever bytes are asked for.
    #[must_use]
    pub(super) fn watched(mut self, open: ActiveRequest) -> Self {
        self.open = Some(open);
        self
    }

    /// Lets parts of files go out over `lane`, whose connection must be the one this body is sent on.
    #[must_use]
    pub(super) fn over(mut self, lane: Lane) -> Self {
        self.lane = Some(lane);
        self
    }

    fn passed(&mut self, count: u64) {
        self.left = self.left.map(|left| left.saturating_sub(count));
    }

    fn sent(&mut self, bytes: &Bytes) {
        let count = bytes.len() as u64;
        self.passed(count);
        if let Some(record) = &self.record {
            record.sent(count, Transmission::Copied);
        }
    }

    fn broke(&mut self, error: BodyError) -> BodyError {
        self.state = BodyState::Done;
        if let Some(record) = &self.record {
            record.broke(&error);
        }
        error
    }
}

/// What a body can give at once.
enum Now {
    Step(BodyStep),
    /// A part of a file, which the kernel sends.
    File(BodyState, sendfile::FileSlice),
}

impl http_body::Body for Body {
    type Data = Data;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, BodyError>>> {
        if let Some(open) = &self.open {
            open.touch();
        }
        loop {
            let step = match std::mem::replace(&mut self.state, BodyState::Done) {
                BodyState::Done => return Poll::Ready(None),
                BodyState::Whole(bytes) => Ok((BodyState::Done, Some(bytes))),
                BodyState::Sending(sending) => {
                    match sending.now(self.lane.as_ref(), self.record.as_ref()) {
                        Now::Step(step) => step,
                        Now::File(next, slice) => {
                            self.passed(slice.remaining() as u64);
                            self.state = next;
                            return Poll::Ready(Some(Ok(Frame::data(Data::File(slice)))));
                        }
                    }
                }
                BodyState::Waiting(mut wait) => match wait.as_mut().poll(cx) {
                    Poll::Ready(step) => step,
                    Poll::Pending => {
                        self.state = BodyState::Waiting(wait);
                        return Poll::Pending;
                    }
                },
            };
            match step {
                Ok((next, Some(bytes))) => {
                    self.state = next;
                    self.sent(&bytes);
                    return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
                }
                Ok((BodyState::Done, None)) => return Poll::Ready(None),
                Ok((next, None)) => self.state = next,
                Err(error) => return Poll::Ready(Some(Err(self.broke(error)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, BodyState::Done)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Sending {
    /// What comes next, without waiting: a piece, or the wait for one.
    fn now(mut self: Box<Self>, lane: Option<&Lane>, record: Option<&Arc<RequestRecord>>) -> Now {
        let range = match self.delivery.next() {
            Next::InFile(range) => range,
            Next::Bytes(bytes) => return Now::Step(Ok((BodyState::Sending(self), Some(bytes)))),
            Next::Later => return Now::Step(wait(self.wait())),
            Next::End => return Now::Step(Ok((BodyState::Done, None))),
            Next::Broken(why) => return Now::Step(Err(why)),
        };
        let Some(stored) = self.delivery.stored() else {
            return Now::Step(wait(self.wait()));
        };
        let by_file = lane.map_or(ByFile::Not, |lane| {
            self.kernel.slice(stored, &range, lane, record)
        });
        match by_file {
            ByFile::Slice(slice) => return Now::File(self.unless_over(), slice),
            ByFile::Cold(range) => return Now::Step(wait(self.warm(range))),
            ByFile::Not => {}
        }
        let mut buffer = self.buffers.take(range.end - range.start);
        match stored.read_now(buffer.space()) {
            Some(count) => Now::Step(Ok((self.unless_over(), Some(buffer.filled(count))))),
            None => Now::Step(wait(self.read(buffer))),
        }
    }

    async fn wait(mut self: Box<Self>) -> BodyStep {
        let bytes = self.delivery.wait().await?;
        Ok((BodyState::Sending(self), bytes))
    }

    async fn warm(mut self: Box<Self>, range: Range<u64>) -> BodyStep {
        if let Some(stored) = self.delivery.stored() {
            self.kernel.warm(stored.file(), range).await?;
        }
        Ok((BodyState::Sending(self), None))
    }

    async fn read(mut self: Box<Self>, buffer: buffers::Buffer) -> BodyStep {
        let read = match self.delivery.stored() {
            Some(stored) => stored.read(buffer).await?,
            None => None,
        };
        let bytes = read.map(|(buffer, count)| buffer.filled(count));
        Ok((self.unless_over(), bytes))
    }

    /// Where nothing is left to send the body says so at once, and is not asked once more.
    fn unless_over(self: Box<Self>) -> BodyState {
        if self.delivery.is_over() {
            BodyState::Done
        } else {
            BodyState::Sending(self)
        }
    }
}

fn wait(step: impl Future<Output = BodyStep> + Send + 'static) -> BodyStep {
    Ok((BodyState::Waiting(Box::pin(step)), None))
}

/// Waits for the next of the pieces that are made while they are sent.
fn next(mut pieces: Receiver<Bytes>) -> Pin<Box<dyn Future<Output = BodyStep> + Send>> {
    Box::pin(async move {
        Ok(match pieces.recv().await {
            Some(piece) => (BodyState::Waiting(next(pieces)), Some(piece)),
            None => (BodyState::Done, None),
        })
    })
}
