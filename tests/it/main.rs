//! Integration tests: the program is run, and spoken to over HTTP, between a client and registries that misbehave.
//!
//! Contents, in reading order:
//! - `support`: the fake registry, the program, the client
//! - `fake_registry`: the fake registry does what its faults say
//! - `herd`: many clients, one transfer; none waits for another, none spoils it for another
//! - `wrong_content`: what does not match its digest reaches nobody whole and is not kept
//! - `tags`: upstream is asked as rarely as promised, and its outages are not the clients'
//! - `tags_list`: lists of tags, in pages, through outages
//! - `referrers`: what refers to a manifest, by upstream's API or by the fallback tag
//! - `catalog`: what is stored, by names that can be pulled
//! - `search`: upstream's search, passed on
//! - `ownership`: a blob is read only under a repository that has it
//! - `routing`: every way to name a registry, and every way to name none
//! - `ranges`: parts of blobs, stored and cold
//! - `sendfile`: large bodies past our memory, byte for byte
//! - `range_model`: any `Range` at all, against the words of the RFC
//! - `clients`: every obligation towards a client, by the client's name
//! - `media_types`: manifests of any kind pass through byte by byte
//! - `any_request`: requests of no kind at all
//! - `auth`: tokens, passwords, redirects; and where none of them may go
//! - `headers`: what every answer says about itself
//! - `lessons`: what users of other mirrors suffered from
//! - `layers`: the arrows of `src/lib.rs`
//! - `crash`: killed at any instant, nothing committed is lost and nothing wrong is served
//! - `limits`: the store stays within its limit, and what has no room passes through
//! - `damage`: what is damaged on disk is fetched again and not served
//! - `scrub`: what is damaged on disk is found though nobody asks for it
//! - `verify`: what is damaged on disk is found because somebody asks, running or not
//! - `pins`: what is pinned is never evicted
//! - `admin`: the admin API, and who may not use it
//! - `server`: limits of connections, TLS and HTTP/2, the admin address, the log, the end
//! - `circuit`: an upstream that keeps failing is left alone, and noticed when it is back
//! - `quota`: limits of rate are told apart, honoured, and not run into
//! - `endpoints`: several places to ask, several to be
//! - `upstream_trouble`: lies, endless answers and passing failures end in time, and in clear words
//! - `fairness`: one greedy client cannot starve the rest
//! - `hostile`: clients that mean harm, byte by byte and frame by frame
//! - `resume`: a transfer that breaks off goes on where it was
//! - `partials`: also across a crash and a long outage
//! - `trouble`: a disk that fails costs no pull
//! - `proxy`: upstreams through proxies and over TLS, and upstreams that are silent or gone
//! - `commands`: the command line, its messages and its exit codes
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that panics has failed, which is what it is for"
)]

mod support;

mod admin;
mod any_request;
mod auth;
mod catalog;
mod circuit;
mod clients;
mod commands;
mod crash;
mod damage;
mod endpoints;
mod fairness;
mod fake_registry;
mod headers;
mod herd;
mod hostile;
mod layers;
mod lessons;
mod limits;
mod media_types;
mod ownership;
mod partials;
mod pins;
mod proxy;
mod quota;
mod range_model;
mod ranges;
mod referrers;
mod resume;
mod routing;
mod scrub;
mod search;
mod sendfile;
mod server;
mod tags;
mod tags_list;
mod trouble;
mod upstream_trouble;
mod verify;
mod wrong_content;
