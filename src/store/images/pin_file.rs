//! The file of pins: one line for each pinned image.
//!
//! The line of a tag also has the digest that was last here under it: what is pinned stays, even when upstream drops
//! the tag.

use std::fmt;
use std::io;
use std::path::Path;

use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;
use crate::store::disk::files;
use crate::store::disk::layout::Layout;

use crate::oci::image::Image;

/// One line of the file.
pub(super) struct PinLine {
    pub(super) image: Image,
    /// The manifest that was last here under a tag.
    pub(super) last: Option<Digest>,
}

impl fmt::Display for PinLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.image.name, self.image.reference)?;
        match &self.last {
            Some(last) => write!(f, " {last}"),
            None => Ok(()),
        }
    }
}

fn parse(line: &str) -> Option<PinLine> {
    let mut words = line.split_whitespace();
    let (namespace, repository) = words.next()?.split_once('/')?;
    let name = QualifiedName::new(namespace.parse().ok()?, repository.parse().ok()?);
    let reference = words.next()?.parse().ok()?;
    let last = match words.next() {
        Some(digest) => Some(digest.parse().ok()?),
        None => None,
    };
    let image = Image { name, reference };
    words.next().is_none().then_some(PinLine { image, last })
}

/// Reads the file of pins. A line that cannot be read costs that pin alone, and is logged.
pub(super) fn read(layout: &Layout) -> io::Result<Vec<PinLine>> {
    let bytes = match files::read(&layout.pins()) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        match parse(line) {
            Some(line) => lines.push(line),
            None => {
                tracing::error!(path = %layout.pins().display(), line = number, "a pin cannot be read; it does not count");
            }
        }
    }
    Ok(lines)
}

/// Writes the file of pins, durably, by way of `temporary`; returns its length.
pub(super) fn write(layout: &Layout, temporary: &Path, lines: &[PinLine]) -> io::Result<u64> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    files::replace(&layout.pins(), temporary, text.as_bytes())?;
    Ok(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_and_a_torn_one_does_not() {
        let digest = Digest::of(b"x");
        for text in [
            "docker.io/library/alpine 3.20".to_owned(),
            format!("docker.io/library/alpine 3.20 {digest}"),
            format!("localhost:5000/a/b/c {digest}"),
        ] {
            assert_eq!(parse(&text).unwrap().to_string(), text);
        }
        let torn = format!("docker.io/library/alpine 3.20 {digest}");
        for text in [
            "",
            "docker.io",
            "docker.io/library/alpine",
            "docker.io/library/alpine -x",
            "docker.io/UPPER 1",
            "docker.io/a 1 2",
            &torn[..torn.len() - 1],
            &format!("{torn} more"),
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
