//! Connections that are open and idle: what memory each takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::Plan;
use crate::fixture::Fixture;
use crate::load::parse;
use crate::peers::{Mirror, Nginx, Peer};
use crate::report::{Bound, Report, Workload};
use crate::secure::{self, Certificate};
use crate::stored::settle;
use crate::usage;

pub fn run(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let count = plan.pick(500, 2000);
    let path = fixture.large.by_tag();
    let name = format!("idle connections, {count} plain");
    if plan.wants(&name) {
        begin(report, name, 20.0);
        for round in 0..plan.rounds.min(3) {
            for peer in [
                Mirror::default().start(fixture),
                Nginx::files("nginx").start(fixture),
            ] {
                hold(&peer, round, count, report, || plain(peer.address, &path));
            }
        }
        report.end();
    }
    let count = plan.pick(200, 1000);
    let name = format!("idle connections, {count} tls");
    if plan.wants(&name) {
        let certificate = Certificate::new();
        let tls = Some(&certificate);
        begin(report, name, 32.0);
        for round in 0..plan.rounds.min(3) {
            let nginx = Nginx {
                tls,
                ..Nginx::files("nginx")
            };
            for peer in [
                Mirror {
                    tls,
                    ..Mirror::default()
                }
                .start(fixture),
                nginx.start(fixture),
            ] {
                let mut buffer = vec![0; 64 * 1024];
                hold(&peer, round, count, report, || {
                    let mut stream = secure::connect(&certificate, peer.address);
                    secure::take(&mut stream, &path, &mut buffer);
                    stream
                });
            }
        }
        report.end();
    }
}

fn begin(report: &mut Report, name: String, bound: f64) {
    report.begin(Workload {
        name,
        figure: "KiB each",
        more_is_better: false,
        against: &["nginx"],
        bounds: vec![("KiB each", Bound::Figure(bound))],
    });
}

/// The first connections warm the program up, the others are measured.
fn hold<T>(
    peer: &Peer,
    round: usize,
    count: usize,
    report: &mut Report,
    mut open: impl FnMut() -> T,
) {
    let mut kept: Vec<T> = (0..50).map(|_| open()).collect();
    settle();
    let before = usage::anonymous(&peer.processes());
    kept.extend((0..count).map(|_| open()));
    settle();
    let more = usage::anonymous(&peer.processes()) - before;
    report.note(
        peer.name,
        round,
        vec![("KiB each", more / count as f64)],
        false,
    );
}

fn plain(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the connection ended");
        answer.extend_from_slice(&buffer[..count]);
        if let Some((ok, length, end)) = parse(&answer) {
            assert!(ok, "{}", String::from_utf8_lossy(&answer));
            if answer.len() as u64 == length + end as u64 {
                return stream;
            }
        }
    }
}
