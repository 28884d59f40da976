//! Reads a TOML document: which value stands where. What the values mean is decided later.
//!
//! The document is walked by hand rather than deserialised, because serde stops at the first mistake.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Key};
use super::mistake::{Fault, Mistakes, Place, Reported};
use super::value::Value;
use super::written::{Section, Written};

/// Reads a document. Mistakes are noted; a document that is not TOML yields nothing, for the rest cannot be trusted.
pub(super) fn read(text: &str, origin: &str, mistakes: &mut Mistakes) -> Result<Written, Reported> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut walk = Walk {
        text,
        origin,
        mistakes,
        written: Written::default(),
    };
    if errors.is_empty() {
        walk.root(document.get_ref());
        return Ok(walk.written);
    }
    for error in errors {
        // Only the message: printed whole, the error would quote the line, and the line may hold a password.
        let fault = Fault::new(
            format!("not TOML: {}", error.message()),
            "the rest is checked once this is corrected",
        );
        let place = walk.place(error.span().unwrap_or_default());
        walk.mistakes.note(place, None, fault);
    }
    Err(Reported)
}

/// The one key whose value is a list of tables.
const MORE_CREDENTIALS: &str = "more_credentials";

struct Walk<'a> {
    text: &'a str,
    origin: &'a str,
    mistakes: &'a mut Mistakes,
    written: Written,
}

