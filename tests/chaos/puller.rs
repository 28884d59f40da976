//! A client as real ones are: asks by tag, goes by digest, reads blobs whole, in pieces, slowly or not to the end.
//!
//! It knows every byte that it should get, and looks at each. What it does not get is counted by cause; what it gets
//! complete and wrong is a violation, and so is an answer that never ends or that no registry gives.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::Run;
use crate::dice::Dice;
use crate::support::client::{self, Response};
use crate::tally::one;
use crate::world::{Blob, Manifest, Repo};

/// As dockerd does, with `Range` from where it stopped.
const ATTEMPTS: u64 = 4;
/// What a mirror in trouble may answer. 500 is not among it: that would be a mistake of its own.
/// 416 is what is said to a part past the end of a blob whose length upstream lied about.
const EXCUSES: [u16; 8] = [401, 403, 404, 416, 429, 502, 503, 504];

/// Why a pull did not complete.
#[derive(Debug)]
pub enum Stop {
    Failed(String),
    Abandoned,
}

/// Pulls until the run is over.
pub async fn keep_pulling(run: Arc<Run>, number: u64) {
    let mut dice = run.dice(1000 + number);
    while !run.is_over() {
        let repo = dice.pick(&run.world.repos);
        match pull(&run, repo, &mut dice).await {
            Ok(()) => one(&run.tally.completed),
            Err(Stop::Abandoned) => one(&run.tally.abandoned),
            Err(Stop::Failed(cause)) => {
                run.tally.failed(cause);
                tokio::time::sleep(dice.millis(10, 150)).await;
            }
        }
    }
}

async fn pull(run: &Run, repo: &Repo, dice: &mut Dice) -> Result<(), Stop> {
    let digest = if dice.percent(70) {
        let tag: &String = dice.pick(&repo.tags);
        resolve(run, repo, tag, dice).await?
    } else {
        dice.pick(&repo.manifests).digest.clone()
    };
    let mut manifest = get_manifest(run, repo, &digest).await?;
    if !manifest.children.is_empty() {
        let child: &String = dice.pick(&manifest.children);
        manifest = get_manifest(run, repo, child).await?;
    }
    for blob in &manifest.blobs {
        if dice.percent(70) {
            whole(run, repo, blob, None).await?;
        } else {
            oddly(run, repo, blob, dice).await?;
        }
    }
    Ok(())
}

/// All of an image, whole and in order; for the time after the storm.
pub async fn pull_all(run: &Run, repo: &Repo, manifest: &Manifest) -> Result<(), Stop> {
    let manifest = get_manifest(run, repo, &manifest.digest).await?;
    for blob in &manifest.blobs {
        whole(run, repo, blob, None).await?;
    }
    Ok(())
}

/// What a tag points to: a digest that it had at some time.
pub async fn resolve(run: &Run, repo: &Repo, tag: &str, dice: &mut Dice) -> Result<String, Stop> {
    let url = format!("{}/v2/{}/manifests/{tag}", run.url, repo.path);
    let method = if dice.percent(60) {
        Method::HEAD
    } else {
        Method::GET
    };
    let answer = client::request(method.clone(), &url, &[]).await;
    let answer = judged(run, "tag", answer)?;
    let digest = answer.header("docker-content-digest").unwrap_or_default();
    if !run.world.ever_pointed(repo, tag, digest) {
        run.tally.wrong(format!(
            "{method} of {}:{tag} says {digest:?}, which it never was",
            repo.path
        ));
    }
    let manifest = repo.manifest(digest);
    if method == Method::GET && manifest.is_some_and(|manifest| manifest.bytes != answer.body) {
        run.tally.wrong(format!(
            "GET of {}:{tag} has not the bytes of {digest}",
            repo.path
        ));
    }
    Ok(digest.to_owned())
}

async fn get_manifest<'a>(run: &Run, repo: &'a Repo, digest: &str) -> Result<&'a Manifest, Stop> {
    let Some(manifest) = repo.manifest(digest) else {
        return Err(Stop::Failed("a digest that is none of ours".into()));
    };
    let url = format!("{}/v2/{}/manifests/{digest}", run.url, repo.path);
    let answer = judged(run, "manifest", client::get(&url, &[]).await)?;
    if answer.body != manifest.bytes {
        run.tally.wrong(format!(
            "manifest {digest} of {}: {} other bytes",
            repo.path,
            answer.body.len()
        ));
    }
    Ok(manifest)
}

/// Ways to read a blob that are not from the first byte to the last at full speed.
async fn oddly(run: &Run, repo: &Repo, blob: &Blob, dice: &mut Dice) -> Result<(), Stop> {
    let size = blob.content.len();
    match dice.below(10) {
        0..3 => {
            let rate = dice.between(128, 4096) * 1024;
            whole(run, repo, blob, Some(rate)).await
        }
        3..5 => {
            let enough = dice.below(size);
            read(run, repo, blob, 0..size, Pace::Leave(enough)).await?;
            Err(Stop::Abandoned)
        }
        // As containerd does since 2.1, each piece on a connection of its own.
        5..8 => {
            let step = size.div_ceil(dice.between(2, 4));
            let pieces = (0..size).step_by(usize::try_from(step).unwrap()).map(|at| {
                let part = at..(at + step).min(size);
                piece(run, repo, blob, part)
            });
            let all = futures_util::future::join_all(pieces).await;
            all.into_iter().collect()
        }
        _ => {
            let at = dice.below(size);
            piece(run, repo, blob, at..dice.between(at + 1, size)).await
        }
    }
}

