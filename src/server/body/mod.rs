//! Bodies: from the store, or from upstream, to the socket.
//!
//! What the page cache has is read where it is sent, into a buffer that is used again; only what would
//! make this thread wait for the disk goes to a blocking thread. A body that cannot be finished ends in an
//! error, upon which hyper cuts the connection: a client must never take a torn body for a whole one.

pub(crate) mod buffers;
mod by_file;
pub(crate) mod sendfile;
mod stream;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::future::try_join_all;
use http_body::{Frame, SizeHint};

use crate::mirror::blob::ahead::{Ahead, decide, together};
use crate::mirror::blob::passthrough::Bypass;
use crate::mirror::blob::source::Source;
use crate::store::blobs::reader::{Available, Reader, read_blocking};
use crate::upstream;

use crate::server::limits::activity::ActiveRequest;
use crate::server::record::{Broken, RequestRecord, Way};

use buffers::Buffer;
use by_file::ByFile;
use sendfile::{Data, Lane};

pub(crate) use buffers::Buffers;

/// A response's body, and the account that is closed when it is gone.
pub(crate) struct Body {
    state: State,
    /// Bytes still to come, if that is known.
    left: Option<u64>,
    account: Option<Arc<RequestRecord>>,
    /// Over which parts of files can go out without being read here.
    lane: Option<Lane>,
    /// Hears when bytes are asked for.
    open: Option<ActiveRequest>,
}

enum State {
    Done,
    Whole(Bytes),
    Store(Box<StoreBody>),
    Bypass(Box<Bypass>),
    Waiting(Pin<Box<dyn Future<Output = Step> + Send>>),
}

/// What a wait led to: the next state, and a piece to send unless it is over.
type Step = Result<(State, Option<Bytes>), Broken>;

/// One piece of a body that is made of several.
pub(crate) enum Piece {
    /// Bytes at hand: the header of a part.
    Bytes(Bytes),
    /// A range of the blob.
    Range(Range<u64>),
}

/// A part of the blob that upstream sends ahead of the fill.
struct Window {
    /// What it has still to bring; never empty.
    range: Range<u64>,
    bytes: Box<Bypass>,
}

/// Reads ranges of a blob from the store; what the store lets it down with comes from the source.
pub(crate) struct StoreBody {
    reader: Reader,
    source: Source,
    /// Whether bytes may be had from there that a growing blob has not come to.
    ahead: bool,
    /// Why the store cannot be read any more, if it cannot.
    lost: Option<Broken>,
    /// Whether the client gets all of the blob, so that its digest can be checked.
    whole: bool,
    /// Bytes of the source, on their way: of the range that is being read, and of some that come after it.
    windows: Vec<Window>,
    position: u64,
    /// Where the range ends that is being read; `u64::MAX` for the end of a blob whose length is not known yet.
    end: u64,
    /// What comes after it.
    pieces: VecDeque<Piece>,
    buffers: Buffers,
    /// Up to here it was brought into the page cache for `sendfile`.
    warm: u64,
    /// `sendfile` is not for this body.
    copy_only: bool,
    /// Some of it went that way.
    sent_by_file: bool,
}

impl Body {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        Self {
            state: State::Done,
            left: Some(0),
            account: None,
            lane: None,
            open: None,
        }
    }

    /// Bytes that are at hand.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let left = Some(bytes.len() as u64);
        Self {
            state: State::Whole(bytes),
            left,
            account: None,
            lane: None,
            open: None,
        }
    }

    /// A blob from the store, all of it; its length if that is known by now.
    pub(crate) fn store(
        reader: Reader,
        source: Source,
        length: Option<u64>,
        buffers: &Buffers,
    ) -> Self {
        let range = 0..length.unwrap_or(u64::MAX);
        let body = StoreBody {
            whole: true,
            ahead: false,
            ..StoreBody::new(reader, source, [Piece::Range(range)].into(), buffers)
        };
        Self::of(body, length)
    }

    /// Pieces of a blob from the store, in that order. What a growing blob has not come to is fetched ahead.
    pub(crate) fn pieces(
        reader: Reader,
        source: Source,
        pieces: impl IntoIterator<Item = Piece>,
        buffers: &Buffers,
    ) -> Self {
        let pieces: VecDeque<_> = pieces.into_iter().collect();
        let left = pieces
            .iter()
            .map(Piece::length)
            .fold(0, u64::saturating_add);
        Self::of(StoreBody::new(reader, source, pieces, buffers), Some(left))
    }

    fn of(body: StoreBody, left: Option<u64>) -> Self {
        Self {
            state: State::Store(Box::new(body)),
            left,
            account: None,
            lane: None,
            open: None,
        }
    }

    /// A blob that passes through; `length` if it is known.
    pub(crate) fn bypass(bypass: Box<Bypass>, length: Option<u64>) -> Self {
        Self {
            state: State::Bypass(bypass),
            left: length,
            account: None,
            lane: None,
            open: None,
        }
    }

    /// Has `account` count the bytes and closes it with the body.
    #[must_use]
    pub(crate) fn with_account(mut self, account: RequestRecord) -> Self {
        self.account = Some(Arc::new(account));
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
        if let Some(account) = &self.account {
            account.sent(count, Way::Copied);
        }
    }

    fn by_file(&self, body: &mut StoreBody) -> ByFile {
        let account = self.account.as_ref();
        self.lane
            .as_ref()
            .map_or(ByFile::Not, |lane| body.by_file(lane, account))
    }

    fn broke(&mut self, error: Broken) -> Broken {
        self.state = State::Done;
        if let Some(account) = &self.account {
            account.broke(&error);
        }
        error
    }
}

