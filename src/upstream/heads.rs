//! HEAD, and how far it is believed.
//!
//! Some registries, and what stands before them, answer a HEAD otherwise than a GET of the same thing: with 404 (Nexus,
//! Harbor), with 401 whatever the token (public.ecr.aws), or by a redirect to a URL that is signed for GET alone
//! (GitLab). So a refusal of a HEAD is a word about HEAD. What a GET says counts; and for a while HEAD is not tried
//! there, so that each question costs one request.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;

/// How long an upstream is not asked with a HEAD whose answer was not true: it may be mended by then.
const DOUBTED_FOR: Duration = Duration::from_secs(3600);

/// The answers of servers that do not support HEAD at all.
pub(super) const NO_HEAD: &[u16] = &[405, 501];

/// All statuses that may be about HEAD alone. Not among them: redirects; those that mean an outage, a rate limit or a
/// proxy; and those that are an [`Error`] of their own, which `may_be_about_head` knows.
pub(super) const REFUSALS: &[u16] = &refusals();

const fn refusals() -> [u16; 287] {
    let (mut all, mut count, mut status) = ([0; 287], 0, 300);
    while status < 600 {
        let other = matches!(
            status,
            301 | 302 | 303 | 307 | 308 | 401 | 403 | 404 | 407 | 429 | 502 | 503 | 504
        );
        if !other {
            all[count] = status;
            count += 1;
        }
        status += 1;
    }
    all
}

/// Whether an error in answer to a HEAD may be about HEAD alone.
pub(super) fn may_be_about_head(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound | Error::Denied { .. } | Error::Wrong(_)
    )
}

/// Whether an error says nothing of what was asked for.
pub(super) fn is_outage(error: &Error) -> bool {
    matches!(
        error,
        Error::Unavailable(_) | Error::Silent(_) | Error::CircuitOpen { .. }
    )
}

/// What is known of the HEADs of one registry, by what they are about.
#[derive(Default)]
pub(super) struct Heads {
    pub(super) of_manifests: Doubt,
    pub(super) of_blobs: Doubt,
}

/// Whether HEAD was seen to say what GET did not.
#[derive(Default)]
pub(super) struct Doubt(Mutex<Option<Instant>>);

impl Doubt {
    /// A GET has just said otherwise.
    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a GET is asked instead.
    pub(super) fn is_on(&self) -> bool {
        let noted = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.is_some_and(|at| is_doubted(at.elapsed()))
    }
}

fn is_doubted(age: Duration) -> bool {
    age < DOUBTED_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_and_a_limit_are_not_about_head() {
        for status in [301, 307, 407, 429, 502, 503, 504, 200, 206] {
            assert!(!REFUSALS.contains(&status), "{status}");
        }
        for status in [300, 304, 400, 405, 406, 410, 415, 421, 451, 500, 501, 599] {
            assert!(REFUSALS.contains(&status), "{status}");
        }
        assert!(!REFUSALS.contains(&0), "the list is as long as it says");
    }

    #[test]
    fn a_doubt_ends() {
        let doubt = Doubt::default();
        assert!(!doubt.is_on());
        doubt.note();
        assert!(doubt.is_on());
        assert!(is_doubted(DOUBTED_FOR - Duration::from_secs(1)));
        assert!(!is_doubted(DOUBTED_FOR));
    }
}
