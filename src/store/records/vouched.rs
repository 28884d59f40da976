//! Which blobs a repository vouches for: those its manifests name and those upstream confirmed.
//!
//! Each repository has one list of digests, one a line; new ones are appended. Lists are small and not evicted. A long
//! one of which at least half is not stored is shortened when it is read. A line that is torn or lost costs one
//! question to upstream.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::sync::Cache;

use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;

use crate::store::disk::blocking::run;
use crate::store::disk::files::{options, read};
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::index::cost;

/// Memory for lists, in bytes.
const MEMORY: u64 = 16 * 1024 * 1024;
/// Lists shorter than this are never shortened.
const SHORT: usize = 1024;

/// The lists, in memory and on disk.
pub(super) struct Vouched {
    lists: Cache<QualifiedName, Arc<VouchedList>>,
    room: Arc<Room>,
    /// Held while a list's file is read or written together with what memory has of it, so that the two never
    /// differ. Taken only in blocking threads.
    files: Mutex<()>,
}

/// The digests one repository vouches for. The lock is held for a lookup or an insert.
struct VouchedList(Mutex<HashSet<Digest>>);

impl VouchedList {
    fn digests(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vouched {
    pub(super) fn new(room: &Arc<Room>) -> Arc<Self> {
        let bytes = |_: &QualifiedName, list: &Arc<VouchedList>| {
            u32::try_from(list.digests().len() * 64 + 256).unwrap_or(u32::MAX)
        };
        Arc::new(Self {
            lists: Cache::builder().max_capacity(MEMORY).weigher(bytes).build(),
            room: Arc::clone(room),
            files: Mutex::new(()),
        })
    }

    /// Whether the repository vouches for the blob.
    pub(super) async fn vouches(self: &Arc<Self>, name: &QualifiedName, digest: &Digest) -> bool {
        let list = match self.lists.get(name) {
            Some(list) => Some(list),
            None => {
                let (vouched, name) = (Arc::clone(self), name.clone());
                run(move || {
                    let _files = vouched.files();
                    vouched.list(&name)
                })
                .await
            }
        };
        list.is_some_and(|list| list.digests().contains(digest))
    }

    /// Adds blobs to those the repository vouches for.
    pub(super) async fn vouch(self: &Arc<Self>, name: &QualifiedName, digests: Vec<Digest>) {
        if let Some(list) = self.lists.get(name) {
            let known = list.digests();
            if digests.iter().all(|digest| known.contains(digest)) {
                return;
            }
        }
        let (vouched, name) = (Arc::clone(self), name.clone());
        run(move || vouched.add(name, digests)).await;
    }

    fn add(&self, name: QualifiedName, digests: Vec<Digest>) {
        let _files = self.files();
        let list = self.list(&name);
        let new: Vec<_> = {
            let mut known = list.digests();
            let new = |digest: &Digest| known.insert(digest.clone());
            digests.into_iter().filter(new).collect()
        };
        let disk = self.room.disk();
        if !new.is_empty()
            && disk.trouble().is_none()
            && let Err(error) = self.append(&name, &new)
        {
            disk.write_failed("write down which blobs belong to a repository", &error);
        }
        // Inserted again, so that the list is weighed by its new length.
        self.lists.insert(name, list);
    }

    /// The list in memory, or read into memory now. The caller holds the lock on the files.
    fn list(&self, name: &QualifiedName) -> Arc<VouchedList> {
        if let Some(list) = self.lists.get(name) {
            return list;
        }
        let list = Arc::new(VouchedList(Mutex::new(self.read(name))));
        self.lists.insert(name.clone(), Arc::clone(&list));
        list
    }

    fn append(&self, name: &QualifiedName, new: &[Digest]) -> io::Result<()> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            self.room.create_directories(parent)?;
        }
        let mut file = options().create(true).read(true).append(true).open(&path)?;
        let before = file.metadata()?.len();
        let mut lines = String::new();
        if before > 0 && last_byte(&mut file)? != b'\n' {
            // A crash or a full disk tore the last line; what follows must not be glued to it.
            lines.push('\n');
        }
        lines.extend(new.iter().map(|digest| format!("{digest}\n")));
        file.write_all(lines.as_bytes())?;
        let counted = if before == 0 { 0 } else { cost(before) };
        let after = before + lines.len() as u64;
        let more = cost(after).saturating_sub(counted);
        self.room.index().add_overhead(more);
        Ok(())
    }

    fn read(&self, name: &QualifiedName) -> HashSet<Digest> {
        let path = self.path(name);
        // A crash can leave what is not even text; the lines before and after it are still good.
        let bytes = read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let digests: HashSet<Digest> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if digests.len() < SHORT || !self.room.is_scanned() {
            return digests;
        }
        let stored = |digest: &&Digest| self.room.has(&StoreKey::Blob((*digest).clone()));
        let useful: HashSet<Digest> = digests.iter().filter(stored).cloned().collect();
        if useful.len() * 2 > digests.len() {
            return digests;
        }
        let lines: String = useful.iter().map(|digest| format!("{digest}\n")).collect();
        let temporary = self.room.disk().temporary();
        match fs::write(&temporary, lines).and_then(|()| fs::rename(&temporary, &path)) {
            Ok(()) => useful,
            Err(_) => {
                let _ = fs::remove_file(&temporary);
                digests
            }
        }
    }

    fn path(&self, name: &QualifiedName) -> PathBuf {
        self.room.disk().layout().vouched(name)
    }

    fn files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}