impl Walk<'_> {
    fn root(&mut self, table: &DeTable<'_>) {
        for (name, span, value) in in_order(table) {
            match value.get_ref() {
                DeValue::Table(tables) if name == "upstream" => self.upstreams(tables, span),
                DeValue::Table(table) if keys::is_section(name) => self.section(name, table),
                _ if name == "upstream" || keys::is_section(name) => {
                    let example = if name == "upstream" {
                        "[upstream.\"docker.io\"]".to_owned()
                    } else {
                        format!("[{name}]")
                    };
                    let fault = Fault::new(
                        "is not a table",
                        format!("write {example} on a line of its own, and its keys below"),
                    );
                    self.note(span, name, fault);
                }
                _ => match keys::find("", name) {
                    Some(key) => self.plain(key, value),
                    None => self.unknown("", None, name, span),
                },
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, span, value) in in_order(table) {
            match keys::find(section, name) {
                Some(key) => self.plain(key, value),
                None => self.unknown(section, Some(section), name, span),
            }
        }
    }

    fn plain(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) {
        let place = self.place(value.span());
        self.written
            .plain
            .push(key, convert(value.get_ref()), place);
    }

    fn upstreams(&mut self, tables: &DeTable<'_>, span: Range<usize>) {
        if tables.is_empty() {
            self.note(
                span,
                "upstream",
                Fault::new(
                    "names no registry",
                    "write [upstream.\"docker.io\"], or leave it out",
                ),
            );
        }
        for (name, span, value) in in_order(tables) {
            match value.get_ref() {
                DeValue::Table(table) => self.upstream(name, span, table),
                _ => self.note(
                    span,
                    &format!("upstream.{}", bare(name)),
                    Fault::new(
                        "is not a table",
                        format!("write [upstream.{name:?}] and the keys below"),
                    ),
                ),
            }
        }
    }

    fn upstream(&mut self, namespace: &str, span: Range<usize>, table: &DeTable<'_>) {
        let label = format!("upstream.{}", bare(namespace));
        let mut section = Section::named(namespace, Some(self.place(span.clone())));
        for (name, key_span, value) in in_order(table) {
            if name == MORE_CREDENTIALS {
                let more = self.more_credentials(namespace, &label, value);
                section.more_credentials.extend(more);
                continue;
            }
            match (keys::find(keys::UPSTREAM, name), value.get_ref()) {
                (Some(key), value_ref) => {
                    section.push(key, convert(value_ref), self.place(value.span()));
                }
                (None, DeValue::Table(inner))
                    if !keys::is_planned(&format!("{}.{name}", keys::UPSTREAM)) =>
                {
                    // Without quotes, TOML takes the dots of a namespace for levels of tables.
                    let dotted = dotted(&format!("{namespace}.{name}"), inner);
                    let fault = Fault::new(
                        "is split at its dots",
                        format!("write [upstream.{dotted:?}], with the quotes"),
                    );
                    // It counts as an upstream, or its absence would be a second mistake: no default.
                    let place = self.place(span.clone());
                    self.written
                        .upstreams
                        .push(Section::named(&dotted, Some(place)));
                    self.note(span, &format!("upstream.{dotted}"), fault);
                    return;
                }
                (None, _) => self.unknown(keys::UPSTREAM, Some(&label), name, key_span),
            }
        }
        self.written.upstreams.push(section);
    }

    /// Further identities: a list of tables.
    fn more_credentials(
        &mut self,
        namespace: &str,
        label: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Vec<Section> {
        let label = format!("{label}.{MORE_CREDENTIALS}");
        let DeValue::Array(identities) = value.get_ref() else {
            let right = format!("write [[upstream.{namespace:?}.{MORE_CREDENTIALS}]] for each");
            self.note(
                value.span(),
                &label,
                Fault::new("is not a list of tables", right),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for identity in identities.iter() {
            let DeValue::Table(table) = identity.get_ref() else {
                let right = format!("write [[upstream.{namespace:?}.{MORE_CREDENTIALS}]] for each");
                self.note(
                    identity.span(),
                    &label,
                    Fault::new("has what is not a table", right),
                );
                continue;
            };
            let place = self.place(identity.span());
            let mut section = Section::named(namespace, Some(place));
            for (name, span, value) in in_order(table) {
                match keys::find(keys::MORE, name) {
                    Some(key) => {
                        section.push(key, convert(value.get_ref()), self.place(value.span()));
                    }
                    None => self.unknown(keys::MORE, Some(&label), name, span),
                }
            }
            sections.push(section);
        }
        sections
    }

    /// Notes a key that does not exist. Its value is not looked at: it may be a password under a misspelt name.
    fn unknown(&mut self, section: &str, label: Option<&str>, name: &str, span: Range<usize>) {
        let path = label.map_or_else(|| bare(name), |label| format!("{label}.{}", bare(name)));
        let full = if section.is_empty() {
            name.to_owned()
        } else {
            format!("{section}.{name}")
        };
        let fault = if keys::is_planned(&full) {
            Fault::new("is not supported yet by this version", "leave it out")
        } else {
            Fault::new("is not a key that exists", suggestion(section, name))
        };
        self.note(span, &path, fault);
    }

    fn note(&mut self, span: Range<usize>, key: &str, fault: Fault) {
        let place = self.place(span);
        self.mistakes.note(place, key.to_owned(), fault);
    }

    fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[line_start..].chars().count() + 1;
        let line = before.matches('\n').count() + 1;
        Place::Position {
            file: self.origin.to_owned(),
            line,
            column,
        }
    }
}

/// The entries of a table as they follow each other in the file; the parser sorts them by name.
fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t str, Range<usize>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
        .collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}

fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Array(values) => Value::List(
            values
                .iter()
                .map(|value| convert(value.get_ref()))
                .collect(),
        ),
        // What does not even fit here is kept as it is, and refused by whoever reads the number.
        DeValue::Integer(number) => {
            let decimal = i128::from_str_radix(number.as_str(), number.radix())
                .map(|number| number.to_string());
            Value::Integer(decimal.unwrap_or_else(|_| number.to_string()))
        }
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// What the user may have meant: this key in another section, or a key here that is spelt like it.
fn suggestion(section: &str, name: &str) -> String {
    let here: Vec<&str> = keys::ALL
        .iter()
        .filter(|key| key.section() == section)
        .map(Key::name)
        .collect();
    if let Some(key) = keys::ALL.iter().find(|key| key.name() == name) {
        return match key.section() {
            "" => format!("{name} belongs at the top of the file, before the first [table]"),
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

fn dotted(start: &str, table: &DeTable<'_>) -> String {
    match table.iter().next() {
        Some((key, value)) if table.len() == 1 => match value.get_ref() {
            DeValue::Table(inner) => dotted(&format!("{start}.{}", key.get_ref()), inner),
            _ => start.to_owned(),
        },
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
