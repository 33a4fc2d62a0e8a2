//! Who is on the other end of a connection.

use std::net::{IpAddr, SocketAddr};

/// What is asked of clients where they show no certificates: the number of that policy.
pub const OPEN: u32 = 0;

/// Who is on the other end, as the kernel says it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `None` on a UNIX socket.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// Where it reached us; `None` on a UNIX socket.
    pub local: Option<SocketAddr>,
    /// The number of the policy of its handshake; without TLS that of none.
    pub policy: u32,
    /// It has shown a certificate there, which was good.
    pub certified: bool,
}

impl Peer {
    pub fn tcp(address: IpAddr, port: u16, local: SocketAddr) -> Self {
        Self {
            address: Some(address),
            port,
            local: Some(local),
            policy: OPEN,
            certified: false,
        }
    }

    pub fn unix() -> Self {
        Self {
            address: None,
            port: 0,
            local: None,
            policy: OPEN,
            certified: false,
        }
    }
}
