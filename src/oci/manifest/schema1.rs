//! What the digest of a signed schema 1 manifest is of: the payload, without its signatures.
//!
//! Docker's image manifest version 2, schema 1, "Digest calculation": a signature's `protected` header says
//! how much of the bytes is payload (`formatLength`) and what to put behind it (`formatTail`). The bytes
//! themselves are passed on with their signatures, as they came.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// The payload of a signed schema 1 manifest; `None` for anything else.
pub(super) fn payload(bytes: &[u8]) -> Option<Vec<u8>> {
    let manifest: Value = serde_json::from_slice(bytes).ok()?;
    let protected = manifest.get("signatures")?.get(0)?.get("protected")?;
    let protected: Value = serde_json::from_slice(&decode(protected)?).ok()?;
    let length = usize::try_from(protected.get("formatLength")?.as_u64()?).ok()?;
    let mut payload = bytes.get(..length)?.to_vec();
    payload.extend(decode(protected.get("formatTail")?)?);
    Some(payload)
}

fn decode(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?.trim_end_matches('=');
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::super::is_digest_of;
    use super::*;
    use crate::oci::digest::Digest;

    /// A payload, and the same with a signature put in before its last brace.
    fn signed() -> (Vec<u8>, Vec<u8>) {
        let payload = b"{\n   \"schemaVersion\": 1,\n   \"name\": \"a/b\"\n}".to_vec();
        let length = payload.len() - 2;
        let tail = URL_SAFE_NO_PAD.encode(&payload[length..]);
        let protected = format!("{{\"formatLength\":{length},\"formatTail\":\"{tail}\"}}");
        let protected = URL_SAFE_NO_PAD.encode(protected);
        let mut bytes = payload[..length].to_vec();
        bytes.extend(
            format!(",\n   \"signatures\": [{{\"protected\": \"{protected}\"}}]\n}}").bytes(),
        );
        (payload, bytes)
    }

    #[test]
    fn the_digest_is_of_the_payload_without_signatures() {
        let (unsigned, bytes) = signed();
        assert_eq!(payload(&bytes), Some(unsigned.clone()));
        assert!(is_digest_of(&Digest::of(&unsigned), &bytes));
        assert!(is_digest_of(&Digest::of(&bytes), &bytes));
        assert!(!is_digest_of(&Digest::of(b"other"), &bytes));
    }

    #[test]
    fn what_lies_about_its_length_has_no_payload() {
        let protected = URL_SAFE_NO_PAD.encode("{\"formatLength\":99999,\"formatTail\":\"Cn0\"}");
        let bytes = format!("{{\"signatures\":[{{\"protected\":\"{protected}\"}}]}}");
        assert_eq!(payload(bytes.as_bytes()), None);
        assert_eq!(payload(b"{\"signatures\":[]}"), None);
        assert_eq!(payload(b"no json"), None);
    }
}
