//! What is refused, and in which words.

use super::*;

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
