use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn route(path: &str) -> Result<Route, EndpointError> {
    Route::parse(&path.replace("DIGEST", DIGEST), None)
}

fn before(host: &str) -> Prefix {
    Prefix::BeforeV2(host.parse().unwrap())
}

fn inside(host: &str) -> Prefix {
    Prefix::InRepository(host.parse().unwrap())
}

fn is_understood(cases: impl IntoIterator<Item = (&'static str, Prefix, &'static str)>) {
    for (path, prefix, endpoint) in cases {
        let route = route(path).unwrap_or_else(|error| unreachable!("{path}: {error}"));
        assert_eq!(
            (&route.prefix, route.endpoint.path()),
            (&prefix, endpoint.replace("DIGEST", DIGEST)),
            "{path}"
        );
        assert_eq!(route.ns, None);
    }
}

#[test]
fn every_form_of_path_is_understood() {
    use Prefix::None;
    is_understood([
        ("/v2/", None, "/v2/"),
        ("/v2", None, "/v2/"),
        ("/v2/nginx/manifests/1.27", None, "/v2/nginx/manifests/1.27"),
        ("/v2/a/b/manifests/DIGEST", None, "/v2/a/b/manifests/DIGEST"),
        ("/v2/a/b/blobs/DIGEST", None, "/v2/a/b/blobs/DIGEST"),
        ("/v2/a/tags/list", None, "/v2/a/tags/list"),
        ("/v2/a/referrers/DIGEST", None, "/v2/a/referrers/DIGEST"),
        ("/v2/_catalog", None, "/v2/_catalog"),
        ("/v1/search", None, "/v1/search"),
        ("/v1/_ping", None, "/v1/_ping"),
        ("/v2/a/blobs/uploads", None, "/v2/a/blobs/uploads/"),
        ("/v2/a/blobs/uploads/", None, "/v2/a/blobs/uploads/"),
        ("/v2/a/blobs/uploads/1/2", None, "/v2/a/blobs/uploads/"),
        // Keywords inside a repository's name.
        (
            "/v2/manifests/manifests/x",
            None,
            "/v2/manifests/manifests/x",
        ),
        (
            "/v2/a/blobs/b/manifests/x",
            None,
            "/v2/a/blobs/b/manifests/x",
        ),
        (
            "/v2/a/blobs/uploads/manifests/x",
            None,
            "/v2/a/blobs/uploads/manifests/x",
        ),
        (
            "/v2/a/manifests/tags/list",
            None,
            "/v2/a/manifests/tags/list",
        ),
        ("/v2/v2/a/tags/list", None, "/v2/v2/a/tags/list"),
    ]);
}

#[test]
fn what_a_path_need_not_have_changes_nothing() {
    use Prefix::None;
    is_understood([
        ("//v2/", None, "/v2/"),
        ("/v2//", None, "/v2/"),
        ("/./v2/.", None, "/v2/"),
        ("/v2//a/manifests/x", None, "/v2/a/manifests/x"),
        ("/v2/a/manifests/x/", None, "/v2/a/manifests/x"),
        ("/v2/a/manifests/DIGEST//", None, "/v2/a/manifests/DIGEST"),
        ("/v2/./a//blobs/DIGEST/", None, "/v2/a/blobs/DIGEST"),
        ("/v2/a/tags/list/", None, "/v2/a/tags/list"),
        ("/v2/_catalog/", None, "/v2/_catalog"),
        ("/v1/search/", None, "/v1/search"),
        ("//quay.io//v2//", before("quay.io"), "/v2/"),
    ]);
}

#[test]
fn an_encoded_slash_divides_as_a_bare_one() {
    use Prefix::None;
    is_understood([
        (
            "/v2/library%2Fx/manifests/1",
            None,
            "/v2/library/x/manifests/1",
        ),
        (
            "/v2/a%2fb%2Fc/blobs/sha256%3ae3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            None,
            "/v2/a/b/c/blobs/DIGEST",
        ),
        ("/v2/a%2fb/tags/list", None, "/v2/a/b/tags/list"),
        (
            "/v2/a%2fb/referrers/DIGEST",
            None,
            "/v2/a/b/referrers/DIGEST",
        ),
        (
            "/v2/quay.io%2Fa%2Fb/tags/list",
            inside("quay.io"),
            "/v2/a/b/tags/list",
        ),
        (
            "/quay.io/v2/a%2fb/tags/list",
            before("quay.io"),
            "/v2/a/b/tags/list",
        ),
        (
            "/v2/quay.io/a%2Fb/manifests/1",
            inside("quay.io"),
            "/v2/a/b/manifests/1",
        ),
        (
            "/host%3A5000/a%2Fb/manifests/1",
            inside("host:5000"),
            "/v2/a/b/manifests/1",
        ),
    ]);
}

