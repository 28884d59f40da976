//! Both durabilities, with and without room.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::memory;
use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Tag};
use crate::store::disk::Disk;
use crate::store::records::TagRecord;
use crate::store::room::scan;
use crate::store::room::usage::Amount;

fn tags(root: &Path, max_size: u64) -> Arc<Documents<TagRecord>> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let disk = Disk::open(root.to_path_buf(), 0, metrics).unwrap();
    let memory = Memory::new(memory::Settings {
        buffered: 1 << 30,
        manifest: 1 << 20,
    });
    let limit = Amount {
        bytes: max_size,
        files: 1000,
    };
    Documents::new(&Room::new(disk, limit, &[]), &memory)
}

fn count(tags: &Documents<TagRecord>) {
    scan::start(&tags.room, Vec::new()).unwrap();
    while !tags.room.is_scanned() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn id() -> (QualifiedName, Tag) {
    let name = QualifiedName::new("docker.io".parse().unwrap(), "a/b".parse().unwrap());
    (name, "1".parse().unwrap())
}

fn record() -> TagRecord {
    TagRecord {
        digest: Digest::of(b"x"),
        media_type: "text/plain".into(),
        size: 1,
        read: true,
        checked_at: SystemTime::now(),
        held: None,
    }
}

/// The file of the record; another one is another inode.
fn inode(tags: &Documents<TagRecord>) -> Option<u64> {
    let path = tags.room.disk().layout().path(&TagRecord::key(&id()));
    path.metadata().ok().map(|metadata| metadata.ino())
}

#[tokio::test]
async fn what_must_be_durable_is_written_each_time_and_what_need_not_be_is_not() {
    let root = tempfile::tempdir().unwrap();
    let tags = tags(root.path(), 1 << 30);
    count(&tags);
    let put = tags.put(id(), record(), Durability::Behind).await;
    assert!(put.kept.is_ok() && put.changed);
    let first = inode(&tags);
    assert!(first.is_some());
    let put = tags.put(id(), record(), Durability::Behind).await;
    assert!(put.kept.is_ok() && !put.changed);
    assert_eq!(inode(&tags), first, "it says what it said");
    let put = tags.put(id(), record(), Durability::Before).await;
    assert!(put.kept.is_ok());
    assert_ne!(inode(&tags), first, "what is there may not be durable");
}

#[tokio::test]
async fn what_must_be_durable_waits_for_the_count_and_what_need_not_be_does_not() {
    let root = tempfile::tempdir().unwrap();
    let tags = tags(root.path(), 1 << 30);
    let put = tags.put(id(), record(), Durability::Behind).await;
    assert!(put.kept.is_ok());
    assert_eq!(inode(&tags), None, "there is no room before the count");
    let waiting = tokio::spawn({
        let tags = Arc::clone(&tags);
        async move { tags.put(id(), record(), Durability::Before).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    count(&tags);
    assert!(waiting.await.unwrap().kept.is_ok());
    assert!(inode(&tags).is_some());
}

#[tokio::test]
async fn without_room_a_record_is_in_memory_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let tags = tags(root.path(), 1);
    count(&tags);
    for durability in [Durability::Behind, Durability::Before] {
        let put = tags.put(id(), record(), durability).await;
        let error = put.kept.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(tags.get(id()).await, Some(put.value));
        assert_eq!(inode(&tags), None);
    }
}
