//! The shape of the program: which way the arrows point, between folders and inside them; what a folder must not
//! know; how large a file and a function may be. A rule about the sources belongs here.

mod source;
mod tables;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use source::{Sources, below, foreign_impls, paths, types_defined};
use tables::{ALLOWED, FORBIDDEN, INSIDE};
use text::{bare, functions};

/// The longest file, tests included, and the longest function.
const LINES_OF_A_FILE: usize = 500;
const LINES_OF_A_FUNCTION: usize = 80;

fn order(folder: &str) -> Option<Vec<&'static str>> {
    let row = INSIDE.iter().find(|(name, _)| *name == folder)?;
    let order: Vec<_> = row.1.split(' ').collect();
    let top = if order.contains(&"mod") {
        None
    } else {
        Some("mod")
    };
    Some(top.into_iter().chain(order).collect())
}

/// The folder that two files have in common, and what each is in it; the folder's own `mod.rs` is `None`.
fn meet<'a>(one: &'a [String], other: &'a [String]) -> (String, Option<&'a str>, Option<&'a str>) {
    let common = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let at = |module: &'a [String]| module.get(common).map(String::as_str);
    (one[..common].join("/"), at(one), at(other))
}

#[test]
fn paths_are_found_however_they_are_written() {
    let found = |code: &str| {
        let paths = paths(&bare(code)).into_iter();
        paths.map(|path| path.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(
        found("use crate::oci::name::Tag;"),
        ["crate::oci::name::Tag"]
    );
    assert_eq!(
        found("use crate::{logging, server::{self, tls as t}, store};"),
        [
            "crate::logging",
            "crate::server",
            "crate::server::tls",
            "crate::store"
        ]
    );
    assert_eq!(
        found("fn f(x: &crate::config::Config) {}"),
        ["crate::config::Config"]
    );
    assert_eq!(found("let x = layout::Key::of(1);"), ["layout::Key::of"]);
    assert_eq!(
        found("// crate::a::b\nlet x = \"crate::c::d\"; let c = '\"'; x::y"),
        ["x::y"]
    );
}

#[test]
fn arrows_are_found_through_reexports_and_methods() {
    let text = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let sources = Sources::of([
        text(
            "a/mod.rs",
            "mod low;\nmod high;\npub use low::Thing;\npub struct Own;",
        ),
        text(
            "a/low.rs",
            "pub struct Thing;\nimpl Thing { pub fn unusual(&self) {} }",
        ),
        text("a/high.rs", "use super::Thing;\nfn f(x: &super::Own) {}"),
        text("a/far.rs", "fn g(x: X) { x.unusual(); }"),
        text(
            "b.rs",
            "fn g(x: X) { x.unusual(); }\n#[cfg(test)]\nmod tests { use crate::a::high; }",
        ),
    ]);
    let expected = [
        ("a/far.rs", "a/low.rs"),
        ("a/high.rs", "a/low.rs"),
        ("a/high.rs", "a/mod.rs"),
    ];
    let arrows = sources.arrows();
    let found: Vec<_> = arrows.keys().copied().collect();
    assert_eq!(found, expected);
    assert_eq!(arrows[&("a/far.rs", "a/low.rs")], ".unusual()");
}

#[test]
fn no_file_imports_against_the_arrows() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let (sources, mut against) = (Sources::read(), Vec::new());
    let mut unused: BTreeSet<(&str, &str)> = ALLOWED
        .iter()
        .flat_map(|(module, imports)| imports.iter().map(|import| (*module, *import)))
        .collect();
    for file in sources.files() {
        let module = file.module[0].as_str();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(allowed) = allowed.get(module) else {
            panic!(
                "src/{} belongs to a module without a line in the table of this test",
                file.name
            );
        };
        for path in &paths(&file.code) {
            let Some(import) = path.get(1).filter(|_| path[0] == "crate") else {
                continue;
            };
            unused.retain(|arrow| *arrow != (module, import.as_str()));
            if import != module && !allowed.contains(&&**import) {
                against.push(format!("src/{} imports crate::{import}", file.name));
            }
        }
    }
    assert_eq!(against, <Vec<String>>::new());
    assert_eq!(unused, BTreeSet::new(), "arrows that the program has not");
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
fn every_file_of_a_folder_has_its_place_in_the_reading_order() {
    let sources = Sources::read();
    let folders: BTreeSet<_> = sources
        .files()
        .iter()
        .flat_map(|file| (1..file.module.len()).map(|depth| file.module[..depth].to_vec()))
        .collect();
    for folder in &folders {
        let name = folder.join("/");
        let mut found: BTreeSet<_> = order(&name).unwrap_or_default().into_iter().collect();
        found.remove("mod");
        assert_eq!(
            found,
            sources.children(folder),
            "src/{name} in the table of this test"
        );
    }
    assert_eq!(INSIDE.len(), folders.len(), "a folder of the table is gone");
}

#[test]
fn inside_a_folder_the_arrows_point_one_way() {
    let (sources, mut against) = (Sources::read(), Vec::new());
    for ((user, used), why) in sources.arrows() {
        let (from, to) = (source::module_of(user), source::module_of(used));
        let (folder, from, to) = meet(&from, &to);
        let Some(order) = order(&folder) else {
            continue;
        };
        let place = |name: Option<&str>| {
            let name = name.unwrap_or("mod");
            order.iter().position(|child| *child == name)
        };
        if place(from) >= place(to) {
            against.push(format!("{user} uses {used}: {why}"));
        }
    }
    assert_eq!(against, <Vec<String>>::new());
}

#[test]
fn a_type_has_its_methods_where_it_is_defined() {
    let mut apart = Vec::new();
    for file in Sources::read().files() {
        let types = foreign_impls(&file.code);
        apart.extend(
            types
                .into_iter()
                .map(|name| format!("src/{}: impl {name}", file.name)),
        );
    }
    assert_eq!(apart, <Vec<String>>::new());
}

/// Public are only functions that other crates name: fuzz targets, benchmarks, the binary. Of all others the compiler
/// finds which are dead.
/// A reader who meets a name need not ask which of several things it means. Each component has its `Settings` and its
/// `Error`, and its module's name stands before them.
#[test]
fn a_type_name_means_one_thing() {
    let sources = Sources::read();
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in sources.files() {
        for name in types_defined(&file.code) {
            places.entry(name).or_default().push(&file.name);
        }
    }
    places.retain(|name, files| files.len() > 1 && !["Settings", "Error"].contains(name));
    assert_eq!(places, BTreeMap::new());
}

#[test]
fn public_functions_are_used_from_outside() {
    let outside: Vec<_> = ["fuzz/fuzz_targets", "benches"]
        .into_iter()
        .flat_map(below)
        .collect();
    let outside: String = outside
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let mut unused = Vec::new();
    for file in Sources::read()
        .files()
        .iter()
        .filter(|file| file.module[0] != "main")
    {
        for function in source::public_functions(&file.code) {
            if function != "run" && !names(&outside, function) {
                unused.push(format!("src/{}: pub fn {function}", file.name));
            }
        }
    }
    assert_eq!(unused, <Vec<String>>::new());
}

#[test]
fn files_and_functions_are_short_enough_to_read() {
    let mut long = Vec::new();
    for path in ["src", "tests", "benches", "fuzz/fuzz_targets"]
        .into_iter()
        .flat_map(below)
    {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > LINES_OF_A_FILE {
            long.push(format!("{} has {lines} lines", path.display()));
        }
        for (name, line, lines) in functions(&text) {
            if lines > LINES_OF_A_FUNCTION {
                long.push(format!(
                    "{}:{line}: {name} has {lines} lines",
                    path.display()
                ));
            }
        }
    }
    assert_eq!(long, <Vec<String>>::new());
}

#[test]
fn functions_are_measured_from_their_name_to_their_brace() {
    let text = "fn a() {}\npub(crate) async fn b(\n    x: u8,\n) {\n    x;\n}\ntrait T {\n    fn c(&self)\n    -> u8;\n}\n";
    let expected = [("a", 1, 1), ("b", 2, 5), ("c", 8, 1)];
    let expected = expected.map(|(name, line, lines)| (name.to_owned(), line, lines));
    assert_eq!(functions(text), expected);
}

#[test]
fn the_map_has_every_module_and_defines_nothing() {
    let map = std::fs::read_to_string(
        below("src")
            .iter()
            .find(|path| path.ends_with("src/lib.rs"))
            .unwrap(),
    )
    .unwrap();
    for (module, _) in ALLOWED {
        assert!(map.contains(&format!("mod {module};")), "{module}");
        assert!(map.contains(&format!("`{module}`")), "{module}");
    }
    let code = map.lines().filter(|line| !line.starts_with("//"));
    for line in code.filter(|line| !line.is_empty()) {
        assert!(
            line.starts_with("pub mod ") || line.starts_with("mod "),
            "{line}"
        );
    }
}

#[test]
fn no_file_names_what_its_folder_must_not_know() {
    let (sources, mut named) = (Sources::read(), Vec::new());
    for (place, except, words) in FORBIDDEN {
        let inside = |file: &str| {
            (file == *place
                || file.starts_with(&format!("{place}/"))
                || file == format!("{place}.rs"))
                && !except.contains(&file)
        };
        let files: Vec<_> = sources
            .files()
            .iter()
            .filter(|file| inside(&file.name))
            .collect();
        assert!(!files.is_empty(), "{place} is gone; so should be its rule");
        for file in files {
            for word in words.iter().filter(|word| names(&file.code, word)) {
                named.push(format!("src/{} names {word}", file.name));
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
