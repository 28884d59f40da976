//! Upstreams: which there are, which is the default, as whom they are asked, and what they inherit.

use std::time::Duration;

use super::*;
use crate::sites::hub;
use crate::upstream::{Login, Password, Proxy};

#[test]
fn the_default_is_the_one_marked_else_docker_hub_else_the_only_one() {
    let default = |text: &str| {
        let config = parse(text).unwrap();
        let defaults: Vec<_> = config
            .upstreams
            .iter()
            .filter(|it| it.default)
            .map(|it| it.settings.namespace.to_string())
            .collect();
        defaults.join(",")
    };
    assert_eq!(
        default("[upstream.\"quay.io\"]\n[upstream.\"docker.io\"]\n"),
        "docker.io"
    );
    assert_eq!(
        default("[upstream.\"quay.io\"]\ndefault = true\n[upstream.\"docker.io\"]\n"),
        "quay.io"
    );
    assert_eq!(default("[upstream.\"quay.io\"]\n"), "quay.io");
    check(
        "[upstream.\"quay.io\"]\ndefault = true\n[upstream.\"docker.io\"]\ndefault = true\n",
        "p.toml:4:11: upstream.\"docker.io\".default: \"quay.io\" is the default already; mark one upstream alone",
    );
    check(
        "[upstream.\"quay.io\"]\n[upstream.\"ghcr.io\"]\n",
        "p.toml:1:11: upstream: none is the default, where repositories without a namespace go; write default = true in one of them",
    );
    assert!(parse("[upstream.\"quay.io\"]\ndefault = false\n").is_err());
}

#[test]
fn a_namespace_without_quotes_is_one_mistake() {
    check(
        "[upstream.docker.io]\n[upstream.\"quay.io\"]\n[upstream.\"ghcr.io\"]\n",
        "p.toml:1:11: upstream.docker.io: is split at its dots; write [upstream.\"docker.io\"], with the quotes",
    );
}

#[test]
fn docker_hub_has_one_namespace_under_any_of_its_names() {
    for alias in [
        "index.docker.io",
        "registry-1.docker.io",
        "registry.hub.docker.com",
        "Docker.IO",
    ] {
        let config = parse(&format!("[upstream.{alias:?}]")).unwrap();
        assert!(hub::is(&config.upstreams[0].settings.namespace), "{alias}");
        assert_eq!(
            config.upstreams[0].settings.registry.url.host(),
            Some("registry-1.docker.io")
        );
    }
    check(
        "[upstream.\"docker.io\"]\n[upstream.\"index.docker.io\"]\n",
        "p.toml:2:11: upstream.\"index.docker.io\": is the same registry as \"docker.io\"; keep one of the two tables",
    );
}

#[test]
fn an_upstream_inherits_freshness_and_may_differ() {
    let text = "[freshness]\ntag_ttl = \"5m\"\nmax_stale = \"1d\"\n[upstream.\"quay.io\"]\ntag_ttl = \"0s\"\nproxy = \"none\"\nrealms = [\"Auth.example.com:8443\"]\n[upstream.\"docker.io\"]\n";
    let config = parse(text).unwrap();
    let quay = upstream_of(&config, "quay.io");
    assert_eq!(
        (quay.freshness.tag_ttl, quay.freshness.max_stale),
        (Duration::ZERO, Duration::from_secs(86_400))
    );
    assert!(matches!(quay.settings.connection.proxy, Proxy::Direct));
    assert_eq!(quay.settings.realms, ["auth.example.com:8443"]);
    assert_eq!(
        upstream_of(&config, "docker.io").freshness.tag_ttl,
        Duration::from_secs(300)
    );
}

