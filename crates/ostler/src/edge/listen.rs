//! Accepting connections: one listening descriptor per address, accepted from by every edge thread.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::certs::ACME_TLS;

use super::connection::{self, Peer};
use super::io::Io;
use super::peers::Door;
use super::reason::Reason;
use super::tls::{self, Tls};
use super::{Edge, Live, Phase, Thread};

/// How long to leave the listener alone when the process has no descriptor left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Connections that the kernel has accepted when the server stops are still taken from it: closing
/// the listener over them would reset them.
const LAST_ACCEPT: Duration = Duration::from_millis(50);

/// A listening socket, already bound by the keeper.
pub struct Listener {
    socket: Socket,
    /// Its connections begin with a TLS handshake, where there is a certificate.
    tls: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Tells the two kinds apart by the socket's own address.
    pub fn from_fd(fd: OwnedFd, tls: bool) -> io::Result<Self> {
        let family = rustix::net::getsockname(&fd)?.address_family();
        let socket = match family {
            rustix::net::AddressFamily::UNIX => Socket::Unix(fd.into()),
            _ => Socket::Tcp(fd.into()),
        };
        match &socket {
            Socket::Tcp(listener) => listener.set_nonblocking(true)?,
            Socket::Unix(listener) => listener.set_nonblocking(true)?,
        }
        Ok(Self { socket, tls })
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Socket::Tcp(listener) => Socket::Tcp(listener.try_clone()?),
            Socket::Unix(listener) => Socket::Unix(listener.try_clone()?),
        };
        Ok(Self {
            socket,
            tls: self.tls,
        })
    }
}

/// Accepts on one listener until another server does or the edge stops, one task per connection. `door` is open as long.
pub async fn run(
    listener: Listener,
    door: Door,
    edge: Arc<Live>,
    thread: Arc<Thread>,
) -> io::Result<()> {
    let _open = door;
    let mut phase = edge.now().phase.clone();
    let accepting = async {
        let tls = listener.tls;
        match listener.socket {
            Socket::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                let local = listener.local_addr()?;
                loop {
                    match listener.accept().await {
                        Ok((stream, peer)) => tcp(stream, (peer, local), tls, &edge.now(), &thread),
                        Err(error) => refused(&error).await,
                    }
                }
            }
            Socket::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => unix(stream, &edge.now(), &thread),
                        Err(error) => refused(&error).await,
                    }
                }
            }
        }
    };
    tokio::select! {
        result = accepting => result,
        () = async {
            let ends = phase.wait_for(|phase| *phase != Phase::Serving).await;
            // What waits when another server takes over, that one takes.
            if ends.is_ok_and(|phase| *phase == Phase::Stopping) {
                tokio::time::sleep(LAST_ACCEPT).await;
            }
        } => Ok(()),
    }
}

/// An accept that failed. A client that left again costs nothing; a full descriptor table is waited
/// out, because the connection stays in the backlog and accept would fail at once again.
async fn refused(error: &io::Error) {
    const EMFILE: i32 = libc::EMFILE;
    const ENFILE: i32 = libc::ENFILE;
    if matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | libc::ENOBUFS | libc::ENOMEM)
    ) {
        tracing::error!(%error, "cannot accept a connection; hint: raise the descriptor limit (ulimit -n)");
        tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
    }
}

fn tcp(
    stream: TcpStream,
    (peer, local): (SocketAddr, SocketAddr),
    tls: bool,
    edge: &Arc<Edge>,
    thread: &Arc<Thread>,
) {
    thread.tally.accepted.add(1);
    // Every answer is written whole: waiting for an acknowledgement only delays its last segment.
    let _ = stream.set_nodelay(true);
    let address = canonical(peer.ip());
    let local = match local.ip().is_unspecified() {
        true => stream.local_addr().unwrap_or(local),
        false => local,
    };
    let local = SocketAddr::new(canonical(local.ip()), local.port());
    let peer = Peer::tcp(address, peer.port(), local);
    let (edge, thread) = (Arc::clone(edge), Arc::clone(thread));
    // One whose client is not known yet is counted, but for nobody: a stop waits for what it brings.
    match &edge.proxies {
        Some(proxies) if proxies.expect(&peer) => {
            let unknown = edge.peers.seat(None);
            tokio::spawn(async move {
                let mut stream = stream;
                if let Some(peer) = introduced(&mut stream, peer, &edge).await {
                    admit(stream, peer, tls, edge, thread);
                }
                drop(unknown);
            });
        }
        _ => admit(stream, peer, tls, edge, thread),
    }
}

