//! Where a configuration comes from: the file, the environment, flags and defaults; and how mistakes are printed.

use super::*;
use crate::upstream::Login;

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
    assert_eq!(config.server.max_requests, 16_000);
    assert_eq!(per_client.misses, Some(3000));
    assert_eq!(config.store.path, Path::new("/home/u/.cache/pierglass"));
    assert_eq!(
        (config.store.max_size, config.store.min_free),
        (50 << 30, 1 << 30)
    );
    assert_eq!(config.log.format, logging::Format::Auto);

    let urls: Vec<_> = config
        .upstreams
        .iter()
        .map(|it| it.settings.registry.url.to_string())
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
    let example = parse(include_str!("../../../config.example.toml")).unwrap();
    assert_eq!(format!("{example:?}"), format!("{:?}", parse("").unwrap()));
}

#[test]
fn the_example_documents_every_key() {
    let mut section = String::new();
    let mut documented = Vec::new();
    let example = include_str!("../../../config.example.toml");
    for line in example.lines().map(|line| line.trim_start_matches("# ")) {
        if let Some(table) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = if table.starts_with('[') {
                keys::MORE_CREDENTIALS.to_owned()
            } else if table.starts_with("upstream") {
                keys::UPSTREAM.to_owned()
            } else {
                table.to_owned()
            };
        } else if let Some((name, _)) = line.split_once(" = ") {
            documented.push((section.clone(), name.to_owned()));
        }
    }
    for (section, key) in keys::all() {
        let path = keys::path(section, key.name);
        assert!(
            documented.contains(&(section.to_owned(), key.name.to_owned())),
            "{path} is missing"
        );
        assert!(
            example.contains(&format!("# {}\n", key.about)),
            "{path} is described in other words"
        );
    }
    assert_eq!(
        documented.len(),
        keys::all().count(),
        "a key that does not exist"
    );
}

#[test]
fn every_key_is_read() {
    // A date is a value that no key accepts.
    let plain: String = keys::all()
        .filter(|(section, _)| !section.starts_with(keys::UPSTREAM))
        .map(|(section, key)| format!("{} = 2026-01-01\n", keys::path(section, key.name)))
        .collect();
    let of = |section| {
        let lines = keys::of(section).map(|key| format!("{} = 2026-01-01\n", key.name));
        lines.collect::<String>()
    };
    let (upstream, more) = (of(keys::UPSTREAM), of(keys::MORE_CREDENTIALS));
    let printed = mistakes(&format!(
        "{plain}[upstream.\"docker.io\"]\n{upstream}[[upstream.\"docker.io\".more_credentials]]\n{more}"
    ));
    for (section, key) in keys::all() {
        let path = keys::path(section, key.name).replace('*', "\"docker.io\"");
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

#[test]
fn names_that_lead_here_are_a_list_or_in_the_environment_a_line() {
    let written = |text: &str, variables| parse_in(text, variables).unwrap().server.allowed_hosts;
    assert_eq!(written("", &[]), Vec::<String>::new());
    let two = ["a.example", "b.example:5000"];
    assert_eq!(
        written("allowed_hosts = [\"A.example\", \"b.example:5000\"]", &[]),
        two
    );
    let variable = [("PIERGLASS_ALLOWED_HOSTS", "a.example, B.example:5000")];
    assert_eq!(written("", &variable), two);
    assert_eq!(written("allowed_hosts = [\"*\"]", &[]), ["*"]);
    assert!(mistakes("allowed_hosts = \"a b\"").contains("p.toml:1:17: allowed_hosts"));
}

#[test]
fn pages_that_may_read_are_written_as_browsers_name_them() {
    let written = |text: &str| parse(text).unwrap().server.allowed_origins;
    assert_eq!(written(""), Vec::<String>::new());
    assert_eq!(
        written(
            "allowed_origins = [\"https://UI.example:443/\", \"http://ui.example:80\", \"http://[::1]:8080\", \"https://a:80\"]"
        ),
        [
            "https://ui.example",
            "http://ui.example",
            "http://[::1]:8080",
            "https://a:80"
        ]
    );
    let variable = [(
        "PIERGLASS_ALLOWED_ORIGINS",
        "https://a.example, http://b.example:1",
    )];
    let both = parse_in("", &variable).unwrap().server.allowed_origins;
    assert_eq!(both, ["https://a.example", "http://b.example:1"]);
    for wrong in [
        "*",
        "null",
        "ui.example",
        "ftp://a",
        "https://",
        "https://a/b",
        "https://a:0",
        "https://a b",
    ] {
        let text = format!("allowed_origins = [\"{wrong}\"]");
        assert!(mistakes(&text).contains("allowed_origins"), "{wrong}");
    }
    assert!(!mistakes("allowed_origins = [\"https://u:hunter2@a\"]").contains("hunter2"));
}

#[test]
fn files_that_hold_a_secret_are_known() {
    let files = |text: &str| parse(text).unwrap().secret_files;
    assert!(files("").is_empty());
    let hub = "[upstream.\"docker.io\"]\nusername = \"u\"\n";
    let inline = format!("{hub}password = \"{SECRET}\"");
    assert_eq!(files(&inline), [Path::new("p.toml")]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let named = format!("admin_token_file = {file:?}\n{hub}password_file = {file:?}");
    assert_eq!(files(&named), [Path::new(file), Path::new(file)]);
    let more = format!(
        "{hub}password_file = {file:?}\n[[upstream.\"docker.io\".more_credentials]]\nusername = \"v\"\npassword = \"{SECRET}\""
    );
    assert_eq!(files(&more), [Path::new(file), Path::new("p.toml")]);
}
