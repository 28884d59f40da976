//! Windows: parts of a blob that upstream sends ahead of its fill, and how many there may be.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::permits::Permit;
use crate::mirror::site::Context;
use crate::upstream;

use super::passthrough::Passthrough;

/// The most at a time, for all clients. Each is a connection upstream.
const MOST: usize = 512;
/// The most at a time for one blob: several clients that look things up in it, and no crowd.
const MOST_OF_A_BLOB: usize = 64;

/// The windows of all blobs.
#[derive(Clone)]
pub(super) struct Windows(Arc<Semaphore>);

impl Default for Windows {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

/// The windows of one blob that is on its way.
#[derive(Clone)]
pub(super) struct WindowsOfBlob {
    all: Windows,
    of_blob: Arc<Semaphore>,
}

impl WindowsOfBlob {
    pub(super) fn new(all: &Windows) -> Self {
        Self {
            all: all.clone(),
            of_blob: Arc::new(Semaphore::new(MOST_OF_A_BLOB)),
        }
    }

    /// The same for one request of a client, whose windows count as its transfers, and as its questions to upstream.
    pub(super) fn for_request(&self, context: &Context) -> WindowLimits {
        WindowLimits {
            windows: self.clone(),
            context: context.clone(),
        }
    }
}

/// What one request may open.
pub(super) struct WindowLimits {
    windows: WindowsOfBlob,
    context: Context,
}

impl WindowLimits {
    /// A permit for one more window, if there may be one now.
    pub(super) fn permit(&self) -> Option<WindowPermit> {
        let of_all = Arc::clone(&self.windows.all.0).try_acquire_owned().ok()?;
        let of_blob = Arc::clone(&self.windows.of_blob).try_acquire_owned().ok()?;
        let of_client = self.context.try_fill()?;
        self.context.miss().ok()?;
        Some(WindowPermit {
            _of_all: of_all,
            _of_blob: of_blob,
            _of_client: of_client,
        })
    }
}

/// The permit for one window; given back when dropped.
pub(super) struct WindowPermit {
    _of_all: OwnedSemaphorePermit,
    _of_blob: OwnedSemaphorePermit,
    _of_client: Permit,
}

/// A part of the blob that upstream sends.
pub(super) struct Window {
    /// What it has still to bring; never empty.
    range: Range<u64>,
    bytes: Passthrough,
    /// What came already and was not wanted yet.
    came: Bytes,
    /// `None` if it takes the place of the store.
    _permit: Option<WindowPermit>,
}

impl Window {
    pub(super) fn new(range: Range<u64>, bytes: Passthrough, permit: Option<WindowPermit>) -> Self {
        Self {
            range,
            bytes,
            came: Bytes::new(),
            _permit: permit,
        }
    }

    /// Whether it will bring the byte at `place`.
    pub(super) fn has(&self, place: u64) -> bool {
        self.range.contains(&place)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes from `position` on, but none from `end` on. What comes before is left out.
    pub(super) async fn chunk(
        &mut self,
        position: u64,
        end: Option<u64>,
    ) -> Result<Option<Bytes>, upstream::Error> {
        loop {
            let mut chunk = match std::mem::take(&mut self.came) {
                came if came.is_empty() => match self.bytes.chunk().await? {
                    Some(chunk) => chunk,
                    None => return Ok(None),
                },
                came => came,
            };
            let before = position.saturating_sub(self.range.start);
            let before = length(before).min(chunk.len());
            let _ = chunk.split_to(before);
            self.range.start += before as u64;
            if chunk.is_empty() {
                continue;
            }
            if let Some(end) = end {
                let wanted = length(end.saturating_sub(position)).min(chunk.len());
                self.came = chunk.split_off(wanted);
            }
            self.range.start += chunk.len() as u64;
            return Ok(Some(chunk));
        }
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
