//! `Accept` (RFC 9110 12.5.1): which media types a client takes. How much it likes each does not matter here.

use http::HeaderValue;

/// The media types and ranges that are taken, of all lines, in any case; not those with a weight of 0.
pub(crate) fn taken<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
) -> impl Iterator<Item = &'a str> {
    let texts = lines.into_iter().filter_map(|line| line.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .filter_map(|element| {
            let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
            let name = name.trim();
            (!name.is_empty() && !parameters.split(';').any(is_refusal)).then_some(name)
        })
}

fn is_refusal(parameter: &str) -> bool {
    let (name, value) = parameter.split_once('=').unwrap_or_default();
    let value = value.trim();
    name.trim().eq_ignore_ascii_case("q")
        && value.starts_with('0')
        && value.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(lines: &[&str]) -> Vec<String> {
        let lines: Vec<_> = lines.iter().map(|it| it.parse().unwrap()).collect();
        taken(&lines).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_taken_is_on_any_line_and_has_a_weight() {
        assert_eq!(
            all(&["a/b, C/d;q=0.5 ,e/f;v=1;Q=0.001"]),
            ["a/b", "C/d", "e/f"]
        );
        assert_eq!(all(&["a/b", "", "*/*;q=1"]), ["a/b", "*/*"]);
        assert_eq!(all(&["a/b;q=0, a/c; q=0.0 ,a/d;v=1 ; q = 0.000"]), [""; 0]);
        assert_eq!(
            all(&["a/b;q=, a/c;q=x, a/d;q=1.0", ",, ,"]),
            ["a/b", "a/c", "a/d"]
        );
        assert_eq!(all(&[]), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_value_is_read(line in "[ -~]{0,60}") {
            let Ok(value) = HeaderValue::from_str(&line) else { return Ok(()) };
            for name in taken([&value]) {
                prop_assert!(line.contains(name) && !name.contains([',', ';']));
            }
        }
    }
}
