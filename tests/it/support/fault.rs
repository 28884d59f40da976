//! Faults: what goes wrong ([`Fault`]), and for which requests ([`On`]).

use std::io::Read as _;
use std::sync::Mutex;
use std::time::Duration;

use super::content::{Content, digest_of};
use super::wire::{Fate, Framing, Reply};

/// What goes wrong. Byte counts are of the response's own body, so a resumed range starts again at 0.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer instead of the right one.
    Status(u16, String, Vec<(String, String)>),
    /// `Content-Length` is right; the connection closes after that many bytes.
    CutAfter(u64),
    /// Chunked; the connection closes after that many bytes, without the terminating chunk.
    CutChunked(u64),
    /// No length at all, `Connection: close`: that many bytes and a clean end. Only the digest tells.
    ShortClose(u64),
    /// The right length, with a byte near the end changed.
    WrongBytes,
    /// A body longer or shorter by that much, in a well-formed answer (longer: zeros are appended).
    WrongLength(i64),
    /// `Docker-Content-Digest` of something else.
    LyingDigestHeader,
    /// That many bytes of body, then silence, then the rest.
    Stall(u64, Duration),
    /// Silence before the status line.
    DelayHeaders(Duration),
    /// No answer, with the connection open.
    Hang,
    /// A TCP reset instead of an answer.
    Reset,
    /// A web page with that status.
    Html(u16),
    /// This response alone at that rate.
    Slow { bytes_per_sec: u64 },
    /// The right body, chunked.
    NoContentLength,
    /// A redirect to the same place, each time with another query.
    RedirectLoop,
    /// 200 and everything, whatever range was asked for.
    IgnoreRange,
    /// A header that never ends.
    EndlessHeader,
    /// That status and a body that never ends: as fast as it is read, or a byte now and then.
    EndlessBody { status: u16, drip: bool },
    /// The right answer with more headers.
    With(Vec<(String, String)>),
    /// The right body compressed, `gzip` or `deflate`, and said to be.
    Compressed(&'static str),
}

impl Fault {
    /// A bare status with an OCI error body.
    pub fn status(code: u16) -> Fault {
        let body = serde_json::json!({"errors": [{"code": "UNKNOWN", "message": "fault"}]});
        Fault::Status(
            code,
            body.to_string(),
            vec![("Content-Type".into(), "application/json".into())],
        )
    }

    /// A HEAD has no body to spoil: it must not use up a fault meant for a GET.
    fn needs_body(&self) -> bool {
        matches!(
            self,
            Fault::CutAfter(_)
                | Fault::CutChunked(_)
                | Fault::ShortClose(_)
                | Fault::WrongBytes
                | Fault::Stall(..)
                | Fault::Slow { .. }
                | Fault::IgnoreRange
        )
    }

    /// The answer given instead of the right one; `None` for faults that spoil the right one.
    pub fn instead(&self, target: &str) -> Option<Fate> {
        let answer = |reply: Reply| Some(Fate::Answer(Box::new(reply)));
        match self {
            Fault::Status(code, body, headers) => {
                let mut reply = Reply::empty(*code);
                reply.headers.clone_from(headers);
                reply.body = super::wire::Body::whole(Content::from(body.clone()));
                answer(reply)
            }
            Fault::Html(code) => answer(Reply::new(
                *code,
                "text/html",
                Content::from(format!("<html><body><h1>{code} nginx</h1></body></html>")),
            )),
            Fault::RedirectLoop => {
                let (path, query) = target.split_once('?').unwrap_or((target, "loop=0"));
                answer(Reply::empty(307).with("Location", format!("{path}?{query}0")))
            }
            Fault::EndlessHeader => Some(Fate::Endless {
                head: "HTTP/1.1 200 OK\r\n".to_owned(),
                piece: format!("X-More: {}\r\n", "x".repeat(100)),
                pause: Duration::ZERO,
            }),
            Fault::EndlessBody { status, drip } => Some(Fate::Endless {
                head: format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n"),
                piece: match drip {
                    true => "1\r\n \r\n".to_owned(),
                    false => format!("1000\r\n{}\r\n", " ".repeat(4096)),
                },
                pause: Duration::from_millis(if *drip { 20 } else { 0 }),
            }),
            Fault::Hang => Some(Fate::Hang),
            Fault::Reset => Some(Fate::Reset),
            _ => None,
        }
    }

