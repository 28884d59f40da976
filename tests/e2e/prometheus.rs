//! A Prometheus that scrapes one target, and must never be believed before it has done so.

use serde_json::Value;
use tempfile::TempDir;

use crate::programs::Program;
use crate::support::client;
use crate::support::loopback::free_port;

/// A running server over an empty database.
#[derive(Debug)]
pub struct Prometheus {
    program: Program,
    url: String,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes `http://AUTHORITY/metrics` each second.
    #[track_caller]
    pub fn start(authority: &str) -> Prometheus {
        let directory = TempDir::with_prefix("pg-").unwrap();
        let address = free_port().to_string();
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: mirror\n  static_configs:\n  \
             - targets: ['{authority}']\n"
        );
        std::fs::write(&config, text).unwrap();
        let log = directory.path().join("prometheus.log");
        let mut program = Program::start("prometheus", "prometheus", log, |command| {
            command
                .arg(format!("--config.file={}", config.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    directory.path().join("data").display()
                ))
                .arg(format!("--web.listen-address={address}"));
        });
        program.wait_until(|| std::net::TcpStream::connect(&address).ok());
        Prometheus {
            program,
            url: format!("http://{address}"),
            _directory: directory,
        }
    }

    /// The target, once it was scraped.
    pub async fn target(&mut self) -> Value {
        for _ in 0..200 {
            let url = format!("{}/api/v1/targets", self.url);
            if let Ok(answer) = client::get(&url, &[]).await
                && answer.status.is_success()
            {
                let target = answer.json()["data"]["activeTargets"][0].clone();
                if target["health"]
                    .as_str()
                    .is_some_and(|health| health != "unknown")
                {
                    return target;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("nothing was scraped:\n{}", self.program.log());
    }

    /// The value of a query's first result.
    pub async fn query(&self, query: &str) -> Option<String> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = client::get(&format!("{}/api/v1/query?query={query}", self.url), &[])
            .await
            .unwrap();
        answer.json()["data"]["result"][0]["value"][1]
            .as_str()
            .map(str::to_owned)
    }
}
