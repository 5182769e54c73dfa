//! A client's stream, with an end to its patience: a head that comes by the byte and an answer that
//! nobody reads would each keep a connection for as long as the client likes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::room::Guest;

/// The head of a request takes so long at most, from its first byte; that of the first request,
/// from the beginning of the connection. Then the connection is closed.
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// A client takes the whole of an answer within this time from when it first had to be waited for,
/// or the connection is closed: what it has not read yet is kept in memory for it.
pub const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// The stream of a guest.
pub struct Stream {
    stream: TcpStream,
    guest: Arc<Guest>,
    /// The requests that had arrived when `head` was set, and when `write` was.
    requests: u32,
    answered: u32,
    head: Deadline,
    write: Deadline,
}

/// A time by which something must have happened. Costs a timer only once it is waited for.
#[derive(Default)]
struct Deadline {
    by: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn set_in(limit: Duration) -> Self {
        Self { by: Some(Instant::now() + limit), timer: None }
    }

    /// An error once the time is over; wakes the task then.
    fn poll<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(by) = self.by else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(by)));
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Stream {
    pub fn new(stream: TcpStream, guest: Arc<Guest>) -> Self {
        let (head, write) = (Deadline::set_in(HEAD_LIMIT), Deadline::default());
        Self { stream, guest, requests: 0, answered: 0, head, write }
    }

    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let requests = self.guest.requests();
        if self.answered != requests {
            self.answered = requests; // the answer to the one before was taken
            self.write = Deadline::default();
        }
        if written.is_ready() {
            return written;
        }
        if self.write.by.is_none() {
            self.write = Deadline::set_in(WRITE_LIMIT);
        }
        self.write.poll(context)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let requests = self.guest.requests();
        if self.requests != requests {
            self.requests = requests; // the head that was waited for is here
            self.head = Deadline::default();
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if !self.guest.may_ask() {
            return read; // a body, which has a limit of its own
        }
        if read.is_pending() {
            return self.head.poll(context);
        }
        if self.head.by.is_none() {
            self.head = Deadline::set_in(HEAD_LIMIT);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::net::TcpListener;
    use tokio::time::advance;
    use tokio_util::sync::CancellationToken;

    use super::super::room::tests::room;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_by_the_byte_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let place = room(9, 0).enter(IpAddr::from([127, 0, 0, 1]), CancellationToken::new());
        let guest = place.as_ref().unwrap().guest.clone();
        let mut stream = Stream::new(stream, guest.clone());
        let context = &mut Context::from_waker(std::task::Waker::noop());
        for _ in 0..2 {
            guest.asks();
            assert!(stream.written::<()>(context, Poll::Pending).is_pending());
            advance(WRITE_LIMIT / 3 * 2).await;
            assert!(stream.written(context, Poll::Ready(Ok(1))).is_ready());
            assert!(stream.written::<()>(context, Poll::Pending).is_pending());
        }
        advance(WRITE_LIMIT / 2).await;
        let over = stream.written::<()>(context, Poll::Pending);
        assert!(matches!(over, Poll::Ready(Err(_))), "{over:?}");
    }
}
