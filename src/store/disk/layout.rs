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
//! ROOT/repositories/docker.io/library+nginx/tag-1.27
//! ROOT/repositories/docker.io/library+nginx/manifest-sha256-abcd...
//! ROOT/repositories/docker.io/library+nginx/tags     what upstream listed; also referrers-sha256-abcd...
//! ROOT/repositories/docker.io/library+nginx/blobs    blobs this repository vouches for
//! ROOT/repositories/docker.io/+given                 blobs whose bytes this upstream gave
//! ```
//!
//! A repository has one directory, however many components its name has: a client chooses the name. No name contains
//! a `+` (OCI distribution-spec, "Pulling manifests"), and with one for each slash it is no longer than it was: 255
//! bytes, which a file's name may have.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, FileType};
use std::io;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use crate::oci::digest::{Algorithm, Digest};
use crate::oci::name::{Namespace, QualifiedName};

use crate::store::key::{Listing, StoreDirectory, StoreKey};

const BLOBS: &str = "blobs";
const PARTIALS: &str = "partial";
const REPOSITORIES: &str = "repositories";
const MANIFEST: &str = "manifest";
const TAG: &str = "tag";
const TAGS: &str = "tags";
const REFERRERS: &str = "referrers";
const VOUCHED: &str = "blobs";
/// No repository is called that.
const GIVEN: &str = "+given";

/// Stands in a directory's name for the slashes of a repository's.
const SLASH: &str = "+";

/// What a file's name may have: NAME_MAX of Linux.
const MAX_NAME: usize = 255;

/// What a walk finds, one after the other.
pub(crate) enum Visited<'a> {
    /// A directory. What is in it comes next.
    Directory(PathBuf),
    /// A file or anything else that is no directory, and what its path says that it is; `None`: no file of the store.
    File(&'a DirEntry, Option<StoreKey>),
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
        self.root.join(BLOBS)
    }

    /// Where the records of all repositories are.
    pub(crate) fn repositories(&self) -> PathBuf {
        self.root.join(REPOSITORIES)
    }

    /// Where versions before 0.3 kept them.
    pub(super) fn old_records(&self) -> PathBuf {
        self.root.join("records")
    }

    pub(crate) fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn all_trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join(PARTIALS)
    }

    /// The directories in which files are counted.
    pub(crate) fn counted(&self) -> [PathBuf; 4] {
        [
            self.blobs(),
            self.repositories(),
            self.partials(),
            self.old_records(),
        ]
    }

    /// The directories that exist from the start.
    pub(crate) fn top_directories(&self) -> [PathBuf; 6] {
        [
            self.root.clone(),
            self.blobs(),
            self.repositories(),
            self.partials(),
            self.ingests(),
            self.all_trash(),
        ]
    }

    pub(crate) fn ingest(&self, serial: u64) -> PathBuf {
        self.ingests().join(serial.to_string())
    }

    /// Where a blob is written; its name says what it is, in case the process does not live to finish it. With the
    /// longest namespaces that would be no name.
    pub(crate) fn ingest_of(&self, serial: u64, id: &(Namespace, Digest)) -> PathBuf {
        let file = format!("{serial}.{}.{}", id.0, digest_file(&id.1));
        match file.len() {
            ..=MAX_NAME => self.ingests().join(file),
            _ => self.ingest(serial),
        }
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
                let file = format!("{MANIFEST}-{}", digest_file(&id.1));
                self.repository(&id.0).join(file)
            }
            StoreKey::Tag(id) => self.repository(&id.0).join(format!("{TAG}-{}", id.1)),
            StoreKey::Listing(id) => match &id.1 {
                Listing::Tags => self.repository(&id.0).join(TAGS),
                Listing::Referrers(digest) => {
                    let file = format!("{REFERRERS}-{}", digest_file(digest));
                    self.repository(&id.0).join(file)
                }
            },
            StoreKey::Vouched(name) => self.repository(name).join(VOUCHED),
            StoreKey::Given(namespace) => {
                let namespace = self.repositories().join(namespace.as_str());
                namespace.join(GIVEN)
            }
            StoreKey::Partial(id) => self.partials().join(id.0.as_str()).join(digest_file(&id.1)),
        }
    }

    /// Walks through everything below a directory of the store, until `visit` breaks off.
    pub(crate) fn walk(
        &self,
        directory: &Path,
        visit: &mut impl FnMut(Visited<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return visit(Visited::Unreadable(directory, error)),
        };
        for entry in entries.flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.as_ref().is_ok_and(FileType::is_dir) {
                visit(Visited::Directory(path.clone()))?;
                self.walk(&path, visit)?;
            } else if kind.is_ok_and(|kind| kind.is_file()) {
                visit(Visited::File(&entry, self.read(&path)))?;
            } else {
                visit(Visited::File(&entry, None))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn repository(&self, name: &QualifiedName) -> PathBuf {
        let directory = name.repository.as_str().replace('/', SLASH);
        let namespace = self.repositories().join(name.namespace.as_str());
        namespace.join(directory)
    }

    /// Reads back a path below the root; the inverse of [`Layout::path`].
    pub(crate) fn read(&self, path: &Path) -> Option<StoreKey> {
        match self.parts(path)?.as_slice() {
            [BLOBS, algorithm, shard, hex] if hex.starts_with(shard) => {
                let digest = format!("{algorithm}:{hex}").parse();
                digest.ok().map(StoreKey::Blob)
            }
            [PARTIALS, namespace, file] => {
                let namespace = namespace.parse().ok()?;
                Some(StoreKey::partial(&namespace, &digest_of_file(file)?))
            }
            [REPOSITORIES, namespace, GIVEN] => namespace.parse().ok().map(StoreKey::Given),
            [REPOSITORIES, namespace, directory, file] => {
                record(&repository_of(namespace, directory)?, file)
            }
            _ => None,
        }
    }

    /// Reads back the path of a directory.
    pub(crate) fn read_directory(&self, path: &Path) -> Option<StoreDirectory> {
        match self.parts(path)?.as_slice() {
            [BLOBS, algorithm] => Some(StoreDirectory::Blobs(algorithm_of(algorithm)?)),
            [BLOBS, algorithm, shard] => {
                let digits = shard.as_bytes().try_into().ok()?;
                Some(StoreDirectory::Shard(algorithm_of(algorithm)?, digits))
            }
            [PARTIALS, namespace] => namespace.parse().ok().map(StoreDirectory::Partials),
            [REPOSITORIES, namespace] => namespace.parse().ok().map(StoreDirectory::Repositories),
            [REPOSITORIES, namespace, directory] => {
                repository_of(namespace, directory).map(StoreDirectory::Repository)
            }
            _ => None,
        }
    }

    /// The components of a path below the root.
    fn parts<'a>(&self, path: &'a Path) -> Option<Vec<&'a str>> {
        let below = path.strip_prefix(&self.root).ok()?;
        let text = |component: Component<'a>| component.as_os_str().to_str();
        below.components().map(text).collect()
    }
}

