//! What is counted is what is there: after anything that can happen to a store, a new count finds the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::memory;
use crate::oci::digest::Digest;
use crate::oci::image::Image;
use crate::oci::name::{Namespace, QualifiedName, Reference, Tag};
use blobs::progress::IngestFailure;
use key::{EntryKind, Listing, StoreKey};
use records::{Durability, StoredListing, StoredManifest, TagRecord, Vouch};
use room::damage::FoundBy;
use room::usage::Usage;

#[derive(Debug, Clone)]
enum Step {
    Blob {
        seed: u8,
        kib: u16,
    },
    Open {
        seed: u8,
    },
    /// A transfer that breaks off.
    Torn {
        seed: u8,
        kib: u16,
    },
    Continue {
        seed: u8,
    },
    Manifest {
        name: u8,
        seed: u8,
    },
    Tag {
        name: u8,
        seed: u8,
    },
    Referrers {
        name: u8,
        seed: u8,
    },
    Vouch {
        name: u8,
        seed: u8,
        count: u8,
    },
    DropTag {
        name: u8,
        seed: u8,
    },
    DropReferrers {
        name: u8,
        seed: u8,
    },
    Damage {
        seed: u8,
    },
    Pin {
        name: u8,
        seed: u8,
    },
    Unpin {
        name: u8,
        seed: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (seed, name) = (0..6_u8, 0..4_u8);
    prop_oneof![
        (seed.clone(), 1..400_u16).prop_map(|(seed, kib)| Step::Blob { seed, kib }),
        seed.clone().prop_map(|seed| Step::Open { seed }),
        (seed.clone(), 900..1400_u16).prop_map(|(seed, kib)| Step::Torn { seed, kib }),
        seed.clone().prop_map(|seed| Step::Continue { seed }),
        (name.clone(), seed.clone()).prop_map(|(name, seed)| Step::Manifest { name, seed }),
        (name.clone(), seed.clone()).prop_map(|(name, seed)| Step::Tag { name, seed }),
        (name.clone(), seed.clone()).prop_map(|(name, seed)| Step::Referrers { name, seed }),
        (name.clone(), seed.clone(), 1..200_u8).prop_map(|(name, seed, count)| Step::Vouch {
            name,
            seed,
            count
        }),
        (name.clone(), seed.clone()).prop_map(|(name, seed)| Step::DropTag { name, seed }),
        (name.clone(), seed.clone()).prop_map(|(name, seed)| Step::DropReferrers { name, seed }),
        seed.clone().prop_map(|seed| Step::Damage { seed }),
        (name.clone(), seed.clone()).prop_map(|(name, seed)| Step::Pin { name, seed }),
        (name, seed).prop_map(|(name, seed)| Step::Unpin { name, seed }),
    ]
}

fn content(seed: u8, kib: u16) -> Bytes {
    vec![seed; usize::from(kib) * 1024].into()
}

fn digest(seed: u8) -> Digest {
    Digest::of(&[seed])
}

fn namespace(seed: u8) -> Namespace {
    if seed.is_multiple_of(2) {
        "docker.io"
    } else {
        "ghcr.io"
    }
    .parse()
    .unwrap()
}

fn name(number: u8) -> QualifiedName {
    let components = usize::from(number) * 40 + 1;
    let repository = vec!["a"; components].join("/").parse().unwrap();
    QualifiedName::new(namespace(number), repository)
}

fn tag(seed: u8) -> Tag {
    format!("t{seed}").parse().unwrap()
}

fn image(number: u8, seed: u8) -> Image {
    Image {
        name: name(number),
        reference: Reference::Tag(tag(seed)),
    }
}

/// The digest of what a blob step writes.
fn blob(seed: u8, kib: u16) -> Digest {
    Digest::of(&content(seed, kib))
}

async fn take(store: &Arc<Store>, step: Step, known: &mut Vec<Digest>) {
    match step {
        Step::Blob { seed, kib } => {
            let (bytes, digest) = (content(seed, kib), blob(seed, kib));
            let size = (seed.is_multiple_of(2)).then_some(bytes.len() as u64);
            let begun = store
                .blobs()
                .ingest(&namespace(seed), &digest, size, None)
                .await;
            let Ok((mut ingest, _growing)) = begun else {
                return;
            };
            if ingest.append(vec![bytes]).await.is_ok() {
                let verified = ingest.verify().unwrap();
                ingest.commit(verified).await.unwrap();
                known.push(digest);
            }
        }
        Step::Open { seed } => {
            if let Some(digest) = known.get(usize::from(seed)) {
                store.blobs().open(digest);
            }
        }
        Step::Torn { seed, kib } => {
            let bytes = content(seed, kib);
            let size = Some(bytes.len() as u64 + 1);
            let begun = store
                .blobs()
                .ingest(&namespace(seed), &digest(seed), size, None)
                .await;
            let Ok((mut ingest, _growing)) = begun else {
                return;
            };
            let _ = ingest.append(vec![bytes]).await;
            ingest.give_up(IngestFailure::Abandoned).await.tell();
        }
        Step::Continue { seed } => {
            let partial = store.blobs().partial(&namespace(seed), &digest(seed)).await;
            let Some(partial) = partial else { return };
            let begun = store
                .blobs()
                .ingest(&namespace(seed), &digest(seed), None, Some(partial))
                .await;
            let Ok((mut ingest, _growing)) = begun else {
                return;
            };
            let _ = ingest.append(vec![content(seed, 40)]).await;
            ingest.give_up(IngestFailure::Abandoned).await.tell();
        }
        Step::Damage { seed } => {
            if let Some(digest) = known.get(usize::from(seed)) {
                let key = StoreKey::Blob(digest.clone());
                store.room().discard_damaged(&key, FoundBy::Open);
            }
        }
        step => take_record(store, step).await,
    }
}

async fn take_record(store: &Arc<Store>, step: Step) {
    let records = store.records();
    match step {
        Step::Manifest { name: number, seed } => {
            let bytes = Bytes::from(format!("{{\"{seed}\":{number}}}"));
            let manifest = StoredManifest {
                digest: Digest::of(&bytes),
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                bytes,
                fetched_at: SystemTime::now(),
            };
            records
                .put_manifest(&name(number), manifest, Durability::Behind)
                .await;
        }
        Step::Tag { name: number, seed } => {
            let record = TagRecord {
                digest: digest(seed),
                media_type: "a/b".repeat(usize::from(seed) * 300),
                size: 1,
                read: true,
                checked_at: SystemTime::now(),
                held: None,
            };
            records
                .put_tag(&name(number), &tag(seed), record, Durability::Before)
                .await;
        }
        Step::Referrers { name: number, seed } => {
            let listing = StoredListing {
                bytes: content(seed, u16::from(seed)),
                fetched_at: SystemTime::now(),
            };
            let which = Listing::Referrers(digest(seed));
            records
                .put_listing(&name(number), &which, listing, Durability::Behind)
                .await;
        }
        Step::Vouch {
            name: number,
            seed,
            count,
        } => {
            let blob = |n| (Digest::of(&[seed, n]), Vouch::proven());
            let blobs = (0..count).map(blob).collect();
            records.vouch(&name(number), blobs).await;
            let given = Digest::of(&[seed, count]);
            records.note_given(&namespace(seed), &given).await;
            records.disown(&name(number), &Digest::of(&[seed, 0])).await;
        }
        Step::DropTag { name: number, seed } => records.drop_tag(&name(number), &tag(seed)).await,
        Step::DropReferrers { name: number, seed } => {
            let which = Listing::Referrers(digest(seed));
            records.drop_listing(&name(number), &which).await;
        }
        Step::Pin { name: number, seed } => {
            store.images().pin(image(number, seed)).await.unwrap();
        }
        Step::Unpin { name: number, seed } => {
            store.images().unpin(image(number, seed)).await.unwrap();
        }
        Step::Blob { .. }
        | Step::Open { .. }
        | Step::Torn { .. }
        | Step::Continue { .. }
        | Step::Damage { .. } => unreachable!(),
    }
}

const MAX_SIZE: u64 = 3 << 20;

fn shares() -> Vec<UpstreamShare> {
    let share = |seed, most| UpstreamShare {
        namespace: namespace(seed),
        most,
    };
    vec![share(0, Some(MAX_SIZE / 3)), share(1, None)]
}

/// Bytes of each upstream, by name.
fn owned(store: &Store) -> BTreeMap<String, u64> {
    let owned = store.room().index().owned().into_iter();
    owned
        .map(|(upstream, bytes)| (upstream.to_owned(), bytes))
        .collect()
}

const MAX_FILES: u64 = 20;

fn open(root: &Path) -> Arc<Store> {
    let settings = Settings {
        path: root.to_path_buf(),
        max_size: MAX_SIZE,
        max_files: Some(MAX_FILES),
        min_free: 0,
        scrub_rate: 0,
        scrub_every: Duration::from_secs(1),
        shares: shares(),
    };
    let store = loop {
        let memory = Memory::new(memory::Settings {
            buffered: 1 << 30,
            manifest: 1 << 20,
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        match Store::open(settings.clone(), &memory, metrics) {
            // A thread of the store that was here before has not ended yet.
            Err(OpenError::Locked { .. }) => {}
            opened => break opened.unwrap(),
        }
    };
    while !store.room().is_scanned() {
        std::thread::sleep(Duration::from_millis(1));
    }
    store
}

/// Once all that was evicted is unlinked.
fn settled(store: &Store) -> Usage {
    loop {
        let usage = store.room().index().usage();
        if usage.trash.files == 0 && usage.reserved.files == 0 {
            return usage;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes on disk, and how many names there are.
fn on_disk(path: &Path) -> (u64, u64) {
    let own = (path.symlink_metadata().unwrap().blocks() * 512, 1);
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    below
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => on_disk(&entry.path()),
            false => (entry.metadata().unwrap().blocks() * 512, 1),
        })
        .fold(own, |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Takes the steps; at any moment the store is within its limits, and in the end its sums are what a new count finds.
fn count(steps: Vec<Step>) -> Result<(), TestCaseError> {
    // Beside the test: /tmp can be a file system that counts no blocks.
    let here = std::env::current_exe().unwrap();
    let root = tempfile::tempdir_in(here.parent().unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = open(root.path());
    let mut known = Vec::new();
    for step in steps {
        runtime.block_on(take(&store, step, &mut known));
        let usage = store.room().index().usage();
        prop_assert!(usage.total() <= MAX_SIZE, "{usage:?}");
    }
    let usage = settled(&store);
    prop_assert!(usage.stored().files <= MAX_FILES, "{usage:?}");
    let (bytes, names) = on_disk(root.path());
    // From above: what is left of the last block of each file, and its name.
    prop_assert!(usage.total() >= bytes, "{usage:?} on disk {bytes}");
    prop_assert!(
        usage.total() <= bytes + names * 512 + 16 * 1024,
        "{usage:?} on disk {bytes}"
    );
    let by_upstream = owned(&store);
    let sum: u64 = by_upstream.values().sum();
    prop_assert_eq!(sum, usage.stored().bytes);
    prop_assert_eq!(by_upstream["other"], 0);
    let layout = store.disk().layout().clone();
    drop((store, runtime));
    let again = open(root.path());
    prop_assert_eq!(settled(&again), usage);
    prop_assert_eq!(owned(&again), by_upstream);
    // Nothing is left of what is gone, not even its directory.
    let kept = EntryKind::ALL.map(|share| usage.share(share).files);
    if kept == [0; 4] {
        for directory in layout.counted() {
            prop_assert_eq!(fs::read_dir(&directory).into_iter().flatten().count(), 0);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_counted_is_what_a_new_count_finds(steps in prop::collection::vec(step(), 1..80)) {
        count(steps)?;
    }
}

/// A blob's bytes used up what was promised for its directories, and these then came on top of the limit.
#[test]
fn room_that_was_promised_for_directories_went_to_bytes() {
    let steps = vec![
        Step::Vouch {
            name: 0,
            seed: 2,
            count: 133,
        },
        Step::Blob { seed: 0, kib: 141 },
        Step::Referrers { name: 1, seed: 4 },
        Step::Vouch {
            name: 2,
            seed: 1,
            count: 89,
        },
        Step::Torn { seed: 1, kib: 1085 },
        Step::Blob { seed: 0, kib: 371 },
        Step::Torn { seed: 4, kib: 1342 },
    ];
    count(steps).unwrap();
}

/// However a blob's length falls into the steps in which room is taken, its directories have theirs.
#[test]
fn what_is_promised_is_enough_for_bytes_and_directories() {
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = open(root.path());
    for kib in [1, 1020, 1023, 1024, 1030, 1040, 1050, 1342] {
        let (bytes, digest) = (content(1, kib), blob(1, kib));
        let length = bytes.len() as u64;
        for size in [None, Some(length), Some(length + 1)] {
            let reserved = runtime.block_on(async {
                let blobs = store.blobs();
                let begun = blobs.ingest(&namespace(1), &digest, size, None).await;
                let (mut ingest, _growing) = begun.unwrap();
                ingest.append(vec![bytes.clone()]).await.unwrap();
                store.room().index().usage().reserved.bytes
            });
            let price = store.room().price(length, &StoreKey::Blob(digest.clone()));
            assert!(
                reserved >= price,
                "{kib} KiB, {size:?}: {reserved} of {price}"
            );
            // What was aborted is put away meanwhile.
            settled(&store);
        }
    }
}
