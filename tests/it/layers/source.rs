//! The program's sources as data: files, the modules they are, the paths they name, the methods they have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::text::{bare, is_word};

/// One file below `src`.
pub struct File {
    /// Its path below `src`, such as `store/room/index.rs`.
    pub name: String,
    /// The module it is: `["store", "room", "index"]`; a `mod.rs` is the folder.
    pub module: Vec<String>,
    /// Its code without comments, without what is quoted, and without its inline tests.
    pub code: String,
}

/// All files of `src` that are not tests alone.
pub struct Sources {
    files: Vec<File>,
    by_module: BTreeMap<Vec<String>, usize>,
}

pub fn below(folder: &str) -> Vec<PathBuf> {
    fn files(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).unwrap();
            entries.for_each(|entry| files(&entry.unwrap().path(), found));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.to_owned());
        }
    }
    let mut found = Vec::new();
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
        &mut found,
    );
    found.sort();
    assert!(
        !found.is_empty(),
        "there are no sources in {folder}/, where they are looked for"
    );
    found
}

impl Sources {
    pub fn read() -> Self {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let texts = below("src").into_iter().map(|path| {
            let name = path.strip_prefix(&src).unwrap().display().to_string();
            (name, std::fs::read_to_string(path).unwrap())
        });
        let sources = Self::of(texts);
        assert!(sources.files.len() > 20);
        sources
    }

    pub fn of(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let files: Vec<_> = texts
            .into_iter()
            .filter(|(name, _)| !name.ends_with("tests.rs") && !name.contains("/tests/"))
            .map(|(name, text)| File {
                module: module_of(&name),
                code: without_tests(&bare(&text)),
                name,
            })
            .collect();
        let modules = files.iter().enumerate();
        let by_module = modules
            .map(|(index, file)| (file.module.clone(), index))
            .collect();
        Self { files, by_module }
    }

    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// The modules directly below a folder.
    pub fn children<'a>(&'a self, folder: &'a [String]) -> BTreeSet<&'a str> {
        let below = self.files.iter().filter_map(|file| {
            let rest = file.module.strip_prefix(folder)?;
            rest.first().map(String::as_str)
        });
        below.collect()
    }

    /// Each pair of files of which the first uses the second, with the path that says so, or the method that only
    /// the second has.
    pub fn arrows(&self) -> BTreeMap<(&str, &str), String> {
        let owners = self.owners_of_methods();
        let mut arrows = BTreeMap::new();
        for file in &self.files {
            let passed_on = passed_on(&file.code);
            let named = paths(&file.code).into_iter().filter_map(|path| {
                if passed_on.contains(&path) {
                    return None;
                }
                let target = self.resolve(&file.module, &path, 0)?;
                Some((target, path.join("::")))
            });
            let called = methods_called(&file.code).into_iter().filter_map(|method| {
                let owner = owners.get(method).copied()?;
                // Between folders a method needs a value of a type that an import names.
                let near = self.files[owner].module.first() == file.module.first();
                near.then(|| (owner, format!(".{method}()")))
            });
            for (target, why) in named.chain(called) {
                let target = &self.files[target];
                if target.name != file.name {
                    arrows.entry((&*file.name, &*target.name)).or_insert(why);
                }
            }
        }
        arrows
    }

    /// The file in which the thing is that `path` names, as seen from `module`. What a module passes on
    /// (`pub use`) is where it was defined.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<usize> {
        let mut at = module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {}
            child => {
                at.push(child.to_owned());
                if !self.by_module.contains_key(&at) {
                    return None;
                }
                rest = &rest[1..];
            }
        }
        while let Some(("super", after)) = rest.split_first().map(|(a, b)| (a.as_str(), b)) {
            at.pop();
            rest = after;
        }
        while let Some((next, after)) = rest.split_first() {
            at.push(next.clone());
            if !self.by_module.contains_key(&at) {
                at.pop();
                return self.exported(&at, next, depth);
            }
            rest = after;
        }
        self.by_module.get(&at).copied()
    }

    fn exported(&self, module: &[String], item: &str, depth: usize) -> Option<usize> {
        let index = *self.by_module.get(module)?;
        let code = &self.files[index].code;
        if depth < 4 && !defines(code, item) {
            for (path, name) in used(code) {
                let target = match name.as_str() {
                    "*" => self
                        .resolve(module, &path, depth + 1)
                        .filter(|index| defines(&self.files[*index].code, item)),
                    name if name == item => self.resolve(module, &path, depth + 1),
                    _ => None,
                };
                if target.is_some() {
                    return target;
                }
            }
        }
        Some(index)
    }

    /// Methods that one file alone has and the standard library has not.
    fn owners_of_methods(&self) -> BTreeMap<&str, usize> {
        let mut owners: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (index, file) in self.files.iter().enumerate() {
            for method in methods_of(&file.code) {
                owners.entry(method).or_default().insert(index);
            }
        }
        let alone = owners.into_iter().filter_map(|(method, files)| {
            let file = files.first().copied()?;
            (files.len() == 1 && !COMMON.split_whitespace().any(|common| common == method))
                .then_some((method, file))
        });
        alone.collect()
    }
}

