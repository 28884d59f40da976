//! Sizes and durations as people write them: `"50GiB"`, `"1h30m"`.
//!
//! Pure text to number and back. Arithmetic is exact: no floating point, and overflow is an error.

use std::time::Duration;

/// Why a text is not a size or a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitError {
    /// It is not a number with a unit.
    Unreadable,
    /// It is a number without a unit.
    NoUnit,
    /// It is more than anyone can mean.
    TooLarge,
}

/// The longest duration: a hundred years. A deadline this far away can still be added to any clock.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Units of size, the ones that are printed first.
///
/// A single letter is binary, as in Docker's own options (`--memory 10G`); `GB` is decimal, as disks are sold.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
    ("", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("P", 1 << 50),
    ("E", 1 << 60),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("EB", 1_000_000_000_000_000_000),
];

/// How many of [`SIZES`] are used for printing.
const PRINTED: usize = 7;

/// Units of time in milliseconds, the longest first, which is also the order they are written in.
const TIMES: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a size in bytes: `50GiB`, `1.5 GiB`, `500MB`, `10G` (binary, as Docker has it), `1048576`.
///
/// The case of units does not matter. A fraction of a byte is dropped.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    );
    let unit = unit.trim_start();
    let (_, scale) = SIZES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or(UnitError::Unreadable)?;
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, digits(fraction)?),
        None => (number, "0"),
    };

    // Twelve digits of a fraction are finer than a byte of a terabyte, and keep the product within u128.
    if fraction.len() > 12 {
        return Err(UnitError::Unreadable);
    }
    let scale = u128::from(*scale);
    let whole = digits(whole)?
        .parse::<u64>()
        .map_err(|_| UnitError::TooLarge)?;
    let part = fraction.parse::<u64>().map_err(|_| UnitError::Unreadable)?;
    let denominator =
        10_u128.pow(u32::try_from(fraction.len()).map_err(|_| UnitError::Unreadable)?);
    let bytes = u128::from(whole) * scale + u128::from(part) * scale / denominator;
    u64::try_from(bytes).map_err(|_| UnitError::TooLarge)
}

/// Prints a size with at most one decimal, in the largest binary unit that is not less than one: `1.5 GiB`.
pub(crate) fn format_size(bytes: u64) -> String {
    // Rounding can fill a unit up: 1023.96 KiB is 1 MiB, so the unit is chosen after rounding.
    let tenths = |scale: u64| (u128::from(bytes) * 10 + u128::from(scale) / 2) / u128::from(scale);
    let fits = SIZES[..PRINTED]
        .iter()
        .find(|(_, scale)| tenths(*scale) < 10_240);
    let (unit, scale) = fits.copied().unwrap_or(SIZES[PRINTED - 1]);
    let tenths = tenths(scale);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

/// Reads a duration: `60s`, `5m`, `1h30m`, `30d`, `250ms`, `0s`. Longer units come first, each at most once. A
/// number without a unit is an error, because it could mean milliseconds or days.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    let mut units = TIMES.iter();
    let mut total = 0_u64;
    if rest.is_empty() {
        return Err(UnitError::Unreadable);
    }
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(
            rest.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len()),
        );
        let (unit, tail) = tail.split_at(
            tail.find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(tail.len()),
        );
        let number = digits(number)?;
        if unit.is_empty() && tail.is_empty() {
            return Err(UnitError::NoUnit);
        }
        // Searching on from the last unit found is what refuses "1m1h" and "1m1m".
        let (_, scale) = units
            .find(|(name, _)| *name == unit)
            .ok_or(UnitError::Unreadable)?;
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*scale));
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or(UnitError::TooLarge)?;
        rest = tail.trim_start();
    }
    let duration = Duration::from_millis(total);
    if duration > MAX_DURATION {
        Err(UnitError::TooLarge)
    } else {
        Ok(duration)
    }
}

/// Prints a duration the way [`parse_duration`] reads it: `1h30m`. What is finer than a millisecond is dropped.
pub(crate) fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, scale) in TIMES {
        let count = rest / u128::from(*scale);
        rest %= u128::from(*scale);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

fn digits(text: &str) -> Result<&str, UnitError> {
    let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    good.then_some(text).ok_or(UnitError::Unreadable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read() {
        let sizes = [
            ("50GiB", 50 << 30),
            ("1.5 GiB", 3 << 29),
            ("500MB", 500_000_000),
            ("10G", 10 << 30),
            ("10g", 10 << 30),
            ("512 kib", 512 << 10),
            ("1048576", 1 << 20),
            ("0", 0),
            ("7B", 7),
            (" 2TB ", 2_000_000_000_000),
            ("15EiB", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in [
            "",
            "GiB",
            "50 gigs",
            "-1",
            "1.GiB",
            ".5GiB",
            "1.2.3G",
            "1e9",
            "0x10",
            "5 5G",
            "1,5G",
            "٣G",
            "1.0000000000001G",
        ] {
            assert_eq!(parse_size(text), Err(UnitError::Unreadable), "{text}");
        }
        for text in [
            "16EiB",
            "18446744073709551616",
            "99999999999999999999999999999999999999999999G",
        ] {
            assert_eq!(parse_size(text), Err(UnitError::TooLarge), "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_in_the_unit_that_suits_them() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 20) - 1, "1 MiB"),
            (50 << 30, "50 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn durations_are_read() {
        let durations = [
            ("60s", 60_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("30d", 30 * 86_400_000),
            ("250ms", 250),
            ("1m250ms", 60_250),
            ("0s", 0),
        ];
        for (text, millis) in durations {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in [
            "", "s", "5 s", "5x", "1m1h", "1m1m", "-5s", "1.5s", "5S", "5s!", "1h30",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("60"), Err(UnitError::NoUnit));
        assert_eq!(parse_duration("36501d"), Err(UnitError::TooLarge));
        assert_eq!(
            parse_duration("99999999999999999999d"),
            Err(UnitError::TooLarge)
        );
        assert_eq!(
            parse_duration("18446744073709551615d"),
            Err(UnitError::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,24}|[0-9.]{0,30} ?[a-zA-Z]{0,3}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }

        #[test]
        fn a_printed_size_reads_as_nearly_the_same(bytes in 0..15_u64 << 60) {
            let read = parse_size(&format_size(bytes)).unwrap();
            prop_assert!(read.abs_diff(bytes) <= bytes / 19, "{bytes} {read}");
        }

        #[test]
        fn a_number_with_a_unit_is_that_many(number in 0..16_384_u64, unit in 0..PRINTED - 1) {
            let (name, scale) = SIZES[unit];
            prop_assert_eq!(parse_size(&format!("{number}{name}")), Ok(number * scale));
        }

        #[test]
        fn a_printed_duration_reads_as_the_same(millis in 0..100 * 365 * 86_400_000_u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
