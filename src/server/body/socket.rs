//! The connection that sends slices: what hyper writes to.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::sendfile::{Lane, Part};

/// What one call may send; nginx's default too.
const MOST_AT_ONCE: usize = 2 * 1024 * 1024;
/// What a client that reads fast may be sent before others on this worker have their turn.
const TURN: usize = 4 * 1024 * 1024;
/// What may wait in the kernel of a file: it takes no memory but the page cache, and a client that reads fast
/// is to find much. Each wake-up for more costs as much as sending a hundred KiB.
const UNSENT: u32 = 4 * 1024 * 1024;

/// A connection that sends the slices of its [`Lane`] with `sendfile`, and all else as it is.
pub(crate) struct Sendfile {
    stream: TcpStream,
    lane: Lane,
    /// Bytes sent since this connection last let others have their turn.
    turn: usize,
    /// Whether the kernel was told of [`UNSENT`].
    deep: bool,
}

impl Sendfile {
    pub(crate) fn new(stream: TcpStream) -> (Self, Lane) {
        let lane = Lane::default();
        let this = Self {
            stream,
            lane: lane.clone(),
            turn: 0,
            deep: false,
        };
        (this, lane)
    }

    /// Bytes that were sent and that the client has not acknowledged.
    pub(crate) fn backlog(&self) -> Option<u64> {
        backlog(&self.stream)
    }

    /// Only where it can be told whether a client still takes something: a slow one needs long to empty it.
    fn deepen(&mut self) {
        if !self.deep && self.backlog().is_some() {
            let _ = socket2::SockRef::from(&self.stream).set_tcp_notsent_lowat(UNSENT);
        }
        self.deep = true;
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        part: &Part,
    ) -> Poll<io::Result<usize>> {
        self.deepen();
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if let Err(error) = ready!(self.stream.poll_write_ready(cx)) {
                return Poll::Ready(Err(error));
            }
            let send = || send(&self.stream, &self.lane, before, part);
            match self.stream.try_io(Interest::WRITABLE, send) {
                Ok(count) => {
                    self.turn += count;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.turn = 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// `SIOCOUTQ` of tcp(7).
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
#[expect(
    unsafe_code,
    reason = "no safe wrapper has this call; two lines, tested below"
)]
fn backlog(stream: &TcpStream) -> Option<u64> {
    use rustix::ioctl::{Getter, ioctl};
    const SIOCOUTQ: u32 = 0x5411;
    // SAFETY: on these architectures this number is SIOCOUTQ, which writes one int and nothing else, and
    // `stream` is open for as long as it is borrowed.
    let bytes = unsafe { ioctl(stream, Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    bytes.ok().and_then(|bytes| u64::try_from(bytes).ok())
}

/// The number of the call differs elsewhere.
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
fn backlog(_: &TcpStream) -> Option<u64> {
    None
}

/// Sends `before`, a response's header, and of the file what the kernel takes.
fn send(stream: &TcpStream, lane: &Lane, before: &[IoSlice<'_>], part: &Part) -> io::Result<usize> {
    let length = before.iter().map(|buffer| buffer.len()).sum();
    let mut sent = 0;
    if length > 0 {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        let mut control = SendAncillaryBuffer::default();
        sent = rustix::net::sendmsg(stream, before, &mut control, flags)?;
        if sent < length {
            return Ok(sent);
        }
    }
    match send_part(stream, lane, part) {
        Ok(count) => Ok(sent + count),
        // It comes again when it is asked again.
        Err(_) if sent > 0 => Ok(sent),
        Err(error) => Err(error),
    }
}

fn send_part(stream: &TcpStream, lane: &Lane, part: &Part) -> io::Result<usize> {
    let most = usize::try_from(part.left())
        .unwrap_or(MOST_AT_ONCE)
        .min(MOST_AT_ONCE);
    let mut position = part.position();
    match rustix::fs::sendfile(stream, part.file(), Some(&mut position), most) {
        // The file is shorter than the blob: it was truncated meanwhile.
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(count),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            lane.close();
            let bytes = part.read()?;
            Ok(rustix::net::send(stream, &bytes, SendFlags::NOSIGNAL)?)
        }
        Err(errno) => Err(errno.into()),
    }
}

impl AsyncRead for Sendfile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sendfile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.lane.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.lane.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        match self.lane.find(buffers) {
            Some((place, part)) => {
                let before = buffers.get(..place).unwrap_or_default();
                self.poll_send(cx, before, &part)
            }
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, buffers),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use bytes::Buf;

    use crate::server::body::sendfile::FileSlice;

    use super::*;

    #[tokio::test]
    async fn a_file_that_was_cut_off_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut server, lane) = Sendfile::new(listener.accept().await.unwrap().0);
        server.stream.writable().await.unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let mut slice = lane.slice(Arc::new(file), 0..1000, None);
        let mut write = |slice: &FileSlice| {
            let mut shown = [IoSlice::new(&[])];
            slice.chunks_vectored(&mut shown);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(&mut server).poll_write_vectored(&mut cx, &shown)
        };
        assert!(matches!(write(&slice), Poll::Ready(Ok(100))));
        slice.advance(100);
        let Poll::Ready(Err(error)) = write(&slice) else {
            panic!("the end of the file went unnoticed");
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_backlog_shrinks_as_the_client_reads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (server, _lane) = Sendfile::new(listener.accept().await.unwrap().0);
        assert_eq!(server.backlog(), Some(0));
        server.stream.writable().await.unwrap();
        while server.stream.try_write(&[0; 65_536]).is_ok() {}
        let full = server.backlog().unwrap();
        assert!(full > 0);
        let mut buffer = vec![0; 1 << 20];
        while server.backlog() >= Some(full) {
            client.readable().await.unwrap();
            let _ = client.try_read(&mut buffer);
        }
    }
}