    /// Spoils the right answer.
    pub fn spoil(&self, reply: &mut Reply) {
        let delivery = &mut reply.delivery;
        match self {
            Fault::CutAfter(bytes) => delivery.stop_after = Some(*bytes),
            Fault::CutChunked(bytes) => {
                delivery.framing = Framing::Chunked;
                delivery.stop_after = Some(*bytes);
            }
            Fault::ShortClose(bytes) => {
                delivery.framing = Framing::Close;
                delivery.stop_after = Some(*bytes);
            }
            Fault::WrongBytes => delivery.flip = true,
            Fault::WrongLength(by) => reply.body.len = reply.body.len.saturating_add_signed(*by),
            Fault::LyingDigestHeader => {
                *reply = reply
                    .clone()
                    .with("Docker-Content-Digest", digest_of(b"a lie"));
            }
            Fault::Stall(after, pause) => delivery.stall = Some((*after, *pause)),
            Fault::DelayHeaders(pause) => delivery.delay = *pause,
            Fault::Slow { bytes_per_sec } => delivery.bytes_per_sec = Some(*bytes_per_sec),
            Fault::NoContentLength => delivery.framing = Framing::Chunked,
            Fault::With(headers) => reply.headers.extend(headers.iter().cloned()),
            Fault::Compressed(label) => {
                let body = &reply.body;
                let bytes = body
                    .content
                    .read(body.start, usize::try_from(body.len).unwrap());
                let content = Content::Stored(compressed(label, &bytes).into());
                *reply = reply.clone().with("Content-Encoding", *label);
                reply.body = super::wire::Body::whole(content);
            }
            Fault::Status(..)
            | Fault::Html(_)
            | Fault::RedirectLoop
            | Fault::Hang
            | Fault::Reset
            | Fault::EndlessHeader
            | Fault::EndlessBody { .. }
            | Fault::IgnoreRange => {}
        }
    }
}

fn compressed(label: &str, bytes: &[u8]) -> Vec<u8> {
    let quick = flate2::Compression::fast();
    let mut out = Vec::new();
    match label {
        "gzip" => flate2::read::GzEncoder::new(bytes, quick).read_to_end(&mut out),
        _ => flate2::read::ZlibEncoder::new(bytes, quick).read_to_end(&mut out),
    }
    .unwrap();
    out
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Ping,
    Manifest,
    /// A request answered with a blob's bytes: at the redirect's target where blobs are redirected.
    Blob,
    /// A blob request answered with a redirect.
    Redirect,
    Token,
    Tags,
    Referrers,
    Search,
    Other,
}

/// Which requests a fault is for, and how often: `On::blob().repo("a/b").times(2)`. Once, if nothing is said.
///
/// A fault on a kind strikes requests that are authorized (the 401 that starts a token exchange does not use it up);
/// `On::any()` strikes everything, tokens and challenges included.
#[derive(Debug, Clone)]
pub struct On {
    kind: Option<Kind>,
    method: Option<&'static str>,
    repo: Option<String>,
    containing: Option<String>,
    whole: bool,
    skip: u64,
    left: u64,
}

impl On {
    pub fn kind(kind: Kind) -> On {
        On {
            kind: Some(kind),
            method: None,
            repo: None,
            containing: None,
            whole: false,
            skip: 0,
            left: 1,
        }
    }

    pub fn any() -> On {
        On {
            kind: None,
            ..On::kind(Kind::Other)
        }
    }

    pub fn manifest() -> On {
        On::kind(Kind::Manifest)
    }

