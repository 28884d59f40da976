//! Which blobs belong where: what a repository vouches for, and what an upstream has given.
//!
//! A repository vouches for the blobs that its manifests name, and for those that upstream gave or confirmed there; each
//! entry has the time of that word. An upstream's own list says of which blobs it gave the bytes, under any of its
//! repositories: its word about other blobs proves nothing (docs/store.md).
//!
//! A list is a file with one entry a line; new lines are appended, and a later line takes the place of an earlier one. A
//! list has a limit, at which its oldest entries go. One of which at least half is not stored is shortened when it is
//! read. A line that is torn or lost costs one question to upstream. A list is counted and evicted like everything else.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hash, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use moka::sync::Cache;

use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName};

use crate::store::disk::blocking::run;
use crate::store::disk::files::{options, read};
use crate::store::disk::xattrs::unix_seconds;
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::index::seconds_now;
use crate::store::room::reserve::Reservation;
use crate::store::room::usage::cost;

use super::vouch::{GONE, Vouch};

/// Memory for lists of each kind, in bytes.
const MEMORY: u64 = 16 * 1024 * 1024;
/// What an entry takes in its file, about.
const LINE: usize = 112;
/// What an entry takes in memory.
const ENTRY: usize = 80;
/// Lists shorter than this are never shortened.
const SHORT: usize = 1024;
/// The most entries of a list.
const MOST: usize = 100_000;
/// How many go when there are more: the oldest.
const AT_ONCE: usize = MOST / 10;
/// Lists share this many locks.
const LOCKS: usize = 16;
/// How long an answer waits for room for what is new in a list, and how long what no answer waits for does.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// A list in memory tells the index of its use at most this often (seconds).
const PROMOTE_EVERY: u32 = 10;

/// What has such a list.
pub(super) trait Vouching: Hash + Eq + Clone + Send + Sync + 'static {
    /// What the list is stored as.
    fn key(&self) -> StoreKey;
}

impl Vouching for QualifiedName {
    fn key(&self) -> StoreKey {
        StoreKey::vouched(self)
    }
}

impl Vouching for Namespace {
    fn key(&self) -> StoreKey {
        StoreKey::Given(self.clone())
    }
}

/// The lists of one kind, in memory and on disk.
pub(super) struct Vouched<K> {
    lists: Cache<K, Arc<VouchedList>>,
    room: Arc<Room>,
    /// One of them is held while a list's file is read or written together with what memory has of it, so that the
    /// two never differ. Taken only in blocking threads.
    files: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

/// One list. The lock is held for a lookup or an insert.
struct VouchedList {
    entries: Mutex<VouchedEntries>,
    promoted: AtomicU32,
}

/// What memory has and the file does not.
struct Unwritten {
    list: Arc<VouchedList>,
    digests: Vec<Digest>,
    /// Whether the file is to be replaced.
    whole: bool,
    /// How many bytes are to be written, about.
    length: u64,
}

#[derive(Default)]
struct VouchedEntries {
    by_digest: HashMap<Digest, Vouch>,
    /// How many the file has.
    lines: usize,
}

impl VouchedList {
    fn entries(&self) -> MutexGuard<'_, VouchedEntries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self, room: &Arc<Room>, key: impl FnOnce() -> StoreKey) {
        let now = seconds_now();
        if now.saturating_sub(self.promoted.load(Ordering::Relaxed)) >= PROMOTE_EVERY {
            self.promoted.store(now, Ordering::Relaxed);
            room.used(&key());
        }
    }

    fn get(&self, digest: &Digest) -> Option<Vouch> {
        self.entries().by_digest.get(digest).copied()
    }
}

impl VouchedEntries {
    /// Takes `new` in; returns the entries that are to be written.
    fn merge(&mut self, new: Vec<(Digest, Vouch)>) -> Vec<Digest> {
        let mut changed = Vec::new();
        for (digest, newer) in new {
            let known = self.by_digest.get(&digest).copied();
            let merged = known.map_or(newer, |known| known.renewed(newer));
            if known.is_none_or(|known| known.is_old_beside(merged)) {
                self.by_digest.insert(digest.clone(), merged);
                changed.push(digest);
            }
        }
        changed
    }

