//! Delivery: which bytes of a blob go to a client next, and from where.
//!
//! From the file in the store, which may still grow; from upstream ahead of the fill, for what the fill does not reach
//! soon; from upstream instead of the store, when the disk fails under a body. It knows nothing of sockets and keeps no
//! memory for bytes: the sender brings the buffer, or takes the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::headers::range::Span;
use crate::store::Store;
use crate::store::blobs::progress::IngestFailure;
use crate::store::blobs::reader::{Available, BlobReader};
use crate::store::disk::files::read_blocking;
use crate::upstream;

use super::ahead::{Ahead, Allowance, LOOK_AGAIN, decide, together};
use super::passthrough::Passthrough;
use super::source::Source;
use super::window::{Window, WindowLimits};

/// Why a body ends before its end.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Where a blob's bytes come from.
pub(crate) enum Content {
    /// The store.
    Stored(StoredBlob),
    /// Upstream, past the store; for one client alone.
    Passthrough(Box<Passthrough>),
}

/// A blob in the store, whole or growing, and where its bytes come from if the store does not give them.
pub(crate) struct StoredBlob {
    store: Arc<Store>,
    reader: BlobReader,
    source: Source,
    /// What may be fetched ahead of its fill, if it is on its way.
    limits: Option<WindowLimits>,
}

impl StoredBlob {
    pub(super) fn new(
        store: &Arc<Store>,
        reader: BlobReader,
        source: Source,
        limits: Option<WindowLimits>,
    ) -> Self {
        let store = Arc::clone(store);
        Self {
            store,
            reader,
            source,
            limits,
        }
    }

    /// Length of the whole blob, if that is known by now.
    pub(crate) fn length(&self) -> Option<u64> {
        self.reader.length()
    }

    /// Waits until the length of the whole blob is known.
    pub(crate) async fn wait_length(&mut self) -> Result<u64, IngestFailure> {
        self.reader.wait_length().await
    }

    /// Delivers all of it, waiting for what is still to come.
    pub(crate) fn whole(self, length: Option<u64>) -> Delivery {
        let span = Span::from(0).within(length);
        let stored = FromStore {
            whole: true,
            fetches_ahead: false,
            ..FromStore::new(self, [Piece::Span(span)].into())
        };
        Delivery(Feed::Stored(stored))
    }

    /// Delivers pieces in this order. What a growing blob does not have yet may be fetched ahead.
    pub(crate) fn pieces(self, pieces: VecDeque<Piece>) -> Delivery {
        Delivery(Feed::Stored(FromStore::new(self, pieces)))
    }
}

/// One piece of a body that is made of several.
pub(crate) enum Piece {
    /// Bytes in memory: the header of a part.
    Bytes(Bytes),
    /// A part of the blob.
    Span(Span),
}

/// What goes to the client next.
pub(crate) enum Next {
    /// Nothing more: all was sent.
    End,
    Bytes(Bytes),
    /// These bytes of the stored file: read them, or have the kernel send them.
    InFile(Range<u64>),
    /// It must be waited for: [`Delivery::wait`].
    Later,
    /// What was promised cannot be kept.
    Broken(Broken),
}

/// A body on its way to one client.
pub(crate) struct Delivery(Feed);

#[expect(
    clippy::large_enum_variant,
    reason = "what sends a delivery keeps it in a box"
)]
enum Feed {
    Stored(FromStore),
    Upstream(Box<Passthrough>),
    Over,
}

impl From<Box<Passthrough>> for Delivery {
    fn from(passthrough: Box<Passthrough>) -> Self {
        Self(Feed::Upstream(passthrough))
    }
}

impl Delivery {
    pub(crate) fn next(&mut self) -> Next {
        match &mut self.0 {
            Feed::Stored(stored) => stored.next(),
            Feed::Upstream(_) => Next::Later,
            Feed::Over => Next::End,
        }
    }

    /// Waits for what comes next; returns it if it did not come into the file.
    pub(crate) async fn wait(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.0 {
            Feed::Stored(stored) => match stored.failed.take() {
                Some(why) if stored.whole => {
                    let rest = stored.rest(&why).await?;
                    self.0 = Feed::Upstream(Box::new(rest));
                    Ok(None)
                }
                why => stored.wait(why).await,
            },
            Feed::Upstream(passthrough) => {
                let bytes = passthrough.chunk().await?;
                if bytes.is_none() {
                    self.0 = Feed::Over;
                }
                Ok(bytes)
            }
            Feed::Over => Ok(None),
        }
    }

    /// Whether there is nothing more to send.
    pub(crate) fn is_over(&self) -> bool {
        match &self.0 {
            Feed::Stored(stored) => stored.has_come_to_the_end() && stored.pieces.is_empty(),
            Feed::Upstream(_) => false,
            Feed::Over => true,
        }
    }

