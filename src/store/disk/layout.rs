//! Where everything is: the only file that spells a path of the store, reads one back and walks through them.
//!
//! ```text
//! ROOT/version                                       what wrote this layout
//! ROOT/lock                                          held by the process that uses the store
//! ROOT/boot                                          which run of the machine it was last used in
//! ROOT/pins                                          images that are never evicted, one a line
//! ROOT/blobs/sha256/ab/abcd...                       verified blobs, by digest
//! ROOT/ingest/17                                     records being written
//! ROOT/ingest/17.docker.io.sha256-abcd...            blobs being written
//! ROOT/partial/docker.io/sha256-abcd...              blobs that did not arrive whole
//! ROOT/trash/18                                      what is about to be unlinked
//! ROOT/records/docker.io/library/nginx/_tags/1.27
//! ROOT/records/docker.io/library/nginx/_manifests/sha256-abcd...
//! ROOT/records/docker.io/library/nginx/_lists/tags   what upstream listed
//! ROOT/records/docker.io/library/nginx/_blobs        blobs this repository vouches for
//! ROOT/records/docker.io/_given                      blobs whose bytes this upstream gave
//! ```
//!
//! No component of a repository begins with an underscore (OCI distribution-spec, "Pull"), so `_tags` and
//! its siblings can never be taken for one.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, FileType};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::oci::digest::{Algorithm, Digest};
use crate::oci::name::{Namespace, QualifiedName, Repository, Tag};

use crate::store::key::{Listing, StoreKey};

const MANIFESTS: &str = "_manifests";
const TAGS: &str = "_tags";
const LISTS: &str = "_lists";
const LIST_OF_TAGS: &str = "tags";
const LIST_OF_REFERRERS: &str = "referrers";
const VOUCHED: &str = "_blobs";
const GIVEN: &str = "_given";

/// What a path below `records/` or `blobs/` turned out to be when the store was scanned.
pub(crate) enum Found {
    /// Something that can be evicted.
    Entry(StoreKey),
    /// The list of blobs that a repository vouches for, or an upstream gave.
    Vouched,
    /// Not a file of the store.
    Foreign,
}

