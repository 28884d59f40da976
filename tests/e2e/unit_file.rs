//! What is in `deploy/` must never be what the programs it is for do not understand.

use crate::programs::{self, text};

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
