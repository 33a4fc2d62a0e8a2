//! A connection that is no longer HTTP: bytes both ways between a client and an app that took the
//! raw connection (WSGI WebSocket), or an upstream that switched to WebSocket.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;

use crate::pool::Lease;
use crate::upstream::Stream;

use super::connection::Connection;
use super::outgoing::ClientGone;
use super::patience::Patience;
use super::reason::Reason;
use super::sending::After;
use super::websocket;

/// The app's 101 and its head must be there within this time and size.
const HEAD_BYTES: usize = 16 * 1024;

/// A tunnel without a byte either way for this long is closed; WebSocket libraries ping far more
/// often.
const SILENCE: Duration = Duration::from_secs(3600);

/// The same once one side has ended: the other has little left to say.
const LAST_SILENCE: Duration = Duration::from_secs(30);

/// Bytes read at once from the app, which are in memory until the client has them.
const PIECE: usize = 16 * 1024;

impl Connection {
    /// Lets an app that has taken the raw connection answer the handshake, checks its 101, and
    /// carries bytes until either side closes.
    pub async fn tunnel(&mut self, lease: Lease, limit: Duration) -> After {
        let Some((held, socket, early)) = lease.into_tunnel() else {
            return After::Abort;
        };
        let mut app = match unix_stream(socket) {
            Ok(app) => app,
            Err(error) => {
                tracing::error!(%error, "a taken connection could not be watched");
                return After::Abort;
            }
        };
        match self.switch(&mut app, early, limit).await {
            Ok(()) => {}
            Err(reason) => {
                self.answer(reason).await;
                return if self.flush().await.is_ok() {
                    After::Close
                } else {
                    After::Abort
                };
            }
        }
        self.row.status = self.switched();
        self.log();
        self.become_socket();
        Carry::new(self, Stream::Unix(app))
            .run(held.farewell())
            .await;
        After::Gone
    }

    /// Reads the app's own response head and sends it on when it switches protocols rightly: an
    /// upgrade that the app did not agree to must not become a tunnel (threats E-06).
    async fn switch(
        &mut self,
        app: &mut UnixStream,
        early: Vec<u8>,
        limit: Duration,
    ) -> Result<(), Reason> {
        let mut head = early;
        self.deadline.set(Instant::now() + limit);
        let end = loop {
            if let Some(at) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() > HEAD_BYTES {
                return Err(Reason::BadResponse);
            }
            match self.deadline.bound(app.read_buf(&mut head)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(Reason::AppError),
                Err(_elapsed) => return Err(Reason::WorkerTimeout),
            }
        };
        let key = self.head.field(b"sec-websocket-key").unwrap_or_default();
        if !websocket::is_switch(&head[..end], key) {
            return Err(Reason::BadResponse);
        }
        let (head, behind) = head.split_at(end);
        self.out.bytes().extend_from_slice(head);
        if self.io.is_stream() {
            self.note_head(0);
        }
        self.out.bytes().extend_from_slice(behind);
        self.flush().await.map_err(|_| Reason::ClientGone)
    }
}

/// Bytes both ways between a client and an app, each way on its own: neither waits for the other.
pub struct Carry<'c> {
    connection: &'c mut Connection,
    app: Stream,
    /// From the client to the app.
    up: Way,
    /// From the app to the client.
    down: Way,
    /// With the client, while there are bytes for it that it has not taken.
    patience: Patience,
    /// When a byte last went either way.
    moved: Instant,
    /// The app's side may keep what was written to it.
    unflushed: bool,
}

/// How far one direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Its source has ended; what it sent is still on its way.
    Ending,
    /// Its other end has been told.
    Ended,
}

/// How a tunnel ended.
enum Over {
    /// Both sides have had their last word.
    Ended,
    /// The worker is to stop.
    Farewell,
    /// The client is gone, takes nothing more, or all is silent.
    Lost,
}

impl<'c> Carry<'c> {
    pub fn new(connection: &'c mut Connection, app: Stream) -> Self {
        Self {
            connection,
            app,
            up: Way::Open,
            down: Way::Open,
            patience: Patience::default(),
            moved: Instant::now(),
            unflushed: false,
        }
    }

    /// Carries until both sides have ended or one is lost; `farewell` resolves when the worker is to
    /// stop.
    pub async fn run(mut self, farewell: impl Future<Output = ()>) {
        let mut farewell = pin!(farewell);
        let over = poll_fn(|cx| {
            if farewell.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Over::Farewell);
            }
            self.poll(cx)
        });
        let over = over.await;
        let Self {
            connection, app, ..
        } = self;
        drop(app);
        match over {
            Over::Ended => connection.close().await,
            Over::Lost => {}
            Over::Farewell => {
                // 1012, service restart (RFC 6455 section 7.4, IANA registry).
                let close = [0x88, 2, 0x03, 0xF4];
                connection.out.bytes().extend_from_slice(&close);
                if connection.flush().await.is_ok() {
                    connection.close().await;
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let ways = [self.poll_up(cx), self.poll_down(cx)];
        if ways.iter().any(|way| matches!(way, Poll::Ready(Err(_)))) {
            return Poll::Ready(Over::Lost);
        }
        if ways.iter().all(Poll::is_ready) {
            return Poll::Ready(Over::Ended);
        }
        let connection = &mut *self.connection;
        let deadline = &mut connection.deadline;
        let given_up = if connection.out.is_empty() {
            let silence = match (self.up, self.down) {
                (Way::Open, Way::Open) => SILENCE,
                _ => LAST_SILENCE,
            };
            deadline.set(self.moved + silence);
            deadline.poll(cx).map(drop)
        } else {
            let (io, times) = (&connection.io, &connection.edge.times);
            self.patience.poll(cx, io, times, deadline).map(drop)
        };
        given_up.map(|()| Over::Lost)
    }

    /// Ready when the client has ended and the app knows, or takes nothing more; an error is the
    /// client's.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Connection { io, buffer, .. } = &mut *self.connection;
        while self.up != Way::Ended {
            if !buffer.is_empty() {
                match ready!(Pin::new(&mut self.app).poll_write(cx, buffer.data())) {
                    Ok(count @ 1..) => {
                        buffer.consume(count);
                        self.unflushed = true;
                    }
                    // It has closed its end: what it sent before still goes to the client.
                    Ok(0) | Err(_) => self.up = Way::Ended,
                }
            } else if self.unflushed {
                // TLS may keep some of it.
                self.unflushed = ready!(Pin::new(&mut self.app).poll_flush(cx)).is_err();
                if self.unflushed {
                    self.up = Way::Ended;
                }
            } else if self.up == Way::Ending {
                let _ = ready!(Pin::new(&mut self.app).poll_shutdown(cx));
                self.up = Way::Ended;
            } else if ready!(buffer.poll_fill(cx, io))? == 0 {
                self.up = Way::Ending;
            }
            self.moved = Instant::now();
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the app has ended and the client has all of it and knows; an error is the client's.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Connection { io, out, .. } = &mut *self.connection;
        while self.down != Way::Ended {
            if !out.is_empty() {
                let sent = ready!(out.poll_send(cx, io));
                sent.map_err(|ClientGone| io::ErrorKind::BrokenPipe)?;
                self.patience = Patience::default();
            } else if self.down == Way::Ending {
                ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
                self.down = Way::Ended;
            } else {
                match ready!(self.app.poll_fill(cx, out.bytes(), PIECE)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => self.down = Way::Ending,
                }
            }
            self.moved = Instant::now();
        }
        Poll::Ready(Ok(()))
    }
}

fn unix_stream(socket: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(socket.into())
}
