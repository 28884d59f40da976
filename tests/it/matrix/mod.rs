//! Everything that can be asked for, everywhere it can be refused, in every way that HTTP has.
//!
//! Each combination is a repository of its own at a registry that fails as the repository's name says: what is asked
//! for, who refuses it (the registry, its storage, another
//! registry that it leads to, its realm), whether HEAD alone is refused, with which
//! status, and whether it is stored here. A client asks by HEAD and then by GET while upstream fails, and again when it
//! is well.
//!
//! A part of the combinations is tried, another one for each status; `PIERGLASS_MATRIX=all` tries them all.

mod cell;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::Response;
use crate::support::{Client, Mirror, MirrorConfig};

use cell::{Cell, Failing, PLACES, Place, SILENCE, THINGS, Thing};
use upstream::Upstream;

/// How long a refusal may be remembered.
const NEGATIVE_TTL: Duration = Duration::from_secs(2);
/// Clients at a time.
const AT_A_TIME: usize = 96;
/// Statuses that mean something of their own: all their combinations are tried.
const KNOWN: [u16; 30] = [
    SILENCE, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408, 410, 412, 415, 416,
    418, 421, 424, 429, 451, 500, 501, 502, 503, 504, 507, 599,
];
/// How many combinations are tried of each other status.
const OF_OTHERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refusal_anywhere_takes_away_what_is_there() {
    let upstream = Upstream::start();
    let config = MirrorConfig::for_url(&upstream.url())
        .timeouts("5s")
        .stale_after("20s")
        .tag_ttl("0s")
        .negative_ttl("2s")
        .top("max_misses_per_client", "1000000");
    let mirror = Mirror::start(config);
    let run = Arc::new(Run {
        client: Client::new(),
        mirror: mirror.url(),
        faults: Faults::default(),
    });
    let cells = cells();

    let stored: Vec<_> = cells.iter().filter(|cell| cell.stored).copied().collect();
    run.each(&stored, Run::store).await;
    for cell in &cells {
        upstream.take_asked(cell);
    }

    upstream.set_failing(true);
    run.each(&cells, Run::refuse).await;
    let failed_until = Instant::now();
    for cell in &cells {
        let asked = upstream.take_asked(cell);
        let most = cell.most_requests();
        if asked.len() > most {
            run.faults.add(cell, &format!("more than {most} requests"));
        }
    }

    upstream.set_failing(false);
    tokio::time::sleep_until((failed_until + NEGATIVE_TTL).into()).await;
    run.each(&cells, Run::recover).await;
    run.faults.report(cells.len());
}

/// The cells that are tried.
#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn cells() -> Vec<Cell> {
    let all = std::env::var("PIERGLASS_MATRIX").is_ok_and(|value| value == "all");
    let mut combinations = Vec::new();
    for thing in THINGS {
        for place in PLACES {
            for failing in [Failing::Head, Failing::All] {
                for stored in [false, true] {
                    // A realm is asked by GET alone.
                    if place != Place::Realm || failing == Failing::All {
                        combinations.push((thing, place, failing, stored));
                    }
                }
            }
        }
    }
    let mut cells = Vec::new();
    for status in [SILENCE].into_iter().chain(300..=599) {
        let tried = match all || KNOWN.contains(&status) {
            true => combinations.len(),
            false => OF_OTHERS,
        };
        for number in 0..tried {
            let (thing, place, failing, stored) =
                combinations[(usize::from(status) * 7 + number * 13) % combinations.len()];
            cells.push(Cell {
                thing,
                place,
                failing,
                status,
                stored,
            });
        }
    }
    cells
}

/// What went wrong, by what it is.
#[derive(Default)]
struct Faults(std::sync::Mutex<BTreeMap<String, Vec<Cell>>>);

impl Faults {
    fn add(&self, cell: &Cell, what: &str) {
        let Cell {
            thing,
            place,
            failing,
            stored,
            ..
        } = cell;
        let stored = if *stored { "stored" } else { "not stored" };
        let kind = format!("{thing:?}, {stored}, {place:?} refuses {failing:?}: {what}");
        self.0.lock().unwrap().entry(kind).or_default().push(*cell);
    }

    fn report(&self, tried: usize) {
        let faults = self.0.lock().unwrap();
        let lines: Vec<_> = faults
            .iter()
            .map(|(kind, cells)| {
                let statuses: Vec<_> = cells.iter().map(|cell| cell.status).collect();
                format!("{kind}: {statuses:?}")
            })
            .collect();
        assert!(faults.is_empty(), "of {tried} cells:\n{}", lines.join("\n"));
    }
}

struct Run {
    client: Client,
    mirror: String,
    faults: Faults,
}

impl Run {
    async fn ask(&self, method: &str, cell: &Cell) -> Response {
        let url = format!("{}/v2/{}/{}", self.mirror, cell.repository(), cell.path());
        let answer = self
            .client
            .request(method.parse().unwrap(), &url, &[])
            .await;
        answer.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }

    /// Upstream is well: it is fetched, and stored.
    async fn store(self: Arc<Self>, cell: Cell) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.ask("GET", &cell).await;
            let right = answer.status == 200 && cell.is_right(&answer.body);
            // A blob is stored a moment after it was answered.
            let hit = answer.header("cache-status") == Some("pierglass; hit");
            if right && (hit || cell.thing != Thing::Blob) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{cell:?} is not stored: {answer:?}"
            );
        }
    }

    /// Upstream fails.
    async fn refuse(self: Arc<Self>, cell: Cell) {
        for method in ["HEAD", "GET"] {
            let answer = self.ask(method, &cell).await;
            let status = answer.status.as_u16();
            if !cell.allowed(method, status) {
                self.faults
                    .add(&cell, &format!("{method} is answered {status}"));
            }
            // Where there is no API for referrers, the list is empty.
            let empty =
                cell.thing == Thing::Referrers && cell.failing == Failing::All && !cell.stored;
            if method == "GET" && status == 200 && !empty && !cell.is_right(&answer.body) {
                self.faults
                    .add(&cell, &format!("GET brings other bytes: {}", answer.text()));
            }
        }
    }

    /// Upstream is well again, and what it refused has been remembered for as long as it may be.
    async fn recover(self: Arc<Self>, cell: Cell) {
        // Trouble is left alone for a while; a refusal is over when its time is.
        let patience = if cell.may_pass() || cell.status < 400 {
            60
        } else {
            0
        };
        let deadline = Instant::now() + Duration::from_secs(patience);
        loop {
            let answer = self.ask("GET", &cell).await;
            if answer.status == 200 && cell.is_right(&answer.body) {
                return;
            }
            if Instant::now() > deadline {
                let what = format!("is {} though upstream is well", answer.status);
                self.faults.add(&cell, &what);
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Does `what` with every cell, some at a time.
    async fn each<F>(self: &Arc<Self>, cells: &[Cell], what: fn(Arc<Run>, Cell) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        let mut tasks = JoinSet::new();
        for cell in cells {
            let (run, cell) = (Arc::clone(self), *cell);
            let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
            tasks.spawn(async move {
                what(run, cell).await;
                drop(turn);
            });
        }
        tasks.join_all().await;
    }
}
