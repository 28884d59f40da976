//! Values: what stands behind a key, and what it can be read as.
//!
//! Each reading is a function from a written value to a typed one, or to what is wrong with it. None knows which key it
//! reads or where that stands. A reading that may meet a secret never repeats what it was given.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::mistake::Fault;
use super::units::{self, UnitError};
use crate::logging::{self, Format};
use crate::secret::Secret;

/// A value as written. A text under any key may be a password, so each is a secret until it has been read. It has no
/// `Debug`.
pub(super) enum Value {
    /// From the environment, the command line or the table of defaults, where nothing has a type.
    Untyped(Secret),
    Text(Secret),
    Integer(String),
    Boolean(bool),
    /// A TOML array; each value with its place in the text.
    List(Vec<(Range<usize>, Value)>),
    /// A TOML table, in the order of the text.
    Table(Vec<TableEntry>),
    /// Any other TOML type, which no key has.
    Other(&'static str),
}

/// An entry of a TOML table, with the places of its name and of its value in the text.
pub(super) struct TableEntry {
    pub(super) name: String,
    pub(super) name_span: Range<usize>,
    pub(super) value: Value,
    pub(super) value_span: Range<usize>,
}

/// A share of the store, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreShare {
    Percent(u8),
    Bytes(u64),
}

impl StoreShare {
    /// Of a store of `max_size` bytes.
    pub(crate) fn of(self, max_size: u64) -> u64 {
        match self {
            Self::Percent(percent) => {
                let part = u128::from(max_size) * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(max_size)
            }
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// More connections than a process can have files open on Linux by default (`fs.nr_open`).
const MAX_CONNECTIONS: usize = 1 << 20;

const MAX_FILES: usize = 1_000_000_000;

/// A text that is not empty.
pub(super) fn text(value: &Value) -> Result<&str, Fault> {
    secret_text(value).map(Secret::expose)
}

fn secret_text(value: &Value) -> Result<&Secret, Fault> {
    match value {
        Value::Untyped(text) | Value::Text(text) if text.expose().trim().is_empty() => {
            Err(Fault::new("is empty", "write a value, or leave it out"))
        }
        Value::Untyped(text) | Value::Text(text) => Ok(text),
        other => Err(mistyped(other, "a text", "write it in quotes")),
    }
}

/// A text, or what would be `right` instead of any other.
fn text_or<'a>(value: &'a Value, right: &str) -> Result<&'a str, Fault> {
    text(value).map_err(|fault| Fault {
        right: right.to_owned(),
        ..fault
    })
}

/// A text, or an integer as it was written.
fn text_or_number<'a>(value: &'a Value, right: &str) -> Result<&'a str, Fault> {
    match value {
        Value::Integer(number) => Ok(number),
        other => text_or(other, right),
    }
}

/// A number from 1 to `most`. `wrong` says what another one is not.
fn count(value: &Value, most: usize, wrong: &str, right: String) -> Result<usize, Fault> {
    let number = match value {
        Value::Untyped(number) => number.expose(),
        Value::Integer(number) => number,
        other => return Err(mistyped(other, "a number", right)),
    };
    match number.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(Fault::new(format!("{} {wrong}", quoted(number)), right)),
    }
}

pub(super) fn boolean(value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Untyped(text) if text.expose() == "true" => Ok(true),
        Value::Untyped(text) if text.expose() == "false" => Ok(false),
        other => Err(mistyped(
            other,
            "true or false",
            "write true or false, without quotes",
        )),
    }
}

/// A number of connections, at least one.
pub(super) fn connections(value: &Value) -> Result<usize, Fault> {
    let right = format!("write a number from 1 to {MAX_CONNECTIONS}, without quotes");
    count(
        value,
        MAX_CONNECTIONS,
        "is not a number of connections",
        right,
    )
}

