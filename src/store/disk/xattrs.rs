//! What is noted beside the bytes of a blob: its committed length and when it was last checked.
//!
//! They are extended attributes, because the file itself must hold the blob and nothing else. All of it is best effort:
//! on a file system without them (NFS before 4.2, some tmpfs), and after a copy that left them out, a truncated blob is
//! found when it is next checked and not when it is opened, and the check begins from the start after each restart.

use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, getxattr};

const LENGTH: &str = "user.pierglass.length";
const CHECKED: &str = "user.pierglass.checked";

/// Notes the length of a blob that was verified: what a truncation cannot change.
pub(crate) fn note_length(file: &File, length: u64) {
    let _ = fsetxattr(file, LENGTH, &length.to_le_bytes(), XattrFlags::empty());
}

/// The length that was noted; `None` when there is none.
pub(crate) fn committed_length(file: &File) -> Option<u64> {
    let mut bytes = [0; 8];
    let count = fgetxattr(file, LENGTH, &mut bytes).ok()?;
    (count == bytes.len()).then(|| u64::from_le_bytes(bytes))
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
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(100).unwrap();
        note_length(&file, 100);
        file.set_len(10).unwrap();
        assert_eq!(committed_length(&file), Some(100));
    }

    #[test]
    fn a_file_without_a_note_has_none() {
        assert_eq!(committed_length(&tempfile::tempfile().unwrap()), None);
    }
}
