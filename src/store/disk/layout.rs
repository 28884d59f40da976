//! Where everything is: the only file that spells a path.
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
//! ROOT/records/docker.io/library/nginx/_blobs        digests this repository vouches for
//! ```
//!
//! No component of a repository begins with an underscore (OCI distribution-spec, "Pull"), so `_tags` and
//! its siblings can never be taken for one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::oci::digest::{Algorithm, Digest};
use crate::oci::name::{Namespace, QualifiedName, Repository, Tag};

use crate::store::records::listings::Listing;

/// The content of the version file.
pub(in crate::store) const VERSION: &str = "pierglass store 1\n";

const MANIFESTS: &str = "_manifests";
const TAGS: &str = "_tags";
const LISTS: &str = "_lists";
const LIST_OF_TAGS: &str = "tags";
const LIST_OF_REFERRERS: &str = "referrers";
const VOUCHED: &str = "_blobs";

/// What is stored under one file name and evicted as one piece.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::store) enum Key {
    /// A blob, shared by all repositories that have it.
    Blob(Digest),
    /// A manifest of one repository, with its bytes.
    Manifest(Arc<(QualifiedName, Digest)>),
    /// What a tag of one repository pointed to.
    Tag(Arc<(QualifiedName, Tag)>),
    /// What upstream listed about one repository.
    Listing(Arc<(QualifiedName, Listing)>),
    /// The beginning of a blob that an upstream did not send to its end.
    Partial(Arc<(Namespace, Digest)>),
}

impl Key {
    pub(in crate::store) fn manifest(name: &QualifiedName, digest: &Digest) -> Self {
        Self::Manifest(Arc::new((name.clone(), digest.clone())))
    }

    pub(in crate::store) fn tag(name: &QualifiedName, tag: &Tag) -> Self {
        Self::Tag(Arc::new((name.clone(), tag.clone())))
    }

    pub(in crate::store) fn listing(name: &QualifiedName, listing: &Listing) -> Self {
        Self::Listing(Arc::new((name.clone(), listing.clone())))
    }

    pub(in crate::store) fn partial(namespace: &Namespace, digest: &Digest) -> Self {
        Self::Partial(Arc::new((namespace.clone(), digest.clone())))
    }
}

/// What a path below `records/` or `blobs/` turned out to be when the store was scanned.
pub(in crate::store) enum Found {
    /// Something that can be evicted.
    Entry(Key),
    /// The list of digests a repository vouches for.
    Vouched,
    /// Nothing of ours.
    Foreign,
}

