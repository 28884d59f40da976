//! Hostile neighbours: clients that ask for what costs the mirror most, and a registry that answers so. They may make
//! a pull fail; they must not make the store outgrow its limits, the memory grow, or upstream be flooded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Run;
use crate::dice::Dice;
use crate::support::content::Content;
use crate::support::image::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Fault, On, digest_of};
use crate::tally::one;

/// The namespace of the hostile registry.
pub const NAMESPACE: &str = "evil.example";
/// They come from this address: a client of its own, as far as the mirror can tell.
const FROM: &str = "127.0.0.9";
const MIB: u64 = 1024 * 1024;
const HEAVY: u64 = 8;
const LISTS: u64 = 64;
/// Longer than the store, said by a registry that sends a byte now and then.
const ANNOUNCED: u64 = 900 * MIB;
/// What one attack may take before its client hangs up.
const ENOUGH: Duration = Duration::from_secs(3);

/// A registry whose every answer is well-formed and meant to cost.
pub fn registry() -> FakeRegistry {
    let registry = FakeRegistry::builder().start_now();
    for number in 0..HEAVY {
        registry.put_manifest(
            "heavy",
            Some(&format!("t{number}")),
            OCI_MANIFEST,
            heavy(number),
        );
    }
    for number in 0..LISTS {
        let repo = format!("names{number}");
        registry.put_manifest(&repo, Some("t"), OCI_MANIFEST, naming_a_thousand(number));
    }
    registry.put_manifest("pages", Some("t"), "text/html", "<script>1</script>");
    let small = registry.put_manifest("tags", None, OCI_MANIFEST, naming_a_thousand(1000));
    for number in 0..20_000 {
        registry.tag("tags", &format!("tag-{number:05}"), &small);
    }
    let bytes = Content::generated(7, ANNOUNCED);
    registry.insert_blob("trickle", &trickling(), bytes);
    let drip = Fault::Slow { bytes_per_sec: 100 };
    registry.fault(On::blob().containing("trickle").forever(), drip);
    let day = vec![("Retry-After".into(), "86400".into())];
    let limit = Fault::Status(429, "slow down".into(), day);
    registry.fault(On::any().containing("limited").forever(), limit);
    registry.fault(On::any().containing("broken").forever(), Fault::status(500));
    registry
}

fn trickling() -> String {
    digest_of(b"what the trickle claims to be")
}

/// Four million bytes in a field that no client reads: small values, so that a tree of them is a hundred times larger.
fn heavy(number: u64) -> String {
    let filler = vec!["{\"\":0}"; 560_000].join(",");
    let config = descriptor(OCI_CONFIG, b"{}").to_string();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","n":{number},"config":{config},"layers":[],"x":[{filler}]}}"#
    )
}

/// A manifest that claims blobs which exist nowhere.
fn naming_a_thousand(number: u64) -> String {
    let layers: Vec<_> = (0..1000)
        .map(|layer| {
            let digest = digest_of(format!("{number}/{layer}").as_bytes());
            json!({"mediaType": OCI_LAYER, "digest": digest, "size": 1000})
        })
        .collect();
    let config = descriptor(OCI_CONFIG, b"{}");
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers})
        .to_string()
}

/// Attacks until the run is over.
pub async fn keep_attacking(run: Arc<Run>, number: u64) {
    let mut dice = run.dice(2000 + number);
    while !run.is_over() {
        let requests = attack(&run, &mut dice);
        one(&run.tally.attacks);
        let count = requests.len() as u64;
        run.tally
            .hostile_requests
            .fetch_add(count, Ordering::Relaxed);
        let all = requests.into_iter().map(|request| send(&run, request));
        futures_util::future::join_all(all).await;
        tokio::time::sleep(dice.millis(5, 100)).await;
    }
}

/// The target and further header lines of a GET.
struct Asked {
    target: String,
    headers: String,
}

impl From<String> for Asked {
    fn from(target: String) -> Asked {
        let headers = String::new();
        Asked { target, headers }
    }
}

/// One attack: requests that are sent at the same time.
fn attack(run: &Run, dice: &mut Dice) -> Vec<Asked> {
    let repo = dice.pick(&run.world.repos);
    let registry = *dice.pick(&["", "quay.io/", "ghcr.io/", "evil.example/"]);
    let digest = digest_of(&dice.below(u64::MAX).to_be_bytes());
    let word = dice.below(u64::MAX);
    let blobs: Vec<_> = repo
        .manifests
        .iter()
        .flat_map(|manifest| &manifest.blobs)
        .collect();
    let blob = &dice.pick(&blobs).digest;
    let many = dice.between(1, 24);
    let path = &repo.path;
    match dice.below(14) {
        // Names and lists of what does not exist, deep and shallow.
        0 => {
            let deep = vec!["a"; 110].join("/");
            vec![format!("/v2/{registry}{deep}/x{word}/referrers/{digest}").into()]
        }
        1 => vec![format!("/v2/{path}/referrers/{digest}").into()],
        2 => vec![format!("/v2/{registry}acme/no{word}/tags/list").into()],
        3 => vec![
            format!("/v2/{path}/manifests/no{word}").into(),
            format!("/v2/{path}/blobs/{digest}").into(),
        ],
        // A blob that others want, under names that do not have it.
        4 => (0..many)
            .map(|n| format!("/v2/{registry}acme/no{word}-{n}/blobs/{blob}").into())
            .collect(),
        5 => {
            let ranges: Vec<_> = (0..500).map(|n| format!("{0}-{0}", n * 1000)).collect();
            let headers = format!("Range: bytes={}\r\n", ranges.join(","));
            vec![Asked {
                target: format!("/v2/{path}/blobs/{blob}"),
                headers,
            }]
        }
        // What is long to read, large to keep, and wrong in its type.
        6 => (0..many)
            .map(|n| format!("/v2/evil.example/heavy/manifests/t{}", n % HEAVY).into())
            .collect(),
        7 => (0..many)
            .map(|n| format!("/v2/evil.example/names{}/manifests/t", (word + n) % LISTS).into())
            .collect(),
        8 => vec!["/v2/evil.example/pages/manifests/t".to_owned().into()],
        9 => (0..many)
            .map(|_| format!("/v2/evil.example/trickle/blobs/{}", trickling()).into())
            .collect(),
        10 => (0..many)
            .map(|_| "/v2/evil.example/tags/tags/list?n=1".to_owned().into())
            .collect(),
        // Questions that would shut a whole registry out, if one question spoke for all.
        11 => (0..8)
            .map(|n| format!("/v2/evil.example/broken/r{n}/manifests/{word}").into())
            .collect(),
        12 => vec![format!("/v2/evil.example/limited/r{word}/manifests/1").into()],
        _ => {
            let headers = format!(
                "User-Agent: {}\r\nOrigin: http://evil.example\r\n",
                "u".repeat(8000)
            );
            vec![Asked {
                target: format!("/v2/{path}/{}/tags/list", "p".repeat(4000)),
                headers,
            }]
        }
    }
}

/// Sends a request and hangs up after a while, wherever the answer is by then.
async fn send(run: &Run, asked: Asked) {
    let Asked { target, headers } = asked;
    let authority = run.url.trim_start_matches("http://");
    let exchange = async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(format!("{FROM}:0").parse().unwrap())?;
        let mut stream = socket.connect(authority.parse().unwrap()).await?;
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\n{headers}Connection: close\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await?;
        let mut buffer = vec![0; 16 * 1024];
        while stream.read(&mut buffer).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The mirror is killed now and then, and refuses what it should: nothing here is owed an answer.
    let _ = tokio::time::timeout(ENOUGH, exchange).await;
}
