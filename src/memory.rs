//! Bodies that are in memory as a whole, such as manifests and lists: how much of them there may be, and where work on
//! them is done.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is not longer than this is not counted: it costs no more than the connection that it goes over.
const SMALL: usize = 32 * 1024;
/// More than this is read or written by a blocking thread: it takes a millisecond or so, and hundreds of requests wait
/// for a thread of the runtime meanwhile.
const LONG: usize = 256 * 1024;
/// How long one waits for room: clients wait longer for a header.
const PATIENCE: Duration = Duration::from_secs(5);
/// The unit of the account: a permit is a number of 32 bits.
const UNIT: usize = 1024;

/// What may be in memory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of all bodies together, in bytes.
    pub buffered: u64,
    /// Of one manifest, in bytes.
    pub manifest: usize,
}

/// The room that bodies have in memory. Room for a long one is taken before it is made, and comes back with the last
/// copy of its bytes.
pub struct Memory {
    room: Arc<Semaphore>,
    /// The part of all room that may be taken through this: those who stall in one place must not take the room of the
    /// others.
    share: Option<Arc<Semaphore>>,
    settings: Settings,
}

/// There was no room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory;

/// Room that is taken until this is dropped.
#[derive(Default)]
pub(crate) struct Held {
    permits: Vec<OwnedSemaphorePermit>,
    bytes: usize,
}

/// Bytes with the room they take.
struct Counted {
    bytes: Vec<u8>,
    _held: Held,
}

impl Memory {
    /// All of the room.
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            room: semaphore(settings.buffered),
            share: None,
            settings,
        })
    }

    /// Half of the room at most: for one upstream, for what is read from disk, for what is made for clients.
    pub(crate) fn share(&self) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::clone(&self.room),
            share: Some(semaphore(self.settings.buffered / 2)),
            settings: self.settings.clone(),
        })
    }

    /// Whether bytes of this length need no room.
    pub(crate) fn is_small(length: usize) -> bool {
        length <= SMALL
    }

    /// The largest manifest that is taken.
    pub(crate) fn largest_manifest(&self) -> usize {
        self.settings.manifest
    }

    /// Takes room for so many bytes.
    pub(crate) async fn hold(&self, bytes: usize) -> Result<Held, NoMemory> {
        let mut held = Held::default();
        self.grow(&mut held, bytes).await?;
        Ok(held)
    }

    /// Takes what is missing to so many bytes.
    pub(crate) async fn grow(&self, held: &mut Held, bytes: usize) -> Result<(), NoMemory> {
        if bytes <= SMALL || bytes <= held.bytes {
            return Ok(());
        }
        let units = (bytes - held.bytes).div_ceil(UNIT);
        let units = u32::try_from(units).map_err(|_| NoMemory)?;
        let taking = async {
            for room in self.share.iter().chain([&self.room]) {
                let permit = Arc::clone(room).acquire_many_owned(units).await;
                held.permits.push(permit.map_err(|_| NoMemory)?);
            }
            Ok(())
        };
        let taken = tokio::time::timeout(PATIENCE, taking).await;
        taken.map_err(|_| NoMemory)??;
        held.bytes = bytes;
        Ok(())
    }
}

impl Held {
    /// The bytes; what is held is given back with their last copy.
    pub(crate) fn with(self, bytes: Vec<u8>) -> Bytes {
        match self.permits.is_empty() {
            true => bytes.into(),
            false => Bytes::from_owner(Counted { bytes, _held: self }),
        }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Display for NoMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "this mirror has as many manifests and lists in memory as it may (max_buffered)",
        )
    }
}

impl std::error::Error for NoMemory {}

fn semaphore(bytes: u64) -> Arc<Semaphore> {
    let units = usize::try_from(bytes).unwrap_or(usize::MAX) / UNIT;
    Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
}

/// Does work on a body of so many bytes, where it holds nothing up.
pub(crate) async fn work_on<T: Send + 'static>(
    length: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if length <= LONG {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The program is being stopped, and with it what waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn memory(mib: u64) -> Arc<Memory> {
        Memory::new(Settings {
            buffered: mib * MIB as u64,
            manifest: 4 * MIB,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn room_comes_back_with_the_last_copy_of_the_bytes() {
        let memory = memory(4);
        let held = memory.hold(3 * MIB).await.unwrap();
        let bytes = held.with(vec![7; 3 * MIB]);
        let part = bytes.slice(5..6);
        assert_eq!(memory.hold(2 * MIB).await.err(), Some(NoMemory));
        drop(bytes);
        assert_eq!(memory.hold(2 * MIB).await.err(), Some(NoMemory));
        assert_eq!(part[..], [7]);
        drop(part);
        assert!(memory.hold(4 * MIB).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_waits_for_no_room_and_what_never_fits_is_refused() {
        let memory = memory(1);
        let _all = memory.hold(MIB).await.unwrap();
        for _ in 0..1000 {
            assert!(memory.hold(SMALL).await.is_ok());
        }
        assert!(memory.hold(2 * MIB).await.is_err());
        assert!(memory.hold(usize::MAX).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_upstream_takes_half_at_most() {
        let memory = memory(4);
        let (one, other) = (memory.share(), memory.share());
        let mut held = one.hold(MIB).await.unwrap();
        one.grow(&mut held, 2 * MIB).await.unwrap();
        assert!(one.grow(&mut held, 3 * MIB).await.is_err());
        assert!(one.hold(MIB).await.is_err());
        assert!(other.hold(2 * MIB).await.is_ok());
        drop(held);
        assert!(one.hold(2 * MIB).await.is_ok());
    }
}
