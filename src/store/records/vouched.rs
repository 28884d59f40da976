//! Which blobs belong where: what a repository vouches for, and what an upstream has given.
//!
//! A repository vouches for the blobs that its manifests name, and for those that upstream gave or confirmed there; each
//! entry has the time of that word. An upstream's own list says of which blobs it gave the bytes, under any of its
//! repositories: its word about other blobs proves nothing (docs/store.md).
//!
//! A list is a file with one entry a line; new lines are appended, and a later line takes the place of an earlier one. A
//! list has a limit, at which its oldest entries go. One of which at least half is not stored is shortened when it is
//! read. A line that is torn or lost costs one question to upstream.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hash, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use moka::sync::Cache;

use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName};

use crate::store::disk::blocking::run;
use crate::store::disk::files::{options, read, write};
use crate::store::disk::layout::Layout;
use crate::store::disk::xattrs::unix_seconds;
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::index::cost;

use super::vouch::{GONE, Vouch};

/// Memory for lists of each kind, in bytes.
const MEMORY: u64 = 16 * 1024 * 1024;
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

/// What has such a list.
pub(super) trait Vouching: Hash + Eq + Clone + Send + Sync + 'static {
    /// Where the list is.
    fn path(&self, layout: &Layout) -> PathBuf;
}

impl Vouching for QualifiedName {
    fn path(&self, layout: &Layout) -> PathBuf {
        layout.vouched(self)
    }
}

impl Vouching for Namespace {
    fn path(&self, layout: &Layout) -> PathBuf {
        layout.given(self)
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
struct VouchedList(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_digest: HashMap<Digest, Vouch>,
    /// How many the file has.
    lines: usize,
}

impl VouchedList {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, digest: &Digest) -> Option<Vouch> {
        self.entries().by_digest.get(digest).copied()
    }
}

impl Entries {
    /// Takes `new` in; returns the entries that are to be written.
    fn merge(&mut self, new: Vec<(Digest, Vouch)>) -> Vec<(Digest, Vouch)> {
        let mut changed = Vec::new();
        for (digest, newer) in new {
            let known = self.by_digest.get(&digest).copied();
            let merged = known.map_or(newer, |known| known.renewed(newer));
            if known.is_none_or(|known| known.is_old_beside(merged)) {
                self.by_digest.insert(digest.clone(), merged);
                changed.push((digest, merged));
            }
        }
        changed
    }

    /// Whether most lines of the file have been replaced by later ones.
    fn has_many_repeated(&self) -> bool {
        self.lines > 2 * self.by_digest.len() + SHORT
    }

    /// All of it as a file, which has no line too many.
    fn text(&mut self) -> String {
        self.lines = self.by_digest.len();
        let lines = self.by_digest.iter();
        lines
            .map(|(digest, vouch)| format!("{digest} {vouch}\n"))
            .collect()
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
        let (vouched, id) = (Arc::clone(self), id.clone());
        run(move || vouched.change(id, |entries| entries.merge(new))).await;
    }

    /// Takes a blob from the list.
    pub(super) async fn remove(self: &Arc<Self>, id: &K, digest: &Digest) {
        let (vouched, id, digest) = (Arc::clone(self), id.clone(), digest.clone());
        run(move || {
            let _files = vouched.files(&id);
            let list = vouched.list(&id);
            if list.entries().by_digest.remove(&digest).is_some() {
                vouched.write(&id, &list, &[format!("{digest}{GONE}")]);
            }
        })
        .await;
    }

    fn change(&self, id: K, change: impl FnOnce(&mut Entries) -> Vec<(Digest, Vouch)>) {
        let _files = self.files(&id);
        let list = self.list(&id);
        let changed = change(&mut list.entries());
        let lines: Vec<_> = changed
            .into_iter()
            .map(|(digest, vouch)| format!("{digest} {vouch}"))
            .collect();
        self.write(&id, &list, &lines);
        // Inserted again, so that the list is weighed by its new length.
        self.lists.insert(id, list);
    }

    /// The list in memory, or read into memory now. The caller holds the lock on the file.
    fn list(&self, id: &K) -> Arc<VouchedList> {
        if let Some(list) = self.lists.get(id) {
            return list;
        }
        let list = Arc::new(VouchedList(Mutex::new(self.read(id))));
        self.lists.insert(id.clone(), Arc::clone(&list));
        list
    }

    /// Writes down what was changed in memory, or all of the list where that is better.
    fn write(&self, id: &K, list: &VouchedList, lines: &[String]) {
        let disk = self.room.disk();
        let whole = {
            let mut entries = list.entries();
            let shortened = entries.shorten(MOST, AT_ONCE);
            entries.lines += lines.len();
            (shortened || entries.has_many_repeated()).then(|| entries.text())
        };
        if lines.is_empty() || disk.trouble().is_some() {
            return;
        }
        let path = id.path(disk.layout());
        let written = match whole {
            Some(text) => self.write_whole(&path, &text),
            None => self.append(&path, lines),
        };
        if let Err(error) = written {
            disk.write_failed("write down which blobs belong to a repository", &error);
        }
    }

    fn append(&self, path: &Path, lines: &[String]) -> io::Result<()> {
        self.create_parent(path)?;
        let mut file = options().create(true).read(true).append(true).open(path)?;
        let before = file.metadata()?.len();
        let mut text = String::new();
        if before > 0 && last_byte(&mut file)? != b'\n' {
            // A crash or a full disk tore the last line; what follows must not be glued to it.
            text.push('\n');
        }
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        self.count(before, before + text.len() as u64);
        Ok(())
    }

    fn write_whole(&self, path: &Path, text: &str) -> io::Result<()> {
        self.create_parent(path)?;
        let before = fs::metadata(path).map_or(0, |file| file.len());
        let temporary = self.room.disk().temporary();
        let written =
            write(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        self.count(before, text.len() as u64);
        Ok(())
    }

    fn create_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) => self.room.create_directories(parent),
            None => Ok(()),
        }
    }

    /// Counts a list whose length changed, in both directions.
    fn count(&self, before: u64, after: u64) {
        let cost = |length| if length == 0 { 0 } else { cost(length) };
        let (before, after) = (cost(before), cost(after));
        self.room.index().add_overhead(after.saturating_sub(before));
        self.room
            .index()
            .take_overhead(before.saturating_sub(after));
    }

    fn read(&self, id: &K) -> Entries {
        let path = id.path(self.room.disk().layout());
        let written = fs::metadata(&path).and_then(|file| file.modified());
        let written = unix_seconds(written.unwrap_or_else(|_| SystemTime::now()));
        // A crash can leave what is not even text; the lines before and after it are still good.
        let bytes = read(&path).unwrap_or_default();
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
            let _ = self.write_whole(&path, &entries.text());
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
fn parse(text: &str, written: u32) -> (Entries, bool) {
    let mut entries = Entries::default();
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
        let mut entries = Entries::default();
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
        let mut entries = Entries::default();
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
