//! What is noted beside the bytes of a blob: its committed length, when it was last checked, and which upstream gave it.
//!
//! They are extended attributes, because the file itself must hold the blob and nothing else. All of it is best effort:
//! on a file system without them (NFS before 4.2, some tmpfs), and after a copy that left them out, a truncated blob is
//! found when it is next checked and not when it is opened, the check begins from the start after each restart, and what
//! is stored then counts for no upstream.

use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, getxattr};

use crate::oci::digest::Digest;
use crate::oci::name::Namespace;

const LENGTH: &str = "user.pierglass.length";
const CHECKED: &str = "user.pierglass.checked";

/// A length, and in later versions the mark of an upstream after it.
const WITH_MARK: usize = 12;

/// Notes the length of a blob that was verified, which a truncation cannot change, and which upstream gave it.
pub(crate) fn note_committed(file: &File, length: u64, giver: &Namespace) {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(mark(giver).to_le_bytes());
    let _ = fsetxattr(file, LENGTH, &bytes, XattrFlags::empty());
}

/// The length that was noted; `None` when there is none.
pub(crate) fn committed_length(file: &File) -> Option<u64> {
    let mut bytes = [0; WITH_MARK];
    let count = fgetxattr(file, LENGTH, &mut bytes).ok()?;
    let (length, _) = bytes.get(..count)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*length))
}

/// The mark of the upstream that gave a blob; `None` where it was not noted.
pub(crate) fn giver(path: &Path) -> Option<u32> {
    let mut bytes = [0; WITH_MARK];
    let count = getxattr(path, LENGTH, &mut bytes).ok()?;
    let (_, mark) = bytes.get(..count)?.split_first_chunk::<8>()?;
    Some(u32::from_le_bytes(mark.try_into().ok()?))
}

/// Stands for the name of an upstream. With the name itself what is noted would not fit into an inode of ext4, and each
/// blob would take a block more.
pub(crate) fn mark(namespace: &Namespace) -> u32 {
    let digest = Digest::of(namespace.as_str().as_bytes()).hex();
    let digits = digest.get(..8).unwrap_or_default();
    u32::from_str_radix(digits, 16).unwrap_or_default()
}

/// Notes that the content of `file` was found right just now. Does not touch the modification time.
pub(crate) fn note_checked(file: &File) {
    let seconds = unix_seconds(SystemTime::now());
    let _ = fsetxattr(file, CHECKED, &seconds.to_le_bytes(), XattrFlags::empty());
}

/// When that was noted, in seconds of the Unix epoch; 0 if it never was.
pub(crate) fn last_checked(path: &Path) -> u64 {
    let mut bytes = [0; 8];
    match getxattr(path, CHECKED, &mut bytes) {
        Ok(count) if count == bytes.len() => u64::from_le_bytes(bytes),
        _ => 0,
    }
}

/// Seconds of the Unix epoch, as they are noted.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_length_outlives_the_bytes() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.as_file().set_len(100).unwrap();
        let [docker, quay] = ["docker.io", "quay.io"].map(|name| name.parse().unwrap());
        note_committed(file.as_file(), 100, &docker);
        file.as_file().set_len(10).unwrap();
        assert_eq!(committed_length(file.as_file()), Some(100));
        assert_eq!(giver(file.path()), Some(mark(&docker)));
        assert_ne!(mark(&docker), mark(&quay));
    }

    #[test]
    fn a_length_of_an_earlier_version_is_read() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let length = 100_u64.to_le_bytes();
        fsetxattr(file.as_file(), LENGTH, &length, XattrFlags::empty()).unwrap();
        assert_eq!(committed_length(file.as_file()), Some(100));
        assert_eq!(giver(file.path()), None);
    }

    #[test]
    fn a_file_without_a_note_has_none() {
        assert_eq!(committed_length(&tempfile::tempfile().unwrap()), None);
    }
}
