//! Tar files, as layers that can be run consist of them.

use bytes::Bytes;

/// A POSIX tar file: directories (names ending in `/`), regular files, and symbolic links (`target` in `link`).
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    #[must_use]
    pub fn directory(mut self, name: &str) -> Tar {
        self.header(name, 0o755, 0, b'5', "");
        self
    }

    #[must_use]
    pub fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Tar {
        self.header(name, mode, content.len(), b'0', "");
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    #[must_use]
    pub fn link(mut self, name: &str, target: &str) -> Tar {
        self.header(name, 0o777, 0, b'2', target);
        self
    }

    pub fn finish(mut self) -> Bytes {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes.into()
    }

    /// IEEE 1003.1 pax(1), "ustar interchange format".
    fn header(&mut self, name: &str, mode: u32, size: usize, kind: u8, target: &str) {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\x000000000\0");
        put(124, format!("{size:011o}\0{:011o}\0        ", 0).as_bytes());
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
    }
}