/// A limit on what one client may have: a number, at least one, or "none".
pub(super) fn limit(value: &Value) -> Result<Option<usize>, Fault> {
    let right = format!("write a number from 1 to {MAX_CONNECTIONS}, or \"none\"");
    match value {
        Value::Untyped(word) | Value::Text(word) if word.expose() == "none" => Ok(None),
        other => count(other, MAX_CONNECTIONS, "is not a limit", right).map(Some),
    }
}

/// A number of files, at least one.
pub(super) fn files(value: &Value) -> Result<u64, Fault> {
    let right = format!("write a number from 1 to {MAX_FILES}, without quotes");
    count(value, MAX_FILES, "is not a number of files", right).map(|count| count as u64)
}

/// A size in bytes from `least` to `most`.
pub(super) fn size(least: u64, most: u64) -> impl Fn(&Value) -> Result<u64, Fault> {
    const RIGHT: &str = "write a number with a unit, such as \"50GiB\" or \"500MB\"";
    move |value| {
        let written = text_or_number(value, RIGHT)?;
        let limit = |side, bytes| {
            Fault::new(
                format!("{} is too {side}", quoted(written)),
                bound(side, bytes),
            )
        };
        match units::parse_size(written) {
            Ok(bytes) if bytes < least => Err(limit("small", least)),
            Ok(bytes) if bytes > most => Err(limit("large", most)),
            Ok(bytes) => Ok(bytes),
            Err(UnitError::TooLarge) => Err(limit("large", most)),
            Err(_) => Err(Fault::new(
                format!("{} is not a size", quoted(written)),
                RIGHT,
            )),
        }
    }
}

/// A duration, zero included.
pub(super) fn duration(value: &Value) -> Result<Duration, Fault> {
    const RIGHT: &str = "write a number with a unit, such as \"60s\", \"1h30m\" or \"30d\"";
    let written = text_or_number(value, RIGHT)?;
    units::parse_duration(written).map_err(|error| match error {
        UnitError::NoUnit => Fault::new(
            format!("{} is a duration without its unit", quoted(written)),
            format!(
                "write \"{0}s\" for seconds, \"{0}ms\" for milliseconds, \"{0}m\" for minutes",
                written.trim()
            ),
        ),
        UnitError::TooLarge => Fault::new(
            format!("{} is too long", quoted(written)),
            "write at most \"36500d\"",
        ),
        UnitError::Unreadable => {
            Fault::new(format!("{} is not a duration", quoted(written)), RIGHT)
        }
    })
}

/// A duration in which something has to happen.
pub(super) fn timeout(value: &Value) -> Result<Duration, Fault> {
    match duration(value)? {
        Duration::ZERO => Err(Fault::new(
            "leaves no time at all",
            "write a duration longer than zero, such as \"10s\"",
        )),
        duration => Ok(duration),
    }
}

/// A part of the store that is not nothing: in percent, or a size.
pub(super) fn store_share(value: &Value) -> Result<StoreShare, Fault> {
    const RIGHT: &str = "write \"1%\" to \"100%\" of store.max_size, or a size such as \"20GiB\"";
    let written = text_or_number(value, RIGHT)?;
    let share = match written.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse().ok().map(StoreShare::Percent),
        None => units::parse_size(written).ok().map(StoreShare::Bytes),
    };
    match share {
        Some(share @ (StoreShare::Percent(1..=100) | StoreShare::Bytes(1..))) => Ok(share),
        _ => {
            let what = format!("{} is no share of the store", quoted(written));
            Err(Fault::new(what, RIGHT))
        }
    }
}

/// A part of something, in whole percent.
pub(super) fn percent(value: &Value) -> Result<u8, Fault> {
    const RIGHT: &str = "write \"0%\" to \"100%\", such as \"25%\"";
    let written = text_or(value, RIGHT)?;
    let number = written.trim().strip_suffix('%').map(str::trim_end);
    match number.map(str::parse) {
        Some(Ok(percent @ 0..=100)) => Ok(percent),
        _ => Err(Fault::new(
            format!("{} is not a part in percent", quoted(written)),
            RIGHT,
        )),
    }
}

