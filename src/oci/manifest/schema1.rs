//! What the digest of a signed schema 1 manifest is of: the payload, without its signatures.
//!
//! Docker's image manifest version 2, schema 1, "Digest calculation": a signature's `protected` header says
//! how much of the bytes is payload (`formatLength`) and what to put behind it (`formatTail`). The bytes
//! themselves are passed on with their signatures, as they came.
//!
//! These two words come from the bytes that are to be checked. So they are believed only where they cannot say anything
//! else than: the payload is the document without its last member, `signatures`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// More than one or two are not known.
const MOST_SIGNATURES: usize = 16;

/// A document with its signatures. A key that stands there twice is an error, as serde derives it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    schema_version: u32,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    protected: String,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    schema_version: u32,
}

/// The payload of a signed schema 1 manifest; `None` for anything else.
pub(super) fn payload(bytes: &[u8]) -> Option<Vec<u8>> {
    let signed: Signed = serde_json::from_slice(bytes).ok()?;
    if signed.schema_version != 1 || signed.signatures.len() > MOST_SIGNATURES {
        return None;
    }
    let mut all = signed.signatures.iter().map(protected);
    let protected = all.next()??;
    if !all.all(|other| other.is_some_and(|other| other == protected)) {
        return None;
    }
    let (start, rest) = bytes.split_at_checked(protected.format_length)?;
    let tail = decode(&protected.format_tail)?;
    if tail.trim_ascii() != b"}" || !is_signatures(rest) {
        return None;
    }
    let payload = [start, &tail].concat();
    // A whole object by itself: what follows its start in the document is a member of the outermost object.
    let whole: Payload = serde_json::from_slice(&payload).ok()?;
    (whole.schema_version == 1).then_some(payload)
}

fn protected(signature: &Signature) -> Option<Protected> {
    serde_json::from_slice(&decode(&signature.protected)?).ok()
}

/// Whether this is `, "signatures": ...}` and nothing else.
fn is_signatures(rest: &[u8]) -> bool {
    let value = after(rest, b",")
        .and_then(|rest| after(rest, b"\"signatures\""))
        .and_then(|rest| after(rest, b":"));
    let Some(value) = value else {
        return false;
    };
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<IgnoredAny>();
    let read = values.next().is_some_and(|value| value.is_ok());
    let end = value.get(values.byte_offset()..).unwrap_or_default();
    read && end.trim_ascii_start() == b"}"
}

fn after<'b>(rest: &'b [u8], word: &[u8]) -> Option<&'b [u8]> {
    rest.trim_ascii_start().strip_prefix(word)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}
