use proptest::prelude::*;

use super::*;

fn parsed(lines: &[&str]) -> Vec<Challenge> {
    let values: Vec<_> = lines
        .iter()
        .map(|line| HeaderValue::from_bytes(line.as_bytes()).unwrap())
        .collect();
    parse(&values)
}

fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
    let [service, scope] = [service, scope].map(|text| text.map(str::to_owned));
    Challenge::Bearer {
        realm: realm.into(),
        service,
        scope,
        error: None,
    }
}

fn other(scheme: &str) -> Challenge {
    Challenge::Other {
        scheme: scheme.into(),
    }
}

#[test]
fn commas_inside_quotes_are_not_separators() {
    let line = r#"Bearer realm="https://a.example/token",service="a.example",scope="repository:x/y:pull,push""#;
    assert_eq!(
        parsed(&[line]),
        [bearer(
            "https://a.example/token",
            Some("a.example"),
            Some("repository:x/y:pull,push")
        )]
    );
}

#[test]
fn several_per_line_and_several_lines() {
    let found = parsed(&[
        r#"Negotiate, BASIC Realm="a \"b\"", bearer REALM="https://t", Scope=s"#,
        r#"Basic realm="c""#,
    ]);
    let basic = |realm: &str| Challenge::Basic {
        realm: realm.into(),
    };
    assert_eq!(
        found,
        [
            other("Negotiate"),
            basic("a \"b\""),
            bearer("https://t", None, Some("s")),
            basic("c")
        ]
    );
}