#[test]
fn a_registry_before_the_root_or_after_it_is_taken_off_once() {
    use Prefix::None;
    is_understood([
        ("/quay.io/v2/", before("quay.io"), "/v2/"),
        ("/quay.io/v2", before("quay.io"), "/v2/"),
        (
            "/quay.io/v2/org/a/manifests/x",
            before("quay.io"),
            "/v2/org/a/manifests/x",
        ),
        (
            "/quay.io/v2/b.c/a/manifests/x",
            before("quay.io"),
            "/v2/b.c/a/manifests/x",
        ),
        ("/quay.io/v1/search", before("quay.io"), "/v1/search"),
        ("/v2/quay.io/", inside("quay.io"), "/v2/"),
        ("/v2/quay.io", inside("quay.io"), "/v2/"),
        ("/v2/quay.io/_catalog", inside("quay.io"), "/v2/_catalog"),
        (
            "/v2/quay.io/org/a/manifests/x",
            inside("quay.io"),
            "/v2/org/a/manifests/x",
        ),
        (
            "/v2/quay.io/b.c/a/manifests/x",
            inside("quay.io"),
            "/v2/b.c/a/manifests/x",
        ),
        (
            "/v2/localhost/a/tags/list",
            inside("localhost"),
            "/v2/a/tags/list",
        ),
        (
            "/v2/Host%3A5000/a/tags/list",
            inside("host:5000"),
            "/v2/a/tags/list",
        ),
        (
            "/v2/[::1]:5000/a/tags/list",
            inside("[::1]:5000"),
            "/v2/a/tags/list",
        ),
        // A host-like component that cannot be a registry, or has no repository after it.
        ("/v2/quay.io/manifests/x", None, "/v2/quay.io/manifests/x"),
        ("/v2/a.b/blobs/uploads/1", None, "/v2/a.b/blobs/uploads/"),
        ("/v2/a.b_c/d/manifests/x", None, "/v2/a.b_c/d/manifests/x"),
        // Roots of containerd's `override_path`.
        (
            "/quay.io/org/a/manifests/x",
            inside("quay.io"),
            "/v2/org/a/manifests/x",
        ),
        (
            "/library/x/blobs/DIGEST",
            None,
            "/v2/library/x/blobs/DIGEST",
        ),
    ]);
}

