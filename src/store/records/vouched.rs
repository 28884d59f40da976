//! Which blobs a repository vouches for: those its manifests name and those upstream confirmed.
//!
//! One list of digests a repository, appended to, a line each. Lists are small and not evicted; one that
//! outgrew what is stored is shortened when it is read. A line that is torn or lost costs one question
//! upstream.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::sync::Cache;

use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;

use crate::store::Store;
use crate::store::records::run;
use crate::store::room::index::cost;

/// Memory for lists, in bytes.
const MEMORY: u64 = 16 * 1024 * 1024;
/// Lists shorter than this are never shortened.
const SHORT: usize = 1024;

/// The lists in memory.
pub(in crate::store) struct Lists {
    lists: Cache<QualifiedName, Arc<List>>,
    /// Held for whatever reads or writes a list's file together with what memory has of it, so that the two
    /// never diverge. Taken in blocking threads alone.
    files: Mutex<()>,
}

/// The digests one repository vouches for. The lock is held for a lookup or an insert.
struct List(Mutex<HashSet<Digest>>);

impl Default for Lists {
    fn default() -> Self {
        let bytes = |_: &QualifiedName, list: &Arc<List>| {
            u32::try_from(list.digests().len() * 64 + 256).unwrap_or(u32::MAX)
        };
        let lists = Cache::builder().max_capacity(MEMORY).weigher(bytes).build();
        Self {
            lists,
            files: Mutex::new(()),
        }
    }
}

impl List {
    fn digests(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Whether the repository vouches for the blob.
    pub async fn vouches(self: &Arc<Self>, name: &QualifiedName, digest: &Digest) -> bool {
        let list = match self.vouched.lists.get(name) {
            Some(list) => Some(list),
            None => {
                let (store, name) = (Arc::clone(self), name.clone());
                run(move || {
                    let _files = store
                        .vouched
                        .files
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    store.vouched_list(&name)
                })
                .await
            }
        };
        list.is_some_and(|list| list.digests().contains(digest))
    }

    /// Adds blobs to those the repository vouches for.
    pub async fn vouch(self: &Arc<Self>, name: &QualifiedName, digests: Vec<Digest>) {
        if let Some(list) = self.vouched.lists.get(name) {
            let known = list.digests();
            if digests.iter().all(|digest| known.contains(digest)) {
                return;
            }
        }
        let (store, name) = (Arc::clone(self), name.clone());
        run(move || {
            let _files = store
                .vouched
                .files
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let list = store.vouched_list(&name);
            let new: Vec<_> = {
                let mut known = list.digests();
                digests
                    .into_iter()
                    .filter(|digest| known.insert(digest.clone()))
                    .collect()
            };
            if !new.is_empty()
                && store.trouble().is_none()
                && let Err(error) = store.append_vouched(&name, &new)
            {
                store.disk_failed("write down which blobs belong to a repository", &error);
            }
            // Insert anew, so that the list is weighed by its new length.
            store.vouched.lists.insert(name, list);
        })
        .await;
    }

    /// The list in memory, or read into memory now. The caller holds the lock on the files.
    fn vouched_list(&self, name: &QualifiedName) -> Arc<List> {
        if let Some(list) = self.vouched.lists.get(name) {
            return list;
        }
        let list = Arc::new(List(Mutex::new(self.read_vouched(name))));
        self.vouched.lists.insert(name.clone(), Arc::clone(&list));
        list
    }

    fn append_vouched(&self, name: &QualifiedName, new: &[Digest]) -> io::Result<()> {
        let path = self.layout.vouched(name);
        if let Some(parent) = path.parent() {
            self.create_directories(parent)?;
        }
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)?;
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
        self.index.add_overhead(cost(after).saturating_sub(counted));
        Ok(())
    }

    fn read_vouched(&self, name: &QualifiedName) -> HashSet<Digest> {
        let path = self.layout.vouched(name);
        // A crash can leave what is not even text; the lines before and after it are as good as ever.
        let bytes = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let digests: HashSet<Digest> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if digests.len() < SHORT || !self.index.is_scanned() {
            return digests;
        }
        let useful = digests.iter().filter(|digest| self.has(digest)).cloned();
        let useful: HashSet<Digest> = useful.collect();
        if useful.len() * 2 > digests.len() {
            return digests;
        }
        let lines: String = useful.iter().map(|digest| format!("{digest}\n")).collect();
        let temporary = self.layout.ingest(self.next_serial());
        match fs::write(&temporary, lines).and_then(|()| fs::rename(&temporary, &path)) {
            Ok(()) => useful,
            Err(_) => {
                let _ = fs::remove_file(&temporary);
                digests
            }
        }
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}
