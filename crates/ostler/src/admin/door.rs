//! Who may speak to the admin API, and how many at once. What they say is `hyper`'s and `axum`'s affair.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::sys::{fds, peer};

/// Connections at once: some people, a scraper and a dashboard. Others wait in the kernel.
const MOST: usize = 32;

/// A head must be here by then: those who ask are programs on this machine.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// A connection carries one request, and ends after this: a reload may take as long as a slow import, which has
/// 300 s in a zygote and 300 s in a worker.
pub const LONGEST: Duration = Duration::from_secs(900);

/// Where nothing is waited for: a scrape, with a slow network.
const QUICK: Duration = Duration::from_secs(30);

/// Between two tries to accept when no descriptor is left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Who is let in.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// The user who started ostler.
    pub operator: u32,
    /// Who this process runs as, and apps with it.
    pub own: u32,
    /// The process that everything of ostler descends from, apps too.
    pub keeper: u32,
}

impl Gate {
    /// Root and the operator come in, but never a process of an app: it may well run as the operator.
    ///
    /// # Errors
    /// What a person is told who stays outside.
    fn check(self, stream: &UnixStream) -> Result<(), String> {
        let peer =
            peer::of(stream).map_err(|error| format!("nobody knows who you are: {error}"))?;
        if peer.uid != 0 && peer.uid != self.operator {
            let operator = self.operator;
            return Err(format!(
                "only root and the user who started ostler (uid {operator}) may ask"
            ));
        }
        match peer.descends_from(self.keeper) {
            Ok(false) => Ok(()),
            Ok(true) => Err("a process that ostler itself started may not ask".to_owned()),
            // Behind hidepid= (proc(5)) we do not see other users' processes, but then apps are not theirs.
            Err(_) if peer.uid != self.own => Ok(()),
            Err(error) => Err(format!(
                "where process {} comes from is not known: {error}",
                peer.pid
            )),
        }
    }
}

/// Places for those who speak at the same time.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Places {
    /// Resolves when everybody has the answer, and nobody waits at a door.
    pub async fn empty(&self) {
        let _all = self.0.acquire_many(MOST as u32).await;
    }
}

/// Lets in who may, until the server ends.
pub async fn serve(listener: UnixListener, gate: Gate, router: Router, places: Places) {
    loop {
        let Ok(permit) = Arc::clone(&places.0).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => match gate.check(&stream) {
                Ok(()) => drop(tokio::spawn(talk(stream, LONGEST, router.clone(), permit))),
                Err(why) => refuse(&stream, &why),
            },
            Err(error) => refused(&error).await,
        }
    }
}

/// A listener that lets everybody in who gets there.
#[derive(Debug)]
pub enum Open {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Open {
    /// Takes a socket that listens.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        fds::set_nonblocking(&fd)?;
        Ok(match rustix::net::getsockname(&fd)?.address_family() {
            rustix::net::AddressFamily::UNIX => Self::Unix(UnixListener::from_std(fd.into())?),
            _ => Self::Tcp(TcpListener::from_std(fd.into())?),
        })
    }

    pub async fn serve(self, router: Router) {
        let room = Arc::new(Semaphore::new(MOST));
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let router = router.clone();
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(talk(stream, QUICK, router, permit));
                }),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(talk(stream, QUICK, router, permit));
                }),
            };
            if let Err(error) = accepted {
                refused(&error).await;
            }
        }
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    longest: Duration,
    router: Router,
    permit: OwnedSemaphorePermit,
) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Who leaves or talks nonsense is told nothing more.
    let _ = timeout(longest, connection).await;
    drop(permit);
}

/// Says it in one packet, which a fresh connection always takes, and leaves.
fn refuse(stream: &UnixStream, why: &str) {
    tracing::warn!("the admin socket was refused to somebody: {why}");
    let text = format!("{why}\n");
    let head = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    let length = text.len();
    let whole = format!("{head}Content-Length: {length}\r\n\r\n{text}");
    let _: Result<usize, io::Error> = stream.try_write(whole.as_bytes());
}

async fn refused(error: &io::Error) {
    tracing::error!(%error, "an admin address cannot accept");
    sleep(OUT_OF_DESCRIPTORS).await;
}
