//! What is in `deploy/` must never be what the programs it is for do not understand.

use crate::programs::{self, text};
use crate::support::client::{Response, get};
use crate::support::{FakeRegistry, REPO, TAG, image};
use crate::systemd::Systemd;

const UNIT: &str = include_str!("../../deploy/pierglass.service");

#[test]
fn systemd_understands_the_unit() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/pierglass.service");
    let unit = std::fs::read_to_string(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    // systemd looks whether the program is there; in a source tree it is where cargo put it.
    let here = |line: &str| match line.strip_prefix("ExecStart=") {
        Some(command) => {
            let arguments = command
                .split_once(' ')
                .map_or("", |(_, arguments)| arguments);
            format!(
                "ExecStart={} {arguments}\n",
                env!("CARGO_BIN_EXE_pierglass")
            )
        }
        None => format!("{line}\n"),
    };
    let unit: String = unit.lines().map(here).collect();
    assert!(
        unit.contains(env!("CARGO_BIN_EXE_pierglass")),
        "no ExecStart in {unit}"
    );
    let directory = tempfile::TempDir::with_prefix("pg-").unwrap();
    let file = directory.path().join("pierglass.service");
    std::fs::write(&file, unit).unwrap();
    let output = programs::run("systemd-analyze", "systemd", |command| {
        command
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&file);
    });
    // Unknown keys are warnings that leave the exit status 0.
    assert!(
        output.status.success() && !text(&output).contains("pierglass.service"),
        "{}",
        text(&output)
    );
}

#[test]
fn prometheus_understands_its_files() {
    // The configuration names the rules, so checking it checks that they are where it says.
    for (kind, file) in [("config", "prometheus.yml"), ("rules", "alerts.yml")] {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
        let output = programs::run("promtool", "prometheus", |command| {
            command.args(["check", kind, file]).current_dir(directory);
        });
        assert!(output.status.success(), "{}", text(&output));
    }
}

/// `PierglassWrongContent` fired a quarter of an hour after each gap in scraping, and `PierglassUpstreamDown` until the
/// next pull, long after an outage.
#[test]
fn every_alert_fires_and_stays_silent_through_a_restart() {
    let output = programs::run("promtool", "prometheus", |command| {
        command
            .args(["test", "rules", "alerts_test.yml"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus"));
    });
    assert!(output.status.success(), "{}", text(&output));
    let rules = include_str!("../../deploy/prometheus/alerts.yml");
    let tests = include_str!("../../deploy/prometheus/alerts_test.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let fires = |alert: &str| {
        let expected = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels");
        tests.contains(&expected)
    };
    let never: Vec<_> = alerts.filter(|alert| !fires(alert)).collect();
    assert_eq!(never, Vec::<&str>::new(), "no test in which it fires");
}

/// A rule over a metric that does not exist never fires, and no operator would notice.
#[test]
fn alerts_are_about_metrics_that_exist() {
    let exported = include_str!("../../src/metrics.rs");
    let rules = include_str!("../../deploy/prometheus/alerts.yml");
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: Vec<_> = words
        .filter(|word| word.starts_with("pierglass_"))
        .collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(
            exported.contains(&format!("\"{name}\"")),
            "no metric {name}"
        );
    }
}

/// Where nothing else listens.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A registry that wants a password, and a configuration of a mirror of it, whose store is at `store` or the default.
fn mirrored(store: &str) -> (FakeRegistry, String, String) {
    let registry = FakeRegistry::builder().basic("ci", "hunter2").start_now();
    registry.put_image(REPO, Some(TAG), &image(1));
    let (listen, admin, url) = (free_address(), free_address(), registry.url());
    let config = format!(
        "listen = \"{listen}\"\nadmin_listen = \"{admin}\"\n[store]\nmin_free = \"0\"\n{store}\n\
         [upstream.\"docker.io\"]\nurl = \"{url}\"\nusername = \"ci\"\n\
         password_file = \"/run/credentials/pierglass.service/dockerhub\"\n"
    );
    (registry, listen, config)
}

async fn pull(listen: &str, what: &str) -> Response {
    let url = format!("http://{listen}/v2/{REPO}/{what}");
    get(&url, &[]).await.unwrap()
}

#[track_caller]
fn assert_property(systemd: &Systemd, expected: &str) {
    let (name, _) = expected.split_once('=').unwrap();
    let shown = systemd.succeeds(&["systemctl", "show", "--property", name, "pierglass"]);
    assert_eq!(shown.trim(), expected, "{}", systemd.journal());
}

/// As shipped, with a configuration and a password that only root may read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_runs_the_unit_and_gives_it_its_password() {
    let (registry, listen, config) = mirrored("");
    let added = "[Service]\nEnvironment=PIERGLASS_CONFIG=/etc/pierglass.toml\n\
                 LoadCredential=dockerhub:/etc/pierglass/dockerhub.password\n";
    let systemd = Systemd::boot(&[
        ("/etc/systemd/system/pierglass.service", UNIT),
        ("/etc/systemd/system/pierglass.service.d/test.conf", added),
        ("/etc/pierglass.toml", &config),
        ("/etc/pierglass/dockerhub.password", "hunter2\n"),
    ]);
    systemd.succeeds(&["chmod", "0400", "/etc/pierglass/dockerhub.password"]);
    // It has told that it listens when this returns.
    systemd.succeeds(&["systemctl", "start", "pierglass"]);
    assert_property(&systemd, "ActiveState=active");
    let (blob, tag) = (image(1).blobs()[1].clone(), format!("manifests/{TAG}"));
    assert_eq!(pull(&listen, &tag).await.body, image(1).manifest);
    assert_eq!(pull(&listen, &format!("blobs/{blob}")).await.status, 200);
    // Root's commands find it by themselves.
    let pinned = systemd.succeeds(&["pierglass", "pin", &format!("{REPO}:{TAG}")]);
    assert!(pinned.contains("pinned docker.io/a/b:1.0"), "{pinned}");
    let verified = systemd.succeeds(&["pierglass", "verify"]);
    assert!(verified.contains("/var/lib/pierglass"), "{verified}");
    assert!(verified.contains("nothing is damaged"), "{verified}");

    systemd.succeeds(&["systemctl", "restart", "pierglass"]);
    registry.reset_counts();
    assert_eq!(pull(&listen, &format!("blobs/{blob}")).await.status, 200);
    assert_eq!(registry.counts().blob_gets, 0);
    systemd.succeeds(&["systemctl", "stop", "pierglass"]);
    assert_property(&systemd, "Result=success");
    assert_property(&systemd, "NRestarts=0");
    let journal = systemd.journal();
    assert!(journal.contains("\"message\":\"stopped\""), "{journal}");
    assert!(!journal.contains("hunter2"), "{journal}");
}