#[test]
fn a_share_of_the_store_is_a_part_or_a_size() {
    let text = "[store]\nmax_size = \"10GiB\"\n[upstream.\"docker.io\"]\nstore_share = \"30%\"\n\
                [upstream.\"quay.io\"]\nstore_share = \"1GiB\"\n[upstream.\"ghcr.io\"]\n";
    let shares = parse(text).unwrap().store.shares;
    let shares: Vec<_> = shares
        .iter()
        .map(|share| (share.namespace.as_str(), share.most))
        .collect();
    let expected = [
        ("docker.io", Some(3 << 30)),
        ("quay.io", Some(1 << 30)),
        ("ghcr.io", None),
    ];
    assert_eq!(shares, expected);
    for (written, quoted) in [
        ("\"0%\"", "0%"),
        ("0", "0"),
        ("\"101%\"", "101%"),
        ("\"-1%\"", "-1%"),
    ] {
        let text = format!("[upstream.\"docker.io\"]\nstore_share = {written}");
        let expected = format!(
            "p.toml:2:15: upstream.\"docker.io\".store_share: \"{quoted}\" is no share of the store; write \"1%\" to \"100%\" of store.max_size, or a size such as \"20GiB\""
        );
        check(&text, &expected);
    }
}

#[test]
fn further_credentials_and_endpoints_are_lists() {
    let text = "[upstream.\"docker.io\"]\nendpoints = [\"https://mirror.gcr.io\", \"http://near:5000/hub\"]\nquota_reserve = \"40%\"\n\
                [[upstream.\"docker.io\".more_credentials]]\nusername = \"a\"\npassword = \"hunter2\"\n\
                [[upstream.\"docker.io\".more_credentials]]\nusername = \"b\"\npassword_env = \"TOKEN\"\n";
    let config = parse_in(text, &[("TOKEN", SECRET)]).unwrap();
    let upstream = &config.upstreams[0];
    let names: Vec<_> = upstream
        .settings
        .logins
        .iter()
        .skip(1)
        .map(Login::name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    let endpoints: Vec<_> = upstream
        .settings
        .endpoints
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        endpoints,
        ["https://mirror.gcr.io/", "http://near:5000/hub"]
    );
    assert_eq!(upstream.freshness.quota_reserve, 40);
    assert!(!format!("{config:?}").contains(SECRET));
    let inline = "[upstream.\"docker.io\"]\nmore_credentials = [{ username = \"a\", password = \"hunter2\" }]";
    assert_eq!(parse(inline).unwrap().upstreams[0].settings.logins.len(), 2);

    let hub = |keys: &str| format!("[upstream.\"docker.io\"]\n{keys}");
    let cases = [
        (
            "endpoints = [\"https://me:hunter2@host\"]",
            "2:13: upstream.\"docker.io\".endpoints: has credentials in it; move them to username and password_file",
        ),
        (
            "quota_reserve = \"a quarter\"",
            "2:17: upstream.\"docker.io\".quota_reserve: \"a quarter\" is not a part in percent; write \"0%\" to \"100%\", such as \"25%\"",
        ),
        (
            "quota_reserve = \"101%\"",
            "2:17: upstream.\"docker.io\".quota_reserve: \"101%\" is not a part in percent; write \"0%\" to \"100%\", such as \"25%\"",
        ),
        (
            "more_credentials = { password = \"hunter2\" }",
            "2:20: upstream.\"docker.io\".more_credentials: is not a list of tables; write [[upstream.\"docker.io\".more_credentials]] for each",
        ),
        (
            "more_credentials = [\"hunter2\"]",
            "2:21: upstream.\"docker.io\".more_credentials: has what is not a table; write [[upstream.\"docker.io\".more_credentials]] for each",
        ),
        (
            "[[upstream.\"docker.io\".more_credentials]]\nusername = \"a\"",
            "3:12: upstream.\"docker.io\".more_credentials.username: has no password to it; add password_file, password_env or password",
        ),
        (
            "more_credentials = [{}]",
            "2:21: upstream.\"docker.io\".more_credentials.username: is missing; add username, and password_file, password_env or password",
        ),
        (
            "more_credentials = [{ user = \"hunter2\" }]",
            "2:23: upstream.\"docker.io\".more_credentials.user: is not a key that exists; known here: username, password, password_file, password_env\np.toml:2:21: upstream.\"docker.io\".more_credentials.username: is missing; add username, and password_file, password_env or password",
        ),
    ];
    for (keys, expected) in cases {
        let printed = mistakes(&hub(keys));
        assert!(!printed.contains(SECRET), "{printed}");
        let lines: std::collections::BTreeSet<_> = printed.lines().map(str::to_owned).collect();
        let expected = format!("p.toml:{expected}");
        let expected = expected.lines().map(str::to_owned).collect();
        assert_eq!(lines, expected, "{keys}");
    }
}