/// Spells and reads paths.
#[derive(Clone)]
pub(in crate::store) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(in crate::store) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(in crate::store) fn root(&self) -> &Path {
        &self.root
    }

    pub(in crate::store) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(in crate::store) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(in crate::store) fn version(&self) -> PathBuf {
        self.root.join("version")
    }

    /// Which run of the machine the store was last used in.
    pub(in crate::store) fn boot(&self) -> PathBuf {
        self.root.join("boot")
    }

    pub(in crate::store) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(in crate::store) fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    pub(in crate::store) fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(in crate::store) fn all_trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(in crate::store) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// The directories that exist from the start.
    pub(in crate::store) fn top_directories(&self) -> [PathBuf; 6] {
        [
            self.root.clone(),
            self.blobs(),
            self.records(),
            self.partials(),
            self.ingests(),
            self.all_trash(),
        ]
    }

    pub(in crate::store) fn ingest(&self, serial: u64) -> PathBuf {
        self.ingests().join(serial.to_string())
    }

    /// Where a blob is written; its name says what it is, in case the process does not live to finish it.
    pub(in crate::store) fn ingest_of(&self, serial: u64, id: &(Namespace, Digest)) -> PathBuf {
        let file = format!("{serial}.{}.{}", id.0, digest_file(&id.1));
        self.ingests().join(file)
    }

    /// The serial number of a file in `ingest/` or `trash/`, and what blob it is the beginning of.
    pub(in crate::store) fn read_leftover(path: &Path) -> (Option<u64>, Option<Key>) {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let Some((serial, id)) = name.split_once('.') else {
            return (name.parse().ok(), None);
        };
        let key = id.rsplit_once('.').and_then(|(namespace, digest)| {
            let namespace = namespace.parse::<Namespace>().ok()?;
            Some(Key::partial(&namespace, &digest_of_file(digest)?))
        });
        (serial.parse().ok(), key)
    }

    pub(in crate::store) fn trash(&self, serial: u64) -> PathBuf {
        self.all_trash().join(serial.to_string())
    }

    /// The final path of an entry.
    pub(in crate::store) fn path(&self, key: &Key) -> PathBuf {
        match key {
            Key::Blob(digest) => {
                let hex = digest.hex();
                let shard = hex.get(..2).unwrap_or_default();
                self.blobs()
                    .join(digest.algorithm().as_str())
                    .join(shard)
                    .join(&hex)
            }
            Key::Manifest(id) => {
                let (name, digest) = id.as_ref();
                self.repository(name)
                    .join(MANIFESTS)
                    .join(digest_file(digest))
            }
            Key::Tag(id) => self.repository(&id.0).join(TAGS).join(id.1.as_str()),
            Key::Listing(id) => {
                let file = match &id.1 {
                    Listing::Tags => LIST_OF_TAGS.to_owned(),
                    Listing::Referrers(digest) => {
                        format!("{LIST_OF_REFERRERS}-{}", digest_file(digest))
                    }
                };
                self.repository(&id.0).join(LISTS).join(file)
            }
            Key::Partial(id) => self.partials().join(id.0.as_str()).join(digest_file(&id.1)),
        }
    }

    pub(in crate::store) fn vouched(&self, name: &QualifiedName) -> PathBuf {
        self.repository(name).join(VOUCHED)
    }

    /// Where a repository's manifests are, given where its records are.
    pub(in crate::store) fn manifests_in(&self, records: &Path) -> PathBuf {
        records.join(MANIFESTS)
    }

    /// Whether a directory below `records/` is a component of a repository's name and not of its records.
    pub(in crate::store) fn is_of_a_name(&self, directory: &OsStr) -> bool {
        !directory.as_encoded_bytes().starts_with(b"_")
    }

    fn repository(&self, name: &QualifiedName) -> PathBuf {
        self.records()
            .join(name.namespace.as_str())
            .join(name.repository.as_str())
    }

    /// Reads back a path below the root; the inverse of [`Layout::path`].
    pub(in crate::store) fn read(&self, path: &Path) -> Found {
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
        .then_some(Found::Entry(Key::Blob(digest)))
}

fn partial(namespace: &str, file: &str) -> Option<Found> {
    let namespace = namespace.parse::<Namespace>().ok()?;
    Some(Found::Entry(Key::partial(
        &namespace,
        &digest_of_file(file)?,
    )))
}

fn manifest(namespace: &str, repository: &[&str], file: &str) -> Option<Found> {
    let name = qualified(namespace, repository)?;
    let digest = digest_of_file(file)?;
    Some(Found::Entry(Key::manifest(&name, &digest)))
}

fn listing(namespace: &str, repository: &[&str], file: &str) -> Option<Found> {
    let listing = match file.split_once('-') {
        None if file == LIST_OF_TAGS => Listing::Tags,
        Some((LIST_OF_REFERRERS, digest)) => Listing::Referrers(digest_of_file(digest)?),
        _ => return None,
    };
    let name = qualified(namespace, repository)?;
    Some(Found::Entry(Key::listing(&name, &listing)))
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
    Some(Found::Entry(Key::tag(
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
            Key::Blob(digest.clone()),
            Key::manifest(&name("a/b/c"), &digest),
            Key::tag(&name("blobs/records"), &"v1.0-rc_2".parse().unwrap()),
            Key::listing(&name("a/b"), &Listing::Tags),
            Key::listing(&name("tags"), &Listing::Referrers(digest.clone())),
            Key::partial(&"localhost:5000".parse().unwrap(), &digest),
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
        assert_eq!(key, Some(Key::partial(&id.0, &id.1)));
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
