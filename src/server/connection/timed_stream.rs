//! Time limits for clients that stop reading, and for those that never begin to write.
//!
//! hyper limits the time a request's header may take over HTTP/1.1 and nothing else: a client that asks for
//! a blob and never reads would hold its connection, its file and its buffers for ever, and so would one
//! that chooses HTTP/2 and says no more.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::server::limits::activity::Activity;

/// A stream whose writes fail when the other end takes no byte for too long, and whose reads fail when its
/// first bytes do not come.
pub(crate) struct TimedStream<S> {
    stream: S,
    patience: Duration,
    /// Hears when a write waits.
    activity: Arc<Activity>,
    /// Runs while a write is waiting. Kept between waits: making a timer costs more than setting one.
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// Bytes in the kernel that the other end has not taken, where that can be told.
    backlog: fn(&S) -> Option<u64>,
    /// How many there were when it was last looked.
    seen: Option<u64>,
    opening: Option<Opening>,
}

/// The first bytes of a connection, on their way.
struct Opening {
    left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> TimedStream<S> {
    pub(crate) fn new(stream: S, patience: Duration, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            patience,
            activity,
            deadline: None,
            waiting: false,
            backlog: |_| None,
            seen: None,
            opening: None,
        }
    }

    /// Has reads fail when the first `count` bytes have not come within `patience`.
    pub(crate) fn expecting(self, count: usize, patience: Duration) -> Self {
        let deadline = Box::pin(sleep(patience));
        let opening = Some(Opening {
            left: count,
            deadline,
        });
        Self { opening, ..self }
    }

    /// Has a write that waits count as taken from while `backlog` shrinks: the kernel says that there is room
    /// only when there is much of it, which takes a slow client a while.
    pub(crate) fn judged_by(self, backlog: fn(&S) -> Option<u64>) -> Self {
        Self { backlog, ..self }
    }

    /// Whether the other end took something since the last look.
    fn was_taken_from(&mut self) -> bool {
        let now = (self.backlog)(&self.stream);
        let before = std::mem::replace(&mut self.seen, now);
        now.zip(before).is_some_and(|(now, before)| now < before)
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            if self.waiting {
                self.waiting = false;
                self.activity.blocked(false);
            }
            return progress;
        }
        if !self.waiting {
            self.waiting = true;
            self.activity.blocked(true);
            self.seen = (self.backlog)(&self.stream);
            self.start_deadline();
        }
        while self.deadline_is_over(cx) {
            if !self.was_taken_from() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client stopped reading",
                )));
            }
            self.start_deadline();
        }
        Poll::Pending
    }

    fn start_deadline(&mut self) {
        let patience = self.patience;
        self.deadline
            .get_or_insert_with(|| Box::pin(sleep(patience)))
            .as_mut()
            .reset(Instant::now() + patience);
    }

    fn deadline_is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.deadline.as_mut();
        deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let progress = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(opening) = &mut self.opening else {
            return progress;
        };
        if progress.is_ready() {
            let came = buffer.filled().len().saturating_sub(before);
            opening.left = opening.left.saturating_sub(came);
            if opening.left == 0 {
                self.opening = None;
            }
            return progress;
        }
        match opening.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client did not begin",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, progress)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, progress)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_cut_off() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut guarded = TimedStream::new(ours, Duration::from_secs(60), Arc::default());
        let error = guarded.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut guarded = TimedStream::new(ours, Duration::from_secs(60), Arc::default());
        let reader = tokio::spawn(async move {
            let mut taken = [0; 16];
            for _ in 0..4 {
                sleep(Duration::from_secs(50)).await;
                theirs.read_exact(&mut taken).await.unwrap();
            }
        });
        guarded.write_all(&[0; 64]).await.unwrap();
        reader.await.unwrap();
    }

    /// As many bytes wait as seconds are left of the first 200.
    fn shrinking(_: &tokio::io::DuplexStream) -> Option<u64> {
        let begun = BEGUN.with(|begun| *begun.get_or_init(Instant::now));
        Some(200_u64.saturating_sub(begun.elapsed().as_secs()))
    }

    thread_local! {
        static BEGUN: std::cell::OnceCell<Instant> = const { std::cell::OnceCell::new() };
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_from_a_large_backlog_is_not_cut_off_until_it_stops() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut guarded =
            TimedStream::new(ours, Duration::from_secs(60), Arc::default()).judged_by(shrinking);
        let begun = Instant::now();
        let error = guarded.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // It took the last byte after 200 s, and was seen to have between 180 and 240.
        assert_eq!(begun.elapsed().as_secs(), 300);
    }
}