    /// What the file is to say about these.
    fn lines(&self, digests: &[Digest]) -> String {
        let mut text = String::with_capacity(digests.len() * LINE);
        for digest in digests {
            let _ = match self.by_digest.get(digest) {
                Some(vouch) => writeln!(text, "{digest} {vouch}"),
                None => writeln!(text, "{digest}{GONE}"),
            };
        }
        text
    }

    /// Whether most lines of the file have been replaced by later ones.
    fn has_many_repeated(&self) -> bool {
        self.lines > 2 * self.by_digest.len() + SHORT
    }

    /// All of it as a file, which has no line too many.
    fn text(&mut self) -> String {
        self.lines = self.by_digest.len();
        let mut text = String::with_capacity(self.lines * LINE);
        for (digest, vouch) in &self.by_digest {
            let _ = writeln!(text, "{digest} {vouch}");
        }
        text
    }

    /// Drops the oldest entries if there are too many; says whether it did.
    fn shorten(&mut self, most: usize, at_once: usize) -> bool {
        if self.by_digest.len() <= most {
            return false;
        }
        let mut times: Vec<_> = self.by_digest.values().map(|vouch| vouch.at).collect();
        let surplus = (self.by_digest.len() - most + at_once).min(times.len() - 1);
        let (older, oldest_left, _) = times.select_nth_unstable(surplus);
        let oldest_left = *oldest_left;
        // Many can have the same time: some of those go as well.
        let mut equal = older.iter().filter(|at| **at == oldest_left).count();
        self.by_digest.retain(|_, vouch| {
            let goes = vouch.at < oldest_left || (vouch.at == oldest_left && equal > 0);
            equal -= usize::from(goes && vouch.at == oldest_left);
            !goes
        });
        true
    }
}

impl<K: Vouching> Vouched<K> {
    pub(super) fn new(room: &Arc<Room>) -> Arc<Self> {
        let bytes = |_: &K, list: &Arc<VouchedList>| {
            let entries = list.entries().by_digest.capacity();
            u32::try_from(entries * ENTRY + 256).unwrap_or(u32::MAX)
        };
        Arc::new(Self {
            lists: Cache::builder().max_capacity(MEMORY).weigher(bytes).build(),
            room: Arc::clone(room),
            files: Default::default(),
            hasher: RandomState::new(),
        })
    }

    /// What the list says about the blob.
    pub(super) async fn get(self: &Arc<Self>, id: &K, digest: &Digest) -> Option<Vouch> {
        let list = match self.lists.get(id) {
            Some(list) => list,
            None => {
                let (vouched, id) = (Arc::clone(self), id.clone());
                run(move || {
                    let _files = vouched.files(&id);
                    vouched.list(&id)
                })
                .await?
            }
        };
        list.used(&self.room, || id.key());
        list.get(digest)
    }

    /// Adds blobs to the list, or renews what it says about them.
    pub(super) async fn add(self: &Arc<Self>, id: &K, new: Vec<(Digest, Vouch)>) {
        if let Some(list) = self.lists.get(id) {
            let known = list.entries();
            let is_known = |(digest, newer): &(Digest, Vouch)| {
                let known = known.by_digest.get(digest);
                known.is_some_and(|known| !known.is_old_beside(known.renewed(*newer)))
            };
            if new.iter().all(is_known) {
                return;
            }
        }
        self.change(id, |entries| entries.merge(new)).await;
    }

    /// Takes a blob from the list.
    pub(super) async fn remove(self: &Arc<Self>, id: &K, digest: &Digest) {
        let digest = digest.clone();
        let remove = move |entries: &mut VouchedEntries| {
            let removed = entries.by_digest.remove(&digest);
            removed.map(|_| digest).into_iter().collect()
        };
        self.change(id, remove).await;
    }

    /// Forgets what memory has of a list whose file is gone.
    pub(super) fn forget(&self, id: &K) {
        self.lists.invalidate(id);
    }

    /// Changes the list in memory, then writes down what `change` says was changed.
    async fn change(
        self: &Arc<Self>,
        id: &K,
        change: impl FnOnce(&mut VouchedEntries) -> Vec<Digest> + Send + 'static,
    ) {
        let (vouched, of) = (Arc::clone(self), id.clone());
        let unwritten = run(move || vouched.change_in_memory(of, change)).await;
        let Some(unwritten) = unwritten.flatten() else {
            return;
        };
        let (vouched, id) = (Arc::clone(self), id.clone());
        if self.room.is_scanned() {
            vouched.keep(id, unwritten, PATIENCE.0).await;
        } else {
            tokio::spawn(vouched.keep(id, unwritten, PATIENCE.1));
        }
    }

