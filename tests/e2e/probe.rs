//! A client that reads as much as it wants and hangs up, and must never take an answer for granted.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything the mirror may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer whose body has not been read; dropping it closes the connection.
#[derive(Debug)]
pub struct Answer {
    stream: TcpStream,
    pub status: u16,
    head: String,
    /// What came together with the head.
    early: Vec<u8>,
    asked: Instant,
}

/// Asks on a connection of its own, as clients do that hang up in the middle of bodies.
pub async fn ask(method: &str, url: &str, range: Option<&str>) -> Answer {
    let rest = url.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let range = range.map_or(String::new(), |range| format!("Range: {range}\r\n"));
    let request = format!("{method} /{path} HTTP/1.1\r\nHost: {authority}\r\n{range}\r\n");
    let asked = Instant::now();
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = loop {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut bytes)).await;
        assert_ne!(
            read.expect("an answer").unwrap(),
            0,
            "closed without an answer"
        );
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let early = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let status = head[9..12].parse().unwrap();
    Answer {
        stream,
        status,
        head,
        early,
        asked,
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// What the answer says the length of its body is.
    pub fn length(&self) -> u64 {
        let value = self.header("content-length");
        value
            .expect("Content-Length")
            .parse::<u64>()
            .expect("a number")
    }

    /// The next bytes of the body, exactly so many.
    pub async fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.early.drain(..len.min(self.early.len())).collect();
        let have = bytes.len();
        bytes.resize(len, 0);
        let read = self.stream.read_exact(&mut bytes[have..]);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("a body that comes")
            .expect("a whole body");
        bytes
    }

    /// All of the body.
    pub async fn all(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.length()).unwrap();
        self.read(length).await
    }

    /// Since before the connection was opened.
    pub fn took(&self) -> Duration {
        self.asked.elapsed()
    }
}