/// An address to listen on.
pub(super) fn address(value: &Value) -> Result<SocketAddr, Fault> {
    const RIGHT: &str = "write an IP address with a port, such as \"127.0.0.1:5000\", or \"[::]:5000\" for every interface";
    let written = text_or(value, RIGHT)?;
    written
        .parse()
        .map_err(|_| Fault::new(format!("{} is not an address", quoted(written)), RIGHT))
}

/// A path. It stays relative to the working directory if it is written so.
pub(super) fn path(value: &Value) -> Result<PathBuf, Fault> {
    let written = text(value)?;
    // Only a shell expands this; here it would become a directory called "~".
    if written == "~" || written.starts_with("~/") {
        return Err(Fault::new(
            format!(
                "{} begins with \"~\", which is not expanded here",
                quoted(written)
            ),
            "write the whole path",
        ));
    }
    Ok(PathBuf::from(written))
}

/// A path to a file that can be opened.
pub(super) fn file(value: &Value) -> Result<PathBuf, Fault> {
    let path = path(value)?;
    match unreadable(&path) {
        Some(why) => Err(Fault::new(
            format!("{} cannot be read: {why}", quoted(&path.to_string_lossy())),
            "name a file that exists",
        )),
        None => Ok(path),
    }
}

/// A path to a file that holds a secret. Nothing of it is repeated: people paste the secret itself here.
pub(super) fn secret_file(value: &Value) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text(value)?);
    match unreadable(&path) {
        Some(why) => Err(Fault::new(
            format!("names a file that cannot be read: {why}"),
            "name a file that holds the password",
        )),
        None => Ok(path),
    }
}

pub(super) fn secret(value: &Value) -> Result<Secret, Fault> {
    secret_text(value).cloned()
}

/// A name for HTTP's basic authentication. It is not repeated: people write `name:password` here.
pub(super) fn username(value: &Value) -> Result<String, Fault> {
    let written = text(value)?;
    if written.contains(':') {
        // RFC 7617 2: the first colon ends the user-id.
        return Err(Fault::new(
            "contains a colon, which no user name can",
            "write the name alone, and the password as password_file",
        ));
    }
    Ok(written.to_owned())
}

/// What a log line looks like.
pub(super) fn format(value: &Value) -> Result<Format, Fault> {
    const RIGHT: &str = "write \"auto\", \"text\" or \"json\"";
    let written = text(value)?;
    match written {
        "auto" => Ok(Format::Auto),
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(Fault::new(
            format!("{} is not a log format", quoted(written)),
            RIGHT,
        )),
    }
}

pub(super) fn level(value: &Value) -> Result<String, Fault> {
    const RIGHT: &str =
        "write error, warn, info, debug or trace, or by module: \"info,pierglass::upstream=debug\"";
    let written = text(value)?;
    match logging::filter(written) {
        Ok(_) => Ok(written.to_owned()),
        Err(why) => Err(Fault::new(format!("{} {why}", quoted(written)), RIGHT)),
    }
}

/// A written text as it is repeated in a message: short, and escaped, so that it cannot look like more than one line.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// What is wrong with a value of the wrong type. Says the types and not the value, which may be a secret in the wrong
/// form.
pub(super) fn mistyped(value: &Value, expected: &str, right: impl Into<String>) -> Fault {
    let found = match value {
        Value::Untyped(_) | Value::Text(_) => "a text",
        Value::Integer(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::List(_) => "a list",
        Value::Table(_) => "a table",
        Value::Other(name) => name,
    };
    Fault::new(format!("is {found} where {expected} is expected"), right)
}

fn bound(side: &str, bytes: u64) -> String {
    let direction = if side == "small" { "least" } else { "most" };
    format!("write at {direction} \"{}\"", units::format_size(bytes))
}

/// Why a file cannot be opened. Anything but a directory will do: passwords also come through pipes.
fn unreadable(path: &std::path::Path) -> Option<String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Some("it is a directory".to_owned()),
        Ok(_) => None,
        Err(error) => Some(error.kind().to_string()),
    }
}
