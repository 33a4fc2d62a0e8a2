//! Addresses of a name: asked of one DNS server, or as the system finds them. Only what our own look
//! before an order needs of DNS (RFC 1035).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

/// For one answer; asked twice.
const ANSWER: Duration = Duration::from_secs(4);

const A: u16 = 1;
const AAAA: u16 = 28;

/// Why a name has no address.
#[derive(Debug, PartialEq, Eq)]
pub enum DnsError {
    /// DNS knows no such name, or no address of it.
    Nothing,
    /// DNS itself does not work.
    Broken(String),
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("DNS has no address for it"),
            Self::Broken(text) => write!(f, "DNS does not answer: {text}"),
        }
    }
}

/// All addresses of `name`, at least one. Without a `server` the system is asked.
pub async fn addresses(server: Option<SocketAddr>, name: &str) -> Result<Vec<IpAddr>, DnsError> {
    let found = match server {
        Some(server) => {
            let mut found = ask(server, name, AAAA).await?;
            found.extend(ask(server, name, A).await?);
            found
        }
        None => system(name).await?,
    };
    match found.is_empty() {
        true => Err(DnsError::Nothing),
        false => Ok(found),
    }
}

/// getaddrinfo says the same for a name that is not there and for one without an address.
async fn system(name: &str) -> Result<Vec<IpAddr>, DnsError> {
    // With the dot at its end no search list of the system is tried.
    match timeout(2 * ANSWER, lookup_host((format!("{name}."), 0))).await {
        Err(_) => Err(DnsError::Broken("no answer in time".to_owned())),
        Ok(Err(error)) if error.raw_os_error().is_none() => Err(DnsError::Nothing),
        Ok(Err(error)) => Err(DnsError::Broken(error.to_string())),
        Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect()),
    }
}

async fn ask(server: SocketAddr, name: &str, kind: u16) -> Result<Vec<IpAddr>, DnsError> {
    let broken = |error: io::Error| DnsError::Broken(format!("{server}: {error}"));
    for _ in 0..2 {
        let mut id = [0; 2];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| broken(io::Error::other("no random")))?;
        let asking = exchange(server, query(id, name, kind), id, kind);
        match timeout(ANSWER, asking).await {
            Ok(answer) => return answer.map_err(broken),
            Err(_) => continue,
        }
    }
    Err(DnsError::Broken(format!("{server}: no answer in time")))
}

async fn exchange(
    server: SocketAddr,
    query: Vec<u8>,
    id: [u8; 2],
    kind: u16,
) -> io::Result<Vec<IpAddr>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = [0; 1232];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Somebody who guesses ports sends answers to what was not asked.
        if buffer.starts_with(&id) {
            return parse(&buffer[..length], kind);
        }
    }
}

/// One question with recursion desired.
fn query(id: [u8; 2], name: &str, kind: u16) -> Vec<u8> {
    let mut query = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or(0));
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

/// The addresses of an answer. What follows an alias is in the same answer (RFC 1034 section 4.3.2).
fn parse(message: &[u8], kind: u16) -> io::Result<Vec<IpAddr>> {
    let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let short = || bad("an answer that ends too early");
    let header = message.get(..12).ok_or_else(short)?;
    match header[3] & 15 {
        0 => {}
        // NXDOMAIN
        3 => return Ok(Vec::new()),
        code => return Err(bad(&format!("error {code}"))),
    }
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let answers = u16::from_be_bytes([header[6], header[7]]);
    let mut at = 12;
    for _ in 0..questions {
        at = skip_name(message, at).ok_or_else(short)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = skip_name(message, at).ok_or_else(short)?;
        let fixed = message.get(at..at + 10).ok_or_else(short)?;
        let of = u16::from_be_bytes([fixed[0], fixed[1]]);
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        at += 10;
        let data = message.get(at..at + length).ok_or_else(short)?;
        at += length;
        if of != kind {
            continue;
        }
        let four: Result<[u8; 4], _> = data.try_into();
        let sixteen: Result<[u8; 16], _> = data.try_into();
        match (kind, four, sixteen) {
            (A, Ok(bytes), _) => found.push(bytes.into()),
            (AAAA, _, Ok(bytes)) => found.push(bytes.into()),
            _ => return Err(bad("an address of the wrong length")),
        }
    }
    Ok(found)
}

/// Where the name at `at` ends; what a pointer points to is not looked at.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = query([1, 2], "www.a.example", A);
        message[3] = code;
        message[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            message.extend_from_slice(&[192, 12]);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            message.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }

    #[test]
    fn addresses_are_found_behind_aliases() {
        let alias: &[u8] = &[3, b'w', b'e', b'b', 192, 12];
        let message = answer(0, &[(5, alias), (A, &[10, 0, 0, 1]), (A, &[10, 0, 0, 2])]);
        let found = parse(&message, A).unwrap();
        assert_eq!(
            found,
            [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]
        );
        assert!(parse(&answer(0, &[(5, alias)]), AAAA).unwrap().is_empty());
        let six = Ipv6Addr::LOCALHOST;
        let found = parse(&answer(0, &[(AAAA, &six.octets())]), AAAA).unwrap();
        assert_eq!(found, [IpAddr::from(six)]);
    }

    #[test]
    fn no_name_is_no_error_and_trouble_is_one() {
        assert!(parse(&answer(3, &[]), A).unwrap().is_empty());
        assert!(parse(&answer(2, &[]), A).is_err());
        assert!(parse(&answer(0, &[(A, &[1, 2, 3])]), A).is_err());
        let whole = answer(0, &[(A, &[10, 0, 0, 1])]);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], A).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, A);
            let _ = parse(&bytes, AAAA);
        }
    }
}