    /// `None` when there is nothing to be written, or no disk to write to.
    fn change_in_memory(
        &self,
        id: K,
        change: impl FnOnce(&mut VouchedEntries) -> Vec<Digest>,
    ) -> Option<Unwritten> {
        let _files = self.files(&id);
        let list = self.list(&id);
        let mut entries = list.entries();
        let digests = change(&mut entries);
        let shortened = entries.shorten(MOST, AT_ONCE);
        let whole = shortened || entries.has_many_repeated() || !self.room.has(&id.key());
        let text = match whole {
            true => entries.text(),
            false => entries.lines(&digests),
        };
        drop(entries);
        // Inserted again, so that the list is weighed by its new length.
        self.lists.insert(id, Arc::clone(&list));
        let write = !digests.is_empty() && self.room.disk().trouble().is_none();
        write.then(|| Unwritten {
            list,
            digests,
            whole,
            // A byte more, to end a line that is torn.
            length: text.len() as u64 + 1,
        })
    }

    /// Writes to the file what memory has. Without room for it the list stays in memory alone.
    async fn keep(self: Arc<Self>, id: K, unwritten: Unwritten, patience: Duration) {
        let (key, length) = (id.key(), unwritten.length);
        let owner = self.room.index().owner(key.namespace());
        let claimed = Reservation::claim(&self.room, length, &key, owner, patience).await;
        let Ok(reservation) = claimed else {
            return;
        };
        let write = move || {
            let _files = self.files(&id);
            if let Err(error) = self.write(&key, &unwritten, reservation) {
                let disk = self.room.disk();
                disk.write_failed("write down which blobs belong to a repository", &error);
            }
        };
        run(write).await;
    }

    /// The caller holds the lock on the file.
    fn write(&self, key: &StoreKey, unwritten: &Unwritten, room: Reservation) -> io::Result<()> {
        let mut entries = unwritten.list.entries();
        let path = self.room.disk().layout().path(key);
        let mut file = match options().read(true).write(true).open(path) {
            Ok(file) if !unwritten.whole => file,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return self.write_whole(key.clone(), &entries.text(), room),
        };
        let before = file.metadata()?.len();
        // A crash or a full disk tore the last line; what follows must not be glued to it.
        let torn = before > 0 && last_byte(&mut file)? != b'\n';
        let lines = entries.lines(&unwritten.digests);
        let text = format!("{}{lines}", if torn { "\n" } else { "" });
        file.write_all_at(text.as_bytes(), before)?;
        entries.lines += unwritten.digests.len();
        // Evicted meanwhile, it is written as a whole with its next entry.
        room.recount(&file, key, before + text.len() as u64);
        Ok(())
    }

    fn write_whole(&self, key: StoreKey, text: &str, room: Reservation) -> io::Result<()> {
        let disk = self.room.disk();
        let temporary = disk.temporary();
        let written = disk
            .create_file(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| room.publish(&temporary, key, text.len() as u64));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map(drop)
    }

    /// The list in memory, or read into memory now. The caller holds the lock on the file.
    fn list(&self, id: &K) -> Arc<VouchedList> {
        if let Some(list) = self.lists.get(id) {
            return list;
        }
        let list = Arc::new(VouchedList {
            entries: Mutex::new(self.read(id)),
            promoted: AtomicU32::new(0),
        });
        self.lists.insert(id.clone(), Arc::clone(&list));
        list
    }

