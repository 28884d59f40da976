use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A circuit that has just opened, and the time.
fn opened(scope: Scope) -> (Circuit, Instant) {
    let (mut circuit, now) = (Circuit::new(scope), Instant::now());
    for _ in 0..ENOUGH {
        let admission = circuit.enter(now);
        assert_eq!(admission, Admission::Pass);
        circuit.failed(admission, 0, FailureKind::Unreachable, now, 1.0);
    }
    assert_eq!(circuit.number(), 2);
    (circuit, now)
}

/// An origin of which five different questions were answered with 5xx.
fn suspected() -> (Circuit, Instant) {
    let (mut circuit, now) = (Circuit::new(Scope::Origin), Instant::now());
    fail(&mut circuit, 0..ENOUGH.into(), now);
    (circuit, now)
}

fn fail(circuit: &mut Circuit, questions: std::ops::Range<u64>, now: Instant) {
    for question in questions {
        circuit.failed(
            Admission::Pass,
            question,
            FailureKind::ServerError,
            now,
            0.0,
        );
    }
}

#[test]
fn it_opens_lets_one_through_and_closes() {
    for scope in [Scope::Origin, Scope::Repository] {
        let (mut circuit, now) = opened(scope);
        assert_eq!(circuit.enter(now), Admission::Refused(2 * SECOND));
        let later = now + 2 * SECOND;
        let probe = circuit.enter(later);
        assert_eq!(probe, Admission::Probe(1));
        assert_eq!(circuit.enter(later), Admission::Refused(Duration::ZERO));
        let closed = circuit.succeeded(probe, later + SECOND);
        assert_eq!(closed, Transition::Closed(3 * SECOND));
        assert_eq!(circuit.enter(later), Admission::Pass);
    }
}

#[test]
fn each_failed_probe_doubles_the_time_up_to_half_a_minute() {
    for scope in [Scope::Origin, Scope::Repository] {
        let (mut circuit, mut now) = opened(scope);
        for expected in [2, 4, 8, 16, 30, 30] {
            let Admission::Refused(time) = circuit.enter(now) else {
                panic!("not open");
            };
            assert_eq!(time, expected * SECOND);
            now += time;
            let probe = circuit.enter(now);
            assert!(matches!(probe, Admission::Probe(_)));
            circuit.failed(probe, 0, FailureKind::Silent, now, 1.0);
        }
    }
}

#[test]
fn what_is_broken_shuts_no_origin_out_without_a_probe() {
    let (mut circuit, now) = suspected();
    assert_eq!(circuit.number(), 0);
    let probe = circuit.enter(now);
    assert_eq!(probe, Admission::Probe(1));
    for _ in 0..100 {
        assert_eq!(circuit.enter(now), Admission::Pass, "meanwhile");
    }
    assert_eq!(circuit.succeeded(probe, now), Transition::None);
    // However many more break, there is no second probe for a while.
    fail(&mut circuit, 10..1000, now);
    assert_eq!(circuit.enter(now), Admission::Pass);
    fail(&mut circuit, 1000..1010, now + CLEARED);
    assert_eq!(circuit.enter(now + CLEARED), Admission::Probe(2));
}

#[test]
fn a_probe_that_fails_shuts_the_origin_out() {
    for kind in [
        FailureKind::ServerError,
        FailureKind::Silent,
        FailureKind::Unreachable,
    ] {
        let (mut circuit, now) = suspected();
        let probe = circuit.enter(now);
        let change = circuit.failed(probe, 99, kind, now, 1.0);
        assert_eq!(change, Transition::Opened(2 * SECOND), "{kind:?}");
        // A probe that fails in the same way twice makes the time longer, unlike a question of a client.
        let probe = circuit.enter(now + 2 * SECOND);
        circuit.failed(probe, 99, kind, now + 2 * SECOND, 1.0);
        let left = circuit.enter(now + 2 * SECOND);
        assert_eq!(left, Admission::Refused(4 * SECOND), "{kind:?}");
    }
}

#[test]
fn a_success_in_between_counts_from_the_beginning() {
    for scope in [Scope::Origin, Scope::Repository] {
        let (mut circuit, now) = (Circuit::new(scope), Instant::now());
        for question in 0..100 {
            let admission = circuit.enter(now);
            assert_eq!(admission, Admission::Pass);
            circuit.failed(admission, question, FailureKind::ServerError, now, 0.0);
            if question % 4 == 3 {
                circuit.succeeded(admission, now);
            }
        }
        assert_eq!(circuit.number(), 0);
    }
}

