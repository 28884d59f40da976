//! What the configuration promises, seen from outside: text in; settings, or mistakes as they are printed, out.

use std::time::Duration;

use super::*;
use crate::sites::hub;
use crate::upstream::{Login, Password, Proxy};

const SECRET: &str = "hunter2";

fn environment(variables: &[(&str, &str)]) -> Environment {
    let home = [("HOME", "/home/u")];
    home.iter()
        .chain(variables)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, "p.toml", &Overrides::default(), &environment(&[]))
}

fn parse_in(text: &str, variables: &[(&str, &str)]) -> Result<Config, Mistakes> {
    Config::parse(
        text,
        "p.toml",
        &Overrides::default(),
        &environment(variables),
    )
}

/// All mistakes of a document, as printed.
fn mistakes(text: &str) -> String {
    let printed = parse(text).unwrap_err().to_string();
    assert!(!printed.contains(SECRET), "{printed}");
    printed
}

/// The document has this one mistake and no other.
fn check(text: &str, expected: &str) {
    assert_eq!(mistakes(text), expected, "{text}");
}

fn upstream_of(config: &Config, namespace: &str) -> UpstreamConfig {
    config
        .upstreams
        .iter()
        .find(|upstream| upstream.settings.namespace.as_str() == namespace)
        .unwrap()
        .clone()
}

#[test]
fn a_client_may_have_most_of_few_connections_or_as_many_as_it_likes() {
    let connections = |text: &str| parse(text).unwrap().server.per_client.connections;
    assert_eq!(connections("max_connections = 1"), Some(1));
    assert_eq!(connections("max_connections = 100"), Some(75));
    assert_eq!(connections("max_connections_per_client = 5"), Some(5));
    assert_eq!(connections("max_connections_per_client = \"none\""), None);
}

#[test]
fn nothing_written_is_a_docker_hub_mirror() {
    let config = parse("").unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:5000");
    assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:5001");
    assert_eq!(config.server.max_connections, 16_000);
    let per_client = config.server.per_client;
    let of_client = (
        per_client.connections,
        per_client.requests,
        per_client.fills,
    );
    assert_eq!(of_client, (Some(12_000), Some(1000), Some(256)));
    assert_eq!(config.store.path, Path::new("/home/u/.cache/pierglass"));
    assert_eq!(
        (config.store.max_size, config.store.min_free),
        (50 << 30, 1 << 30)
    );
    assert_eq!(config.log.format, logging::Format::Auto);

    let urls: Vec<_> = config
        .upstreams
        .iter()
        .map(|it| it.settings.url.to_string())
        .collect();
    let known = [
        "https://registry-1.docker.io/",
        "https://quay.io/",
        "https://ghcr.io/",
        "https://registry.k8s.io/",
        "https://gcr.io/",
        "https://public.ecr.aws/",
        "https://mcr.microsoft.com/",
    ];
    assert_eq!(urls, known);
    let defaults: Vec<_> = config
        .upstreams
        .iter()
        .filter(|it| it.default)
        .map(|it| it.settings.namespace.to_string())
        .collect();
    assert_eq!(defaults, ["docker.io"]);
    assert!(
        config
            .upstreams
            .iter()
            .all(|it| matches!(&*it.settings.logins, [Login::Anonymous]))
    );
}

#[test]
fn the_example_equals_the_defaults() {
    let example = parse(include_str!("../../config.example.toml")).unwrap();
    assert_eq!(format!("{example:?}"), format!("{:?}", parse("").unwrap()));
}

#[test]
fn the_example_documents_every_key() {
    let mut section = String::new();
    let mut documented = Vec::new();
    let example = include_str!("../../config.example.toml");
    for line in example.lines().map(|line| line.trim_start_matches("# ")) {
        if let Some(table) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = if table.starts_with('[') {
                keys::MORE.to_owned()
            } else if table.starts_with("upstream") {
                keys::UPSTREAM.to_owned()
            } else {
                table.to_owned()
            };
        } else if let Some((name, _)) = line.split_once(" = ") {
            documented.push((section.clone(), name.to_owned()));
        }
    }
    for key in keys::ALL {
        assert!(
            documented.contains(&(key.section().to_owned(), key.name().to_owned())),
            "{} is missing",
            key.path
        );
        assert!(
            example.contains(&format!("# {}\n", key.about)),
            "{} is described in other words",
            key.path
        );
    }
    assert_eq!(
        documented.len(),
        keys::ALL.len(),
        "a key that does not exist"
    );
}

