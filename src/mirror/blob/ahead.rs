//! Reading ahead of a fill: wait for it, or fetch the bytes separately? The decision is pure.
//!
//! Lazy pullers read a few kilobytes here and there of a blob that is not stored yet, and parallel pullers ask for its
//! second half before its first has arrived. Waiting for the fill costs time; fetching costs upstream the same bytes
//! twice.

use std::ops::Range;
use std::time::Duration;

pub(crate) use crate::store::blobs::reader::Growth;

/// What to do about bytes that the fill has not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// The fill gets there soon; look again after this long at the latest.
    Wait(Duration),
    /// Fetch these bytes from upstream, and then decide again.
    Fetch(Range<u64>),
}

/// A request for no more than this is a look-up, whose client waits for the answer.
const SMALL: u64 = 2 * 1024 * 1024;
/// The most that is fetched at a time: what a client costs upstream that hangs up after its first bytes.
const WINDOW: u64 = 2 * 1024 * 1024;
/// The most requests at a time for one of a client.
const TOGETHER: usize = 8;
/// The most requests for one of a client that takes little of what they bring. After that it waits for the fill.
const ALLOWED: u64 = 16;
/// For so many bytes that the client took, one more is allowed: a long range takes many windows.
const BYTES_FOR_ONE: u64 = 1024 * 1024;
/// Ranges of a request that are no farther apart are fetched as one.
const NEIGHBOURS: u64 = 256 * 1024;
/// A fill this near is waited for even if it is slow: a request of its own would take as long.
const NEAR: u64 = 64 * 1024;
/// How long a client waits that asked for little, and one that asked for much. The second will read what the fill
/// brings for longer than that, and each byte fetched for it slows the fill down; but a connection without a byte for
/// longer is closed by what stands between the client and here.
const PATIENCE_SMALL: Duration = Duration::from_millis(30);
const PATIENCE_LARGE: Duration = Duration::from_secs(20);
/// How long a fill must run before its pace says anything about much: transfers start slowly.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long to wait before the pace is looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Decides about the bytes from `wanted.start` on, up to `wanted.end`, which the fill has not reached.
pub(crate) fn decide(pace: Growth, wanted: &Range<u64>) -> Ahead {
    let gap = wanted.start.saturating_sub(pace.readable);
    let length = wanted.end.saturating_sub(wanted.start);
    if gap <= NEAR {
        return Ahead::Wait(LOOK_AGAIN);
    }
    let small = length <= SMALL;
    if !small && pace.running < WARM_UP {
        return Ahead::Wait(WARM_UP);
    }
    let patience = if small {
        PATIENCE_SMALL
    } else {
        PATIENCE_LARGE
    };
    match arrival(pace, gap) {
        Some(arrival) if arrival <= patience => Ahead::Wait(patience.min(LOOK_AGAIN)),
        _ => Ahead::Fetch(wanted.start..wanted.end.min(wanted.start.saturating_add(WINDOW))),
    }
}

/// How many more windows one request of a client may open.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    opened: u64,
    taken: u64,
}

impl Allowance {
    pub(crate) fn left(&self) -> u64 {
        let allowed = ALLOWED.saturating_add(self.taken / BYTES_FOR_ONE);
        allowed.saturating_sub(self.opened)
    }

    pub(crate) fn open(&mut self) {
        self.opened += 1;
    }

    /// The client took these bytes of a window.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes as u64);
    }
}

/// Which ranges to fetch at the same time when `first` has to be, out of those that come `later` in the same
/// request: one after the other, each would cost a round trip. Neighbours are one range.
pub(crate) fn together(
    pace: Growth,
    first: Range<u64>,
    later: impl IntoIterator<Item = Range<u64>>,
    most: usize,
) -> Vec<Range<u64>> {
    let mut bytes = first.end.saturating_sub(first.start);
    let mut all = vec![first];
    for wanted in later {
        if let Some(last) = all.last_mut().filter(|last| is_neighbour(last, &wanted)) {
            let longer = wanted.end.saturating_sub(last.end);
            if bytes + longer > WINDOW {
                break;
            }
            bytes += longer;
            last.end += longer;
            continue;
        }
        bytes = bytes.saturating_add(wanted.end.saturating_sub(wanted.start));
        if all.len() >= TOGETHER.min(most) || bytes > WINDOW {
            break;
        }
        if let Ahead::Fetch(window) = decide(pace, &wanted) {
            all.push(window);
        }
    }
    all
}

fn is_neighbour(before: &Range<u64>, wanted: &Range<u64>) -> bool {
    before.start <= wanted.start && wanted.start <= before.end.saturating_add(NEIGHBOURS)
}

