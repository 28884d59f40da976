//! Images that somebody wants kept: what they consist of is never evicted.
//!
//! A pin names an image, by tag or by digest. What that comes to is traced through the records that are
//! stored (the tag, an index, those of its manifests that are here, their blobs), and traced anew whenever
//! a record of that repository is written, so that what arrives later is kept from the moment it arrives.
//! A blob that is not stored is pinned all the same.
//!
//! Pins are one file of the store, a line each. A tag's line also has the digest that was last here under
//! it: what is pinned stays, even when upstream drops the tag.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::oci::digest::Digest;
use crate::oci::image::Image;
use crate::oci::manifest::Manifest;
use crate::oci::name::{QualifiedName, Reference};

use crate::store::Store;
use crate::store::disk::layout::{Key, Layout};
use crate::store::records::run;
use crate::store::room::index::cost;

/// Indexes of indexes: more than anybody nests.
const DEPTH: u32 = 4;

/// A pinned image and what is stored of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Which.
    pub image: Image,
    /// The manifest it comes to, if that is known.
    pub digest: Option<Digest>,
    /// Manifests and blobs that are stored.
    pub stored: usize,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Manifests and blobs that are named and not stored.
    pub missing: usize,
    /// Their bytes, as far as they are known.
    pub missing_bytes: u64,
}

/// All pins, and whether they fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// Sorted by name.
    pub images: Vec<Pinned>,
    /// What all of it takes or will take on disk.
    pub wanted: u64,
    /// What the store may hold.
    pub max_size: u64,
}

impl Pins {
    /// Whether everything that is pinned finds room.
    pub fn fit(&self) -> bool {
        self.wanted <= self.max_size
    }
}

/// The pins of a store in use.
pub(in crate::store) struct Held {
    /// Held for whatever changes pins, their file and the index together; in blocking threads alone.
    images: Mutex<Images>,
    /// The repositories that have a pin: all that most requests need to know.
    names: RwLock<HashSet<QualifiedName>>,
}

#[derive(Default)]
struct Images {
    traces: BTreeMap<Image, Trace>,
    /// How many images each key belongs to.
    shared: HashMap<Key, usize>,
    /// What the file counts for.
    counted: u64,
}

/// What an image comes to.
#[derive(Default)]
struct Trace {
    keys: HashMap<Key, Part>,
    /// The manifests that were read for it.
    read: HashSet<Digest>,
    /// The manifest that was last here.
    last: Option<Digest>,
}

/// A file that an image names.
#[derive(Clone, Copy)]
struct Part {
    size: u64,
    /// Whether the image is incomplete without it. Other platforms of an index are not.
    needed: bool,
}

/// One line of the file.
pub(in crate::store) struct Line {
    pub(in crate::store) image: Image,
    pub(in crate::store) last: Option<Digest>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.image.name, self.image.reference)?;
        match &self.last {
            Some(last) => write!(f, " {last}"),
            None => Ok(()),
        }
    }
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace();
    let (namespace, repository) = words.next()?.split_once('/')?;
    let name = QualifiedName::new(namespace.parse().ok()?, repository.parse().ok()?);
    let reference = words.next()?.parse().ok()?;
    let last = match words.next() {
        Some(digest) => Some(digest.parse().ok()?),
        None => None,
    };
    let image = Image { name, reference };
    words.next().is_none().then_some(Line { image, last })
}

