//! Bodies: from the store, or from upstream, to the socket.
//!
//! What the page cache has is read where it is sent, into a buffer that is used again; only what would
//! make this thread wait for the disk goes to a blocking thread. A body that cannot be finished ends in an
//! error, upon which hyper cuts the connection: a client must never take a torn body for a whole one.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::mirror::bypass::Bypass;
use crate::store::reader::{Available, Reader, read_blocking};

use super::account::{Account, Broken};

/// Large enough that a system call costs little beside its copy, small enough that many slow clients fit.
const CHUNK: usize = 64 * 1024;
/// Buffers kept for use again.
const SPARE_BUFFERS: usize = 128;

/// A response's body, and the account that is closed when it is gone.
pub struct Body {
    state: State,
    /// Bytes still to come, if that is known.
    left: Option<u64>,
    account: Option<Account>,
}

enum State {
    Done,
    Whole(Bytes),
    Store(StoreBody),
    Bypass(Box<Bypass>),
    Waiting(Pin<Box<dyn Future<Output = Step> + Send>>),
}

/// What a wait led to: the next state, and a piece to send unless it is over.
type Step = Result<(State, Option<Bytes>), Broken>;

/// Reads a part of a blob from the store.
pub struct StoreBody {
    reader: Reader,
    position: u64,
    /// Where to stop; the blob's end if it is not known yet.
    end: u64,
    buffers: Buffers,
}

impl Body {
    /// Nothing.
    pub fn empty() -> Self {
        Self {
            state: State::Done,
            left: Some(0),
            account: None,
        }
    }

    /// Bytes that are at hand.
    pub fn whole(bytes: Bytes) -> Self {
        let left = Some(bytes.len() as u64);
        Self {
            state: State::Whole(bytes),
            left,
            account: None,
        }
    }

    /// A blob from the store, from `start` on and up to `end` (exclusive), or to its end.
    pub fn store(reader: Reader, start: u64, end: Option<u64>, buffers: &Buffers) -> Self {
        let left = end.map(|end| end.saturating_sub(start));
        let body = StoreBody {
            reader,
            position: start,
            end: end.unwrap_or(u64::MAX),
            buffers: buffers.clone(),
        };
        Self {
            state: State::Store(body),
            left,
            account: None,
        }
    }

    /// A blob that passes through; `length` if it is known.
    pub fn bypass(bypass: Box<Bypass>, length: Option<u64>) -> Self {
        Self {
            state: State::Bypass(bypass),
            left: length,
            account: None,
        }
    }

    /// Has `account` count the bytes and closes it with the body.
    #[must_use]
    pub fn with_account(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    fn sent(&mut self, bytes: &Bytes) {
        let count = bytes.len() as u64;
        self.left = self.left.map(|left| left.saturating_sub(count));
        if let Some(account) = &mut self.account {
            account.sent(count);
        }
    }

    fn broke(&mut self, error: Broken) -> Broken {
        self.state = State::Done;
        if let Some(account) = &mut self.account {
            account.broke(&error);
        }
        error
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            let step = match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Whole(bytes) => Ok((State::Done, Some(bytes))),
                State::Store(body) => match body.next_now() {
                    Now::Step(step) => step,
                    Now::Later(body) => {
                        self.state = State::Waiting(Box::pin(body.next_later()));
                        continue;
                    }
                },
                State::Bypass(bypass) => {
                    self.state = State::Waiting(Box::pin(next_of_bypass(bypass)));
                    continue;
                }
                State::Waiting(mut wait) => match wait.as_mut().poll(cx) {
                    Poll::Ready(step) => step,
                    Poll::Pending => {
                        self.state = State::Waiting(wait);
                        return Poll::Pending;
                    }
                },
            };
            match step {
                Ok((next, Some(bytes))) => {
                    self.state = next;
                    self.sent(&bytes);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Ok((next, None)) => self.state = next,
                Err(error) => return Poll::Ready(Some(Err(self.broke(error)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

enum Now {
    Step(Step),
    /// It cannot be had without waiting, for the disk or for upstream.
    Later(StoreBody),
}

impl StoreBody {
    fn next_now(self) -> Now {
        if self.position >= self.end {
            return Now::Step(Ok((State::Done, None)));
        }
        let upto = match self.reader.available(self.position) {
            Available::UpTo(upto) => upto.min(self.end),
            Available::End => return Now::Step(self.at_the_end()),
            Available::Failed(failure) => return Now::Step(Err(failure.into())),
            Available::NotYet => return Now::Later(self),
        };
        let mut buffer = self.buffers.take(length_of(self.position, upto));
        match self.reader.read_now(buffer.space(), self.position) {
            Ok(Some(count)) => Now::Step(self.piece(buffer, count)),
            Ok(None) => Now::Later(self),
            Err(error) => Now::Step(Err(error.into())),
        }
    }

    async fn next_later(mut self) -> Step {
        let upto = match self.reader.wait(self.position).await {
            Available::UpTo(upto) => upto.min(self.end),
            Available::End => return self.at_the_end(),
            Available::Failed(failure) => return Err(failure.into()),
            Available::NotYet => return Ok((State::Store(self), None)),
        };
        let mut buffer = self.buffers.take(length_of(self.position, upto));
        if let Some(count) = self.reader.read_now(buffer.space(), self.position)? {
            return self.piece(buffer, count);
        }
        let (file, position) = (self.reader.file(), self.position);
        let read =
            move || read_blocking(&file, buffer.space(), position).map(|count| (buffer, count));
        let (buffer, count) = tokio::task::spawn_blocking(read).await??;
        self.piece(buffer, count)
    }

    fn piece(mut self, buffer: Buffer, count: usize) -> Step {
        if count == 0 {
            // The file is shorter than the blob: somebody truncated it under us.
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.position += count as u64;
        let bytes = buffer.filled(count);
        let next = if self.position >= self.end {
            State::Done
        } else {
            State::Store(self)
        };
        Ok((next, Some(bytes)))
    }

    /// The blob ended. That is wrong if more was promised.
    fn at_the_end(self) -> Step {
        let short = self.end != u64::MAX && self.position < self.end;
        if short {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        } else {
            Ok((State::Done, None))
        }
    }
}

fn length_of(position: u64, upto: u64) -> usize {
    usize::try_from(upto.saturating_sub(position))
        .unwrap_or(CHUNK)
        .min(CHUNK)
}

async fn next_of_bypass(mut bypass: Box<Bypass>) -> Step {
    let bytes = bypass.chunk().await?;
    let next = if bytes.is_some() {
        State::Bypass(bypass)
    } else {
        State::Done
    };
    Ok((next, bytes))
}

/// Buffers that are zeroed once and used again and again.
#[derive(Clone, Default)]
pub struct Buffers {
    /// Guards a short list, for a push or a pop.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Buffers,
}

impl Buffers {
    fn take(&self, length: usize) -> Buffer {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; CHUNK]),
            length,
            home: self.clone(),
        }
    }
}

impl Buffer {
    fn space(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }

    fn filled(mut self, count: usize) -> Bytes {
        self.length = count.min(self.length);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self
            .home
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BUFFERS {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}
