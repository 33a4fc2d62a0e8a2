//! The servers that run: the one that accepts connections, one that is to take its place, and those before it that
//! have connections still.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::sys::{Channel, Child, Message, Signal};

use super::heritage::{Inheritance, LeftServer};
use super::protocol::{FromKeeper, ToKeeper};

/// A server whose socket has no room for this long does not read it any more.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// A running server.
pub struct Server {
    pub child: Child,
    channel: Channel,
    /// It has not closed its socket yet.
    open: bool,
    /// It has said that it writes no more to the state folder.
    pub drains: bool,
    started: Instant,
}

impl Server {
    /// # Errors
    /// The socket is none of ours.
    pub fn new(child: Child, channel: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            child,
            channel: Channel::new(channel)?,
            open: true,
            drains: false,
            started: Instant::now(),
        })
    }

    /// One that the program before us has started.
    pub fn inherited(left: &LeftServer, from: &Inheritance) -> io::Result<Self> {
        let server = Self::new(from.child(left.pid, left.pidfd)?, from.fd(left.channel)?)?;
        Ok(Self {
            drains: left.drains,
            ..server
        })
    }

    /// For the program that comes after us, with the descriptors that it names.
    pub fn left(&self, current: bool) -> (LeftServer, [BorrowedFd<'_>; 2]) {
        let fds = [self.child.pidfd.as_fd(), self.channel.as_fd()];
        let left = LeftServer {
            pid: self.child.pid,
            pidfd: fds[0].as_raw_fd(),
            channel: fds[1].as_raw_fd(),
            current,
            drains: self.drains,
        };
        (left, fds)
    }

    /// How long ago it was started.
    pub fn lived(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn kill(&self) {
        let _ = self.child.pidfd.send(Signal::Kill);
    }

    /// The next thing it says; `None` for nonsense, and once for its end.
    async fn hear(&mut self) -> Option<ToKeeper> {
        if !self.open {
            // Its end follows as a signal.
            std::future::pending::<()>().await;
        }
        let said = self.channel.recv().await;
        self.understood(said)
    }

    fn understood(&mut self, said: io::Result<Option<Message>>) -> Option<ToKeeper> {
        match said {
            Ok(Some(message)) => serde_json::from_slice(&message.bytes)
                .inspect_err(|error| tracing::error!(%error, "the server talks nonsense"))
                .ok(),
            Ok(None) | Err(_) => {
                self.open = false;
                None
            }
        }
    }

    pub async fn tell(&self, message: &FromKeeper, fds: &[BorrowedFd<'_>]) {
        let told = timeout(SEND_LIMIT, self.channel.send_json(message, fds)).await;
        if !matches!(told, Ok(Ok(()))) && self.open {
            tracing::error!("the server does not listen");
        }
    }
}

/// All of them.
#[derive(Default)]
pub struct Servers {
    /// `None` before the first, and between one that was lost and the next.
    pub current: Option<Server>,
    pub coming: Option<Server>,
    pub leaving: Vec<Server>,
}

/// What a server is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Current,
    Coming,
    Leaving,
}

impl Servers {
    pub fn all(&self) -> impl Iterator<Item = &Server> {
        self.current.iter().chain(&self.coming).chain(&self.leaving)
    }

    /// As [`Server::left`], of all.
    pub fn left(&self) -> impl Iterator<Item = (LeftServer, [BorrowedFd<'_>; 2])> {
        let current = self.current.iter().map(|server| server.left(true));
        current.chain(self.leaving.iter().map(|server| server.left(false)))
    }

    /// Tells the one that accepts connections when no other one writes to the state folder any more.
    pub async fn put_in_charge(&self) {
        if self.leaving.iter().all(|server| server.drains) {
            self.tell(&FromKeeper::InCharge, &[]).await;
        }
    }

    pub fn find(&self, pid: u32) -> Option<&Server> {
        self.all().find(|server| server.child.pid == pid)
    }

    pub fn role(&self, pid: u32) -> Option<Role> {
        let is = |server: &Server| server.child.pid == pid;
        if self.current.as_ref().is_some_and(is) {
            Some(Role::Current)
        } else if self.coming.as_ref().is_some_and(is) {
            Some(Role::Coming)
        } else {
            self.leaving.iter().any(is).then_some(Role::Leaving)
        }
    }

    /// Takes one that has ended off the list.
    pub fn ended(&mut self, pid: u32) -> Option<(Role, Server)> {
        let is = |server: &mut Server| server.child.pid == pid;
        let coming = |server: Server| (Role::Coming, server);
        let leaving = |server: Server| (Role::Leaving, server);
        let current = self.current.take_if(is);
        current
            .map(|server| (Role::Current, server))
            .or_else(|| self.coming.take_if(is).map(coming))
            .or_else(|| self.leaving.extract_if(.., is).next().map(leaving))
    }

    /// Tells the one that accepts connections.
    pub async fn tell(&self, message: &FromKeeper, fds: &[BorrowedFd<'_>]) {
        if let Some(server) = &self.current {
            server.tell(message, fds).await;
        }
    }

    pub async fn tell_all(&self, message: &FromKeeper) {
        for server in self.all() {
            server.tell(message, &[]).await;
        }
    }

    /// The next thing one of them says, and its pid.
    pub async fn hear(&mut self) -> (u32, Option<ToKeeper>) {
        let current = self.current.iter_mut().chain(&mut self.coming);
        let all = current.chain(&mut self.leaving);
        let mut all: Vec<_> = all
            .map(|server| {
                let pid = server.child.pid;
                Box::pin(async move { (pid, server.hear().await) })
            })
            .collect();
        poll_fn(|cx| {
            for server in &mut all {
                if let Poll::Ready(heard) = server.as_mut().poll(cx) {
                    return Poll::Ready(heard);
                }
            }
            Poll::Pending
        })
        .await
    }
}