/// Reads the file of pins. A line that cannot be read costs that pin alone, and is told.
pub(in crate::store) fn read(layout: &Layout) -> io::Result<Vec<Line>> {
    let bytes = match fs::read(layout.pins()) {
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
pub(in crate::store) fn write(
    layout: &Layout,
    temporary: &Path,
    lines: &[String],
) -> io::Result<u64> {
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    let written = File::create(temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(temporary, layout.pins()))
        .and_then(|()| File::open(layout.root())?.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    written.map(|()| text.len() as u64)
}

impl Held {
    /// Reads the pins; nothing is traced yet.
    pub(in crate::store) fn load(layout: &Layout) -> io::Result<Self> {
        let trace = |line: Line| {
            let last = line.last;
            let trace = Trace {
                last,
                ..Trace::default()
            };
            (line.image, trace)
        };
        let images = Images {
            traces: read(layout)?.into_iter().map(trace).collect(),
            ..Images::default()
        };
        let names = RwLock::new(images.names());
        Ok(Self {
            images: Mutex::new(images),
            names,
        })
    }

    fn images(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn concerns(&self, name: &QualifiedName) -> bool {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.contains(name)
    }
}

impl Images {
    fn names(&self) -> HashSet<QualifiedName> {
        self.traces.keys().map(|image| image.name.clone()).collect()
    }

    fn lines(&self) -> Vec<String> {
        let line = |(image, trace): (&Image, &Trace)| {
            let by_tag = matches!(image.reference, Reference::Tag(_));
            let line = Line {
                image: image.clone(),
                last: trace.last.clone().filter(|_| by_tag),
            };
            line.to_string()
        };
        self.traces.iter().map(line).collect()
    }

    /// Exchanges what an image comes to; returns the keys that became pinned, and those that are no more.
    fn exchange(&mut self, before: &Trace, after: &Trace) -> (Vec<Key>, Vec<Key>) {
        let (mut pinned, mut unpinned) = (Vec::new(), Vec::new());
        for key in after
            .keys
            .keys()
            .filter(|key| !before.keys.contains_key(key))
        {
            let count = self.shared.entry(key.clone()).or_default();
            *count += 1;
            if *count == 1 {
                pinned.push(key.clone());
            }
        }
        for key in before
            .keys
            .keys()
            .filter(|key| !after.keys.contains_key(key))
        {
            let left = self.shared.get_mut(key).map(|count| {
                *count = count.saturating_sub(1);
                *count
            });
            if left == Some(0) {
                self.shared.remove(key);
                unpinned.push(key.clone());
            }
        }
        (pinned, unpinned)
    }
}

impl Store {
    /// Pins an image, stored or not; false if it was pinned already. Durable when this returns.
    ///
    /// # Errors
    ///
    /// The pins cannot be written; nothing is pinned then.
    pub async fn pin(self: &Arc<Self>, image: Image) -> io::Result<bool> {
        let store = Arc::clone(self);
        finished(run(move || store.pin_now(&image)).await)
    }

    /// Lets go of an image; false if it was not pinned.
    ///
    /// # Errors
    ///
    /// The pins cannot be written; the image stays pinned then.
    pub async fn unpin(self: &Arc<Self>, image: Image) -> io::Result<bool> {
        let store = Arc::clone(self);
        finished(run(move || store.unpin_now(&image)).await)
    }

    /// What is pinned, and how much of it is stored.
    pub async fn pins(self: &Arc<Self>) -> Pins {
        let store = Arc::clone(self);
        let pins = run(move || store.pins_now()).await;
        pins.unwrap_or(Pins {
            images: Vec::new(),
            wanted: 0,
            max_size: self.settings.max_size,
        })
    }

    fn pin_now(&self, image: &Image) -> io::Result<bool> {
        let mut images = self.pins.images();
        if images.traces.contains_key(image) {
            return Ok(false);
        }
        images.traces.insert(image.clone(), Trace::default());
        if let Err(error) = self.write_pins(&mut images) {
            images.traces.remove(image);
            return Err(error);
        }
        self.note_names(&images);
        self.follow(&mut images, image);
        Ok(true)
    }

    fn unpin_now(&self, image: &Image) -> io::Result<bool> {
        let mut images = self.pins.images();
        let Some(trace) = images.traces.remove(image) else {
            return Ok(false);
        };
        if let Err(error) = self.write_pins(&mut images) {
            images.traces.insert(image.clone(), trace);
            return Err(error);
        }
        self.note_names(&images);
        let (_, unpinned) = images.exchange(&trace, &Trace::default());
        self.index.repin(&[], &unpinned);
        Ok(true)
    }

    fn pins_now(&self) -> Pins {
        let images = self.pins.images();
        let mut sizes = HashMap::new();
        let state = |(image, trace): (&Image, &Trace)| {
            for (key, part) in trace.keys.iter().filter(|(_, part)| part.needed) {
                sizes.insert(key.clone(), cost(part.size));
            }
            self.state(image, trace)
        };
        Pins {
            images: images.traces.iter().map(state).collect(),
            wanted: sizes.values().copied().fold(0, u64::saturating_add),
            max_size: self.settings.max_size,
        }
    }

    fn state(&self, image: &Image, trace: &Trace) -> Pinned {
        let mut pinned = Pinned {
            image: image.clone(),
            digest: trace.last.clone(),
            stored: 0,
            stored_bytes: 0,
            missing: 0,
            missing_bytes: 0,
        };
        for (key, part) in trace.keys.iter().filter(|(_, part)| part.needed) {
            // Asked of the disk, which is the truth also while the store is still being counted.
            if self.layout.path(key).exists() {
                pinned.stored += 1;
                pinned.stored_bytes = pinned.stored_bytes.saturating_add(part.size);
            } else {
                pinned.missing += 1;
                pinned.missing_bytes = pinned.missing_bytes.saturating_add(part.size);
            }
        }
        pinned
    }

    /// Traces the pinned images of a repository anew, one of whose records was written.
    pub(in crate::store) async fn follow_pins(self: &Arc<Self>, name: &QualifiedName) {
        if !self.pins.concerns(name) {
            return;
        }
        let (store, name) = (Arc::clone(self), name.clone());
        run(move || store.follow_where(|image| image.name == name)).await;
    }

    /// Traces every pinned image, before the first eviction.
    pub(in crate::store) fn follow_all_pins(&self) {
        self.count_file();
        self.follow_where(|_| true);
        let pins = self.pins_now();
        if !pins.fit() {
            tracing::warn!(
                wanted = pins.wanted,
                max_size = pins.max_size,
                "more is pinned than the store may hold; what finds no room passes through"
            );
        }
    }

    fn follow_where(&self, concerned: impl Fn(&Image) -> bool) {
        let mut images = self.pins.images();
        let concerned: Vec<_> = images
            .traces
            .keys()
            .filter(|image| concerned(image))
            .cloned()
            .collect();
        for image in concerned {
            self.follow(&mut images, &image);
        }
    }

    fn follow(&self, images: &mut Images, image: &Image) {
        let Some(before) = images.traces.remove(image) else {
            return;
        };
        let after = self.trace(image, &before);
        let (pinned, unpinned) = images.exchange(&before, &after);
        let moved = before.last != after.last;
        images.traces.insert(image.clone(), after);
        self.index.repin(&pinned, &unpinned);
        if moved && let Err(error) = self.write_pins(images) {
            tracing::warn!(%image, %error, "cannot write what a pinned image comes to; until the next start it is kept all the same");
        }
    }

    fn trace(&self, image: &Image, before: &Trace) -> Trace {
        let name = &image.name;
        let mut trace = Trace::default();
        // The newest first. Where its manifest is not here, an older one stands in for it, and is kept too.
        let candidates = match &image.reference {
            Reference::Digest(digest) => vec![digest.clone()],
            Reference::Tag(tag) => {
                let optional = Part {
                    size: 0,
                    needed: false,
                };
                trace.keys.insert(Key::tag(name, tag), optional);
                let record = self.tag_now(name, tag);
                let known = record.map(|record| (record.digest.clone(), record.held.clone()));
                let (digest, held) =
                    known.map_or((None, None), |(digest, held)| (Some(digest), held));
                [digest, held, before.last.clone()]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        };
        let here = candidates
            .iter()
            .find(|digest| self.trace_manifest(&mut trace, name, digest, true, DEPTH));
        trace.last = here.cloned().or_else(|| before.last.clone());
        trace.keep_unknown(name, before);
        trace
    }

    /// Adds a manifest and what it names; says whether it is stored.
    fn trace_manifest(
        &self,
        trace: &mut Trace,
        name: &QualifiedName,
        digest: &Digest,
        needed: bool,
        depth: u32,
    ) -> bool {
        if trace.read.contains(digest) {
            return true;
        }
        let key = Key::manifest(name, digest);
        let Some(stored) = self.manifest_now(name, digest) else {
            trace.keys.insert(key, Part { size: 0, needed });
            return false;
        };
        let size = stored.bytes.len() as u64;
        trace.keys.insert(key, Part { size, needed: true });
        trace.read.insert(digest.clone());
        let manifest = Manifest::parse(&stored.bytes).unwrap_or_default();
        for blob in manifest.blobs {
            let part = Part {
                size: blob.size,
                needed: !blob.elsewhere,
            };
            trace.keys.insert(Key::Blob(blob.digest), part);
        }
        for child in manifest.manifests.iter().filter(|_| depth > 0) {
            self.trace_manifest(trace, name, &child.digest, false, depth - 1);
        }
        true
    }

    /// Counts the file that an earlier process left.
    fn count_file(&self) {
        let mut images = self.pins.images();
        if let (0, Ok(file)) = (images.counted, self.layout.pins().metadata()) {
            images.counted = cost(file.len());
            self.index.add_overhead(images.counted);
        }
    }

    fn note_names(&self, images: &Images) {
        let mut names = self
            .pins
            .names
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *names = images.names();
    }

    fn write_pins(&self, images: &mut Images) -> io::Result<()> {
        let temporary = self.layout.ingest(self.next_serial());
        let length = write(&self.layout, &temporary, &images.lines())?;
        let counts = cost(length).max(images.counted);
        self.index.add_overhead(counts - images.counted);
        images.counted = counts;
        Ok(())
    }
}

impl Trace {
    /// A manifest that was read before and cannot be now is damaged or gone, and will be fetched again: until
    /// then what it named is kept.
    fn keep_unknown(&mut self, name: &QualifiedName, before: &Self) {
        let lost = before.read.iter().any(|digest| {
            !self.read.contains(digest) && self.keys.contains_key(&Key::manifest(name, digest))
        });
        if lost {
            for (key, part) in &before.keys {
                self.keys.entry(key.clone()).or_insert(*part);
            }
            self.read.extend(before.read.iter().cloned());
        }
    }
}

fn finished<T>(result: Option<io::Result<T>>) -> io::Result<T> {
    result.unwrap_or_else(|| Err(io::Error::other("the mirror is ending")))
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