    fn read(&self, id: &K) -> VouchedEntries {
        let key = id.key();
        let path = self.room.disk().layout().path(&key);
        let written = fs::metadata(&path).and_then(|file| file.modified());
        let written = unix_seconds(written.unwrap_or_else(|_| SystemTime::now()));
        // A crash can leave what is not even text; the lines before and after it are still good.
        let bytes = read(&path).unwrap_or_default();
        match bytes.len() as u64 {
            0 => self.room.miss(&key),
            length => drop(self.room.index().touch(&key, length)),
        }
        let text = String::from_utf8_lossy(&bytes);
        let (mut entries, old) = parse(&text, u32::try_from(written).unwrap_or(u32::MAX));
        let mut changed = old || entries.has_many_repeated();
        if entries.by_digest.len() >= SHORT && self.room.is_scanned() {
            let stored = |digest: &Digest| self.room.has(&StoreKey::Blob(digest.clone()));
            let useful = entries.by_digest.keys().filter(|digest| stored(digest));
            if useful.count() * 2 <= entries.by_digest.len() {
                entries.by_digest.retain(|digest, _| stored(digest));
                changed = true;
            }
        }
        changed |= entries.shorten(MOST, AT_ONCE);
        if changed && self.room.disk().trouble().is_none() {
            // What is not written now is as good as before.
            let text = entries.text();
            let owner = self.room.index().owner(key.namespace());
            let room = Reservation::of_file(&self.room, cost(text.len() as u64), owner);
            let _ = self.write_whole(key, &text, room);
        }
        entries
    }

    fn files(&self, id: &K) -> MutexGuard<'_, ()> {
        let hash = usize::try_from(self.hasher.hash_one(id) % LOCKS as u64).unwrap_or(0);
        let lock = self.files.get(hash).unwrap_or(&self.files[0]);
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of a list that was written at `written`, and whether an earlier version wrote any of it.
fn parse(text: &str, written: u32) -> (VouchedEntries, bool) {
    let mut entries = VouchedEntries::default();
    let mut old = false;
    for line in text.lines() {
        entries.lines += 1;
        let (digest, words) = line.split_at(line.find(' ').unwrap_or(line.len()));
        let Ok(digest) = digest.parse::<Digest>() else {
            continue;
        };
        if words == GONE {
            entries.by_digest.remove(&digest);
        } else if let Some(vouch) = Vouch::parse(words, written) {
            old |= words.is_empty();
            entries.by_digest.insert(digest, vouch);
        }
    }
    (entries, old)
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn vouch(at: u32, proven: bool, size: u64) -> Vouch {
        let grounds = if proven { "proven" } else { "named" };
        Vouch::parse(&format!("{at} {grounds} {size}"), 0).unwrap()
    }

    #[test]
    fn what_is_written_reads_back_and_the_last_line_counts() {
        let (a, b) = (digest(1), digest(2));
        let text = format!(
            "{a} {}\n{b} {}\n{a}{GONE}\nnonsense\n{a} 7 perhaps\n{b} {}\n",
            vouch(5, true, 0),
            vouch(6, false, 10),
            vouch(7, true, 10),
        );
        let (entries, old) = parse(&text, 99);
        assert!(!old && entries.lines == 6);
        assert_eq!(entries.by_digest, HashMap::from([(b, vouch(7, true, 10))]));
    }

    #[test]
    fn a_list_of_an_earlier_version_is_as_old_as_its_file() {
        let (entries, old) = parse(&format!("{}\n", digest(1)), 99);
        assert!(old);
        assert_eq!(entries.by_digest[&digest(1)], vouch(99, true, 0));
    }

    #[test]
    fn a_manifest_takes_no_proof_away_and_an_hour_is_not_worth_a_line() {
        let mut entries = VouchedEntries::default();
        let mut add = |vouch| entries.merge(vec![(digest(1), vouch)]).len();
        assert_eq!(add(vouch(10_000, true, 0)), 1);
        assert_eq!(add(vouch(10_001, false, 0)), 0);
        assert_eq!(add(vouch(10_001, false, 77)), 1, "the length is new");
        assert_eq!(add(vouch(10_001 + 3600, false, 0)), 1);
        let known = entries.by_digest[&digest(1)];
        assert_eq!(known, vouch(10_001 + 3600, true, 77));
    }

    #[test]
    fn a_list_that_is_too_long_loses_its_oldest_entries() {
        let mut entries = VouchedEntries::default();
        entries.merge(
            (0..100)
                .map(|n| (digest(n), vouch(n / 2, true, 0)))
                .collect(),
        );
        assert!(!entries.shorten(100, 10));
        entries.merge(vec![(digest(100), vouch(200, true, 0))]);
        assert!(entries.shorten(100, 10));
        assert_eq!(entries.by_digest.len(), 90);
        assert!(entries.by_digest.contains_key(&digest(100)));
        assert!(entries.by_digest.values().all(|vouch| vouch.at >= 5));
    }
}