#[test]
fn credentials_are_a_name_and_one_password() {
    let hub = |keys: &str| format!("[upstream.\"docker.io\"]\n{keys}");
    let config = parse(&hub("username = \"u\"\npassword = \"hunter2\"")).unwrap();
    assert!(
        matches!(&*config.upstreams[0].settings.logins, [Login::Password { user, password }]
        if user == "u" && matches!(password, Password::Inline(secret) if secret.expose() == SECRET))
    );
    assert!(!format!("{config:?}").contains(SECRET));

    let named = parse_in(
        &hub("username = \"u\"\npassword_env = \"TOKEN\""),
        &[("TOKEN", SECRET)],
    )
    .unwrap();
    // The variable is read where it is checked: another environment later changes nothing.
    assert!(
        matches!(&*named.upstreams[0].settings.logins, [Login::Password { user, password }]
        if user == "u" && matches!(password, Password::Inline(secret) if secret.expose() == SECRET))
    );
    assert!(!format!("{named:?}").contains(SECRET));

    let cases = [
        (
            "username = \"u\"",
            "2:12: upstream.\"docker.io\".username: has no password to it; add password_file, password_env or password",
        ),
        (
            "password = \"hunter2\"",
            "2:12: upstream.\"docker.io\".password: has no name to it; add username",
        ),
        (
            "username = \"u:hunter2\"",
            "2:12: upstream.\"docker.io\".username: contains a colon, which no user name can; write the name alone, and the password as password_file\np.toml:2:12: upstream.\"docker.io\".username: has no password to it; add password_file, password_env or password",
        ),
        (
            "username = \"u\"\npassword = [\"hunter2\"]",
            "3:12: upstream.\"docker.io\".password: is a list where a text is expected; write it in quotes",
        ),
        (
            "username = \"u\"\npassword = \"\"",
            "3:12: upstream.\"docker.io\".password: is empty; write a value, or leave it out",
        ),
        (
            "username = \"u\"\npassword_env = \"hunter2\"",
            "3:16: upstream.\"docker.io\".password_env: names an environment variable that is not set; set it, or write the name of one that is",
        ),
        (
            "username = \"u\"\npassword_file = \"/hunter2\"",
            "3:17: upstream.\"docker.io\".password_file: names a file that cannot be read: entity not found; name a file that holds the password",
        ),
        (
            "username = \"u\"\npassword = \"hunter2\"\npassword_file = \"/dev/null\"",
            "4:17: upstream.\"docker.io\".password_file: is a second password, besides password; keep one of them",
        ),
        (
            "url = \"https://u:hunter2@registry-1.docker.io\"",
            "2:7: upstream.\"docker.io\".url: has credentials in it; move them to username and password_file",
        ),
    ];
    for (text, expected) in cases {
        check(&hub(text), &format!("p.toml:{expected}"));
    }
}

#[test]
fn a_password_arrives_as_it_was_meant_from_every_source() {
    let first = |text: &str, variables: &[(&str, &str)]| {
        let config = parse_in(text, variables).unwrap();
        assert!(!format!("{config:?}").contains(SECRET), "{config:?}");
        config.upstreams[0].settings.logins.clone()
    };
    let table = "[upstream.\"docker.io\"]\nusername = \"u\"\n";
    let written = [
        ("password = \"hunter2\\t\\\"\"", "hunter2\t\""),
        ("password = 'hunter2\\'", "hunter2\\"),
        ("password_env = \"TOKEN\"", " hunter2 "),
    ];
    for (key, expected) in written {
        let logins = first(&format!("{table}{key}"), &[("TOKEN", " hunter2 ")]);
        let [Login::Password { password, .. }] = &*logins else {
            panic!("{key}: {logins:?}");
        };
        let Password::Inline(secret) = password else {
            panic!("{key}: {password:?}");
        };
        assert_eq!(secret.expose(), expected);
    }
}

#[test]
fn the_same_credentials_may_stand_in_every_table_for_them() {
    for key in keys::of(keys::MORE_CREDENTIALS) {
        assert!(
            keys::find(keys::UPSTREAM, key.name).is_some(),
            "{}",
            key.name
        );
    }
}
