//! What is asked: the same value for the rules, the log and the metrics.

use crate::oci::endpoint::Kind;
use crate::oci::name::{Namespace, Repository};

/// What a request would do, and to what.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) verb: Verb,
    pub(crate) kind: Kind,
    /// The site it is for; `None` for all of the mirror, or while no site has been chosen.
    pub(crate) namespace: Option<Namespace>,
    /// By the name that the site has for it; `None` where it is about no single one.
    pub(crate) repository: Option<Repository>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// It reads.
    Pull,
    /// It changes something: a push, or a deletion.
    Change,
}

impl Action {
    /// An action for which no site has been chosen yet.
    pub(crate) fn new(verb: Verb, kind: Kind) -> Self {
        Self {
            verb,
            kind,
            namespace: None,
            repository: None,
        }
    }
}