#[test]
fn every_key_is_read() {
    // A date is a value that no key accepts.
    let plain: String = keys::ALL
        .iter()
        .filter(|key| !key.path.starts_with(keys::UPSTREAM))
        .map(|key| format!("{} = 2026-01-01\n", key.path))
        .collect();
    let upstream: String = keys::ALL
        .iter()
        .filter(|key| key.section() == keys::UPSTREAM)
        .map(|key| format!("{} = 2026-01-01\n", key.name()))
        .collect();
    let more: String = keys::ALL
        .iter()
        .filter(|key| key.section() == keys::MORE)
        .map(|key| format!("{} = 2026-01-01\n", key.name()))
        .collect();
    let printed = mistakes(&format!(
        "{plain}[upstream.\"docker.io\"]\n{upstream}[[upstream.\"docker.io\".more_credentials]]\n{more}"
    ));
    for key in keys::ALL {
        let path = key.path.replace('*', "\"docker.io\"");
        assert!(
            printed.contains(&format!("{path}: is a date")),
            "{path} is never read:\n{printed}"
        );
    }
}

#[test]
fn every_mistake_is_reported_at_once_in_the_order_of_the_file() {
    let text = r#"
listen = "localhost:5000"
max_connections = "many"
[store]
max_size = "50 gigs"
max_sise = "1GiB"
[freshness]
tag_ttl = 60
[upstream."quay.io"]
default = 1
url = "ftp://quay.io"
[upstream.docker.io]
[upstream."a b"]
password = "hunter2"
"#;
    let variables = [
        ("PIERGLASS_STORE_MIN_FREE", "lots"),
        ("PIERGLASS_STORE_MAXSIZE", "1GiB"),
    ];
    let overrides = Overrides {
        max_size: Some("0".to_owned()),
        ..Overrides::default()
    };
    let printed = Config::parse(text, "p.toml", &overrides, &environment(&variables))
        .unwrap_err()
        .to_string();
    let expected = r#"p.toml:2:10: listen: "localhost:5000" is not an address; write an IP address with a port, such as "127.0.0.1:5000", or "[::]:5000" for every interface
p.toml:3:19: max_connections: is a text where a number is expected; write a number from 1 to 1048576, without quotes
p.toml:5:12: store.max_size: "50 gigs" is not a size; write a number with a unit, such as "50GiB" or "500MB"
p.toml:6:1: store.max_sise: is not a key that exists; did you mean max_size?
p.toml:8:11: freshness.tag_ttl: "60" is a duration without its unit; write "60s" for seconds, "60ms" for milliseconds, "60m" for minutes
p.toml:10:11: upstream."quay.io".default: is a number where true or false is expected; write true or false, without quotes
p.toml:11:7: upstream."quay.io".url: "ftp://quay.io" is not an http or https URL; write a URL such as "https://registry.example.com"
p.toml:12:11: upstream.docker.io: is split at its dots; write [upstream."docker.io"], with the quotes
p.toml:13:11: upstream."a b": is not a namespace; write a registry's host, such as "quay.io" or "registry.example.com:5000"
p.toml:14:12: upstream."a b".password: has no name to it; add username
PIERGLASS_STORE_MAXSIZE: is not a variable that exists; did you mean PIERGLASS_STORE_MAX_SIZE?
PIERGLASS_STORE_MIN_FREE: store.min_free: "lots" is not a size; write a number with a unit, such as "50GiB" or "500MB"
--max-size: store.max_size: "0" is too small; write at least "1 B""#;
    assert_eq!(printed, expected);
}

#[test]
fn what_is_not_toml_is_said_with_its_position() {
    let printed = mistakes(
        "listen = \"127.0.0.1:5000\"\n[upstream.\"docker.io\"]\npassword = \"hunter2\nusername = x\n",
    );
    assert!(printed.starts_with("p.toml:3:"), "{printed}");
    let several = mistakes("password = hunter2\n[store\nmax_size = 1\n");
    assert_eq!(several.lines().count(), 2, "{several}");
    assert!(mistakes("a = 1\na = 2\n").starts_with("p.toml:2:1: not TOML: "));
}

#[test]
fn columns_count_characters() {
    check(
        "store = { path = \"ä\", max_size = \"x\" }",
        "p.toml:1:34: store.max_size: \"x\" is not a size; write a number with a unit, such as \"50GiB\" or \"500MB\"",
    );
}

