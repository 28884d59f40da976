//! Integration tests: the program is run, and spoken to over HTTP, between a client and registries that misbehave.
//!
//! Contents, in reading order. A new test goes into the first module whose line is true of it; a module of its own
//! wants a line here. A failure that users of other mirrors had also wants a row in docs/testing.md.
//!
//! What tests stand on:
//! - `support`: the fake registry, the program, the client; `support::scene` has what most tests begin with
//!
//! Pulls, cold and stored:
//! - `herd`: several clients want the same blob at the same time
//! - `wrong_content`: upstream sends bytes that do not match their digest
//! - `tags`: a tag: how often upstream is asked about it, and what is served when upstream is away
//! - `waiting`: upstream is silent, and many ask for the same thing that is stored
//! - `heads`: a HEAD is answered otherwise than a GET
//! - `lengths`: upstream says a length that is not true, or none
//! - `contradictions`: upstream denies what a stored manifest says
//! - `tags_list`: a list of tags
//! - `referrers`: a list of what refers to a manifest
//! - `fallback_tag`: the tag that stands for such a list where a registry has none
//! - `catalog`: the list of what is stored
//! - `search`: a search
//! - `ownership`: one blob and two repositories
//! - `proofs`: what it takes to be believed to have a blob
//! - `sharing`: one transfer for several repositories, and one that must not concern the others
//! - `words`: what is said of a manifest, and its bytes do not prove
//! - `routing`: which registry a request means, and requests that mean none
//! - `ranges`: a part of a blob or several
//! - `sendfile`: a body large enough for `sendfile`
//! - `range_model`: any `Range` at all, against the words of the RFC (property test)
//! - `media_types`: a manifest of a further kind
//! - `headers`: what an answer says about itself
//! - `clients`: what one client program needs, named after it
//! - `any_request`: any request at all (property test)
//! - `lessons`: what users of other mirrors suffered from, if no other module holds it
//!
//! The store:
//! - `crash`: the mirror is killed, and what was committed must be there
//! - `partials`: the mirror is killed or upstream is away, and what has arrived of a blob must be used
//! - `invented`: clients and upstreams say names and sizes that cost room
//! - `limits`: the store is full, or a blob does not fit
//! - `shares`: one registry fills the store
//! - `pins`: what is pinned is never evicted
//! - `store_directory`: a directory that is no store, and other users of the machine
//! - `old_store`: a store that an earlier version wrote
//! - `damage`: a file of the store is damaged, and a client asks for it
//! - `scrub`: a file of the store is damaged, and no client asks for it
//! - `verify`: the command that looks for damage
//! - `trouble`: the disk fails
//!
//! Upstream:
//! - `auth`: tokens, passwords and redirects, and where none of them may go
//! - `messages`: what is said of an upstream that cannot be used
//! - `challenges`: what registries and realms write into challenges and tokens, and several of them on one way
//! - `realms`: a realm that refuses, or fails
//! - `logins`: a user that upstream refuses
//! - `addresses`: where a registry may lead the mirror
//! - `proxy`: how an upstream is reached: proxies, TLS, timeouts
//! - `redirects`: what a registry redirects to
//! - `dead_connections`: connections to upstream that lead nowhere, though new ones work
//! - `labels`: what upstream says it did to a body
//! - `warnings`: what a registry tells people
//! - `endpoints`: several places to ask, several users to be
//! - `prefix`: a registry that has the repositories of another below a path
//! - `resume`: a transfer breaks off and is resumed
//! - `upstream_trouble`: upstream answers nonsense, without end, or with a passing failure
//! - `matrix`: everything that can be asked for, refused everywhere and in every way
//! - `circuit`: upstream keeps failing
//! - `quota`: upstream limits the rate
//! - `rate_limits`: numbers in which upstream tells its limits
//!
//! The server:
//! - `protocols`: HTTP/1.1, HTTP/2 and TLS as such
//! - `connections`: connections that are many, idle or slow
//! - `fairness`: one client takes too much
//! - `hostile`: a client means harm
//! - `memory`: what is long is asked for by many
//! - `access_log`: what a request leaves in the log
//! - `admin`: the admin address: health, metrics, the API
//! - `browsers`: a web page asks, or a person with a browser
//! - `shutdown`: the end of the program
//! - `supervisor`: what supervises the program, and its journal
//! - `commands`: the command line, its messages and its exit codes
//! - `targets`: which mirror or store a command works on, and who may ask the admin API
//! - `prepared`: what `check` and `serve` find out before anything is opened
//!
//! The code and the tests themselves:
//! - `layers`: the arrows of `src/lib.rs`
//! - `fake_registry`: the fake registry does what its faults say
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that panics has failed, which is what it is for"
)]

mod support;

mod access_log;
mod addresses;
mod admin;
mod any_request;
mod auth;
mod browsers;
mod catalog;
mod challenges;
mod circuit;
mod clients;
mod commands;
mod connections;
mod contradictions;
mod crash;
mod damage;
mod dead_connections;
mod endpoints;
mod fairness;
mod fake_registry;
mod fallback_tag;
mod headers;
mod heads;
mod herd;
mod hostile;
mod invented;
mod labels;
mod layers;
mod lengths;
mod lessons;
mod limits;
mod logins;
mod matrix;
mod media_types;
mod memory;
mod messages;
mod old_store;
mod ownership;
mod partials;
mod pins;
mod prefix;
mod prepared;
mod proofs;
mod protocols;
mod proxy;
mod quota;
mod range_model;
mod ranges;
mod rate_limits;
mod realms;
mod redirects;
mod referrers;
mod resume;
mod routing;
mod scrub;
mod search;
mod sendfile;
mod shares;
mod sharing;
mod shutdown;
mod store_directory;
mod supervisor;
mod tags;
mod tags_list;
mod targets;
mod trouble;
mod upstream_trouble;
mod verify;
mod waiting;
mod warnings;
mod words;
mod wrong_content;