fn record(name: &QualifiedName, file: &str) -> Option<StoreKey> {
    match file {
        TAGS => return Some(StoreKey::listing(name, &Listing::Tags)),
        VOUCHED => return Some(StoreKey::vouched(name)),
        _ => {}
    }
    match file.split_once('-')? {
        (TAG, tag) => Some(StoreKey::tag(name, &tag.parse().ok()?)),
        (MANIFEST, digest) => Some(StoreKey::manifest(name, &digest_of_file(digest)?)),
        (REFERRERS, digest) => {
            let listing = Listing::Referrers(digest_of_file(digest)?);
            Some(StoreKey::listing(name, &listing))
        }
        _ => None,
    }
}

fn repository_of(namespace: &str, directory: &str) -> Option<QualifiedName> {
    let repository = directory.replace(SLASH, "/").parse().ok()?;
    Some(QualifiedName::new(namespace.parse().ok()?, repository))
}

fn algorithm_of(text: &str) -> Option<Algorithm> {
    let all = [Algorithm::Sha256, Algorithm::Sha512];
    all.into_iter().find(|algorithm| algorithm.as_str() == text)
}

/// A digest as a file's name: colons are trouble in paths.
fn digest_file(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

pub(super) fn digest_of_file(file: &str) -> Option<Digest> {
    let (algorithm, hex) = file.split_once('-')?;
    algorithm_of(algorithm)?;
    format!("{algorithm}:{hex}").parse().ok()
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
            StoreKey::vouched(&name("a/b")),
            StoreKey::Given("localhost:5000".parse().unwrap()),
            StoreKey::partial(&"localhost:5000".parse().unwrap(), &digest),
        ] {
            let path = layout.path(&key);
            assert_eq!(layout.read(&path), Some(key.clone()));
            let mut directory = Some(key.directory());
            for path in path.ancestors().skip(1) {
                assert_eq!(layout.read_directory(path), directory, "{}", path.display());
                let Some(within) = directory else { break };
                directory = within.parent();
            }
        }
    }

    #[test]
    fn no_name_is_too_long_for_a_file() {
        let layout = Layout::new("/store".into());
        let longest = |piece: &str| piece.repeat(255).get(..255).unwrap().to_owned();
        let host = format!(
            "{}.{}.{}.{}",
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(63)
        );
        let namespace: Namespace = host.parse().unwrap();
        let digest: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        let name = QualifiedName::new(
            namespace.clone(),
            longest("a/").trim_end_matches('/').parse().unwrap(),
        );
        let paths = [
            layout.path(&StoreKey::manifest(&name, &digest)),
            layout.path(&StoreKey::tag(&name, &longest("t")[..128].parse().unwrap())),
            layout.path(&StoreKey::listing(
                &name,
                &Listing::Referrers(digest.clone()),
            )),
            layout.path(&StoreKey::partial(&namespace, &digest)),
            layout.ingest_of(u64::MAX, &(namespace, digest)),
        ];
        for component in paths.iter().flat_map(|path| path.components()) {
            assert!(component.as_os_str().len() <= MAX_NAME, "{component:?}");
        }
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
            "/store/repositories/x.io/a/tag-.hidden~",
            "/store/repositories/x.io/a/stars",
            "/store/repositories/x.io/a/tags-",
            "/store/repositories/x.io/a/referrers-sha256-00",
            "/store/repositories/x.io/a+/tags",
            "/store/repositories/x.io/a/b/tags",
        ] {
            assert_eq!(layout.read(Path::new(path)), None, "{path}");
        }
        let misplaced = format!("/store/blobs/sha256/zz/{}", Digest::of(b"x").hex());
        assert_eq!(layout.read(Path::new(&misplaced)), None);
    }
}
