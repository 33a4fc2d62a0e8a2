//! A connection that is no longer HTTP: bytes both ways between a client and an app that took the
//! raw connection (WSGI WebSocket).

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::pool::Lease;

use super::connection::{After, Connection};
use super::reason::Reason;
use super::websocket;

/// The app's 101 and its head must be there within this time and size.
const HEAD_BYTES: usize = 16 * 1024;

/// A tunnel without a byte either way for this long is closed; WebSocket libraries ping far more
/// often.
const SILENCE: Duration = Duration::from_secs(3600);

impl Connection {
    /// Lets an app that has taken the raw connection answer the handshake, checks its 101, and
    /// carries bytes until either side closes.
    pub async fn tunnel(&mut self, lease: Lease) -> After {
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
        match self.switch(&mut app, early).await {
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
        self.row.status = 101;
        self.log();
        let first = self.take_early();
        self.become_socket();
        self.carry(app, &first, held.farewell()).await;
        After::Gone
    }

    /// Reads the app's own response head and sends it on when it switches protocols rightly: an
    /// upgrade that the app did not agree to must not become a tunnel (threats E-06).
    async fn switch(&mut self, app: &mut UnixStream, early: Vec<u8>) -> Result<(), Reason> {
        let mut head = early;
        self.deadline.set(Instant::now() + self.edge.times.response);
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
        self.out.bytes().extend_from_slice(&head);
        self.flush().await.map_err(|_| Reason::ClientGone)
    }

    /// `first` is what the client sent behind its handshake; `farewell` resolves when the worker is
    /// to stop.
    async fn carry(
        &mut self,
        mut app: UnixStream,
        first: &[u8],
        farewell: impl Future<Output = ()>,
    ) {
        if app.write_all(first).await.is_err() {
            return;
        }
        let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        let mut farewell = std::pin::pin!(farewell);
        loop {
            self.deadline.set(Instant::now() + SILENCE);
            let step = async {
                tokio::select! {
                    read = self.io.read(&mut up) => match read? {
                        0 => Ok(false),
                        count => app.write_all(&up[..count]).await.map(|()| true),
                    },
                    read = app.read(&mut down) => match read? {
                        0 => Ok(false),
                        count => {
                            self.io.write_all(&down[..count]).await?;
                            self.io.flush().await.map(|()| true)
                        }
                    },
                    () = &mut farewell => {
                        // 1012, service restart (RFC 6455 section 7.4, IANA registry).
                        self.io.write_all(&[0x88, 2, 0x03, 0xF4]).await?;
                        self.io.flush().await?;
                        Ok::<bool, io::Error>(false)
                    }
                }
            };
            match self.deadline.bound(step).await {
                Ok(Ok(true)) => {}
                _ => break,
            }
        }
        let _ = app.shutdown().await;
        let _ = self.io.shutdown().await;
    }
}

fn unix_stream(socket: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(socket.into())
}