    pub fn blob() -> On {
        On::kind(Kind::Blob)
    }

    pub fn tags() -> On {
        On::kind(Kind::Tags)
    }

    pub fn referrers() -> On {
        On::kind(Kind::Referrers)
    }

    pub fn search() -> On {
        On::kind(Kind::Search)
    }

    pub fn redirect() -> On {
        On::kind(Kind::Redirect)
    }

    pub fn token() -> On {
        On::kind(Kind::Token)
    }

    #[must_use]
    pub fn get(self) -> On {
        On {
            method: Some("GET"),
            ..self
        }
    }

    #[must_use]
    pub fn head(self) -> On {
        On {
            method: Some("HEAD"),
            ..self
        }
    }

    #[must_use]
    pub fn repo(self, repo: &str) -> On {
        On {
            repo: Some(repo.into()),
            ..self
        }
    }

    /// Only requests whose path and query contain this, a digest for instance.
    #[must_use]
    pub fn containing(self, text: &str) -> On {
        On {
            containing: Some(text.into()),
            ..self
        }
    }

    /// Only requests without `Range`.
    #[allow(
        dead_code,
        reason = "only tests/chaos lets upstream spoil ranges by chance"
    )]
    #[must_use]
    pub fn whole(self) -> On {
        On {
            whole: true,
            ..self
        }
    }

    /// Let that many matching requests pass first.
    #[must_use]
    pub fn skip(self, count: u64) -> On {
        On {
            skip: count,
            ..self
        }
    }

    #[must_use]
    pub fn times(self, count: u64) -> On {
        On {
            left: count,
            ..self
        }
    }

    #[must_use]
    pub fn forever(self) -> On {
        self.times(u64::MAX)
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        let kind = match self.kind {
            None => true,
            Some(kind) => asked.authorized && kind == asked.kind,
        };
        kind && !(self.whole && asked.ranged)
            && self.method.is_none_or(|method| method == asked.method)
            && self
                .repo
                .as_deref()
                .is_none_or(|repo| Some(repo) == asked.repo)
            && self
                .containing
                .as_deref()
                .is_none_or(|text| asked.target.contains(text))
    }
}

/// What a fault is matched against.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub kind: Kind,
    pub method: &'a str,
    pub repo: Option<&'a str>,
    pub target: &'a str,
    /// With a `Range` header.
    pub ranged: bool,
    /// `false` on the first look, before credentials are checked.
    pub authorized: bool,
}

/// Names a fault, to ask how often it struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultId(usize);

#[derive(Debug)]
struct Rule {
    on: On,
    fault: Fault,
    struck: u64,
    active: bool,
}

/// The faults of one registry, first come first.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
}

impl Faults {
    pub fn add(&self, on: On, fault: Fault) -> FaultId {
        let mut rules = self.rules.lock().unwrap();
        rules.push(Rule {
            on,
            fault,
            struck: 0,
            active: true,
        });
        FaultId(rules.len() - 1)
    }

    pub fn clear(&self) {
        self.rules
            .lock()
            .unwrap()
            .iter_mut()
            .for_each(|rule| rule.active = false);
    }

    pub fn struck(&self, id: FaultId) -> u64 {
        self.rules.lock().unwrap()[id.0].struck
    }

    /// The fault for this request, used up by one. Rules for `any` are looked at before authorization, others after.
    pub fn take(&self, asked: &Asked<'_>) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        for rule in rules
            .iter_mut()
            .filter(|rule| rule.active && rule.on.left > 0)
        {
            let looked_at_now = rule.on.kind.is_some() == asked.authorized;
            let spoilable = asked.method != "HEAD" || !rule.fault.needs_body();
            if !looked_at_now || !spoilable || !rule.on.matches(asked) {
                continue;
            }
            if rule.on.skip > 0 {
                rule.on.skip -= 1;
                continue;
            }
            rule.on.left -= 1;
            rule.struck += 1;
            return Some(rule.fault.clone());
        }
        None
    }
}
