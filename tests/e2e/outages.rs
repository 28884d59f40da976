//! What is stored must be pulled whatever becomes of upstream: by real clients, by tag and by digest, and in time.

use std::time::{Duration, Instant};

use crate::busybox;
use crate::containerd::Containerd;
use crate::dockerd::Dockerd;
use crate::programs::text;
use crate::support::fault::FaultId;
use crate::support::{FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, client};

/// So short that every pull by tag finds its tag in doubt.
const TAG_TTL: &str = "1s";
const LONGER: Duration = Duration::from_secs(2);
/// How much longer a pull may take than without the fault.
const MARGIN: Duration = Duration::from_secs(5);
const REPO: &str = "library/app";
const QUOTA: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#;

/// What upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Refused,
    Hangs,
    Quota,
    Abuse,
    Status(u16),
    /// The answer of a balancer with nothing behind it.
    Page(u16),
    Reset,
}

const TROUBLES: [Trouble; 13] = [
    Trouble::None,
    Trouble::Refused,
    Trouble::Hangs,
    Trouble::Quota,
    Trouble::Abuse,
    Trouble::Status(401),
    Trouble::Status(403),
    Trouble::Status(404),
    Trouble::Page(404),
    Trouble::Status(500),
    Trouble::Page(502),
    Trouble::Status(503),
    Trouble::Reset,
];

impl Trouble {
    /// Begins; whatever was before it is over. The fault can be asked whether it struck.
    fn begin(self, hub: &FakeRegistry) -> Option<FaultId> {
        hub.clear_faults();
        hub.up();
        let fault = match self {
            Trouble::None => return None,
            Trouble::Refused => {
                hub.down();
                return None;
            }
            Trouble::Hangs => Fault::Hang,
            Trouble::Quota => {
                let json = vec![("Content-Type".into(), "application/json".into())];
                Fault::Status(429, QUOTA.into(), json)
            }
            Trouble::Abuse => {
                let plain = vec![("Content-Type".into(), "text/plain".into())];
                Fault::Status(429, "Too Many Requests (HAP429)\n".into(), plain)
            }
            Trouble::Status(code) => Fault::status(code),
            Trouble::Page(code) => Fault::Html(code),
            Trouble::Reset => Fault::Reset,
        };
        Some(hub.fault(On::any().forever(), fault))
    }
}

/// One client with one image, which it pulls again and again.
trait Puller {
    fn name(&self) -> &'static str;
    /// `Err` is what the client says.
    fn pull(&self, reference: &str) -> Result<(), String>;
    /// Forgets the image.
    fn forget(&self);
    fn mark(&self, reference: &str) -> String;
    fn escapes(&self) -> Vec<String>;
}

impl Puller for Dockerd {
    fn name(&self) -> &'static str {
        "dockerd"
    }

    fn pull(&self, reference: &str) -> Result<(), String> {
        let output = self.try_docker(&["pull", reference]);
        output.status.success().then_some(()).ok_or(text(&output))
    }

    fn forget(&self) {
        self.remove_images();
    }

    fn mark(&self, reference: &str) -> String {
        self.run(reference, &["cat", "/etc/mark"])
    }

    fn escapes(&self) -> Vec<String> {
        Dockerd::escapes(self)
    }
}

impl Puller for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn pull(&self, reference: &str) -> Result<(), String> {
        let output = self.try_pull(reference);
        output.status.success().then_some(()).ok_or(text(&output))
    }

    fn forget(&self) {
        self.remove_all();
    }

    fn mark(&self, reference: &str) -> String {
        self.run(reference, &["cat", "/etc/mark"])
    }

    fn escapes(&self) -> Vec<String> {
        Containerd::escapes(self)
    }
}

/// A line of the table that is printed, and what is wrong with it.
struct Row {
    line: String,
    wrong: Option<String>,
}

