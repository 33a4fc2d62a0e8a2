//! The PROXY protocol, versions 1 and 2: what a load balancer says about the client ahead of the
//! first byte of a connection (haproxy.org/download/3.0/doc/proxy-protocol.txt). Only peers that the
//! operator named are asked for it, and these must say it: anything else ends the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::{ProxyProtocol, Trust};

use super::peer::Peer;

/// Who speaks the PROXY protocol to us, and which.
#[derive(Debug, Clone)]
pub struct Proxies {
    pub protocol: ProxyProtocol,
    pub peers: Trust,
}

/// The longest line of version 1, with its CRLF: the specification's figure.
const LINE_MAX: usize = 107;

/// The longest block of addresses and extensions of version 2 that is read, in bytes: the largest
/// addresses take 216, certificates' names and ids of clouds a few hundred more.
const BLOCK_MAX: usize = 4096;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// No header of either version is shorter: that much can be read without taking a byte of what follows.
const SHORTEST: usize = SIGNATURE.len();

impl Proxies {
    /// Whether `peer` has to begin with a header.
    pub fn expect(&self, peer: &Peer) -> bool {
        self.peers.includes(peer.address)
    }

    /// Reads the header and nothing behind it; gives the client that `peer` speaks for, or `peer`
    /// itself when it speaks for nobody (a health check).
    ///
    /// # Errors
    /// The connection's, and `InvalidData` for what is no header of an accepted version.
    pub async fn read(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        peer: Peer,
    ) -> io::Result<Peer> {
        let mut start = [0; SHORTEST];
        stream.read_exact(&mut start).await?;
        let (one, two) = match self.protocol {
            ProxyProtocol::V1 => (true, false),
            ProxyProtocol::V2 => (false, true),
            ProxyProtocol::Auto => (true, true),
        };
        let client = if two && start == *SIGNATURE {
            block(stream).await?
        } else if one && start.starts_with(b"PROXY ") {
            line(stream, &start).await?
        } else {
            return Err(malformed());
        };
        Ok(client.unwrap_or(peer))
    }
}

/// Version 1: the rest of the line, byte by byte, because what follows belongs to the request.
async fn line(stream: &mut (impl AsyncRead + Unpin), start: &[u8]) -> io::Result<Option<Peer>> {
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_MAX {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    line_says(&line[..line.len() - 2]).ok_or_else(malformed)
}

/// `None` for a malformed line; else the client, if it names one.
fn line_says(line: &[u8]) -> Option<Option<Peer>> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let [client, local, port, local_port] =
        [words.next()?, words.next()?, words.next()?, words.next()?];
    let address = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let client = (address(client)?, number(port)?);
    let local = (address(local)?, number(local_port)?);
    words
        .next()
        .is_none()
        .then(|| Some(spoken_for(client, local)))
}

/// Version 2: the fixed part, then as many bytes as it says.
async fn block(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Peer>> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length > BLOCK_MAX {
        return Err(malformed());
    }
    let mut block = vec![0; length];
    stream.read_exact(&mut block).await?;
    block_says(fixed[0], fixed[1], &block).ok_or_else(malformed)
}

/// `None` for a malformed header; else the client, if it names one. Extensions behind the addresses
/// are of no interest.
fn block_says(command: u8, family: u8, block: &[u8]) -> Option<Option<Peer>> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let port = |at: usize| Some(u16::from_be_bytes(*block.get(at..)?.first_chunk()?));
    match (command, family) {
        (LOCAL, _) => Some(None),
        // Unspecified, and UNIX sockets: whoever it is has no address.
        (PROXY, 0x00 | 0x31) => Some(None),
        (PROXY, 0x11) => {
            let address = |at| Some(Ipv4Addr::from(*block.get(at..)?.first_chunk()?).into());
            let (client, local) = ((address(0)?, port(8)?), (address(4)?, port(10)?));
            Some(Some(spoken_for(client, local)))
        }
        (PROXY, 0x21) => {
            let address = |at| Some(Ipv6Addr::from(*block.get(at..)?.first_chunk()?).into());
            let (client, local) = ((address(0)?, port(32)?), (address(16)?, port(34)?));
            Some(Some(spoken_for(client, local)))
        }
        _ => None,
    }
}