#[test]
fn an_error_is_kept() {
    let found = parsed(&[r#"Bearer realm="https://t",error="insufficient_scope""#]);
    assert!(
        matches!(&found[..], [Challenge::Bearer { error: Some(error), .. }] if error == "insufficient_scope")
    );
}

#[test]
fn a_bearer_without_realm_cannot_be_answered() {
    assert_eq!(
        parsed(&[r#"Bearer service="x""#, "Bearer"]),
        [other("Bearer"), other("Bearer")]
    );
}

#[test]
fn a_malformed_line_does_not_spoil_the_others() {
    let broken = [
        r#"Bearer realm="https://t"#,
        "=",
        "",
        r#"Bearer realm="a" "b""#,
    ];
    assert_eq!(parsed(&broken), []);
    assert_eq!(
        parsed(&[broken[0], r#"Basic realm="x""#]),
        [Challenge::Basic { realm: "x".into() }]
    );
}

#[test]
fn what_is_not_well_formed_is_read_as_it_was_meant() {
    let basic = |realm: &str| Challenge::Basic {
        realm: realm.into(),
    };
    let (realm, own) = ("https://r.example/token?a=b", "repository:o/app:pull,push");
    let full = bearer(realm, Some("r.example"), Some(own));
    for (line, expected) in [
        ("Basic realm=/", vec![basic("/")]),
        ("Basic realm=", vec![basic("")]),
        ("Basic realm='a b'", vec![basic("a b")]),
        (
            "Basic realm=Sonatype Nexus",
            vec![basic("Sonatype"), other("Nexus")],
        ),
        (
            r#"Bearer  realm="https://r.example/token?a=b""#,
            vec![bearer(realm, None, None)],
        ),
        (
            "Bearer realm=https://r.example/token?a=b",
            vec![bearer(realm, None, None)],
        ),
        (
            r#"Bearer realm="https://r.example/token?a=b",service="r.example",scope=repository:o/app:pull,push"#,
            vec![full.clone()],
        ),
        (
            "bearer realm=https://r.example/token?a=b, scope=repository:o/app:pull,push,service=r.example",
            vec![full.clone()],
        ),
        (
            r#"Bearer realm="https://r.example/token?a=b" service="r.example" scope="repository:o/app:pull,push""#,
            vec![full.clone()],
        ),
        (
            r#"Bearer realm = "https://r.example/token?a=b"; service = 'r.example'; scope="repository:o/app:pull,push";"#,
            vec![full],
        ),
        (
            r#"Negotiate YII=, Bearer  realm="https://r.example/token?a=b""#,
            vec![other("Negotiate"), bearer(realm, None, None)],
        ),
        (
            r#"Basic realm=/, Bearer realm="https://r.example/token?a=b""#,
            vec![basic("/"), bearer(realm, None, None)],
        ),
        // The rest is not clear.
        (
            r#"Basic realm=/, Bearer realm="https://t"#,
            vec![basic("/")],
        ),
        ("realm=/", vec![]),
        (
            "Bearer realm=https://r\u{e9}.example/",
            vec![other("Bearer")],
        ),
    ] {
        assert_eq!(parsed(&[line]), expected, "{line}");
    }
    let accented = "Basic realm=\"D\u{e9}p\u{f4}ts\"";
    assert_eq!(parsed(&[accented]), [basic("D\u{e9}p\u{f4}ts")]);
    let latin1 = HeaderValue::from_bytes(b"Basic realm=\"D\xe9p\xf4ts\"").unwrap();
    assert_eq!(parse(&[latin1]), [basic("D\u{fffd}p\u{fffd}ts")]);
}

proptest! {
    #[test]
    fn no_header_makes_it_panic(bytes: Vec<u8>, text in r#"((Basic|Bearer|x)? ?(realm|y)?=?("[ -~]{0,9}"|[a-z,= \\"]{0,5}),? ?){0,4}"#) {
        for bytes in [bytes, text.into_bytes()] {
            for challenge in parse(HeaderValue::from_bytes(&bytes).iter()) {
                let Challenge::Bearer { realm, .. } = challenge else { continue };
                let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
                let again = parsed(&[&format!("Bearer realm=\"{quoted}\"")]);
                prop_assert_eq!(again, [bearer(&realm, None, None)]);
            }
        }
    }

    #[test]
    fn quoted_values_come_back_as_they_were(realm in "[ -~]{0,40}") {
        let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
        prop_assert_eq!(parsed(&[&format!("Bearer realm=\"{quoted}\"")]), [bearer(&realm, None, None)]);
    }

    #[test]
    fn a_well_formed_line_means_the_same_in_both_readings(
        challenges in prop::collection::vec(
            ("[A-Za-z]{1,9}", prop::collection::vec(("[a-z]{1,7}", "[ -~]{0,20}"), 0..4)),
            1..4,
        ),
    ) {
        let written: Vec<_> = challenges
            .iter()
            .map(|(scheme, parameters)| {
                let parameters: Vec<_> = parameters
                    .iter()
                    .map(|(name, value)| {
                        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
                        format!("{name}=\"{value}\"")
                    })
                    .collect();
                format!("{scheme} {}", parameters.join(", ")).trim().to_owned()
            })
            .collect();
        let line = written.join(", ");
        let by_the_letter: Vec<_> = parse_challenges(&line).unwrap().iter().map(by_the_letter).collect();
        prop_assert_eq!(as_meant(&line), by_the_letter, "{}", line);
    }

    #[test]
    fn what_is_around_a_value_does_not_change_it(
        realm in "https://[a-z]{1,9}(:[0-9]{1,4})?/[a-z/]{0,9}([?][a-z]=[a-z])?",
        scope in "repository:[a-z]{1,5}(/[a-z]{1,5})?:(pull|push)(,(pull|push|delete|[*])){0,2}",
        quotes in prop::array::uniform3(0..3_usize),
        separators in prop::array::uniform2(prop::sample::select(vec![",", ", ", " ", "  ", " , ", ";", ", ,\t"])),
        equals in prop::sample::select(vec!["=", " =", "= ", " = "]),
        space in "[ \t]{1,3}",
    ) {
        let quoted = |kind: usize, value: &str| match kind {
            0 => format!("\"{value}\""),
            1 => format!("'{value}'"),
            _ => value.to_owned(),
        };
        // A semicolon is part of a value without quotes.
        let after = |kind: usize, separator: &str| match kind {
            2 => separator.replace(';', ","),
            _ => separator.to_owned(),
        };
        let line = format!(
            "Bearer{space}realm{equals}{}{}service{equals}{}{}scope{equals}{}",
            quoted(quotes[0], &realm),
            after(quotes[0], separators[0]),
            quoted(quotes[1], "r.example"),
            after(quotes[1], separators[1]),
            quoted(quotes[2], &scope),
        );
        prop_assert_eq!(as_meant(&line), [bearer(&realm, Some("r.example"), Some(&scope))], "{}", line);
    }
}