/// The example of the README keeps its store at /srv/pierglass, with what deploy/README.md says to add.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_runs_the_unit_with_another_path_for_the_store() {
    let (_registry, listen, config) = mirrored("path = \"/srv/pierglass\"");
    let readme = include_str!("../../deploy/README.md");
    let (_, after) = readme
        .split_once("**Another place for the store**")
        .unwrap();
    let mut blocks = after.split("```").skip(1).step_by(2);
    let (added, commands) = (blocks.next().unwrap(), blocks.next().unwrap());
    assert!(added.contains("ReadWritePaths=/srv/pierglass"), "{added}");
    let configured = "[Service]\nEnvironment=PIERGLASS_CONFIG=/etc/pierglass.toml\n\
                      LoadCredential=dockerhub:/etc/dockerhub.password\n";
    let unindented: String = added
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    let systemd = Systemd::boot(&[
        ("/etc/systemd/system/pierglass.service", UNIT),
        ("/etc/systemd/system/pierglass.service.d/a.conf", configured),
        (
            "/etc/systemd/system/pierglass.service.d/override.conf",
            &unindented,
        ),
        ("/etc/pierglass.toml", &config),
        ("/etc/dockerhub.password", "hunter2"),
    ]);
    // Without the directory it does not start, and says which one.
    let without = systemd.run(&["systemctl", "start", "pierglass"]);
    assert!(!without.status.success(), "{}", text(&without));
    systemd.succeeds(&["systemctl", "stop", "pierglass"]);
    systemd.succeeds(&["sh", "-e", "-c", commands]);
    systemd.succeeds(&["systemctl", "start", "pierglass"]);
    let manifest = pull(&listen, &format!("manifests/{TAG}")).await;
    assert_eq!(manifest.body, image(1).manifest);
    let owner = systemd.succeeds(&["stat", "--format", "%U %a", "/srv/pierglass/blobs"]);
    assert_eq!(owner.trim(), "pierglass 700");
    systemd.succeeds(&["systemctl", "stop", "pierglass"]);
    assert_property(&systemd, "Result=success");
}

/// A mistake in the configuration is told once, and not tried again and again.
#[test]
fn systemd_does_not_restart_a_unit_that_is_misconfigured() {
    let systemd = Systemd::boot(&[
        ("/etc/systemd/system/pierglass.service", UNIT),
        (
            "/etc/systemd/system/pierglass.service.d/test.conf",
            "[Service]\nEnvironment=PIERGLASS_LISTEN=nowhere\n",
        ),
    ]);
    let started = systemd.run(&["systemctl", "start", "pierglass"]);
    assert!(!started.status.success(), "{}", text(&started));
    assert_property(&systemd, "ActiveState=failed");
    assert_property(&systemd, "ExecMainStatus=64");
    assert_property(&systemd, "NRestarts=0");
    let journal = systemd.journal();
    assert!(journal.contains("PIERGLASS_LISTEN"), "{journal}");
}