/// How long a fill at its present pace needs for `gap` more bytes; `None` if it has received none yet.
fn arrival(pace: Growth, gap: u64) -> Option<Duration> {
    if pace.received == 0 {
        return None;
    }
    let seconds = pace.running.as_secs_f64() * gap as f64 / pace.received as f64;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn pace(readable: u64, seconds: u64) -> Growth {
        Growth {
            readable,
            received: readable,
            running: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn what_is_about_to_arrive_is_waited_for() {
        // 100 MiB/s, 8 MiB ahead: a few hundredths of a second.
        assert!(matches!(
            decide(pace(100 * MIB, 1), &(108 * MIB..1024 * MIB)),
            Ahead::Wait(_)
        ));
        // Next to the fill, at any pace.
        assert!(matches!(decide(pace(0, 60), &(0..1)), Ahead::Wait(_)));
        assert!(matches!(
            decide(pace(MIB, 60), &(MIB + 10..MIB + 20)),
            Ahead::Wait(_)
        ));
    }

    #[test]
    fn a_footer_is_fetched_at_once_and_exactly() {
        let footer = 1024 * MIB - 65536..1024 * MIB;
        assert_eq!(
            decide(pace(20 * MIB, 1), &footer),
            Ahead::Fetch(footer.clone())
        );
        assert_eq!(decide(pace(0, 0), &footer), Ahead::Fetch(footer.clone()));
    }

    #[test]
    fn an_open_range_is_fetched_in_windows() {
        let wanted = 512 * MIB..1024 * MIB;
        assert_eq!(
            decide(pace(20 * MIB, 1), &wanted),
            Ahead::Fetch(512 * MIB..512 * MIB + WINDOW)
        );
    }

    #[test]
    fn much_is_not_fetched_before_the_pace_of_the_fill_is_known() {
        assert!(matches!(
            decide(pace(0, 0), &(8 * MIB..512 * MIB)),
            Ahead::Wait(_)
        ));
    }

    #[test]
    fn pieces_side_by_side_wait_for_a_slow_fill() {
        // Three chunks of 8 MiB at 2 MiB/s: to fetch the third would slow down all three.
        assert!(matches!(
            decide(pace(2 * MIB, 1), &(16 * MIB..512 * MIB)),
            Ahead::Wait(_)
        ));
    }

    #[test]
    fn small_ranges_of_a_request_are_fetched_together() {
        let range = |number: u64| (100 + number) * MIB..(100 + number) * MIB + 50_000;
        let later = |numbers: Range<u64>| numbers.map(range);
        assert_eq!(
            together(pace(MIB, 1), range(0), later(1..4), 16),
            [range(0), range(1), range(2), range(3)]
        );
        assert_eq!(
            together(pace(MIB, 1), range(0), later(1..100), 16).len(),
            TOGETHER
        );
        assert_eq!(together(pace(MIB, 1), range(0), later(1..100), 2).len(), 2);
        // What the fill has, or is about to have, needs no request.
        let later = [0..50_000, MIB..MIB + 10, range(1)];
        assert_eq!(
            together(pace(MIB, 1), range(0), later, 16),
            [range(0), range(1)]
        );
        // No more at a time than for a request for one range.
        let large = 200 * MIB..202 * MIB;
        assert_eq!(together(pace(MIB, 1), range(0), [large], 16), [range(0)]);
    }

    #[test]
    fn a_thousand_neighbours_are_few_windows() {
        let later = (1..1000).map(|n| 100 * MIB + n * 100_000..100 * MIB + n * 100_000 + 1);
        let first = 100 * MIB..100 * MIB + 1;
        let windows = together(pace(MIB, 1), first, later, 16);
        assert_eq!(windows.len(), 1);
        assert_eq!(windows[0].end, 100 * MIB + 20 * 100_000 + 1);
    }

    #[test]
    fn what_a_client_takes_allows_it_more() {
        let mut allowance = Allowance::default();
        for _ in 0..ALLOWED {
            assert!(allowance.left() > 0);
            allowance.open();
            allowance.take(1);
        }
        assert_eq!(allowance.left(), 0);
        // A range of gigabytes.
        for _ in 0..1000 {
            allowance.take(2 * 1024 * 1024);
            assert!(allowance.left() >= 1);
            allowance.open();
        }
    }

    #[test]
    fn what_an_earlier_transfer_left_says_nothing_about_the_pace_of_this_one() {
        let resumed = Growth {
            readable: 500 * MIB,
            received: MIB,
            running: Duration::from_secs(1),
        };
        let wanted = 800 * MIB..1024 * MIB;
        assert!(matches!(decide(resumed, &wanted), Ahead::Fetch(_)));
    }

    #[test]
    fn a_fill_that_stands_still_is_not_waited_for() {
        assert!(matches!(
            decide(pace(MIB, 600), &(200 * MIB..300 * MIB)),
            Ahead::Fetch(_)
        ));
    }
}
