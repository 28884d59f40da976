//! Reads a TOML document: which value stands where. What the values mean is decided later.
//!
//! The document is walked by hand rather than deserialised, because serde stops at the first mistake.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys;
use super::mistake::{Fault, Location, Mistakes, Reported};
use super::value::{TableEntry, Value};
use super::written::{Section, Written};
use crate::secret::Secret;

/// Reads a document. Mistakes are noted; if it is not TOML, nothing is returned, because the rest cannot be trusted.
pub(super) fn read(text: &str, origin: &str, mistakes: &mut Mistakes) -> Result<Written, Reported> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut walk = DocumentWalk {
        text,
        origin,
        mistakes,
        written: Written::default(),
    };
    if errors.is_empty() {
        walk.root(entries(document.into_inner()));
        return Ok(walk.written);
    }
    for error in errors {
        // Only the message: printed whole, the error would quote the line, and the line may hold a password.
        let fault = Fault::new(
            format!("not TOML: {}", error.message()),
            "the rest is checked once this is corrected",
        );
        let location = walk.location(&error.span().unwrap_or_default());
        walk.mistakes.note(location, None, fault);
    }
    Err(Reported)
}

/// The entries of a table in the order of the text; the parser sorts them by name.
fn entries(table: DeTable<'_>) -> Vec<TableEntry> {
    let entry = |(name, value): (Spanned<DeString<'_>>, Spanned<DeValue<'_>>)| TableEntry {
        name_span: name.span(),
        name: name.into_inner().into_owned(),
        value_span: value.span(),
        value: convert(value.into_inner()),
    };
    let mut entries: Vec<_> = table.into_iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.name_span.start);
    entries
}

/// Takes a value out of the parser's tree, so that every text is wiped once it is not needed, used or not.
fn convert(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(Secret::new(text.into_owned())),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Array(values) => {
            let convert = |value: Spanned<_>| (value.span(), convert(value.into_inner()));
            Value::List(values.into_iter().map(convert).collect())
        }
        // A number too large even for this is kept as it is, and refused where it is read.
        DeValue::Integer(number) => {
            let decimal = i128::from_str_radix(number.as_str(), number.radix())
                .map(|number| number.to_string());
            Value::Integer(decimal.unwrap_or_else(|_| number.to_string()))
        }
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(table) => Value::Table(entries(table)),
    }
}

/// The one key whose value is a list of tables.
const MORE_CREDENTIALS: &str = "more_credentials";

struct DocumentWalk<'a> {
    text: &'a str,
    origin: &'a str,
    mistakes: &'a mut Mistakes,
    written: Written,
}