/// A client and the place where it reached the proxy, each an address and a port.
fn spoken_for(client: (IpAddr, u16), local: (IpAddr, u16)) -> Peer {
    let local = SocketAddr::new(local.0.to_canonical(), local.1);
    Peer::tcp(client.0.to_canonical(), client.1, local)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the header makes of the peer 127.0.0.1:9, and what is left on the connection.
    fn read(protocol: ProxyProtocol, bytes: &[u8]) -> Option<(String, u16, Vec<u8>)> {
        let proxies = Proxies {
            protocol,
            peers: Trust::Everyone,
        };
        let mut left = bytes;
        let peer = Peer::tcp(Ipv4Addr::LOCALHOST.into(), 9, ([127, 0, 0, 1], 80).into());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let peer = runtime.block_on(proxies.read(&mut left, peer)).ok()?;
        let address = peer.address.expect("TCP").to_string();
        Some((address, peer.port, left.to_vec()))
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = (block.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block, b"GET"].concat()
    }

    const FOUR: [u8; 12] = [9, 8, 7, 6, 1, 2, 3, 4, 0x12, 0x34, 0, 80];

    #[test]
    fn good_headers_name_the_client_and_leave_the_rest() {
        let check = |bytes: &[u8], address: &str, port: u16| {
            let seen = read(ProxyProtocol::Auto, bytes);
            assert_eq!(seen, Some((address.to_owned(), port, b"GET".to_vec())));
        };
        check(
            b"PROXY TCP4 9.8.7.6 1.2.3.4 4660 80\r\nGET",
            "9.8.7.6",
            4660,
        );
        check(b"PROXY TCP6 2001:db8::1 ::1 1 443\r\nGET", "2001:db8::1", 1);
        check(b"PROXY TCP6 ::ffff:9.8.7.6 ::1 1 443\r\nGET", "9.8.7.6", 1);
        check(b"PROXY UNKNOWN\r\nGET", "127.0.0.1", 9);
        check(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nGET", "127.0.0.1", 9);
        check(&v2(0x21, 0x11, &FOUR), "9.8.7.6", 0x1234);
        check(
            &v2(0x21, 0x11, &[&FOUR[..], &[4, 0, 1, 0]].concat()),
            "9.8.7.6",
            0x1234,
        );
        let six = [&[0x20; 16][..], &[0; 16], &[0, 5, 0, 80]].concat();
        check(
            &v2(0x21, 0x21, &six),
            "2020:2020:2020:2020:2020:2020:2020:2020",
            5,
        );
        check(&v2(0x20, 0, b""), "127.0.0.1", 9);
        check(&v2(0x21, 0x31, &[0; 216]), "127.0.0.1", 9);
    }

    #[test]
    fn a_header_names_the_place_that_the_client_reached() {
        let local = |peer: Option<Option<Peer>>| {
            let local = peer.flatten().and_then(|peer| peer.local);
            local.map(|local| local.to_string())
        };
        let told = Some("1.2.3.4:80".to_owned());
        assert_eq!(
            local(line_says(b"PROXY TCP4 9.8.7.6 1.2.3.4 4660 80")),
            told
        );
        assert_eq!(local(block_says(0x21, 0x11, &FOUR)), told);
        let told = Some("[::1]:443".to_owned());
        assert_eq!(local(line_says(b"PROXY TCP6 2001:db8::1 ::1 1 443")), told);
        let six = [
            &[0x20; 16][..],
            &Ipv6Addr::LOCALHOST.octets(),
            &[0, 5, 1, 187],
        ]
        .concat();
        assert_eq!(local(block_says(0x21, 0x21, &six)), told);
    }

    #[test]
    fn everything_else_ends_the_connection() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        let bad: [&[u8]; 15] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PROXY TCP4 9.8.7.6 1.2.3.4 4660\r\nGET /",
            b"PROXY TCP4 9.8.7.6 1.2.3.4 4660 80 1\r\nGET /",
            b"PROXY TCP4 9.8.7.6 1.2.3.4 +466 80\r\nGET /",
            b"PROXY TCP4 9.8.7.6 1.2.3.4 66000 80\r\nGET /",
            b"PROXY TCP4 ::1 ::1 4660 80\r\nGET /",
            b"PROXY TCP4 9.8.7.6 ::1 4660 80\r\nGET /",
            b"PROXY TCP4  9.8.7.6 1.2.3.4 4660 80\r\nGET /",
            b"PROXY UDP4 9.8.7.6 1.2.3.4 4660 80\r\nGET /",
            b"proxy TCP4 9.8.7.6 1.2.3.4 4660 80\r\nGET /",
            long.as_bytes(),
            &v2(0x11, 0x11, &FOUR),
            &v2(0x21, 0x12, &FOUR),
            &v2(0x21, 0x11, &FOUR[..11]),
            &v2(0x21, 0x11, &[0; BLOCK_MAX + 1]),
        ];
        for bytes in bad {
            let shown = String::from_utf8_lossy(bytes)
                .chars()
                .take(60)
                .collect::<String>();
            assert_eq!(read(ProxyProtocol::Auto, bytes), None, "{shown}");
        }
        let good = v2(0x21, 0x11, &FOUR);
        for cut in 0..good.len() - 3 {
            assert_eq!(
                read(ProxyProtocol::Auto, &good[..cut]),
                None,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn only_the_version_that_was_asked_for() {
        let one = b"PROXY UNKNOWN\r\nGET";
        let two = v2(0x20, 0, b"");
        assert!(read(ProxyProtocol::V1, one).is_some() && read(ProxyProtocol::V2, &two).is_some());
        assert!(read(ProxyProtocol::V2, one).is_none() && read(ProxyProtocol::V1, &two).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(ProxyProtocol::Auto, &input);
            let _ = read(ProxyProtocol::Auto, &[b"PROXY TCP4 ", &input[..]].concat());
            let _ = read(ProxyProtocol::Auto, &[SIGNATURE, &input[..]].concat());
        }

        #[test]
        fn what_a_header_says_is_what_is_read(four: [u8; 4], six: [u8; 16], port: u16, local: u16, rest: Vec<u8>) {
            let ports = [port.to_be_bytes(), local.to_be_bytes()].concat();
            let whole = |mut bytes: Vec<u8>| {
                bytes.extend_from_slice(&rest);
                bytes
            };
            let header = |family: u8, block: Vec<u8>| {
                let length = (block.len() as u16).to_be_bytes();
                whole([&SIGNATURE[..], &[0x21, family], &length, &block].concat())
            };
            let (v4, v6) = (Ipv4Addr::from(four), Ipv6Addr::from(six));
            let line4 = whole(format!("PROXY TCP4 {v4} 1.2.3.4 {port} {local}\r\n").into_bytes());
            let line6 = whole(format!("PROXY TCP6 {v6} ::1 {port} {local}\r\n").into_bytes());
            let block4 = header(0x11, [&four[..], &[1; 4], &ports].concat());
            let block6 = header(0x21, [&six[..], &[1; 16], &ports].concat());
            let (seen4, seen6) = (v4.to_string(), v6.to_canonical().to_string());
            for (bytes, address) in [(line4, &seen4), (block4, &seen4), (line6, &seen6), (block6, &seen6)] {
                let expected = Some((address.clone(), port, rest.clone()));
                prop_assert_eq!(read(ProxyProtocol::Auto, &bytes), expected);
            }
        }
    }
}