#[test]
fn the_rest_is_refused_with_the_reason() {
    use EndpointError as E;
    let code = |path| route(path).unwrap_err().code();
    for path in [
        "",
        "*",
        "/",
        "/x",
        "/quay.io",
        "/quay.io/",
        "/metrics",
        "/v3/",
        "/v2/a",
        "/v2/a/manifests",
        "/v2/manifests/x",
        "/v2/tags/list",
        "/v2/a/manifests/",
        "/v2/manifests/x//",
        "//",
        "/.",
        "/v2/a/tags/x",
        "/v1/",
        "/v1/repositories",
        "/_catalog",
        "/A/manifests/x",
        "/a/blobs/x",
        "/quay.io/v2/manifests/x",
    ] {
        assert_eq!(route(path), Err(E::NotFound), "{path}");
    }
    for path in [
        "/v2/../manifests/x",
        "/v2/a/../b/manifests/x",
        "/..",
        "/v2/a%2f/manifests/x",
        "/v2/%2fa/manifests/x",
        "/v2/a%2f%2fb/manifests/x",
        "/v2/a%2f..%2fb/manifests/x",
        "/v2/a%2f.%2fb/manifests/x",
        "/v2/%2e/a/manifests/x",
        "/v2/..%2fa/manifests/x",
        "/v2/a/%2e%2e%2fb/manifests/x",
        "/v2/a%2fb%00/manifests/x",
        "/%2fquay.io/v2/",
        "/v2/a/%2e%2e/manifests/x",
        "/v2/a%00/tags/list",
        "/v2/a%0a/tags/list",
        "/v2/a%ff/tags/list",
    ] {
        assert_eq!(route(path), Err(E::Encoding), "{path}");
    }
    // Decoded once, and once only.
    assert!(matches!(route("/v2/a%252fb/tags/list"), Err(E::Name(_))));
    assert!(matches!(
        route("/v2/a%252e%252e/x/tags/list"),
        Err(E::Name(_))
    ));
    assert!(matches!(
        route("/v2/a%2f%252e%252e/tags/list"),
        Err(E::Name(_))
    ));
    assert!(matches!(route("/v2/A/tags/list"), Err(E::Name(_))));
    assert!(matches!(route("/v2/a/manifests/.x"), Err(E::Tag(_))));
    assert!(matches!(route("/v2/a/referrers/x"), Err(E::Digest(_))));
    assert!(matches!(
        route("/v2/quay.io:99999/a/tags/list"),
        Err(E::Namespace(_))
    ));
    assert!(matches!(route("/a..b/v2/"), Err(E::Namespace(_))));
    assert_eq!(code("/v2/a/blobs/sha256:0"), ErrorCode::DigestInvalid);
    assert_eq!(code("/v2/A/tags/list"), ErrorCode::NameInvalid);
    assert_eq!(code("/v2/a/manifests/.INVALID"), ErrorCode::ManifestUnknown);
    assert_eq!(code("/x"), ErrorCode::NameUnknown);
}

#[test]
fn the_query_can_name_the_registry() {
    let ns =
        |query| Route::parse("/v2/", Some(query)).map(|route| route.ns.map(|ns| ns.to_string()));
    for (query, expected) in [
        ("ns=docker.io", Some("docker.io")),
        (
            "last=x&ns=localhost%3A5000&ns=other",
            Some("localhost:5000"),
        ),
        ("n%73=Quay.io", Some("quay.io")),
        ("ns=", None),
        ("ns", None),
        ("n=1", None),
        ("", None),
    ] {
        assert_eq!(ns(query), Ok(expected.map(str::to_owned)), "{query}");
    }
    for query in ["ns=a/b", "ns=..", "ns=+", "ns=%00", "ns=http://a", "ns=%ff"] {
        assert!(
            matches!(ns(query), Err(EndpointError::Namespace(_))),
            "{query}"
        );
    }
    assert_eq!(
        query_value("n=10&artifactType=a%2Fb%2Bc", "artifactType").as_deref(),
        Some("a/b+c")
    );
    assert_eq!(query_value("n=10", "last"), None);
}

#[test]
fn a_prefix_can_be_put_back() {
    let kept = |path| route(path).unwrap().keep_prefix();
    let same = route("/v2/a.b/c/manifests/x")
        .unwrap()
        .keep_prefix()
        .unwrap();
    assert_eq!(
        (same.endpoint.path().as_str(), same.prefix),
        ("/v2/a.b/c/manifests/x", Prefix::None)
    );
    assert_eq!(
        kept("/quay.io/v2/a/tags/list").unwrap().prefix,
        before("quay.io")
    );
    assert_eq!(kept("/v2/quay.io/"), Err(EndpointError::NotFound));
    assert!(matches!(
        kept("/v2/localhost:5000/a/tags/list"),
        Err(EndpointError::Name(_))
    ));
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let component = "[a-z0-9]{1,4}((\\.|_|__|-)[a-z0-9]{1,3})?|manifests|blobs|uploads|tags|list|referrers|v2|quay\\.io";
    let name = prop::collection::vec(component, 1..5).prop_map(|words| words.join("/"));
    (
        name,
        "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,9}",
        any::<Vec<u8>>(),
        0..9,
    )
        .prop_map(|(name, tag, content, shape)| {
            let (repository, digest): (Repository, _) =
                (name.parse().unwrap(), Digest::of(&content));
            match shape {
                0 => Endpoint::Base,
                1 => Endpoint::Catalog,
                2 => Endpoint::Search,
                3 => Endpoint::Tags { repository },
                4 => Endpoint::Uploads { repository },
                5 => Endpoint::Referrers { repository, digest },
                6 => Endpoint::Blob { repository, digest },
                7 => Endpoint::Manifest {
                    repository,
                    reference: Reference::Digest(digest),
                },
                _ => Endpoint::Manifest {
                    repository,
                    reference: Reference::Tag(tag.parse().unwrap()),
                },
            }
        })
}