impl DocumentWalk<'_> {
    fn root(&mut self, table: Vec<TableEntry>) {
        for entry in table {
            let section = keys::section(&entry.name);
            match entry.value {
                Value::Table(tables) if entry.name == "upstream" => {
                    self.upstreams(tables, &entry.name_span);
                }
                Value::Table(table) if section.is_some() => {
                    for entry in table {
                        self.plain(section.unwrap_or_default(), entry);
                    }
                }
                _ if entry.name == "upstream" || section.is_some() => {
                    let example = match section {
                        Some(section) => format!("[{section}]"),
                        None => "[upstream.\"docker.io\"]".to_owned(),
                    };
                    let fault = Fault::new(
                        "is not a table",
                        format!("write {example} on a line of its own, and its keys below"),
                    );
                    self.note(&entry.name_span, &entry.name, fault);
                }
                _ => self.plain(keys::TOP, entry),
            }
        }
    }

    /// A key of a table that exists once.
    fn plain(&mut self, section: &'static str, entry: TableEntry) {
        match keys::find(section, &entry.name) {
            Some(key) => {
                let location = self.location(&entry.value_span);
                self.written.plain(section).push(key, entry.value, location);
            }
            None => self.unknown(section, section, &entry),
        }
    }

    fn upstreams(&mut self, tables: Vec<TableEntry>, span: &Range<usize>) {
        if tables.is_empty() {
            let right = "write [upstream.\"docker.io\"], or leave it out";
            self.note(span, "upstream", Fault::new("names no registry", right));
        }
        for entry in tables {
            match entry.value {
                Value::Table(table) => self.upstream(&entry.name, &entry.name_span, table),
                _ => {
                    let path = keys::path("upstream", &bare(&entry.name));
                    let right = format!("write [upstream.{:?}] and the keys below", entry.name);
                    let fault = Fault::new("is not a table", right);
                    self.note(&entry.name_span, &path, fault);
                }
            }
        }
    }

    fn upstream(&mut self, namespace: &str, span: &Range<usize>, table: Vec<TableEntry>) {
        let label = keys::path("upstream", &bare(namespace));
        let mut section = Section::upstream(namespace, Some(self.location(span)));
        for entry in table {
            if entry.name == MORE_CREDENTIALS {
                section.further_logins = self.more_credentials(namespace, &label, entry);
                continue;
            }
            match (keys::find(keys::UPSTREAM, &entry.name), &entry.value) {
                (Some(key), _) => {
                    section.push(key, entry.value, self.location(&entry.value_span));
                }
                (None, Value::Table(inner))
                    if !keys::is_planned(&keys::path(keys::UPSTREAM, &entry.name)) =>
                {
                    // Without quotes, TOML takes the dots of a namespace for levels of tables.
                    let dotted = dotted(&format!("{namespace}.{}", entry.name), inner);
                    let fault = Fault::new(
                        "is split at its dots",
                        format!("write [upstream.{dotted:?}], with the quotes"),
                    );
                    // It counts as an upstream, or its absence would be a second mistake: no default.
                    let split = Section::upstream(&dotted, Some(self.location(span)));
                    self.written.upstreams.push(split);
                    self.note(span, &keys::path("upstream", &dotted), fault);
                    return;
                }
                (None, _) => self.unknown(keys::UPSTREAM, &label, &entry),
            }
        }
        self.written.upstreams.push(section);
    }

    /// Further logins: a list of tables.
    fn more_credentials(
        &mut self,
        namespace: &str,
        label: &str,
        entry: TableEntry,
    ) -> Vec<Section> {
        let label = keys::path(label, MORE_CREDENTIALS);
        let right = format!("write [[upstream.{namespace:?}.{MORE_CREDENTIALS}]] for each");
        let Value::List(logins) = entry.value else {
            let fault = Fault::new("is not a list of tables", right);
            self.note(&entry.value_span, &label, fault);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (span, login) in logins {
            let Value::Table(table) = login else {
                let fault = Fault::new("has what is not a table", right.clone());
                self.note(&span, &label, fault);
                continue;
            };
            let mut section = Section::more_credentials(namespace, self.location(&span));
            for entry in table {
                match keys::find(keys::MORE_CREDENTIALS, &entry.name) {
                    Some(key) => {
                        section.push(key, entry.value, self.location(&entry.value_span));
                    }
                    None => self.unknown(keys::MORE_CREDENTIALS, &label, &entry),
                }
            }
            sections.push(section);
        }
        sections
    }

    /// Notes a key that does not exist. Its value is not looked at: it may be a password under a misspelt name.
    fn unknown(&mut self, section: &str, label: &str, entry: &TableEntry) {
        let fault = if keys::is_planned(&keys::path(section, &entry.name)) {
            Fault::new("is not supported yet by this version", "leave it out")
        } else {
            Fault::new("is not a key that exists", suggestion(section, &entry.name))
        };
        let path = keys::path(label, &bare(&entry.name));
        self.note(&entry.name_span, &path, fault);
    }

    fn note(&mut self, span: &Range<usize>, key: &str, fault: Fault) {
        let location = self.location(span);
        self.mistakes.note(location, key.to_owned(), fault);
    }

    fn location(&self, span: &Range<usize>) -> Location {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Location::Position {
            file: self.origin.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// What the user may have meant: this key in another section, or a key here that is spelt like it.
fn suggestion(section: &str, name: &str) -> String {
    let here: Vec<&str> = keys::of(section).map(|key| key.name).collect();
    if let Some(section) = keys::section_of(name) {
        return match section {
            keys::TOP => {
                format!("{name} belongs at the top of the file, before the first [table]")
            }
            keys::UPSTREAM => format!("{name} belongs in a table such as [upstream.\"docker.io\"]"),
            other => format!("{name} belongs in [{other}]"),
        };
    }
    let sections = ["store", "freshness", "upstream", "tls", "log"];
    let candidates = here
        .iter()
        .copied()
        .chain(sections.into_iter().filter(|_| section.is_empty()));
    match keys::closest(name, candidates) {
        Some(close) => format!("did you mean {close}?"),
        None => format!("known here: {}", here.join(", ")),
    }
}

/// The whole name of a table whose name was split at its dots.
fn dotted(start: &str, table: &[TableEntry]) -> String {
    match table {
        [
            TableEntry {
                name,
                value: Value::Table(inner),
                ..
            },
        ] => dotted(&format!("{start}.{name}"), inner),
        _ => start.to_owned(),
    }
}

/// A key as TOML wants it: in quotes unless it is plain.
fn bare(name: &str) -> String {
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plain {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