    /// The file of [`Next::InFile`].
    pub(crate) fn stored(&mut self) -> Option<&mut FromStore> {
        match &mut self.0 {
            Feed::Stored(stored) => Some(stored),
            Feed::Upstream(_) | Feed::Over => None,
        }
    }
}

/// A delivery from the store; what the store cannot give comes from the source.
pub(crate) struct FromStore {
    blob: StoredBlob,
    /// Whether the client gets all of the blob, so that its digest can be checked.
    whole: bool,
    /// Whether bytes that the fill has not reached may be fetched from upstream.
    fetches_ahead: bool,
    allowance: Allowance,
    /// Why the store cannot be read any more, if it cannot.
    failed: Option<Broken>,
    /// Parts of the span that is being sent, and of some that come after it.
    windows: Vec<Window>,
    position: u64,
    /// Where the span ends that is being sent; `None` for the end of a blob whose length is not known yet.
    end: Option<u64>,
    /// What comes after it.
    pieces: VecDeque<Piece>,
    /// The kernel has sent, or has still to send, some of the file.
    by_kernel: bool,
}

impl FromStore {
    fn new(blob: StoredBlob, pieces: VecDeque<Piece>) -> Self {
        Self {
            blob,
            whole: false,
            fetches_ahead: true,
            allowance: Allowance::default(),
            failed: None,
            windows: Vec::new(),
            position: 0,
            end: Some(0),
            pieces,
            by_kernel: false,
        }
    }

    /// Reads what the page cache has of [`Next::InFile`]; `None` if the disk would have to be waited for.
    pub(crate) fn read_now(&mut self, buffer: &mut [u8]) -> Option<usize> {
        // Whether the file is damaged shows when it is read again, where waiting does no harm.
        let read = self.blob.reader.read_now(buffer, self.position);
        let count = read.ok().flatten().filter(|count| *count > 0)?;
        self.position += count as u64;
        Some(count)
    }

