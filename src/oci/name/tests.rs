use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

#[test]
fn namespaces_are_hosts_with_an_optional_port() {
    for text in [
        "docker.io",
        "localhost",
        "localhost:5000",
        "[::1]:5000",
        "[::1]",
        "127.0.0.1:5000",
        "a-b.c:65535",
        "x",
    ] {
        assert_eq!(text.parse::<Namespace>().unwrap().as_str(), text);
    }
    assert_eq!(
        "Quay.IO:443".parse::<Namespace>().unwrap().as_str(),
        "quay.io:443"
    );
}

#[test]
fn nothing_else_is_a_namespace() {
    let long = "a".repeat(256);
    for text in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.",
        "a/b",
        "../etc",
        " a",
        "a b",
        "a\n",
        "-a",
        "a-",
        "a_b",
        "é.fr",
        "a:",
        ":1",
        "a:0",
        "a:080",
        "a:65536",
        "a:+80",
        "a:b",
        "a:1:2",
        "::1",
        "[::1",
        "[]",
        "[::1]x",
        "[::1]:",
        "[fe80::1%eth0]",
        "[a]",
        "u@a",
        "http://a",
        "a?b",
        "a%2fb",
        "[::1]:1]",
        &long,
    ] {
        assert!(text.parse::<Namespace>().is_err(), "{text}");
    }
}

#[test]
fn dockers_rule_tells_hosts_from_repositories() {
    for host in ["quay.io", "localhost", "host:80", "[::1]"] {
        assert!(Namespace::is_host_like(host), "{host}");
    }
    for name in ["library", "", "localhosts", "a-b"] {
        assert!(!Namespace::is_host_like(name), "{name}");
    }
}

#[test]
fn repositories_follow_the_specification() {
    for text in [
        "nginx",
        "library/nginx",
        "a.b/c_d/e__f/g--h---i",
        "0/1",
        "manifests/blobs",
    ] {
        assert_eq!(text.parse::<Repository>().unwrap().as_str(), text);
    }
    let long = "a/".repeat(127) + "ab";
    for text in [
        "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", "_a", "a b", "..",
        "a/../b", "é", &long,
    ] {
        assert!(text.parse::<Repository>().is_err(), "{text}");
    }
    assert!(long[1..].parse::<Repository>().is_err() && long[2..].parse::<Repository>().is_ok());
}

#[test]
fn a_prefix_makes_a_longer_name_or_none() {
    let nginx: Repository = "nginx".parse().unwrap();
    assert!(nginx.single_component());
    let full = nginx.with_prefix("library").unwrap();
    assert_eq!(full.as_str(), "library/nginx");
    assert!(!full.single_component());
    assert!(nginx.with_prefix("localhost:5000").is_err());
    let name = QualifiedName::new("docker.io".parse().unwrap(), full);
    assert_eq!(name.to_string(), "docker.io/library/nginx");
}

#[test]
fn tags_and_references() {
    for text in [
        "latest",
        "_",
        "1.27-alpine",
        "sha256-ab.sig",
        &"a".repeat(128),
    ] {
        assert!(
            matches!(text.parse(), Ok(Reference::Tag(tag)) if tag.as_str() == text),
            "{text}"
        );
    }
    for text in ["", ".a", "-a", "a/b", "a b", "é", &"a".repeat(129)] {
        assert!(
            matches!(text.parse::<Reference>(), Err(ReferenceError::Tag(_))),
            "{text}"
        );
    }
    assert!(matches!(
        "a:b".parse::<Reference>(),
        Err(ReferenceError::Digest(_))
    ));
    let digest = Digest::of(b"x");
    assert_eq!(digest.to_string().parse(), Ok(Reference::Digest(digest)));
}

#[test]
fn an_error_quotes_the_text_without_letting_it_out() {
    let error = "A\u{1b}[2J\n\""
        .parse::<Repository>()
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("invalid repository name \"A\\u{1b}[2J\\n\\\"\": it must be"),
        "{error}"
    );
    let error = "é".repeat(300).parse::<Tag>().unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("invalid tag \"{}...\":", "é".repeat(80))),
        "{error}"
    );
}

#[test]
fn in_json_a_name_is_a_checked_string() {
    let name: Repository = serde_json::from_str("\"a/b\"").unwrap();
    assert_eq!(serde_json::to_string(&name).unwrap(), "\"a/b\"");
    assert!(serde_json::from_str::<Tag>("\"a/b\"").is_err());
}

/// The specification's regular expression, which proptest can only generate from and not match.
const REPOSITORY: &str = r"[a-z0-9]{1,3}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,3}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}){0,3}";

proptest! {
    #[test]
    fn every_name_of_the_grammar_parses_and_prints(repository in REPOSITORY, tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
        prop_assert_eq!(repository.parse::<Repository>().unwrap().to_string(), repository);
        prop_assert_eq!(tag.parse::<Reference>().unwrap().to_string(), tag);
    }

    #[test]
    fn every_host_parses_and_prints(host in "[a-z0-9]{1,5}(-[a-z0-9]){0,2}(\\.[a-z0-9]{1,5}){0,3}", address: u128, port in 1..=u16::MAX) {
        for host in [host, format!("[{}]", Ipv6Addr::from(address))] {
            prop_assert_eq!(host.parse::<Namespace>().unwrap().to_string(), host.clone());
            let host = format!("{host}:{port}");
            prop_assert_eq!(host.to_uppercase().parse::<Namespace>().unwrap().to_string(), host);
        }
    }

    #[test]
    fn what_parses_is_printed_as_it_was(text in r"\PC*|[a-z0-9._/-]{0,12}|[a-zA-Z0-9.:\[\]-]{0,12}") {
        if let Ok(repository) = text.parse::<Repository>() {
            prop_assert_eq!(repository.as_str(), &text);
        }
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string(), text.clone());
        }
        if let Ok(namespace) = text.parse::<Namespace>() {
            prop_assert_eq!(namespace.as_str(), text.to_ascii_lowercase());
            prop_assert!(!text.contains(['/', ' ']) && !text.contains(".."));
        }
    }
}