/// Methods that values of other libraries have too: a call says nothing about whose it is.
const COMMON: &str = "
    abort acquire address and_then answer as_bytes as_ref as_str build bytes chain clear clone close cmp
    collect contains count drain drop end entry eq err exists extend fetch file fill filter find first
    flush fmt forget get get_mut get_or hash header headers hex inc insert into_bytes into_response
    invalidate is_empty is_some iter join key keys kind last len length lock map matches message method
    modified name namespace new next notify observe ok open parse part path permit poll poll_frame
    poll_ready pop position push put read ready record remove render reserve resolve retain run send set
    size size_hint sort source space split start state status stop store strip_prefix take text to_bytes
    to_header to_owned to_string touch update uri url value values wait within write";

/// The module that a file is.
pub fn module_of(name: &str) -> Vec<String> {
    let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
    name.split('/').map(str::to_owned).collect()
}

fn without_tests(code: &str) -> String {
    code.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .to_owned()
}

/// All paths of at least two parts, those of `use` with their braces spelled out.
pub fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let mut found: BTreeSet<_> = used(code).into_iter().map(|(path, _)| path).collect();
    let mut rest = code;
    while let Some(at) = rest.find("::") {
        let before = &rest[..at];
        let start = before.rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
        // Who may see a thing is no use of it.
        let begins = !before[..start].ends_with("::") && !before[..start].ends_with("pub(in ");
        let length = rest[start..]
            .find(|c: char| !is_word(c) && c != ':')
            .unwrap_or(rest.len() - start);
        let path = rest[start..start + length].trim_end_matches(':');
        if begins && path.contains("::") {
            found.insert(path.split("::").map(str::to_owned).collect());
        }
        rest = &rest[(start + length).max(at + 2)..];
    }
    found
}

/// What a file passes on from a module below it (`pub use`) and does not use itself.
fn passed_on(code: &str) -> BTreeSet<Vec<String>> {
    let public = uses(code, |words| words.starts_with("pub"));
    let only_once = |name: &str| {
        let places = code.match_indices(name).filter(|(at, _)| {
            !code[..*at].ends_with(is_word) && !code[at + name.len()..].starts_with(is_word)
        });
        places.count() == 1
    };
    let passed = public.into_iter().filter(|(path, name)| {
        !matches!(path[0].as_str(), "crate" | "super" | "self") && only_once(name)
    });
    passed.map(|(path, _)| path).collect()
}

/// What each `use` brings: its path and the name it has here.
pub fn used(code: &str) -> Vec<(Vec<String>, String)> {
    uses(code, |words| words.is_empty() || words.starts_with("pub"))
}

/// The same of those with such words before `use`.
fn uses(code: &str, wanted: impl Fn(&str) -> bool) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].trim_end_matches(|c| c != '\n').len();
        if !wanted(code[before..at].trim()) {
            continue;
        }
        let tree = code[at + 4..].split(';').next().unwrap();
        spell_out(&mut Vec::new(), tree, &mut found);
    }
    found
}

