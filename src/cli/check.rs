//! `pierglass check`: is the configuration right, and do the upstreams take it?

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::app::prepare::{self, Prepared};
use crate::config::Config;
use crate::config::units::{format_duration, format_size};
use crate::sites::hub;
use crate::upstream::{Error, Probe, Reached, Upstream};

use super::exit::{Failure, print};
use super::flags::ConfigFlags;
use super::runtime::block_on;

/// `pierglass check`.
#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    #[command(flatten)]
    config: ConfigFlags,
    /// Also ask each upstream for a token; print identity and remaining quota.
    #[arg(long)]
    online: bool,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &CheckFlags) -> Result<(), Failure> {
    let config = match flags.config.load() {
        Ok(config) => config,
        Err(mistakes) if flags.json => {
            print(&pretty(&json!({ "valid": false, "mistakes": mistakes })));
            return Err(Failure::from(mistakes).said());
        }
        Err(mistakes) => return Err(mistakes.into()),
    };
    let prepared = match prepare::prepare(&config) {
        Ok(prepared) => prepared,
        Err(faults) => {
            let failure = Failure::usage(faults.join("\n"));
            if flags.json {
                print(&pretty(&json!({ "valid": false, "faults": faults })));
                return Err(failure.said());
            }
            return Err(failure);
        }
    };
    let remarks: Vec<_> = prepare::remarks(&config)
        .into_iter()
        .map(|it| it.words)
        .collect();
    if !flags.online {
        print(&match flags.json {
            true => pretty(&json!({ "valid": true, "remarks": remarks })),
            false => summary(&config, &remarks),
        });
        return Ok(());
    }
    let reports = block_on(async { Ok::<_, Failure>(ask_all(&prepared).await) })?;
    if flags.json {
        print(&pretty(
            &json!({ "valid": true, "remarks": remarks, "upstreams": reports }),
        ));
    } else {
        print(&summary(&config, &remarks));
        print(&table(&reports));
    }
    match reports.iter().all(|report| report.error.is_none()) {
        true => Ok(()),
        false => Err(Failure::silent()),
    }
}

/// How one account at an upstream, or one of its endpoints, was answered.
#[derive(Serialize)]
struct UpstreamReport {
    upstream: String,
    identity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn ask_all(prepared: &Prepared) -> Vec<UpstreamReport> {
    // All at once: a silent one must not make the others wait.
    let asked = prepared.upstreams().map(ask);
    let reports = futures_util::future::join_all(asked).await;
    reports.into_iter().flatten().collect()
}

/// Asks an upstream as each account, and each of its endpoints.
async fn ask(upstream: &Upstream) -> Vec<UpstreamReport> {
    let reports = upstream.probes().map(async |probe| {
        let (warning, error) = match try_out(&probe, upstream).await {
            Ok(Reached::Well) => (None, None),
            Ok(Reached::Oddly(words)) => (Some(words), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let quota = probe.stated_quota();
        UpstreamReport {
            upstream: upstream.namespace().to_string(),
            identity: probe.identity().to_owned(),
            endpoint: probe.endpoint().map(ToString::to_string),
            limit: quota.and_then(|quota| quota.limit),
            remaining: quota.and_then(|quota| quota.remaining),
            window_seconds: quota.and_then(|quota| quota.window),
            warning,
            error,
        }
    });
    futures_util::future::join_all(reports).await
}

/// A token first, then a HEAD that shows the quota, which only Docker Hub states.
async fn try_out(probe: &Probe<'_>, upstream: &Upstream) -> Result<Reached, Error> {
    let reached = probe.ping().await?;
    if !matches!(reached, Reached::Well) || probe.endpoint().is_some() || !upstream.is_docker_hub()
    {
        return Ok(reached);
    }
    let (Ok(repository), Ok(reference)) = (hub::QUOTA_PROBE.0.parse(), hub::QUOTA_PROBE.1.parse())
    else {
        return Ok(reached);
    };
    match probe.head_manifest(&repository, &reference).await {
        // A mirror of Docker Hub under its name does not need to have this repository.
        Ok(()) | Err(Error::NotFound) => Ok(reached),
        Err(error) => Err(error),
    }
}

fn summary(config: &Config, remarks: &[String]) -> String {
    let mut lines = vec![
        "the configuration is valid".to_owned(),
        format!("  registry   {}", config.server.listen),
        format!("  admin      {}", config.server.admin_listen),
        format!(
            "  store      {}, at most {}",
            config.store.path.display(),
            format_size(config.store.max_size)
        ),
    ];
    for upstream in &config.upstreams {
        let settings = &upstream.settings;
        let default = if upstream.default { ", default" } else { "" };
        lines.push(format!(
            "  upstream   {} as {}{default}",
            settings.namespace,
            settings.identity()
        ));
    }
    lines.extend(
        remarks
            .iter()
            .map(|remark| format!("  note       {remark}")),
    );
    lines.join("\n")
}

fn table(reports: &[UpstreamReport]) -> String {
    let rows = reports.iter().map(|report| {
        let state = match (&report.error, report.remaining, report.limit) {
            (Some(error), ..) => format!("FAILED  {error}"),
            (None, None, _) if let Some(warning) = &report.warning => format!("warning {warning}"),
            (None, Some(remaining), limit) => {
                let limit = limit.map_or("?".to_owned(), |limit| limit.to_string());
                let window = report
                    .window_seconds
                    .map(std::time::Duration::from_secs)
                    .map(format_duration);
                let state = if remaining == 0 {
                    "SPENT   "
                } else {
                    "ok      "
                };
                format!(
                    "{state}{remaining} of {limit} pulls left per {}",
                    window.unwrap_or("window".to_owned())
                )
            }
            (None, None, _) => "ok      no quota stated".to_owned(),
        };
        let asked = report.endpoint.as_ref().unwrap_or(&report.upstream);
        format!("  {asked:<20} {:<16} {state}", report.identity)
    });
    let header = format!("\n  {:<20} {:<16} answer", "upstream", "as");
    std::iter::once(header)
        .chain(rows)
        .collect::<Vec<_>>()
        .join("\n")
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