impl http_body::Body for Body {
    type Data = Data;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, Broken>>> {
        if let Some(open) = &self.open {
            open.touch();
        }
        loop {
            let step = match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Whole(bytes) => Ok((State::Done, Some(bytes))),
                State::Store(mut body) => match self.by_file(&mut body) {
                    ByFile::Slice(slice) => {
                        self.passed(slice.remaining() as u64);
                        if !body.is_over() {
                            self.state = State::Store(body);
                        }
                        return Poll::Ready(Some(Ok(Frame::data(Data::File(slice)))));
                    }
                    ByFile::Cold(range) => {
                        self.state = State::Waiting(Box::pin(body.warm(range)));
                        continue;
                    }
                    ByFile::Not => match body.next_now() {
                        Now::Step(step) => step,
                        Now::Later(body) => {
                            self.state = State::Waiting(Box::pin(body.next_later()));
                            continue;
                        }
                    },
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
                    return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
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
    Later(Box<StoreBody>),
}

impl StoreBody {
    fn new(reader: Reader, source: Source, pieces: VecDeque<Piece>, buffers: &Buffers) -> Self {
        let copy_only = !by_file::is_large(&reader, &pieces);
        Self {
            reader,
            source,
            ahead: true,
            lost: None,
            whole: false,
            windows: Vec::new(),
            position: 0,
            end: 0,
            pieces,
            buffers: buffers.clone(),
            warm: 0,
            copy_only,
            sent_by_file: false,
        }
    }

    fn next_now(mut self: Box<Self>) -> Now {
        while self.position >= self.end {
            match self.pieces.pop_front() {
                None => return Now::Step(Ok((State::Done, None))),
                Some(Piece::Bytes(bytes)) => {
                    return Now::Step(Ok((State::Store(self), Some(bytes))));
                }
                Some(Piece::Range(range)) => (self.position, self.end) = (range.start, range.end),
            }
        }
        if self.window().is_some() || self.lost.is_some() {
            return Now::Later(self);
        }
        let upto = match self.reader.available(self.position) {
            Available::UpTo(upto) => upto.min(self.end),
            Available::End => return Now::Step(self.at_the_end()),
            Available::Failed(failure) if failure.is_of_the_store() => {
                self.lost = Some(failure.into());
                return Now::Later(self);
            }
            Available::Failed(failure) => return Now::Step(Err(failure.into())),
            Available::NotYet => return Now::Later(self),
        };
        let mut buffer = self.buffers.take(upto.saturating_sub(self.position));
        match self.reader.read_now(buffer.space(), self.position) {
            Ok(Some(count)) if count > 0 => Now::Step(self.piece(buffer, count)),
            // Whether it is damaged shows when it is read again, where waiting does no harm.
            Ok(_) | Err(_) => Now::Later(self),
        }
    }

    async fn next_later(mut self: Box<Self>) -> Step {
        if let Some(place) = self.window() {
            let window = self.windows.swap_remove(place);
            return self.next_of_window(window).await;
        }
        if self.lost.is_some() {
            return self.from_source().await;
        }
        let waits = matches!(self.reader.available(self.position), Available::NotYet);
        let upto = match self.wait().await {
            // What came a moment ago is in the page cache, and may go from there by itself.
            Available::UpTo(_) if waits => return Ok((State::Store(self), None)),
            Available::UpTo(upto) => upto.min(self.end),
            Available::End => return self.at_the_end(),
            Available::Failed(failure) if failure.is_of_the_store() => {
                self.lost = Some(failure.into());
                return Ok((State::Store(self), None));
            }
            Available::Failed(failure) => return Err(failure.into()),
            Available::NotYet => return Ok((State::Store(self), None)),
        };
        let mut buffer = self.buffers.take(upto.saturating_sub(self.position));
        if let Ok(Some(count @ 1..)) = self.reader.read_now(buffer.space(), self.position) {
            return self.piece(buffer, count);
        }
        let (file, position) = (self.reader.file(), self.position);
        let read = move || match read_blocking(&file, buffer.space(), position) {
            // The file is shorter than the blob: somebody truncated it under us.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            done => done.map(|count| (buffer, count)),
        };
        match tokio::task::spawn_blocking(read).await? {
            Ok((buffer, count)) => self.piece(buffer, count),
            Err(error) => {
                self.source.is_damaged(&self.reader, &error).await;
                if self.sent_by_file && error.kind() == io::ErrorKind::UnexpectedEof {
                    // What the kernel has still to send was blanked with the rest: nothing can make it right.
                    return Err(error.into());
                }
                self.lost = Some(error.into());
                Ok((State::Store(self), None))
            }
        }
    }

    /// The store has let us down: what it was to send is had from upstream. Clients notice nothing.
    async fn from_source(mut self: Box<Self>) -> Step {
        let Some(why) = self.lost.take() else {
            return Ok((State::Store(self), None));
        };
        tracing::warn!(source = ?self.source, at = self.position, error = %why, "a body goes on from upstream");
        if self.whole {
            let rest = self.source.rest(&self.reader, self.position).await?;
            return Ok((State::Bypass(rest), None));
        }
        let range = self.position..self.end;
        let bytes = self.source.instead(range.clone()).await?;
        self.windows.push(Window { range, bytes });
        self.lost = Some(why);
        Ok((State::Store(self), None))
    }

    /// The window that has what is to be sent next, and nothing that is not.
    fn window(&self) -> Option<usize> {
        self.windows
            .iter()
            .position(|window| window.range.start == self.position && window.range.end <= self.end)
    }

    /// Waits for the fill, or opens windows past it; [`Available::NotYet`] asks to be called again.
    async fn wait(&mut self) -> Available {
        if !self.ahead {
            return self.reader.wait(self.position).await;
        }
        let now = self.reader.available(self.position);
        if !matches!(now, Available::NotYet) {
            return now;
        }
        let pace = self.reader.pace();
        match decide(pace, &(self.position..self.end)) {
            Ahead::Wait(patience) => {
                let wait = self.reader.wait(self.position);
                tokio::time::timeout(patience, wait)
                    .await
                    .unwrap_or(Available::NotYet)
            }
            Ahead::Fetch(first) => {
                let open = |range: &Range<u64>| {
                    let starts = |window: &Window| window.range.start == range.start;
                    self.windows.iter().any(starts)
                };
                let later = self.pieces.iter().filter_map(|piece| match piece {
                    Piece::Range(range) if !open(range) => Some(range.clone()),
                    Piece::Range(_) | Piece::Bytes(_) => None,
                });
                let requests = together(pace, first, later).into_iter().map(async |range| {
                    let bytes = self.source.ahead(range.clone()).await?;
                    Ok(Window { range, bytes })
                });
                match try_join_all(requests).await {
                    Ok(windows) => self.windows.extend(windows),
                    Err(error) => self.only_wait(&error),
                }
                Available::NotYet
            }
        }
    }

    async fn next_of_window(mut self: Box<Self>, mut window: Window) -> Step {
        match window.bytes.chunk().await {
            Ok(Some(bytes)) => {
                self.position += bytes.len() as u64;
                window.range.start = self.position;
                if !window.range.is_empty() {
                    self.windows.push(window);
                }
                Ok((State::Store(self), Some(bytes)))
            }
            Ok(None) => Ok((State::Store(self), None)),
            Err(error) if self.lost.is_some() => Err(error.into()),
            Err(error) => {
                self.only_wait(&error);
                Ok((State::Store(self), None))
            }
        }
    }

    /// The bytes will come with the fill, only later.
    fn only_wait(&mut self, error: &upstream::Error) {
        tracing::debug!(%error, "cannot fetch ahead of the fill");
        self.ahead = false;
        self.windows.clear();
    }

    fn piece(mut self: Box<Self>, buffer: Buffer, count: usize) -> Step {
        self.position += count as u64;
        let bytes = buffer.filled(count);
        let over = self.position >= self.end && self.pieces.is_empty();
        let next = if over {
            State::Done
        } else {
            State::Store(self)
        };
        Ok((next, Some(bytes)))
    }

    /// The blob ended. That is wrong if more was promised.
    fn at_the_end(&self) -> Step {
        let short = self.end != u64::MAX || !self.pieces.is_empty();
        if short {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        } else {
            Ok((State::Done, None))
        }
    }
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Range(range) => range.end.saturating_sub(range.start),
        }
    }
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