async fn piece(
    run: &Run,
    repo: &Repo,
    blob: &Blob,
    part: std::ops::Range<u64>,
) -> Result<(), Stop> {
    match read(run, repo, blob, part, Pace::Full).await?.broke {
        None => Ok(()),
        Some(_) => Err(Stop::Failed("a part of a blob broke off".into())),
    }
}

/// A blob to its end, going on where it broke off.
async fn whole(run: &Run, repo: &Repo, blob: &Blob, rate: Option<u64>) -> Result<(), Stop> {
    let pace = rate.map_or(Pace::Full, Pace::Rate);
    let (size, mut at) = (blob.content.len(), 0);
    for _ in 0..ATTEMPTS {
        let got = read(run, repo, blob, at..size, pace).await?;
        if got.broke.is_none() {
            return Ok(());
        }
        if got.spoiled.is_some() {
            // What comes before a break is not promised; the digest would tell the client in the end.
            return Err(Stop::Failed(
                "a blob broke off after bytes that are not its own".into(),
            ));
        }
        at = got.reached;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Stop::Failed("a blob broke off again and again".into()))
}

/// How a body is read.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Full,
    /// Bytes per second.
    Rate(u64),
    /// Hang up after so many bytes.
    Leave(u64),
}

struct Got {
    /// Where in the blob.
    reached: u64,
    broke: Option<String>,
    /// Where the first byte was that is not the blob's.
    spoiled: Option<u64>,
}

/// Reads one answer and compares every byte.
async fn read(
    run: &Run,
    repo: &Repo,
    blob: &Blob,
    part: std::ops::Range<u64>,
    pace: Pace,
) -> Result<Got, Stop> {
    let (head, mut body) = open(run, repo, blob, &part).await?;
    let started = Instant::now();
    let mut got = Got {
        reached: part.start,
        broke: None,
        spoiled: None,
    };
    loop {
        let came = got.reached - part.start;
        match pace {
            Pace::Leave(enough) if came >= enough => return Ok(got),
            Pace::Rate(rate) => {
                let due = Duration::from_secs_f64(came as f64 / rate as f64);
                tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
            }
            Pace::Full | Pace::Leave(_) => {}
        }
        let frame = match client::patiently(body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                got.broke = Some(error.to_string());
                return Ok(got);
            }
            Err(silence) => return Err(no_answer(run, &silence)),
        };
        if let Ok(data) = frame.into_data() {
            got.compare(blob, &data);
            let count = data.len() as u64;
            run.tally.bytes.fetch_add(count, Ordering::Relaxed);
        }
    }
    if got.spoiled.is_some() || got.reached != part.end {
        run.tally.wrong(format!(
            "bytes {part:?} of {} in {} ended cleanly at {}, of {}; first wrong byte: {:?}; {:?}",
            blob.digest,
            repo.path,
            got.reached,
            blob.content.len(),
            got.spoiled,
            head.headers.get("cache-status"),
        ));
    }
    Ok(got)
}

/// Asks for a part of a blob, and holds the answer's header to it.
async fn open(
    run: &Run,
    repo: &Repo,
    blob: &Blob,
    part: &std::ops::Range<u64>,
) -> Result<(http::response::Parts, Incoming), Stop> {
    let url = format!("{}/v2/{}/blobs/{}", run.url, repo.path, blob.digest);
    let all = *part == (0..blob.content.len());
    let range = format!("bytes={}-{}", part.start, part.end - 1);
    let headers: &[_] = if all {
        &[]
    } else {
        &[("range", range.as_str())]
    };
    let (head, body) = client::open(&url, headers)
        .await
        .map_err(|error| no_answer(run, &error))?;
    expect_status(run, "blob", head.status.as_u16())?;
    let wanted = if all { 200 } else { 206 };
    if head.status.as_u16() != wanted {
        run.tally.wrong(format!(
            "{range:?} of {} is answered {}",
            blob.digest, head.status
        ));
        return Err(Stop::Failed("a range that is none".into()));
    }
    let (last, length) = (part.end - 1, blob.content.len());
    let expected = format!("bytes {}-{last}/{length}", part.start);
    if !all
        && head
            .headers
            .get("content-range")
            .is_none_or(|range| *range != *expected)
    {
        // Upstream lied about the length of what is not stored yet. The client is told so, and its manifest has the
        // right one.
        return Err(Stop::Failed("a part of a blob of another length".into()));
    }
    Ok((head, body))
}

impl Got {
    fn compare(&mut self, blob: &Blob, data: &[u8]) {
        if self.spoiled.is_none() {
            let right = blob.content.read(self.reached, data.len());
            let mut pairs = right.iter().zip(data);
            let other = pairs.position(|(right, came)| right != came);
            self.spoiled = other.map(|at| self.reached + at as u64);
        }
        self.reached += data.len() as u64;
    }
}

fn judged(run: &Run, what: &str, answer: Result<Response, String>) -> Result<Response, Stop> {
    let answer = answer.map_err(|error| no_answer(run, &error))?;
    expect_status(run, what, answer.status.as_u16())?;
    Ok(answer)
}

fn expect_status(run: &Run, what: &str, status: u16) -> Result<(), Stop> {
    if matches!(status, 200 | 206) {
        return Ok(());
    }
    if !EXCUSES.contains(&status) {
        run.tally.wrong(format!("a {what} is answered {status}"));
    }
    Err(Stop::Failed(format!("a {what} is answered {status}")))
}

/// The mirror is killed now and then; but what it has accepted it must end, one way or the other.
fn no_answer(run: &Run, error: &str) -> Stop {
    let cause = if error.contains("nothing for") {
        run.tally
            .wrong(format!("an answer that never came: {error}"));
        "an answer never came"
    } else if error.contains("refused") {
        "the mirror was down"
    } else {
        "an answer broke off"
    };
    Stop::Failed(cause.into())
}