/// The client that a proxy names before anything else, bounded in time.
async fn introduced(
    stream: &mut (impl AsyncRead + Unpin),
    peer: Peer,
    edge: &Edge,
) -> Option<Peer> {
    let proxies = edge.proxies.as_ref()?;
    let address = peer.address;
    match tokio::time::timeout(edge.times.handshake, proxies.read(stream, peer)).await {
        Ok(Ok(client)) => Some(client),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(?address, "a connection without a PROXY header is closed");
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Gives a connection its place among those of its address, and serves it.
fn admit(stream: TcpStream, peer: Peer, tls: bool, edge: Arc<Edge>, thread: Arc<Thread>) {
    let acceptor = edge.tls.clone().filter(|_| tls);
    let counted = peer.address.filter(|_| !edge.trusts(&peer));
    let Some(place) = edge.peers.seat(counted) else {
        // Under TLS the answer would cost a handshake, which is what the cap keeps a stranger from.
        if acceptor.is_none()
            && let Some(place) = edge.peers.seat(None)
        {
            let io = Io::Tcp(stream.into());
            let refused =
                connection::refuse(Reason::TooManyConnections, io, peer, edge, thread, place);
            tokio::spawn(refused);
        }
        return;
    };
    match acceptor {
        None => drop(tokio::spawn(connection::serve(
            Io::Tcp(stream.into()),
            peer,
            edge,
            thread,
            place,
        ))),
        Some(acceptor) => drop(tokio::spawn(async move {
            let mut peer = peer;
            match handshake(stream, acceptor, &edge).await {
                Some(Ok((io, policy))) => {
                    peer.policy = policy;
                    peer.certified = io.has_client_certificate();
                    thread.tally.handshakes.add(1);
                    connection::serve(io, peer, edge, thread, place).await;
                }
                Some(Err(plain)) => {
                    thread.tally.failed_handshakes.add(1);
                    let io = Io::Tcp(plain.into());
                    connection::refuse(Reason::PlainOnTls, io, peer, edge, thread, place).await;
                }
                None => thread.tally.failed_handshakes.add(1),
            }
        })),
    }
}

/// The TLS handshake, bounded in time; a failure is the client's affair and closes the connection.
/// A client that speaks HTTP without TLS gets its stream back, to be told so.
async fn handshake(
    stream: TcpStream,
    tls: Arc<Tls>,
    edge: &Edge,
) -> Option<Result<(Io, u32), TcpStream>> {
    let shaken = async {
        let mut first = [0];
        // A handshake begins with 0x16, a method with a letter.
        if stream.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
            return Ok(Err(stream));
        }
        let (mut stream, policy) = match tls.only() {
            Some(config) => {
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                (acceptor.accept(stream.into()).await?, tls::OPEN)
            }
            None => {
                let acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream.into());
                let begun = acceptor.await?;
                let (policy, config) = tls.of(&begun.client_hello());
                (begun.into_stream(config).await?, policy)
            }
        };
        if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS) {
            // The handshake was the answer (RFC 8737 section 3).
            let _ = stream.shutdown().await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Ok((Io::Tls(Box::new(stream)), policy)))
    };
    match tokio::time::timeout(edge.times.handshake, shaken).await {
        Ok(Ok(shaken)) => Some(shaken),
        Ok(Err(error)) => {
            let error: io::Error = error;
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_elapsed) => None,
    }
}

fn unix(stream: UnixStream, edge: &Arc<Edge>, thread: &Arc<Thread>) {
    thread.tally.accepted.add(1);
    let (edge, thread) = (Arc::clone(edge), Arc::clone(thread));
    let unknown = edge.peers.seat(None);
    tokio::spawn(async move {
        let (mut stream, mut peer) = (stream, Peer::unix());
        if edge.proxies.is_some() {
            match introduced(&mut stream, peer, &edge).await {
                Some(client) => peer = client,
                None => return,
            }
        }
        let counted = peer.address.filter(|_| !edge.trusts(&peer));
        let seated = edge.peers.seat(counted);
        drop(unknown);
        match seated {
            Some(place) => {
                connection::serve(Io::Unix(stream.into()), peer, edge, thread, place).await
            }
            None => {
                if let Some(place) = edge.peers.seat(None) {
                    let (reason, io) = (Reason::TooManyConnections, Io::Unix(stream.into()));
                    connection::refuse(reason, io, peer, edge, thread, place).await;
                }
            }
        }
    });
}

/// An IPv4 client of a dual-stack listener is an IPv4 client.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
