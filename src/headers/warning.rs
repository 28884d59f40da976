//! `Warning` (RFC 7234 5.5), as the distribution specification has registries tell something to people ("Warnings").

use http::HeaderValue;

use super::visible;

/// The code that registries use.
const CODE: &str = "299";
/// As much text as a registry may send in all, and as many warnings as a person would read.
const MOST_TEXT: usize = 4096;
const MOST: usize = 16;

/// The warnings in these headers, each as a header of its own, in characters that every terminal can show.
pub(crate) fn warnings<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<HeaderValue> {
    let mut left = MOST_TEXT;
    let mut found = Vec::new();
    for value in values {
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut rest = &*text;
        while let Some((warning, after)) = next(rest) {
            rest = after;
            let Some(words) = warning else { continue };
            if words.len() > left || found.len() == MOST {
                return found;
            }
            left -= words.len();
            found.push(printed(&words));
        }
    }
    found
}

/// The text of the first warning of a list, if its code is the right one, and the rest of the list.
fn next(list: &str) -> Option<(Option<String>, &str)> {
    let list = list.trim_start_matches([' ', '\t', ',']);
    let (code, rest) = list.split_once(' ')?;
    let (_agent, rest) = rest.trim_start().split_once(' ')?;
    let (words, rest) = quoted(rest.trim_start())?;
    // A date, which registries must not send.
    let rest = quoted(rest.trim_start()).map_or(rest, |(_, rest)| rest);
    Some(((code == CODE).then_some(words), rest))
}

/// What stands between quotes, without its escapes, and what comes after.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut words = String::new();
    let mut characters = inside.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((words, inside.get(place + 1..)?)),
            '\\' => words.push(characters.next()?.1),
            _ => words.push(character),
        }
    }
    None
}

fn printed(words: &str) -> HeaderValue {
    let mut text = format!("{CODE} - \"");
    for character in words.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            ' '..='~' => text.push(character),
            _ => text.push('?'),
        }
    }
    text.push('"');
    visible(&text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&[u8]]) -> Vec<String> {
        let values: Vec<_> = values
            .iter()
            .map(|value| HeaderValue::from_bytes(value).unwrap())
            .collect();
        let read = warnings(&values);
        read.iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn warnings_of_registries_are_kept_and_others_are_not() {
        let one = r#"299 - "Your auth token will expire in 30 seconds.""#;
        assert_eq!(read(&[one.as_bytes()]), [one]);
        let two = br#"299 - "a, b", 299 r.example:80 "say \"c\"" "Sat, 28 Nov 2026 00:00:00 GMT""#;
        assert_eq!(read(&[two]), [r#"299 - "a, b""#, r#"299 - "say \"c\"""#]);
        assert_eq!(read(&[br#"110 - "stale",299 - "x""#]), [r#"299 - "x""#]);
        assert_eq!(
            read(&["299 - \"ü\t\u{1f4a9}\"".as_bytes()]),
            [r#"299 - "???""#]
        );
        for nonsense in [
            "",
            "299",
            "299 -",
            "299 - x",
            r#"299 - "x"#,
            r#"299 "x""#,
            ",,,",
            r#"299 - "x\"#,
        ] {
            assert_eq!(read(&[nonsense.as_bytes()]), [""; 0], "{nonsense}");
        }
    }

    #[test]
    fn they_are_few_and_short() {
        let long = format!("299 - \"{}\"", "x".repeat(4000));
        assert_eq!(read(&[long.as_bytes(), long.as_bytes()]).len(), 1);
        let many = "299 - \"x\",".repeat(1000);
        assert_eq!(read(&[many.as_bytes()]).len(), MOST);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_what_it_prints_is_read_again(text in r#"(299 - |["\\, aü]){0,40}"#) {
            let printed = read(&[text.as_bytes()]);
            let lines: Vec<_> = printed.iter().map(String::as_bytes).collect();
            prop_assert_eq!(read(&lines), printed);
        }
    }
}