#[test]
fn a_flag_counts_more_than_a_variable_and_that_more_than_the_file() {
    let file = "[store]\nmax_size = \"1GiB\"\nmin_free = \"1MiB\"\npath = \"/file\"";
    let variables = [
        ("PIERGLASS_STORE_MAX_SIZE", "2GiB"),
        ("PIERGLASS_STORE_MIN_FREE", "2MiB"),
        ("PIERGLASS_MAX_CONNECTIONS", "7"),
    ];
    let overrides = Overrides {
        max_size: Some("3GiB".to_owned()),
        listen: Some("[::1]:80".to_owned()),
        ..Overrides::default()
    };
    let config = Config::parse(file, "p.toml", &overrides, &environment(&variables)).unwrap();
    assert_eq!(
        (config.store.max_size, config.store.min_free),
        (3 << 30, 2 << 20)
    );
    assert_eq!(config.store.path, Path::new("/file"));
    assert_eq!(config.server.listen.to_string(), "[::1]:80");
    assert_eq!(config.server.max_connections, 7);
}

#[test]
fn what_a_flag_overrides_is_checked_all_the_same() {
    let overrides = Overrides {
        max_size: Some("3GiB".to_owned()),
        ..Overrides::default()
    };
    let printed = Config::parse(
        "store.max_size = true",
        "p.toml",
        &overrides,
        &environment(&[]),
    )
    .unwrap_err()
    .to_string();
    assert!(
        printed.starts_with("p.toml:1:18: store.max_size: is true or false where a text"),
        "{printed}"
    );
}

#[test]
fn unknown_keys_are_refused_with_a_hint() {
    let cases = [
        (
            "lisen = 1",
            "lisen: is not a key that exists; did you mean listen?",
        ),
        (
            "storage = 1",
            "storage: is not a key that exists; did you mean store?",
        ),
        (
            "[stor]\nmax_size = 1",
            "stor: is not a key that exists; did you mean store?",
        ),
        (
            "max_size = 1",
            "max_size: is not a key that exists; max_size belongs in [store]",
        ),
        (
            "[store]\nlisten = 1",
            "store.listen: is not a key that exists; listen belongs at the top of the file, before the first [table]",
        ),
        (
            "[log]\n\"a b\" = 1",
            "log.\"a b\": is not a key that exists; known here: format, level",
        ),
        (
            "[access]\nhtpasswd = \"x\"",
            "access: is not supported yet by this version; leave it out",
        ),
        (
            "[upstream.\"quay.io\"]\nip = \"v4\"",
            "upstream.\"quay.io\".ip: is not supported yet by this version; leave it out",
        ),
        (
            "[upstream.\"quay.io\"]\npasword = \"hunter2\"",
            "upstream.\"quay.io\".pasword: is not a key that exists; did you mean password?",
        ),
        (
            "store = 1",
            "store: is not a table; write [store] on a line of its own, and its keys below",
        ),
        (
            "[upstream]",
            "upstream: names no registry; write [upstream.\"docker.io\"], or leave it out",
        ),
        (
            "[upstream.public.ecr.aws]",
            "upstream.public.ecr.aws: is split at its dots; write [upstream.\"public.ecr.aws\"], with the quotes",
        ),
    ];
    for (text, expected) in cases {
        let printed = mistakes(text);
        let rest = printed.splitn(4, ':').nth(3).unwrap().trim_start();
        assert_eq!(rest, expected, "{text}");
    }
}

