//! The length a blob was committed with, beside its bytes: what a truncation cannot change.
//!
//! An extended attribute, because the file itself must hold the blob and nothing else. A file system
//! without them (NFS before 4.2, some tmpfs) loses this check and nothing more.

use std::fs::File;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

const NAME: &str = "user.pierglass.length";

/// Notes the length of a blob that was verified.
pub(in crate::store) fn note(file: &File, length: u64) {
    // Best effort: see above.
    let _ = fsetxattr(file, NAME, &length.to_le_bytes(), XattrFlags::empty());
}

/// The length that was noted; `None` when there is none to be had.
pub(in crate::store) fn committed(file: &File) -> Option<u64> {
    let mut bytes = [0; 8];
    let count = fgetxattr(file, NAME, &mut bytes).ok()?;
    (count == bytes.len()).then(|| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_length_outlives_the_bytes() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(100).unwrap();
        note(&file, 100);
        file.set_len(10).unwrap();
        assert_eq!(committed(&file), Some(100));
    }

    #[test]
    fn a_file_without_a_note_has_none() {
        assert_eq!(committed(&tempfile::tempfile().unwrap()), None);
    }
}
