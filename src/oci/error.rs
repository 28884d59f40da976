//! The error codes of the distribution API, and the one JSON body they travel in.

use bytes::Bytes;
use serde_json::Value;

/// A code a client can act on: OCI distribution-spec, "Error Codes", and two more that other registries
/// send.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ErrorCode {
    /// The repository has no such blob.
    BlobUnknown,
    /// The digest in the request cannot be read.
    DigestInvalid,
    /// The repository has no such manifest.
    ManifestUnknown,
    /// The repository name (or the namespace before it) is not a valid one.
    NameInvalid,
    /// The repository, or its namespace, is not known.
    NameUnknown,
    /// The client has said who it is, and may not.
    Denied,
    /// This mirror does not do that.
    Unsupported,
    /// Too many requests, here or upstream.
    TooManyRequests,
    /// Not in the specification, but what docker/distribution says when a backend is away.
    Unavailable,
    /// Not in the specification, but what docker/distribution says when it has nothing better to
    /// say.
    Unknown,
    /// Not in the specification, but what docker/distribution says to an `n` that is no number.
    PaginationNumberInvalid,
}

impl ErrorCode {
    /// The code as it is written in the body.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            // The specification spells it without underscores.
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
        }
    }
}

/// The body of an error answer, `{"errors":[{"code":...,"message":...}]}`, with one error.
///
/// The message is read by people, often in the output of `docker pull`: it says what is wrong and
/// never holds a secret.
pub(crate) fn body(code: ErrorCode, message: &str) -> Bytes {
    let (code, message) = (code.as_str(), Value::from(message));
    Bytes::from(format!(
        "{{\"errors\":[{{\"code\":\"{code}\",\"message\":{message}}}]}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_what_the_specification_prints() {
        let bare = body(ErrorCode::TooManyRequests, "slow \"down\"");
        assert_eq!(
            bare,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow \"down\""}]}"#
        );
    }
}
