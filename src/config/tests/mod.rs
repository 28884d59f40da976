//! What the configuration promises, seen from outside: text in; settings, or mistakes as they are printed, out.
//!
//! Reading order: `sources` (where a value comes from), `upstreams`, `refused` (what is refused, and in which words).

use super::*;

mod refused;
mod sources;
mod upstreams;

const SECRET: &str = "hunter2";

fn environment(variables: &[(&str, &str)]) -> Environment {
    let home = [("HOME", "/home/u")];
    home.iter()
        .chain(variables)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, "p.toml", &Overrides::default(), &environment(&[]))
}

fn parse_in(text: &str, variables: &[(&str, &str)]) -> Result<Config, Mistakes> {
    Config::parse(
        text,
        "p.toml",
        &Overrides::default(),
        &environment(variables),
    )
}

/// All mistakes of a document, as printed.
fn mistakes(text: &str) -> String {
    let printed = parse(text).unwrap_err().to_string();
    assert!(!printed.contains(SECRET), "{printed}");
    printed
}

/// The document has this one mistake and no other.
fn check(text: &str, expected: &str) {
    assert_eq!(mistakes(text), expected, "{text}");
}

fn upstream_of(config: &Config, namespace: &str) -> UpstreamConfig {
    config
        .upstreams
        .iter()
        .find(|upstream| upstream.settings.namespace.as_str() == namespace)
        .unwrap()
        .clone()
}