/// What a walk finds, one after the other.
pub(crate) enum Step<'a> {
    /// A directory. What is in it comes next.
    Directory,
    /// A file or anything else that is no directory, and what its path says that it is.
    File(&'a DirEntry, Found),
    /// A directory that cannot be listed.
    Unreadable(&'a Path, io::Error),
}

/// Spells and reads paths.
#[derive(Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(crate) fn version(&self) -> PathBuf {
        self.root.join("version")
    }

    /// Which run of the machine the store was last used in.
    pub(crate) fn boot(&self) -> PathBuf {
        self.root.join("boot")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    pub(crate) fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn all_trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// The directories that exist from the start.
    pub(crate) fn top_directories(&self) -> [PathBuf; 6] {
        [
            self.root.clone(),
            self.blobs(),
            self.records(),
            self.partials(),
            self.ingests(),
            self.all_trash(),
        ]
    }

    pub(crate) fn ingest(&self, serial: u64) -> PathBuf {
        self.ingests().join(serial.to_string())
    }

    /// Where a blob is written; its name says what it is, in case the process does not live to finish it.
    pub(crate) fn ingest_of(&self, serial: u64, id: &(Namespace, Digest)) -> PathBuf {
        let file = format!("{serial}.{}.{}", id.0, digest_file(&id.1));
        self.ingests().join(file)
    }

    /// The serial number of a file in `ingest/` or `trash/`, and what blob it is the beginning of.
    pub(crate) fn read_leftover(path: &Path) -> (Option<u64>, Option<StoreKey>) {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let Some((serial, id)) = name.split_once('.') else {
            return (name.parse().ok(), None);
        };
        let key = id.rsplit_once('.').and_then(|(namespace, digest)| {
            let namespace = namespace.parse::<Namespace>().ok()?;
            Some(StoreKey::partial(&namespace, &digest_of_file(digest)?))
        });
        (serial.parse().ok(), key)
    }

    pub(crate) fn trash(&self, serial: u64) -> PathBuf {
        self.all_trash().join(serial.to_string())
    }

    /// The final path of an entry.
    pub(crate) fn path(&self, key: &StoreKey) -> PathBuf {
        match key {
            StoreKey::Blob(digest) => {
                let hex = digest.hex();
                let shard = hex.get(..2).unwrap_or_default();
                self.blobs()
                    .join(digest.algorithm().as_str())
                    .join(shard)
                    .join(&hex)
            }
            StoreKey::Manifest(id) => {
                let (name, digest) = id.as_ref();
                self.repository(name)
                    .join(MANIFESTS)
                    .join(digest_file(digest))
            }
            StoreKey::Tag(id) => self.repository(&id.0).join(TAGS).join(id.1.as_str()),
            StoreKey::Listing(id) => {
                let file = match &id.1 {
                    Listing::Tags => LIST_OF_TAGS.to_owned(),
                    Listing::Referrers(digest) => {
                        format!("{LIST_OF_REFERRERS}-{}", digest_file(digest))
                    }
                };
                self.repository(&id.0).join(LISTS).join(file)
            }
            StoreKey::Partial(id) => self.partials().join(id.0.as_str()).join(digest_file(&id.1)),
        }
    }

    pub(crate) fn vouched(&self, name: &QualifiedName) -> PathBuf {
        self.repository(name).join(VOUCHED)
    }

    pub(crate) fn given(&self, namespace: &Namespace) -> PathBuf {
        self.records().join(namespace.as_str()).join(GIVEN)
    }

    /// Walks through everything below a directory of the store, until `visit` breaks off.
    pub(crate) fn walk(
        &self,
        directory: &Path,
        visit: &mut impl FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return visit(Step::Unreadable(directory, error)),
        };
        for entry in entries.flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.as_ref().is_ok_and(FileType::is_dir) {
                visit(Step::Directory)?;
                self.walk(&path, visit)?;
            } else if kind.is_ok_and(|kind| kind.is_file()) {
                visit(Step::File(&entry, self.read(&path)))?;
            } else {
                visit(Step::File(&entry, Found::Foreign))?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Where a repository's manifests are, given where its records are.
    pub(crate) fn manifests_in(&self, records: &Path) -> PathBuf {
        records.join(MANIFESTS)
    }

    /// Whether a directory below `records/` is a component of a repository's name and not of its records.
    pub(crate) fn is_of_a_name(&self, directory: &OsStr) -> bool {
        !directory.as_encoded_bytes().starts_with(b"_")
    }

    fn repository(&self, name: &QualifiedName) -> PathBuf {
        self.records()
            .join(name.namespace.as_str())
            .join(name.repository.as_str())
    }

    /// Reads back a path below the root; the inverse of [`Layout::path`].
    pub(crate) fn read(&self, path: &Path) -> Found {
        let Some(parts) = path.strip_prefix(&self.root).ok().and_then(text_components) else {
            return Found::Foreign;
        };
        let found = match parts.as_slice() {
            ["blobs", algorithm, shard, hex] => blob(algorithm, shard, hex),
            ["partial", namespace, file] => partial(namespace, file),
            ["records", namespace, repository @ .., MANIFESTS, file] => {
                manifest(namespace, repository, file)
            }
            ["records", namespace, repository @ .., TAGS, file] => tag(namespace, repository, file),
            ["records", namespace, repository @ .., LISTS, file] => {
                listing(namespace, repository, file)
            }
            ["records", namespace, repository @ .., VOUCHED] => {
                qualified(namespace, repository).map(|_| Found::Vouched)
            }
            ["records", namespace, GIVEN] => {
                let namespace = namespace.parse::<Namespace>();
                namespace.ok().map(|_| Found::Vouched)
            }
            _ => None,
        };
        found.unwrap_or(Found::Foreign)
    }
}

fn text_components(path: &Path) -> Option<Vec<&str>> {
    path.components()
        .map(|component| component.as_os_str().to_str())
        .collect()
}

fn blob(algorithm: &str, shard: &str, hex: &str) -> Option<Found> {
    let digest = format!("{algorithm}:{hex}").parse::<Digest>().ok()?;
    hex.starts_with(shard)
        .then_some(Found::Entry(StoreKey::Blob(digest)))
}

fn partial(namespace: &str, file: &str) -> Option<Found> {
    let namespace = namespace.parse::<Namespace>().ok()?;
    Some(Found::Entry(StoreKey::partial(
        &namespace,
        &digest_of_file(file)?,
    )))
}

fn manifest(namespace: &str, repository: &[&str], file: &str) -> Option<Found> {
    let name = qualified(namespace, repository)?;
    let digest = digest_of_file(file)?;
    Some(Found::Entry(StoreKey::manifest(&name, &digest)))
}

fn listing(namespace: &str, repository: &[&str], file: &str) -> Option<Found> {
    let listing = match file.split_once('-') {
        None if file == LIST_OF_TAGS => Listing::Tags,
        Some((LIST_OF_REFERRERS, digest)) => Listing::Referrers(digest_of_file(digest)?),
        _ => return None,
    };
    let name = qualified(namespace, repository)?;
    Some(Found::Entry(StoreKey::listing(&name, &listing)))
}

/// A digest as a file's name: colons are trouble in paths.
fn digest_file(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

fn digest_of_file(file: &str) -> Option<Digest> {
    let (algorithm, hex) = file.split_once('-')?;
    if algorithm != Algorithm::Sha256.as_str() && algorithm != Algorithm::Sha512.as_str() {
        return None;
    }
    format!("{algorithm}:{hex}").parse().ok()
}

fn tag(namespace: &str, repository: &[&str], file: &str) -> Option<Found> {
    Some(Found::Entry(StoreKey::tag(
        &qualified(namespace, repository)?,
        &file.parse::<Tag>().ok()?,
    )))
}

fn qualified(namespace: &str, repository: &[&str]) -> Option<QualifiedName> {
    let namespace = namespace.parse::<Namespace>().ok()?;
    let repository = repository.join("/").parse::<Repository>().ok()?;
    Some(QualifiedName::new(namespace, repository))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(repository: &str) -> QualifiedName {
        QualifiedName::new(
            "localhost:5000".parse().unwrap(),
            repository.parse().unwrap(),
        )
    }

    #[test]
    fn every_path_reads_back_as_what_it_was_made_from() {
        let layout = Layout::new("/store".into());
        let digest = Digest::of(b"x");
        for key in [
            StoreKey::Blob(digest.clone()),
            StoreKey::manifest(&name("a/b/c"), &digest),
            StoreKey::tag(&name("blobs/records"), &"v1.0-rc_2".parse().unwrap()),
            StoreKey::listing(&name("a/b"), &Listing::Tags),
            StoreKey::listing(&name("tags"), &Listing::Referrers(digest.clone())),
            StoreKey::partial(&"localhost:5000".parse().unwrap(), &digest),
        ] {
            match layout.read(&layout.path(&key)) {
                Found::Entry(read) => assert_eq!(read, key),
                Found::Vouched | Found::Foreign => panic!("{key:?} did not read back"),
            }
        }
        assert!(matches!(
            layout.read(&layout.vouched(&name("a/b"))),
            Found::Vouched
        ));
    }

    #[test]
    fn an_ingest_is_known_by_its_name_after_a_crash() {
        let layout = Layout::new("/store".into());
        let id = (
            "registry.example.com:5000".parse().unwrap(),
            Digest::of(b"x"),
        );
        let (serial, key) = Layout::read_leftover(&layout.ingest_of(17, &id));
        assert_eq!(serial, Some(17));
        assert_eq!(key, Some(StoreKey::partial(&id.0, &id.1)));
        assert_eq!(Layout::read_leftover(&layout.ingest(3)), (Some(3), None));
        for foreign in [
            "",
            "x",
            "17.",
            "17.docker.io",
            "17.docker.io.sha256-00",
            "17...",
        ] {
            assert_eq!(
                Layout::read_leftover(Path::new(foreign)).1,
                None,
                "{foreign}"
            );
        }
    }

    #[test]
    fn what_others_left_in_the_directory_is_foreign() {
        let layout = Layout::new("/store".into());
        for path in [
            "/store/blobs/sha256/ab/notes.txt",
            "/store/lost+found/x",
            "/elsewhere/blobs",
            "/store/records/x/_tags/.hidden~",
            "/store/records/x/a/_lists/stars",
            "/store/records/x/a/_lists/referrers-sha256-00",
        ] {
            assert!(
                matches!(layout.read(Path::new(path)), Found::Foreign),
                "{path}"
            );
        }
        let misplaced = format!("/store/blobs/sha256/zz/{}", Digest::of(b"x").hex());
        assert!(matches!(layout.read(Path::new(&misplaced)), Found::Foreign));
    }
}
