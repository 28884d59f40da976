//! Any body: no panic, a media type that can stand in a header, no more memory than the body, and a digest it goes by.

#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use pierglass::oci::digest::Digest;
use pierglass::oci::manifest::{Descriptor, Manifest, is_digest_of};

fuzz_target!(|input: (Option<&str>, &[u8])| {
    let (content_type, bytes) = input;
    let Ok(manifest) = Manifest::parse(content_type, bytes) else {
        return;
    };
    assert!(HeaderValue::from_str(&manifest.media_type).is_ok());
    let named = manifest.blobs.len() + manifest.manifests.len();
    assert!(named <= 20_000 && named * size_of::<Descriptor>() <= bytes.len());
    assert!(is_digest_of(
        &Digest::of(bytes),
        &manifest.media_type,
        bytes
    ));
    let _ = is_digest_of(&Digest::of(b""), &manifest.media_type, bytes);
});
