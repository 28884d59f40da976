//! Who may do what: [`authorize`] decides, once for each request.
//!
//! It is asked when the site and the repository are known, and before anything is looked up. A rule that refuses a
//! repository to a client goes here, with a [`Refusal`] of its own; `server/registry/problem.rs` gives that a status.
//! The catalog and a search name many repositories in one answer: such a rule would have to filter these too.

use super::action::{Action, Verb};
use super::caller::Caller;

/// Why a caller may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Changes belong to the registry itself.
    ReadOnly,
}

/// Every caller may pull everything, and no caller may change anything.
pub(crate) fn authorize(_caller: &Caller, action: &Action) -> Result<(), Refusal> {
    match action.verb {
        Verb::Pull => Ok(()),
        Verb::Change => Err(Refusal::ReadOnly),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use prometheus::{IntCounterVec, Opts};

    use crate::access::permits::{PerClient, Shares};
    use crate::oci::endpoint::Kind;

    use super::*;

    #[test]
    fn everything_may_be_pulled_and_nothing_changed() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let limited = IntCounterVec::new(Opts::new("limited", "-"), &["limit", "result"]).unwrap();
        let share = Shares::new(PerClient::default(), 1, limited).of(address);
        let caller = Caller::new(address, share);
        let may = |verb, kind| authorize(&caller, &Action::new(verb, kind));
        for kind in [
            Kind::Base,
            Kind::Manifest,
            Kind::Blob,
            Kind::Catalog,
            Kind::Upload,
        ] {
            assert_eq!(may(Verb::Pull, kind), Ok(()));
            assert_eq!(may(Verb::Change, kind), Err(Refusal::ReadOnly));
        }
    }
}
