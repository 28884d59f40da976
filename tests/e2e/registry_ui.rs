//! A web page must be able to read the registry where the mirror says so, and nowhere else: as a real browser has it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use tempfile::TempDir;

use crate::programs::{run, text};
use crate::support::content::digest_of;
use crate::support::loopback::any_port;
use crate::support::{FakeRegistry, Image, Mirror, MirrorConfig};

const BROWSER: &str = "chromium-headless-shell";
const PAGE: &str = include_str!("clients/registry_ui.html");
const REPO: &str = "acme/app";

/// A web site that consists of one page; it ends with this process.
fn site() -> SocketAddr {
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = [0; 8192];
                let _ = stream.read(&mut request);
                let length = PAGE.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{PAGE}"
                );
            });
        }
    });
    address
}

/// What the page writes that a site of this address has; it is given the mirror.
#[track_caller]
fn seen(site: SocketAddr, mirror: &Mirror) -> Vec<String> {
    let home = TempDir::with_prefix("pg-").unwrap();
    let told = format!("{} {REPO} 1", mirror.url());
    let told: String = form_urlencoded::byte_serialize(told.as_bytes()).collect();
    let url = format!("http://{site}/#{}", told.replace('+', "%20"));
    let output = run(BROWSER, BROWSER, |command| {
        command
            .env("HOME", home.path())
            // It is run as root, and time goes on for it only as fast as answers come.
            .args(["--no-sandbox", "--disable-gpu", "--no-proxy-server"])
            .args(["--virtual-time-budget=60000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .arg(url);
    });
    assert!(output.status.success(), "{}", text(&output));
    let page = String::from_utf8(output.stdout).unwrap();
    let (_, written) = page.split_once("<pre id=\"seen\">").unwrap();
    let (written, _) = written.split_once("</pre>").unwrap();
    let written = written.replace("&lt;", "<").replace("&gt;", ">");
    written.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_browser_lets_a_listed_page_read_and_no_other() {
    let registry = FakeRegistry::start().await;
    let image = Image::random(1, &[1000]);
    registry.put_image(REPO, Some("1"), &image);
    registry.put_image(REPO, Some("2"), &image);
    let (ui, other) = (site(), site());
    let config = MirrorConfig::for_upstream(&registry);
    let mirror = Mirror::start(config.top("allowed_origins", &format!("[\"http://{ui}\"]")));
    mirror.pull(REPO, "1", &image).await;

    let read = seen(ui, &mirror);
    let config = digest_of(&image.config);
    let link = format!("</v2/{REPO}/tags/list?last=1&amp;n=1>; rel=\"next\"");
    assert_eq!(
        read,
        [
            "base 200 {}".to_owned(),
            format!("catalog 200 {REPO}"),
            format!("tags 200 1 {link}"),
            format!("manifest 200 {} {config}", image.digest),
            "missing 404 MANIFEST_UNKNOWN".to_owned(),
        ]
    );

    registry.reset_counts();
    let read = seen(other, &mirror);
    let nothing = ["base", "catalog", "tags", "manifest", "missing"];
    assert_eq!(read, nothing.map(|what| format!("{what} TypeError")));
    assert_eq!(registry.counts().requests(), 0, "nor did it start anything");
}
