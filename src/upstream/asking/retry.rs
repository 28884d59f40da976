//! Whether a failed try is repeated, and after which pause. Pure: time and jitter are arguments.

use std::time::Duration;

use crate::upstream::error::{Error, FailedTry};

use super::request::Question;

/// How often a question is repeated after a transient failure, and about how long the first pause is.
const REPEATS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(200);
/// The longest rate limit that is waited out, and how often: a client that is told 429 asks again much sooner.
const PATIENCE: Duration = Duration::from_secs(5);
const WAITS: u32 = 3;
/// How much time must be left for the answer after a pause.
const LEAST_TIME: Duration = Duration::from_millis(500);

/// The tries of one question so far.
#[derive(Default)]
pub(super) struct Retries {
    repeats: u32,
    waits: u32,
}

impl Retries {
    /// The pause before the next try; `None` if there is none. `left` is the time that remains for all of them.
    pub(super) fn pause(
        &mut self,
        question: &Question,
        failed: &FailedTry,
        left: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        let pause = match &failed.error {
            _ if !question.patient => None,
            Error::RateLimited {
                retry_after: Some(limited),
                ..
            } if *limited <= PATIENCE && self.waits < WAITS => {
                self.waits += 1;
                Some(limited.mul_f64(1.0 + 0.25 * jitter))
            }
            // A client has the beginning of this blob already and cannot take an error for the rest.
            Error::CircuitOpen { again_in, .. } if question.range.is_some() => {
                Some((*again_in).max(PAUSE)).filter(|pause| *pause <= PATIENCE)
            }
            _ if failed.transient && self.repeats < REPEATS => {
                self.repeats += 1;
                let pause = PAUSE.mul_f64(f64::from(self.repeats) * (0.5 + jitter));
                let told = failed.told.filter(|told| *told <= PATIENCE);
                Some(pause.max(told.unwrap_or_default()))
            }
            _ => None,
        };
        pause.filter(|pause| *pause + LEAST_TIME < left)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use crate::oci::endpoint::Endpoint;
    use crate::upstream::error::LimitKind;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn question() -> Question {
        Question::new(Method::GET, Endpoint::Base)
    }

    fn transient() -> FailedTry {
        FailedTry::transient(Error::unavailable("502"))
    }

    fn limited(seconds: u64) -> FailedTry {
        FailedTry::from(Error::RateLimited {
            limit: LimitKind::Abuse,
            retry_after: Some(Duration::from_secs(seconds)),
            detail: "429".into(),
        })
    }

    #[test]
    fn a_transient_failure_is_repeated_twice_with_longer_pauses() {
        let mut retries = Retries::default();
        let mut pause = || retries.pause(&question(), &transient(), MINUTE, 0.5);
        assert_eq!(pause(), Some(PAUSE));
        assert_eq!(pause(), Some(2 * PAUSE));
        assert_eq!(pause(), None);
        let lasting = FailedTry::from(Error::NotFound);
        let mut retries = Retries::default();
        assert_eq!(retries.pause(&question(), &lasting, MINUTE, 0.5), None);
    }

    #[test]
    fn a_short_limit_is_waited_out_and_a_long_one_is_not() {
        let mut retries = Retries::default();
        for _ in 0..WAITS {
            let pause = retries.pause(&question(), &limited(1), MINUTE, 0.0);
            assert_eq!(pause, Some(Duration::from_secs(1)));
        }
        assert_eq!(retries.pause(&question(), &limited(1), MINUTE, 0.0), None);
        let mut retries = Retries::default();
        assert_eq!(retries.pause(&question(), &limited(6), MINUTE, 0.0), None);
    }

    #[test]
    fn nothing_is_repeated_without_time_or_where_something_stored_can_be_served() {
        let mut retries = Retries::default();
        let short = Duration::from_millis(600);
        assert_eq!(retries.pause(&question(), &transient(), short, 0.5), None);
        let impatient = Question {
            patient: false,
            ..question()
        };
        assert_eq!(retries.pause(&impatient, &transient(), MINUTE, 0.5), None);
    }

    #[test]
    fn an_open_circuit_is_waited_for_only_in_the_middle_of_a_blob() {
        let open = FailedTry::from(Error::CircuitOpen {
            silent: false,
            again_in: Duration::ZERO,
            detail: "x".into(),
        });
        let mut retries = Retries::default();
        assert_eq!(retries.pause(&question(), &open, MINUTE, 0.5), None);
        let rest = Question {
            range: Some("bytes=5-".to_owned()),
            ..question()
        };
        assert_eq!(retries.pause(&rest, &open, MINUTE, 0.5), Some(PAUSE));
    }
}