    /// Whether the page cache has the byte at `place` of the file; an error where the file ends before it.
    pub(crate) fn is_cached(&self, place: u64) -> io::Result<bool> {
        match self.blob.reader.read_now(&mut [0], place)? {
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count.is_some()),
        }
    }

    pub(crate) fn file(&self) -> Arc<File> {
        self.blob.reader.file()
    }

    /// Counts the file's bytes up to `end` as sent: the kernel sends them.
    pub(crate) fn sent_by_kernel(&mut self, end: u64) {
        self.position = end;
        self.by_kernel = true;
    }

    /// The longest part of the file that is to be sent.
    pub(crate) fn longest(&self) -> u64 {
        let known = self.blob.length().unwrap_or(0);
        let spans = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Span(span) => Some(span.within(Some(known))),
            Piece::Bytes(_) => None,
        });
        let lengths = spans.filter_map(|span| span.to?.checked_sub(span.from));
        lengths.max().unwrap_or(0)
    }

    fn has_come_to_the_end(&self) -> bool {
        self.end.is_some_and(|end| self.position >= end)
    }

    fn next(&mut self) -> Next {
        while self.has_come_to_the_end() {
            match self.pieces.pop_front() {
                None => return Next::End,
                Some(Piece::Bytes(bytes)) => return Next::Bytes(bytes),
                Some(Piece::Span(span)) => (self.position, self.end) = (span.from, span.to),
            }
        }
        if self.failed.is_some() || self.window().is_some() {
            return Next::Later;
        }
        match self.blob.reader.available(self.position) {
            Available::UpTo(upto) => {
                Next::InFile(self.position..self.end.map_or(upto, |end| upto.min(end)))
            }
            // The blob ended. That is wrong if more was promised.
            Available::End if self.end.is_some() || !self.pieces.is_empty() => {
                Next::Broken(io::Error::from(io::ErrorKind::UnexpectedEof).into())
            }
            Available::End => Next::End,
            Available::Failed(failure) if failure.is_of_the_store() => {
                self.failed = Some(failure.into());
                Next::Later
            }
            Available::Failed(failure) => Next::Broken(failure.into()),
            Available::NotYet => Next::Later,
        }
    }

    /// The window that has what is to be sent next.
    fn window(&self) -> Option<usize> {
        let windows = &mut self.windows.iter();
        windows.position(|window| window.has(self.position))
    }

    /// Waits for what comes next: from a window, from upstream because the store failed, or from the fill.
    async fn wait(&mut self, failed: Option<Broken>) -> Result<Option<Bytes>, Broken> {
        if let Some(place) = self.window() {
            self.failed = failed;
            let window = self.windows.swap_remove(place);
            return self.next_of_window(window).await;
        }
        match failed {
            Some(why) => self.fetch_instead(why).await?,
            None => self.wait_for_fill().await,
        }
        Ok(None)
    }

    /// The rest of the whole blob, which the store cannot give any more. The client notices nothing.
    async fn rest(&self, why: &Broken) -> Result<Passthrough, upstream::Error> {
        self.tell_rescue(why);
        let source = self.blob.source.clone();
        Passthrough::rest(source, &self.blob.reader, self.position).await
    }

    /// The rest of the span that is being sent, which the store cannot give any more.
    async fn fetch_instead(&mut self, why: Broken) -> Result<(), Broken> {
        self.tell_rescue(&why);
        let end = self.end.ok_or(io::ErrorKind::UnexpectedEof);
        let range = self.position..end.map_err(io::Error::from)?;
        let source = self.blob.source.clone();
        let bytes = Passthrough::part(source, range.clone().into()).await?;
        self.windows.push(Window::new(range, bytes, None));
        self.failed = Some(why);
        Ok(())
    }

    fn tell_rescue(&self, why: &Broken) {
        tracing::warn!(source = ?self.blob.source, at = self.position, error = %why, "a body goes on from upstream");
        self.blob.source.count_rescue();
    }

    /// Waits for the fill, or opens windows past it.
    async fn wait_for_fill(&mut self) {
        let (reader, position) = (&mut self.blob.reader, self.position);
        let (true, Some(end)) = (self.fetches_ahead, self.end) else {
            reader.wait(position).await;
            return;
        };
        if !matches!(reader.available(position), Available::NotYet) {
            return;
        }
        let pace = reader.pace();
        let first = match decide(pace, &(position..end)) {
            Ahead::Wait(patience) => {
                let _ = tokio::time::timeout(patience, reader.wait(position)).await;
                return;
            }
            Ahead::Fetch(first) => first,
        };
        let later = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Span(Span { from, to }) => Some(*from..(*to)?),
            Piece::Bytes(_) => None,
        });
        // What no later piece begins in was for naught.
        let is_wanted = |window: &Window| later.clone().any(|wanted| window.has(wanted.start));
        self.windows.retain(is_wanted);
        let open = |place| self.windows.iter().any(|window| window.has(place));
        let missing = later.clone().filter(|wanted| !open(wanted.start));
        let most = usize::try_from(self.allowance.left()).unwrap_or(usize::MAX);
        let ranges = match most {
            0 => Vec::new(),
            most => together(pace, first, missing, most),
        };
        let limits = self.blob.limits.as_ref();
        let permits = std::iter::from_fn(|| limits?.permit());
        let permitted: Vec<_> = ranges.into_iter().zip(permits).collect();
        if permitted.is_empty() {
            let _ = tokio::time::timeout(LOOK_AGAIN, reader.wait(position)).await;
            return;
        }
        let source = &self.blob.source;
        let requests = permitted.into_iter().map(async |(range, permit)| {
            let bytes = Passthrough::ahead(source.clone(), range.clone()).await?;
            Ok(Window::new(range, bytes, Some(permit)))
        });
        match try_join_all(requests).await {
            Ok(windows) => {
                for window in windows {
                    self.allowance.open();
                    self.windows.push(window);
                }
            }
            Err(error) => self.only_wait(&error),
        }
    }

    async fn next_of_window(&mut self, mut window: Window) -> Result<Option<Bytes>, Broken> {
        match window.chunk(self.position, self.end).await {
            Ok(Some(bytes)) => {
                self.position += bytes.len() as u64;
                self.allowance.take(bytes.len());
                if !window.is_empty() {
                    self.windows.push(window);
                }
                Ok(Some(bytes))
            }
            Ok(None) => Ok(None),
            Err(error) if self.failed.is_some() => Err(error.into()),
            Err(error) => {
                self.only_wait(&error);
                Ok(None)
            }
        }
    }

    /// The bytes will come with the fill, only later.
    fn only_wait(&mut self, error: &upstream::Error) {
        tracing::debug!(%error, "cannot fetch ahead of the fill");
        self.fetches_ahead = false;
        self.windows.clear();
    }

    /// Reads [`Next::InFile`] in a blocking thread; `None` if the file cannot be read, and another way exists.
    pub(crate) async fn read<B>(&mut self, mut buffer: B) -> Result<Option<(B, usize)>, Broken>
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let (file, position) = (self.blob.reader.file(), self.position);
        let read = move || match read_blocking(&file, buffer.as_mut(), position) {
            // The file is shorter than the blob: something truncated it.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            done => done.map(|count| (buffer, count)),
        };
        let error: io::Error = match tokio::task::spawn_blocking(read).await? {
            Ok((buffer, count)) => {
                self.position += count as u64;
                return Ok(Some((buffer, count)));
            }
            Err(error) => error,
        };
        let (file, digest) = (self.blob.reader.file(), self.blob.source.digest());
        let store = &self.blob.store;
        store.blobs().drop_unreadable(digest, file, &error).await;
        if self.by_kernel && error.kind() == io::ErrorKind::UnexpectedEof {
            // What the kernel has still to send was blanked with the rest: nothing can make it right.
            return Err(error.into());
        }
        self.failed = Some(error.into());
        Ok(None)
    }
}
