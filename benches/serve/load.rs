//! A client of many connections in one thread, made to cost little: bodies are thrown away inside the kernel
//! (`MSG_TRUNC`), and nothing is allocated between two requests.
//!
//! It knows when it was what limited a run: its own thread was busy nearly all the time.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{RecvFlags, SendFlags};
use rustix::time::Timespec;

use crate::usage;

/// Above this the client is called the bottleneck.
const BUSY: f64 = 0.95;
/// Nothing that is measured here takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
const HEADER: usize = 16 * 1024;
const DISCARD: usize = 1024 * 1024;

/// A request, as bytes, and whether its answer has a body.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
    head: bool,
}

impl Request {
    pub fn get(path: &str) -> Rc<Request> {
        Self::new("GET", path, "")
    }

    pub fn head(path: &str) -> Rc<Request> {
        Self::new("HEAD", path, "")
    }

    /// Bytes `first` to `last` of what is at `path`.
    pub fn range(path: &str, first: u64, last: u64) -> Rc<Request> {
        Self::new("GET", path, &format!("Range: bytes={first}-{last}\r\n"))
    }

    fn new(method: &str, path: &str, headers: &str) -> Rc<Request> {
        let accept = crate::fixture::MANIFEST_TYPE;
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\nAccept: {accept}, */*\r\n{headers}\r\n"
        );
        Rc::new(Request {
            bytes: text.into_bytes(),
            head: method == "HEAD",
        })
    }
}

/// When a run is over.
#[derive(Clone, Copy)]
pub enum Until {
    /// Each connection went through its script once.
    Done,
    /// Scripts are repeated for so long.
    After(Duration),
    /// The same, but with so many requests a second in all, whether answers come or not.
    Paced(Duration, f64),
}

/// What a run brought.
#[derive(Debug, Default)]
pub struct Outcome {
    pub requests: u64,
    pub bytes: u64,
    pub wall: Duration,
    /// From a request, or from when it was due, to the first byte of its answer.
    pub first_byte: Vec<Duration>,
    /// From the start of the run until each connection was through.
    pub done: Vec<Duration>,
    /// Answers other than 200 and 206, and connections that broke.
    pub failures: u64,
    pub client_cpu: f64,
}

impl Outcome {
    pub fn client_was_the_bottleneck(&self) -> bool {
        self.client_cpu / self.wall.as_secs_f64() > BUSY
    }

    /// A run that did not work measures nothing.
    pub fn expect_complete(self, what: &str) -> Outcome {
        assert_eq!(self.failures, 0, "{what}: requests failed");
        self
    }
}

/// The value below which `share` of all are.
pub fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(place).copied().unwrap_or_default()
}

/// Opens a connection for each script and goes through them.
pub fn run(address: SocketAddr, scripts: Vec<Vec<Rc<Request>>>, until: Until) -> Outcome {
    let mut run = Run::new(address, scripts, until);
    let cpu = usage::of_this_thread();
    run.turn();
    let mut outcome = run.outcome;
    outcome.wall = run.started.elapsed();
    outcome.client_cpu = usage::of_this_thread() - cpu;
    outcome
}

struct Run {
    poll: OwnedFd,
    connections: Vec<Connection>,
    /// Those without a request under way, when requests are paced.
    free: Vec<usize>,
    until: Until,
    started: Instant,
    sent: u64,
    over: usize,
    outcome: Outcome,
    discard: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    script: Vec<Rc<Request>>,
    next: usize,
    due: Instant,
    state: State,
    header: Vec<u8>,
    over: bool,
}

#[derive(Clone, Copy)]
enum State {
    Idle,
    Header,
    Body(u64),
}

impl Run {
    fn new(address: SocketAddr, scripts: Vec<Vec<Rc<Request>>>, until: Until) -> Run {
        let poll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let connections: Vec<_> = scripts
            .into_iter()
            .enumerate()
            .map(|(place, script)| {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
                let data = EventData::new_u64(place as u64);
                epoll::add(&poll, &stream, data, EventFlags::IN | EventFlags::RDHUP).unwrap();
                Connection {
                    stream,
                    script,
                    next: 0,
                    due: Instant::now(),
                    state: State::Idle,
                    header: Vec::with_capacity(HEADER),
                    over: false,
                }
            })
            .collect();
        Run {
            poll,
            connections,
            free: Vec::new(),
            until,
            started: Instant::now(),
            sent: 0,
            over: 0,
            outcome: Outcome::default(),
            discard: vec![0; DISCARD],
        }
    }

    fn turn(&mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(256);
        self.started = Instant::now();
        for place in 0..self.connections.len() {
            self.go_on(place);
        }
        while self.over < self.connections.len() {
            let wait = self.send_what_is_due();
            let wait = Timespec::try_from(wait).unwrap();
            events.clear();
            match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("epoll: {error}"),
            }
            for event in &events {
                let data = event.data;
                self.read(data.u64() as usize);
            }
            assert!(self.started.elapsed() < PATIENCE, "a run takes too long");
        }
    }

    /// What follows on a connection that has nothing under way.
    fn go_on(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        connection.state = State::Idle;
        let at_its_end = connection.next == connection.script.len();
        let over = match self.until {
            Until::Done => at_its_end,
            Until::After(limit) => self.started.elapsed() >= limit,
            Until::Paced(limit, _) if self.started.elapsed() < limit => {
                self.free.push(place);
                return;
            }
            Until::Paced(..) => true,
        };
        if over {
            return self.end(place);
        }
        if at_its_end {
            connection.next = 0;
        }
        connection.due = Instant::now();
        self.send(place);
    }

    fn send_what_is_due(&mut self) -> Duration {
        let Until::Paced(limit, rate) = self.until else {
            return Duration::from_secs(1);
        };
        if self.started.elapsed() >= limit {
            while let Some(place) = self.free.pop() {
                self.end(place);
            }
            return Duration::from_millis(100);
        }
        loop {
            let due = self.started + Duration::from_secs_f64(self.sent as f64 / rate);
            let Some(place) = self.free.last().copied() else {
                return Duration::from_millis(100);
            };
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                return wait;
            }
            self.free.pop();
            let connection = &mut self.connections[place];
            connection.next %= connection.script.len();
            connection.due = due;
            self.sent += 1;
            self.send(place);
        }
    }

    fn send(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        let request = &connection.script[connection.next];
        // Requests are short, and the last one was answered: the kernel has room.
        let sent = rustix::net::send(&connection.stream, &request.bytes, SendFlags::NOSIGNAL);
        if sent != Ok(request.bytes.len()) {
            return self.fail(place);
        }
        connection.header.clear();
        connection.state = State::Header;
    }

    fn read(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        if connection.over {
            return;
        }
        let (buffer, flags) = match connection.state {
            State::Body(left) => {
                let most = (left as usize).min(DISCARD);
                (&mut self.discard[..most], RecvFlags::TRUNC)
            }
            State::Header | State::Idle => (&mut self.discard[..HEADER], RecvFlags::empty()),
        };
        let count = match rustix::net::recv(&connection.stream, buffer, flags) {
            Ok((_, count)) => count,
            Err(error) => match std::io::Error::from(error).kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => return,
                _ => return self.fail(place),
            },
        };
        match connection.state {
            // The server has enough of an idle connection, or an answer broke off.
            _ if count == 0 => self.fail(place),
            State::Idle => self.fail(place),
            State::Body(left) => self.took(place, left, count as u64),
            State::Header => self.header(place, count),
        }
    }

    fn header(&mut self, place: usize, count: usize) {
        let connection = &mut self.connections[place];
        if connection.header.is_empty() {
            self.outcome.first_byte.push(connection.due.elapsed());
        }
        connection.header.extend_from_slice(&self.discard[..count]);
        let Some((ok, length, end)) = parse(&connection.header) else {
            return;
        };
        if !ok {
            return self.fail(place);
        }
        let head = connection.script[connection.next].head;
        let left = if head { 0 } else { length };
        let came = (connection.header.len() - end) as u64;
        self.took(place, left, came);
    }

    fn took(&mut self, place: usize, left: u64, count: u64) {
        self.outcome.bytes += count;
        let connection = &mut self.connections[place];
        if count < left {
            connection.state = State::Body(left - count);
            return;
        }
        connection.next += 1;
        self.outcome.requests += 1;
        self.go_on(place);
    }

    fn fail(&mut self, place: usize) {
        self.outcome.failures += 1;
        self.end(place);
    }

    fn end(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        if !connection.over {
            connection.over = true;
            self.over += 1;
            self.outcome.done.push(self.started.elapsed());
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
            let _ = epoll::delete(&self.poll, &connection.stream);
        }
    }
}

/// Whether it is a 2xx, how long the body is, and where it begins; `None` while the header is incomplete.
pub fn parse(header: &[u8]) -> Option<(bool, u64, usize)> {
    let end = header.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&header[..end]).ok()?;
    let ok = text.as_bytes().get(9) == Some(&b'2');
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse().ok())?
    });
    Some((ok, length.unwrap_or(0), end + 4))
}