fn spell_out(before: &mut Vec<String>, tree: &str, found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some((path, inner)) = tree.split_once('{') {
        let depth = before.len();
        let parts = path.split("::").map(str::trim);
        before.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
        let inner = &inner[..inner.rfind('}').unwrap_or(inner.len())];
        for part in list(inner) {
            spell_out(before, part, found);
        }
        before.truncate(depth);
        return;
    }
    let (path, name) = tree
        .split_once(" as ")
        .map_or((tree, None), |(path, name)| (path, Some(name)));
    let mut whole = before.clone();
    let parts = path.split("::").map(str::trim);
    whole.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
    if whole.last().is_some_and(|last| last == "self") && whole.len() > 1 {
        whole.pop();
    }
    let Some(last) = whole.last().cloned() else {
        return;
    };
    if last == "*" {
        whole.pop();
    }
    found.push((whole, name.map_or(last, |name| name.trim().to_owned())));
}

/// The items of a list whose braces may hold further lists.
fn list(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&text[start..]);
    items.retain(|item| !item.trim().is_empty());
    items
}

/// Whether the code defines an item of that name.
pub fn defines(code: &str, item: &str) -> bool {
    const KINDS: &[&str] = &[
        "struct ",
        "enum ",
        "fn ",
        "const ",
        "static ",
        "type ",
        "trait ",
        "macro_rules! ",
        "union ",
    ];
    KINDS.iter().any(|kind| {
        let words = format!("{kind}{item}");
        let mut places = code.match_indices(&words);
        let ends = |at: usize| !code[at + kind.len() + item.len()..].starts_with(is_word);
        places.any(|(at, _)| ends(at) && !code[..at].ends_with(is_word))
    })
}

/// Names of the methods that take `self`.
/// Names of the types and traits that a file defines. What is indented belongs to a trait or a function.
pub fn types_defined(code: &str) -> Vec<&str> {
    let name = |line: &'_ str| -> Option<(usize, usize)> {
        let words = ["struct ", "enum ", "trait ", "type "];
        let visible = line.strip_prefix("pub").map_or(line, |rest| {
            let rest = rest.trim_start();
            rest.strip_prefix('(')
                .and_then(|rest| rest.split_once(')'))
                .map_or(rest, |(_, rest)| rest.trim_start())
        });
        let rest = words.iter().find_map(|word| visible.strip_prefix(word))?;
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let start = line.len() - rest.len();
        Some((start, start + end))
    };
    code.lines()
        .filter_map(|line| name(line).map(|(start, end)| &line[start..end]))
        .collect()
}

fn methods_of(code: &str) -> BTreeSet<&str> {
    let functions = code.match_indices("fn ").filter_map(|(at, _)| {
        let rest = &code[at + 3..];
        let name = &rest[..rest.find(|c| !is_word(c))?];
        let parameters = &rest[rest.find('(')? + 1..];
        let first = parameters.split([',', ')']).next()?;
        let first = first.split(':').next()?.trim();
        first.ends_with("self").then_some(name)
    });
    functions.filter(|name| !name.is_empty()).collect()
}

pub fn public_functions(code: &str) -> Vec<&str> {
    let lines = code
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("pub "));
    let functions = lines.filter_map(|line| line.split_once("fn "));
    let names = functions.filter_map(|(_, rest)| rest.split(|c| !is_word(c)).next());
    names.filter(|name| !name.is_empty()).collect()
}

fn methods_called(code: &str) -> BTreeSet<&str> {
    let calls = code.match_indices('.').filter_map(|(at, _)| {
        let rest = &code[at + 1..];
        let name = &rest[..rest.find(|c| !is_word(c))?];
        rest[name.len()..].starts_with('(').then_some(name)
    });
    calls.filter(|name| !name.is_empty()).collect()
}

/// The types whose own methods (`impl Type`, not a trait's) a file has, and does not define.
pub fn foreign_impls(code: &str) -> Vec<String> {
    let impls = code.lines().filter(|line| line.starts_with("impl"));
    let names = impls.filter_map(|line| {
        let line = line.strip_prefix("impl")?;
        let rest = match line.strip_prefix('<') {
            Some(generic) => generic_end(generic)?,
            None => line,
        };
        let head = rest.split('{').next()?.trim();
        if head.contains(" for ") || head.ends_with(" for") || !rest.contains('{') {
            return None;
        }
        let name: String = head.chars().take_while(|c| is_word(*c)).collect();
        (!name.is_empty() && !defines(code, &name)).then_some(name)
    });
    names.collect()
}

fn generic_end(text: &str) -> Option<&str> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '<') - i32::from(c == '>' && !text[..at].ends_with('-'));
        if depth == 0 {
            return Some(&text[at + 1..]);
        }
    }
    None
}
