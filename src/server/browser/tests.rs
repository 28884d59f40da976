use proptest::prelude::*;

use super::*;

fn loopback(names: &[&str]) -> Gate {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    Gate::new([127, 0, 0, 1].into(), &names)
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let request = Request::get(uri);
    let add = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    headers.iter().fold(request, add).body(()).unwrap()
}

fn answers(gate: &Gate, host: &str) -> bool {
    gate.judge(&request("/v2/", &[("host", host)]), false)
        .is_ok()
}

#[test]
fn a_loopback_address_is_known_by_loopback_names() {
    let gate = loopback(&["mirror.internal", "other:5000"]);
    for host in [
        "",
        "localhost",
        "LocalHost:5000",
        "localhost.",
        "a.b.localhost:1",
        "127.0.0.1:5000",
        "127.9.8.7",
        "[::1]:5000",
        "[::ffff:127.0.0.1]",
        "mirror.internal:5000",
        "MIRROR.internal",
        "other:5000",
    ] {
        assert!(answers(&gate, host), "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:5000",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "[2001:db8::1]:5000",
        "0.0.0.0:5000",
        "user@localhost:5000@evil.example",
        "other:5001",
        "other",
    ] {
        assert!(!answers(&gate, host), "{host}");
    }
}

#[test]
fn every_host_that_a_request_gives_is_judged() {
    let gate = loopback(&[]);
    let twice = [("host", "localhost"), ("host", "evil.example")];
    let judged = gate.judge(&request("/v2/", &twice), false);
    assert_eq!(judged, Err(Turned::NoHost));
    // The target of a request to a proxy, and of HTTP/2, counts more than the header.
    let absolute = request("http://evil.example/v2/", &[("host", "localhost")]);
    assert_eq!(
        gate.judge(&absolute, false),
        Err(Turned::Host("evil.example".to_owned()))
    );
    let mut none = request("/v2/", &[]);
    assert_eq!(gate.judge(&none, false), Err(Turned::NoHost));
    *none.version_mut() = Version::HTTP_10;
    assert_eq!(gate.judge(&none, false), Ok(()));
}

#[test]
fn another_address_and_a_star_are_known_by_any_name() {
    for gate in [
        Gate::new([0, 0, 0, 0].into(), &[]),
        Gate::new([10, 0, 0, 1].into(), &["a".to_owned()]),
        loopback(&["*"]),
    ] {
        assert!(answers(&gate, "mirror.example:5000"));
    }
}

#[test]
fn pages_of_other_sites_are_turned_away_everywhere() {
    for gate in [loopback(&[]), loopback(&["*"])] {
        let judge = |headers: &[(&str, &str)], shown| {
            let all = [&[("host", "localhost:5000")], headers].concat();
            gate.judge(&request("/v2/", &all), shown)
        };
        for site in ["cross-site", "same-site", "nonsense"] {
            assert_eq!(judge(&[("sec-fetch-site", site)], true), Err(Turned::Page));
        }
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "localhost:5000",
        ] {
            assert_eq!(
                judge(&[("origin", origin)], true),
                Err(Turned::Page),
                "{origin}"
            );
        }
        for own in [
            ("sec-fetch-site", "none"),
            ("sec-fetch-site", "same-origin"),
            ("origin", "http://LOCALHOST:5000"),
        ] {
            assert_eq!(judge(&[own], false), Ok(()), "{own:?}");
        }
        let link = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert_eq!(judge(&link, true), Ok(()));
        assert_eq!(judge(&link, false), Err(Turned::Page));
    }
}

proptest! {
    #[test]
    fn no_name_that_can_be_registered_is_taken_for_loopback(name in "[a-z0-9.-]{0,20}\\.(com|example|internal)\\.?(:[0-9]{0,6})?") {
        prop_assert!(!answers(&loopback(&[]), &name));
    }

    #[test]
    fn nothing_panics(host in "[ -~]{0,40}", origin in "[ -~]{0,40}") {
        let _ = loopback(&["a"]).judge(&request("/", &[("host", &host), ("origin", &origin)]), false);
    }
}