/// A path with some of its bytes percent-encoded, once or twice, and with slashes that say nothing.
fn spelt(path: &str, dice: &[u8]) -> (String, bool) {
    let mut dice = dice.iter().cycle();
    let (mut text, mut twice) = (String::new(), false);
    for (at, byte) in path.bytes().enumerate() {
        // The first slash is the path's own.
        match dice.next().copied().unwrap_or_default() % 8 {
            0 if at > 0 => text.push_str(&format!("%{byte:02x}")),
            1 if at > 0 => text.push_str(&format!("%{byte:02X}")),
            2 if at > 0 && byte == b'/' => text.push_str("//"),
            3 if at > 0 && byte == b'/' => text.push_str("/./"),
            4 if at > 0 && dice.next().is_some_and(|it| *it > 250) => {
                twice = true;
                text.push_str(&format!("%25{byte:02x}"));
            }
            _ => text.push(char::from(byte)),
        }
    }
    (text, twice)
}

proptest! {
    #[test]
    fn a_spelling_is_the_same_path_or_none(endpoint in any_endpoint(), dice in prop::collection::vec(any::<u8>(), 1..60)) {
        let plain = endpoint.path();
        // A slash at the end says nothing, and encoded it would be an empty part.
        let (text, twice) = spelt(plain.strip_suffix('/').unwrap_or(&plain), &dice);
        match (Route::parse(&text, None), twice) {
            (Ok(route), false) => prop_assert_eq!(route, Route::parse(&plain, None).unwrap(), "{}", text),
            // What is below `blobs/uploads` is not looked at.
            (Ok(route), true) => prop_assert_eq!(route.endpoint.kind(), Kind::Upload, "{}", text),
            (Err(error), false) => prop_assert!(
                text.to_lowercase().contains("%2f//") || text.to_lowercase().contains("%2f/./"),
                "{}: {}", text, error
            ),
            (Err(_), true) => {}
        }
    }

    #[test]
    fn what_is_printed_parses_back(endpoint in any_endpoint()) {
        let route = Route::parse(&endpoint.path(), None).unwrap();
        prop_assert_eq!(route.keep_prefix().unwrap().endpoint, endpoint);
    }

    #[test]
    fn a_registry_in_front_changes_nothing_behind(endpoint in any_endpoint()) {
        let route = Route::parse(&format!("/localhost:5000{}", endpoint.path()), None).unwrap();
        prop_assert_eq!(route, Route { ns: None, prefix: before("localhost:5000"), endpoint });
    }

    #[test]
    fn another_repository_is_the_only_difference(endpoint in any_endpoint()) {
        let other: Repository = "some/other".parse().unwrap();
        let moved = endpoint.clone().with_repository(other.clone());
        prop_assert_eq!(moved.kind(), endpoint.kind());
        prop_assert_eq!(moved.repository(), endpoint.repository().map(|_| &other));
        if let Some(own) = endpoint.repository() {
            prop_assert_eq!(moved.with_repository(own.clone()), endpoint);
        }
    }

    #[test]
    fn no_path_makes_it_panic_and_what_parses_is_stable(
        path in r"\PC*|(/(v2|v1|a|a%2fb|a\.b|%2[ef]|%|\.\.|\.||manifests|blobs|uploads|tags|list|_catalog|x:1)){0,7}/?",
        query in prop::option::of(r"(ns|n)=[a-z.%0-9:/&=]{0,12}"),
    ) {
        if let Ok(route) = Route::parse(&path, query.as_deref()) {
            let printed = route.endpoint.path();
            let canonical = !printed.contains('%') && !printed.contains("//") && !printed.contains("/.");
            prop_assert!(canonical, "{}", printed);
            let again = Route::parse(&printed, None).and_then(Route::keep_prefix);
            prop_assert_eq!(again.map(|again| again.endpoint), Ok(route.endpoint));
        }
    }
}