fn pull_in(puller: &dyn Puller, reference: &str, trouble: Trouble, usual: Duration) -> Row {
    std::thread::sleep(LONGER);
    let started = Instant::now();
    let pulled = puller.pull(reference);
    let took = started.elapsed();
    let by = if reference.contains('@') {
        "digest"
    } else {
        "tag"
    };
    let (name, seconds) = (puller.name(), took.as_secs_f64());
    let wrong = match &pulled {
        Err(words) => Some(words.trim().to_owned()),
        Ok(()) if took > usual + MARGIN => Some(format!("{usual:?} is usual")),
        Ok(()) => None,
    };
    if pulled.is_ok() {
        assert_eq!(puller.mark(reference), "outage");
        puller.forget();
    }
    let verdict = wrong.as_ref().map_or("pulled", |_| "NOT PULLED IN TIME");
    Row {
        line: format!("| {trouble:?} | {name} | {by} | {seconds:.2} | {verdict} |"),
        wrong: wrong.map(|why| format!("{trouble:?}, {name} by {by}: {why}")),
    }
}

/// Waits until upstream is asked again and answers, so that one row says nothing about the next: a refusal is forgotten
/// after a while, and what kept failing or limiting is left alone for a while.
#[track_caller]
fn recover(mirror: &Mirror) {
    let url = mirror.manifest_url(REPO, "1");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let answer = runtime.block_on(client::get(&url, &[])).unwrap();
        let status = answer.header("cache-status").unwrap_or_default();
        if answer.status.is_success() && !status.contains("stale") {
            return;
        }
        let words = answer.text();
        assert!(Instant::now() < deadline, "{status} {words}");
    }
}

/// All troubles, by tag and by digest; prints the table and fails with everything that is wrong in it.
fn endure(puller: &dyn Puller, hub: &FakeRegistry, mirror: &Mirror, references: &[String; 2]) {
    let mut rows: Vec<Row> = Vec::new();
    for reference in references {
        let cold = pull_in(puller, reference, Trouble::None, Duration::from_secs(60));
        assert_eq!(cold.wrong, None);
        // What it takes from the store while nothing is wrong: the longer of two.
        let mut usual = Duration::ZERO;
        for _ in 0..2 {
            std::thread::sleep(LONGER);
            let started = Instant::now();
            puller.pull(reference).unwrap();
            usual = usual.max(started.elapsed());
            puller.forget();
        }
        for trouble in TROUBLES {
            let fault = trouble.begin(hub);
            rows.push(pull_in(puller, reference, trouble, usual));
            if let Some(fault) = fault.filter(|_| !reference.contains('@')) {
                assert!(hub.struck(fault) > 0, "{trouble:?}: upstream was not asked");
            }
            Trouble::None.begin(hub);
            recover(mirror);
        }
    }
    println!("| upstream | client | by | seconds | |\n|---|---|---|---|---|");
    for row in &rows {
        println!("{}", row.line);
    }
    let wrong: Vec<_> = rows.into_iter().filter_map(|row| row.wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(
        puller.escapes(),
        Vec::<String>::new(),
        "went past the mirror"
    );
}

fn held() -> (FakeRegistry, Image, Mirror) {
    let image = busybox::image(busybox::native(), "outage");
    let hub = FakeRegistry::docker_hub().start_now();
    hub.put_image(REPO, Some("1"), &image);
    let config = MirrorConfig::for_upstream(&hub).tag_ttl(TAG_TTL);
    let mirror = Mirror::start(config);
    (hub, image, mirror)
}

#[test]
fn dockerd_pulls_what_is_stored_whatever_upstream_does() {
    let (hub, image, mirror) = held();
    let docker = Dockerd::start(&[mirror.url()]);
    let references = ["app:1".to_owned(), format!("app@{}", image.digest)];
    endure(&docker, &hub, &mirror, &references);
}

#[test]
fn containerd_pulls_what_is_stored_whatever_upstream_does() {
    let (hub, image, mirror) = held();
    let containerd = Containerd::start();
    containerd.hosts("docker.io", &mirror.url(), "");
    let name = format!("docker.io/{REPO}");
    let references = [format!("{name}:1"), format!("{name}@{}", image.digest)];
    endure(&containerd, &hub, &mirror, &references);
}
