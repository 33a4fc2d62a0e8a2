//! What must hold for any bytes that a connection with a PROXY header begins with, as a function that the tests and the
//! fuzz target share. It panics when something does not, and tells whether there was a header.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::peer::Peer;
use super::proxy_protocol::Proxies;
use crate::config::{ProxyProtocol, Trust};

/// Who is spoken for: address, port and the place it reached.
type Client = (Option<IpAddr>, u16, Option<SocketAddr>);

/// A header means the same however it arrives, takes no byte of what follows, and says the same in the other version.
pub fn check_proxy(input: &[u8], seed: u64) -> bool {
    let said = read(ProxyProtocol::Auto, input);
    let cut = seed as usize % (input.len() + 1);
    let mut parts = (&input[..cut]).chain(&input[cut..]);
    let client = now(ProxyProtocol::Auto, &mut parts);
    assert_eq!(
        client,
        said.as_ref().map(|(client, _)| *client),
        "cut at {cut}"
    );
    let first = read(ProxyProtocol::V1, input);
    let second = read(ProxyProtocol::V2, input);
    assert!(first.is_none() || second.is_none(), "both versions");
    assert_eq!(first.as_ref().or(second.as_ref()), said.as_ref());
    let Some((client, left)) = said else {
        return false;
    };
    let header = &input[..input.len() - left];
    match first {
        Some(_) => assert!(
            header.ends_with(b"\r\n") && header.len() <= 107,
            "{header:?}"
        ),
        None => {
            let length = u16::from_be_bytes([header[14], header[15]]);
            assert_eq!(header.len(), 16 + usize::from(length));
        }
    }
    for again in [line(client), block(client)].into_iter().flatten() {
        let rest = [&again[..], b"GET"].concat();
        assert_eq!(
            read(ProxyProtocol::Auto, &rest),
            Some((client, 3)),
            "{again:?}"
        );
    }
    true
}

/// The peer that speaks, who is not one of those that are spoken for.
fn speaker() -> Peer {
    Peer::tcp(Ipv4Addr::LOCALHOST.into(), 9, ([127, 0, 0, 1], 80).into())
}

/// Who is spoken for, and how many bytes are left.
fn read(protocol: ProxyProtocol, input: &[u8]) -> Option<(Client, usize)> {
    let mut left = input;
    now(protocol, &mut left).map(|client| (client, left.len()))
}

/// Memory is never waited for.
fn now(protocol: ProxyProtocol, stream: &mut (impl AsyncRead + Unpin)) -> Option<Client> {
    let proxies = Proxies {
        protocol,
        peers: Trust::Everyone,
    };
    let reading = pin!(proxies.read(stream, speaker()));
    match reading.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read.ok().map(|peer| (peer.address, peer.port, peer.local)),
        Poll::Pending => panic!("memory was waited for"),
    }
}

/// A client as version 1 says it; `None` when it cannot.
fn line((address, port, local): Client) -> Option<Vec<u8>> {
    let (address, local) = (address?, local?);
    let family = match (address, local.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        _ => return None,
    };
    let (ip, at) = (local.ip(), local.port());
    Some(format!("PROXY {family} {address} {ip} {port} {at}\r\n").into_bytes())
}

/// The same as version 2 says it.
fn block((address, port, local): Client) -> Option<Vec<u8>> {
    let (address, local) = (address?, local?);
    let ports = [port.to_be_bytes(), local.port().to_be_bytes()].concat();
    let (family, addresses) = match (address, local.ip()) {
        (IpAddr::V4(one), IpAddr::V4(two)) => (0x11, [one.octets(), two.octets()].concat()),
        (IpAddr::V6(one), IpAddr::V6(two)) => (0x21, [one.octets(), two.octets()].concat()),
        _ => return None,
    };
    let length = (addresses.len() + ports.len()) as u16;
    let fixed = [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[0x21, family][..],
        &length.to_be_bytes(),
    ]
    .concat();
    Some([fixed, addresses, ports].concat())
}