#[test]
fn unknown_variables_are_refused_with_a_hint() {
    let of = |name| parse_in("", &[(name, SECRET)]).unwrap_err().to_string();
    assert_eq!(
        of("PIERGLASS_LISTN"),
        "PIERGLASS_LISTN: is not a variable that exists; did you mean PIERGLASS_LISTEN?"
    );
    assert_eq!(
        of("PIERGLASS_ACCESS_HTPASSWD"),
        "PIERGLASS_ACCESS_HTPASSWD: is not supported yet by this version; leave it out"
    );
    assert!(
        of("PIERGLASS_UPSTREAM_PASSWORD").contains("upstreams are configured in the file alone")
    );
    assert!(
        parse_in("", &[("PIERGLASS_LISTEN", "")])
            .unwrap_err()
            .to_string()
            .contains("listen: is empty")
    );
}

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
            config.upstreams[0].settings.url.host(),
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
        (quay.policy.tag_ttl, quay.policy.max_stale),
        (Duration::ZERO, Duration::from_secs(86_400))
    );
    assert!(matches!(quay.settings.connection.proxy, Proxy::Direct));
    assert_eq!(quay.settings.realms, ["auth.example.com:8443"]);
    assert_eq!(
        upstream_of(&config, "docker.io").policy.tag_ttl,
        Duration::from_secs(300)
    );
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
    assert_eq!(upstream.policy.quota_reserve, 40);
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
fn limits_that_make_no_sense_are_refused() {
    let cases = [
        (
            "store.max_size = 0",
            "p.toml:1:18: store.max_size: \"0\" is too small; write at least \"1 B\"",
        ),
        (
            "store.min_free = \"2EiB\"",
            "p.toml:1:18: store.min_free: \"2EiB\" is too large; write at most \"1 PiB\"",
        ),
        (
            "store.path = \"~/store\"",
            "p.toml:1:14: store.path: \"~/store\" begins with \"~\", which is not expanded here; write the whole path",
        ),
        (
            "max_connections = 0",
            "p.toml:1:19: max_connections: \"0\" is not a number of connections; write a number from 1 to 1048576, without quotes",
        ),
        (
            "max_requests_per_client = 0",
            "p.toml:1:27: max_requests_per_client: \"0\" is not a limit; write a number from 1 to 1048576, or \"none\"",
        ),
        (
            "max_fills_per_client = \"few\"",
            "p.toml:1:24: max_fills_per_client: is a text where a number is expected; write a number from 1 to 1048576, or \"none\"",
        ),
        (
            "header_timeout = \"0s\"",
            "p.toml:1:18: header_timeout: leaves no time at all; write a duration longer than zero, such as \"10s\"",
        ),
        (
            "listen = \"0.0.0.0:5001\"",
            "p.toml:1:10: listen: 0.0.0.0:5001 is taken by admin_listen, 127.0.0.1:5001; write another port",
        ),
        (
            "log.level = \"inof\"",
            "p.toml:1:13: log.level: \"inof\" has \"inof\", which is not a level; write error, warn, info, debug or trace, or by module: \"info,pierglass::upstream=debug\"",
        ),
        (
            "log.format = \"xml\"",
            "p.toml:1:14: log.format: \"xml\" is not a log format; write \"auto\", \"text\" or \"json\"",
        ),
        (
            "tls.certificate = \"/dev/null\"",
            "p.toml:1:19: tls.certificate: is of no use without tls.key; add key",
        ),
        (
            "tls.client_ca = \"/dev/null\"",
            "p.toml:1:17: tls.client_ca: is of no use without tls.certificate; add certificate",
        ),
        (
            "[upstream.\"docker.io\"]\nca_file = \"/nowhere\"",
            "p.toml:2:11: upstream.\"docker.io\".ca_file: \"/nowhere\" cannot be read: entity not found; name a file that exists",
        ),
    ];
    for (text, expected) in cases {
        check(text, expected);
    }
}

#[test]
fn without_a_home_the_store_must_be_named() {
    let nowhere = Environment::default();
    let printed = Config::parse("", "", &Overrides::default(), &nowhere)
        .unwrap_err()
        .to_string();
    assert!(printed.starts_with("store.path: is not set"), "{printed}");
    assert!(Config::parse("store.path = \"/s\"", "", &Overrides::default(), &nowhere).is_ok());
}

#[test]
fn the_file_is_named_by_flag_or_variable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    std::fs::write(&path, "listen = \"127.0.0.1:1\"").unwrap();
    let named = environment(&[("PIERGLASS_CONFIG", path.to_str().unwrap())]);
    let port = |path: Option<&Path>, environment: &Environment| {
        let config = Config::load(path, &Overrides::default(), environment);
        config.map(|config| config.server.listen.port())
    };
    assert_eq!(port(None, &named), Ok(1));
    assert_eq!(port(Some(&path), &environment(&[])), Ok(1));
    assert_eq!(port(None, &environment(&[])), Ok(5000));

    let missing = directory.path().join("missing.toml");
    let printed = port(Some(&missing), &named).unwrap_err().to_string();
    assert!(
        printed.starts_with(&format!(
            "{}: cannot be read: No such file",
            missing.display()
        )),
        "{printed}"
    );
}

#[test]
fn mistakes_can_be_read_by_programs() {
    let mistakes = parse("store.max_size = 0").unwrap_err();
    let expected = r#"[{"place":{"position":{"file":"p.toml","line":1,"column":18}},"key":"store.max_size","wrong":"\"0\" is too small","right":"write at least \"1 B\""}]"#;
    assert_eq!(serde_json::to_string(&mistakes).unwrap(), expected);
}
