//! No file of the program may import against the arrows of `src/lib.rs`, nor know what its folder must not know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each top-level module may import, in the reading order of `src/lib.rs`. A new module needs a line here, and a
/// new arrow a good reason.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "api", "app", "config", "logging", "metrics", "mirror", "oci", "secret", "sites",
            "store", "upstream",
        ],
    ),
    // Wires everything together.
    (
        "app",
        &[
            "access", "config", "logging", "metrics", "mirror", "oci", "secret", "server", "sites",
            "store", "upstream",
        ],
    ),
    // Settings live with their component, so the configuration knows all components, and none knows it.
    (
        "config",
        &[
            "access", "logging", "mirror", "oci", "secret", "server", "sites", "store", "upstream",
        ],
    ),
    (
        "server",
        &[
            "access", "api", "headers", "metrics", "mirror", "oci", "sites", "store", "upstream",
        ],
    ),
    (
        "mirror",
        &[
            "access", "flight", "headers", "metrics", "oci", "sites", "store", "upstream",
        ],
    ),
    // These two never import each other.
    ("store", &["flight", "metrics", "oci"]),
    (
        "upstream",
        &["flight", "headers", "metrics", "oci", "secret", "sites"],
    ),
    ("sites", &["oci"]),
    ("access", &["oci"]),
    // Leaves: nothing of ours.
    ("api", &[]),
    ("oci", &[]),
    ("headers", &[]),
    ("flight", &[]),
    ("metrics", &[]),
    ("logging", &[]),
    ("secret", &[]),
];

/// Further things that files must not name: where (a folder or file below `src`), except where, and what.
const FORBIDDEN: &[(&str, &[&str], &[&str])] = &[
    // The store knows no HTTP, and no network.
    (
        "store",
        &[],
        &["http::", "http_body", "hyper", "tokio::net", "std::net"],
    ),
    // Upstreams know no disk, except for secrets and certificates.
    (
        "upstream",
        &["upstream/login/password.rs", "upstream/wire/connect.rs"],
        &["std::fs", "tokio::fs", "File::open"],
    ),
    // Whether something is fresh is computed, with the time as an argument.
    (
        "mirror/freshness.rs",
        &[],
        &["SystemTime", "Instant", "std::fs", "tokio", "async "],
    ),
    // The mirror answers with values; HTTP towards clients is the server's. A delivery hands on a file that is open.
    (
        "mirror",
        &["mirror/blob/delivery.rs"],
        &["hyper", "http_body", "std::fs", "tokio::fs"],
    ),
    // What to send next, and from where, is the mirror's to decide.
    ("server/body", &[], &["crate::store", "crate::upstream"]),
    ("oci", &[], &["hyper", "tokio", "std::fs", "std::net::Tcp"]),
    ("headers", &[], &["hyper", "tokio", "std::fs"]),
    // Only the server knows hyper's server side.
    ("upstream", &[], &["hyper::server", "hyper_util::server"]),
    ("app", &[], &["hyper::server", "hyper_util::server"]),
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .flat_map(|entry| files_below(&entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    files
}

/// A file's path below `src`, and its code: no comments, no text in quotes.
fn code() -> Vec<(String, String)> {
    let src = src();
    let files = files_below(&src);
    assert!(
        files.len() > 20,
        "the sources are where they are looked for"
    );
    files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().display().to_string();
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines().map(|line| line.split("//").next().unwrap());
            (name, lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// The top-level module a file belongs to.
fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// First components of all `crate::` paths, those in braces included.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, matched) in code.match_indices("crate::") {
        // `pub(crate)` has no colons; `some_crate::` is another crate.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + matched.len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(firsts_of(list)),
            None => found.extend(identifier(rest)),
        }
    }
    found
}

/// The first component of each path of a list in braces whose opening one is gone already.
fn firsts_of(list: &str) -> Vec<String> {
    let (mut depth, mut item, mut firsts) = (0, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => firsts.extend(identifier(item.drain(..).as_str())),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    firsts.extend(identifier(&item));
    firsts
}

fn identifier(text: &str) -> Option<String> {
    let end = |c: char| !(c.is_alphanumeric() || c == '_');
    let word = text.trim_start().split(end).next()?;
    (!word.is_empty()).then(|| word.to_owned())
}

#[test]
fn imports_are_found_however_they_are_written() {
    let found = |code| imports(code).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::oci::name::Tag;"), ["oci"]);
    assert_eq!(
        found("use crate::{logging, server::{self, tls}, store};"),
        ["logging", "server", "store"]
    );
    assert_eq!(found("fn f(x: &crate::config::Config) {}"), ["config"]);
    assert_eq!(
        found("use other_crate::thing; pub(crate) fn f() {}"),
        <[&str; 0]>::default()
    );
}

#[test]
fn no_file_imports_against_the_arrows() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut against = Vec::new();
    for (file, code) in code() {
        let module = module_of(&file);
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(allowed) = allowed.get(module) else {
            panic!("src/{file} belongs to a module without a line in the table of this test");
        };
        for import in imports(&code) {
            if import != module && !allowed.contains(&&*import) {
                against.push(format!("src/{file} imports crate::{import}"));
            }
        }
    }
    assert_eq!(against, <Vec<String>>::new());
}

#[test]
fn the_table_has_no_cycle() {
    let position = |name: &str| ALLOWED.iter().position(|(module, _)| *module == name);
    for (index, (module, imports)) in ALLOWED.iter().enumerate() {
        for import in *imports {
            let below = position(import).is_some_and(|position| position > index);
            assert!(below, "{module} may import {import}, which is not below it");
        }
    }
}

#[test]
fn the_map_has_every_module_and_defines_nothing() {
    let map = std::fs::read_to_string(src().join("lib.rs")).unwrap();
    for (module, _) in ALLOWED {
        assert!(map.contains(&format!("mod {module};")), "{module}");
        assert!(map.contains(&format!("[`{module}`]")), "{module}");
    }
    let code = map.lines().filter(|line| !line.starts_with("//"));
    for line in code.filter(|line| !line.is_empty()) {
        let module = line.strip_prefix("pub ").unwrap_or(line);
        assert!(module.starts_with("mod "), "{line}");
    }
}

#[test]
fn no_file_names_what_its_folder_must_not_know() {
    let mut named = Vec::new();
    let code = code();
    for (place, except, words) in FORBIDDEN {
        let inside = |file: &str| {
            (file == *place
                || file.starts_with(&format!("{place}/"))
                || file == format!("{place}.rs"))
                && !except.contains(&file)
        };
        let files: Vec<_> = code.iter().filter(|(file, _)| inside(file)).collect();
        assert!(!files.is_empty(), "{place} is gone; so should be its rule");
        for (file, code) in files {
            // What a module's own tests use is their business.
            let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
            for word in words.iter().filter(|word| names(code, word)) {
                named.push(format!("src/{file} names {word}"));
            }
        }
    }
    assert_eq!(named, <Vec<String>>::new());
}

/// Whether the word stands in the code, not as the end of a longer one.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}