#[test]
fn one_thing_that_is_broken_shuts_nothing_out() {
    let (mut circuit, now) = (Circuit::new(Scope::Repository), Instant::now());
    for _ in 0..1000 {
        let admission = circuit.enter(now);
        assert_eq!(admission, Admission::Pass);
        circuit.failed(admission, 7, FailureKind::ServerError, now, 0.0);
    }
    // Open for another reason, it does not make the time longer.
    fail(&mut circuit, 0..ENOUGH.into(), now);
    let mut now = now;
    for _ in 0..20 {
        let Admission::Refused(time) = circuit.enter(now) else {
            panic!("not open");
        };
        assert_eq!(time, SECOND);
        now += time;
        let probe = circuit.enter(now);
        circuit.failed(probe, 7, FailureKind::ServerError, now, 0.0);
    }
}

#[test]
fn silence_is_noticed_sooner() {
    let now = Instant::now();
    let silent =
        |circuit: &mut Circuit| circuit.failed(Admission::Pass, 0, FailureKind::Silent, now, 0.0);
    let mut circuit = Circuit::new(Scope::Repository);
    let change = [(); 3].map(|()| silent(&mut circuit));
    assert_eq!(
        change,
        [
            Transition::None,
            Transition::None,
            Transition::Opened(SECOND)
        ]
    );
    let mut circuit = Circuit::new(Scope::Origin);
    assert_eq!(
        [(); 3].map(|()| silent(&mut circuit)),
        [Transition::None; 3]
    );
    assert_eq!(circuit.enter(now), Admission::Probe(1));
}

#[test]
fn a_cancelled_probe_makes_room_for_another() {
    let (mut circuit, now) = opened(Scope::Origin);
    let now = now + 2 * SECOND;
    let probe = circuit.enter(now);
    // A request sent before it opened changes nothing.
    circuit.gave_up(Admission::Pass);
    circuit.failed(Admission::Pass, 0, FailureKind::Silent, now, 1.0);
    assert_eq!(circuit.enter(now), Admission::Refused(Duration::ZERO));
    circuit.gave_up(probe);
    assert_eq!(circuit.enter(now), Admission::Probe(2));
    let (mut circuit, now) = suspected();
    let probe = circuit.enter(now);
    circuit.gave_up(probe);
    assert_eq!(circuit.enter(now), Admission::Probe(2));
}

fn kind_of(step: u8) -> FailureKind {
    match step {
        4 => FailureKind::Unreachable,
        5 => FailureKind::ServerError,
        _ => FailureKind::Silent,
    }
}

proptest! {
    /// In any order of events: never two probes at a time, never shut for longer than half a minute, and a success
    /// opens the door for all.
    #[test]
    fn it_never_stays_shut(
        origin: bool,
        steps in prop::collection::vec((0..7_u8, 0..9_u64, 0..5000_u64, 0.0..1.0_f64), 0..200),
    ) {
        let scope = if origin { Scope::Origin } else { Scope::Repository };
        let (mut circuit, mut now) = (Circuit::new(scope), Instant::now());
        // The probe whose answer decides; one that was under way when the circuit closed does not any more.
        let mut deciding = None;
        let mut out = Vec::new();
        for (step, question, millis, jitter) in steps {
            now += Duration::from_millis(millis);
            if step < 2 {
                match circuit.enter(now) {
                    Admission::Refused(left) => prop_assert!(left <= LONGEST),
                    Admission::Pass => out.push(Admission::Pass),
                    Admission::Probe(number) => {
                        prop_assert_eq!(deciding, None);
                        deciding = Some(number);
                        out.push(Admission::Probe(number));
                    }
                }
                continue;
            }
            let Some(admission) = out.pop() else { continue };
            if matches!(admission, Admission::Probe(number) if deciding == Some(number)) {
                deciding = None;
            }
            match step {
                2 => circuit.gave_up(admission),
                3 => {
                    deciding = None;
                    circuit.succeeded(admission, now);
                    prop_assert_eq!(circuit.enter(now), Admission::Pass);
                }
                _ => {
                    circuit.failed(admission, question, kind_of(step), now, jitter);
                }
            }
        }
        for admission in out {
            circuit.gave_up(admission);
        }
        now += LONGEST;
        prop_assert!(!matches!(circuit.enter(now), Admission::Refused(_)));
    }

    /// Whatever clients ask for and however it is answered, as long as it is answered: the origin is not shut out.
    #[test]
    fn answers_alone_shut_no_origin_out(questions in prop::collection::vec((any::<u64>(), 0..2000_u64), 0..300)) {
        let (mut circuit, mut now) = (Circuit::new(Scope::Origin), Instant::now());
        for (question, millis) in questions {
            now += Duration::from_millis(millis);
            let admission = circuit.enter(now);
            match admission {
                // `/v2/` answers.
                Admission::Probe(_) => { circuit.succeeded(admission, now); }
                Admission::Pass => {
                    circuit.failed(admission, question, FailureKind::ServerError, now, 1.0);
                }
                Admission::Refused(left) => prop_assert!(false, "refused for {left:?}"),
            }
        }
    }
}
