//! Whose directory the store is: nothing that is no store is touched, and other users of the machine are kept out.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::support::disk::{blob_file, eventually, files};
use crate::support::{FakeRegistry, MIB, Mirror, MirrorConfig, digest_of, plain, scene};

fn config(store: &Path) -> MirrorConfig {
    MirrorConfig::for_url("http://127.0.0.1:9").store_path(store)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn refused(store: &Path) -> String {
    let (status, said) = Mirror::fail_to_start(&config(store));
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// The home directory, or the trash of something else: all that was in its `trash` and `ingest` was deleted.
#[test]
fn a_directory_that_is_no_store_is_refused_and_untouched() {
    for names in [
        &["trash/letter.txt"][..],
        &["ingest/17", "lost+found/x"],
        &["blobs/sha256/ab/photo"],
        &["lock"],
        &["notes.txt"],
        &["records"],
    ] {
        let directory = TempDir::new().unwrap();
        for name in names {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "mine").unwrap();
        }
        let before = mode(directory.path());
        let mut found = files(directory.path());
        let said = refused(directory.path());
        assert!(said.contains("no store of this program"), "{said}");
        let other = directory.path().join(names[0].split('/').next().unwrap());
        assert!(said.contains(other.to_str().unwrap()), "{names:?}: {said}");
        let mut left = files(directory.path());
        found.sort();
        left.sort();
        assert_eq!(left, found);
        assert!(left.iter().all(|path| fs::read(path).unwrap() == b"mine"));
        assert_eq!(mode(directory.path()), before, "{names:?}");
    }
}

#[test]
fn what_is_as_good_as_empty_becomes_a_store() {
    let directory = TempDir::new().unwrap();
    // A new file system, and what a version that was killed at its first start had made.
    for name in ["lost+found", "blobs", "records", "trash"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    File::create(directory.path().join("lock")).unwrap();
    drop(Mirror::start(config(directory.path())));
    drop(Mirror::start(config(directory.path())));
}

#[test]
fn a_store_of_a_later_version_is_refused_in_one_line() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("version"), "pierglass store 9\n").unwrap();
    let said = refused(directory.path());
    assert!(said.contains("(it says \"pierglass store 9\""), "{said}");
    assert!(
        said.contains("or delete it: nothing is lost but speed"),
        "{said}"
    );
    assert!(!said.contains("\\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_user_can_read_what_is_stored() {
    let (registry, mut mirror, image) = scene::stored_image(plain).await;
    registry.set_rate(MIB);
    let digest = registry.put_generated_blob("a/b", 7, 4 * MIB);
    let url = mirror.blob_url("a/b", &digest);
    let reading = tokio::spawn(async move { crate::support::client::download(&url, &[]).await });
    let store = mirror.store_path();
    eventually("a file that is being written", || {
        !files(&store.join("ingest")).is_empty()
    });
    let check = || {
        assert_eq!(mode(&store), 0o700);
        for path in files(&store) {
            // A file that is being written can get its name meanwhile.
            let Ok(metadata) = path.metadata() else {
                continue;
            };
            let mode = metadata.permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        }
    };
    check();
    reading.abort();
    mirror.term_and_wait();
    // A store of a version that left it open, whose layers others could read.
    fs::set_permissions(&store, Permissions::from_mode(0o755)).unwrap();
    mirror.restart();
    check();
    assert!(mirror.output().contains("was open to other users"));
    mirror.pull("a/b", "1.0", &image).await;
}

/// As root, a store in a folder where another user may write would have written to where his link points.
#[test]
fn no_link_is_followed_out_of_the_store() {
    for name in ["version", "boot", "lock", "pins"] {
        let directory = TempDir::new().unwrap();
        let outside = TempDir::new().unwrap();
        let victim = outside.path().join("victim");
        drop(Mirror::start(config(directory.path())));
        fs::write(&victim, "keep").unwrap();
        let link = directory.path().join(name);
        let _ = fs::remove_file(&link);
        symlink(&victim, &link).unwrap();
        if name == "boot" {
            // It says when partial transfers cannot be trusted, and not more.
            drop(Mirror::start(config(directory.path())));
        } else {
            refused(directory.path());
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "keep", "{name}");
    }
}

/// After `rm ROOT/lock` a second process ran on the same store.
#[test]
fn a_second_process_is_kept_out_though_the_lock_file_was_removed() {
    let registry = FakeRegistry::builder().start_now();
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let store = mirror.store_path();
    for _ in 0..2 {
        fs::remove_file(store.join("lock")).unwrap();
        let said = refused(&store);
        assert!(said.contains("in use by another pierglass"), "{said}");
    }
}

/// A version before this one looks at the file alone.
#[test]
fn an_older_version_is_kept_out_and_keeps_out() {
    let directory = TempDir::new().unwrap();
    let mirror = Mirror::start(config(directory.path()));
    let lock = File::open(directory.path().join("lock")).unwrap();
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    assert!(flock(&lock, exclusive).is_err());
    drop(mirror);
    flock(&lock, exclusive).unwrap();
    let said = refused(directory.path());
    assert!(said.contains("in use by another pierglass"), "{said}");
    drop(lock);
    drop(Mirror::start(config(directory.path())));
}

/// The directories were removed while it runs, but not the root: what holds it is not a stranger to itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_store_is_begun_again_and_still_locked() {
    let (registry, mirror, digest) = scene::cold_blob(MIB, plain);
    mirror.store_blob("a/b", &digest).await;
    mirror.wait_until_at_rest().await;
    let store = mirror.store_path();
    for entry in fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    mirror.pull_blob("a/b", &digest).await;
    let file = blob_file(&store, &digest);
    eventually("the commit", || file.exists());
    let said = refused(&store);
    assert!(said.contains("in use by another pierglass"), "{said}");
    assert!(store.join("version").exists() && store.join("lock").exists());
    drop(registry);
    assert_eq!(digest_of(&fs::read(file).unwrap()), digest);
}
