//! Networks of trusted peers, as `--forwarded-allow-ips` names them. Trusts nobody by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::error::Complaint;

/// Whose `X-Forwarded-*` headers are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// `*`: every peer.
    Everyone,
    /// Only peers in one of these; none when empty.
    Networks(Vec<Network>),
}

impl Trust {
    /// Whether this peer is meant. One on a UNIX socket (`None`) was let in by the file's mode.
    pub fn includes(&self, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Trust::Everyone, _) | (_, None) => true,
            (Trust::Networks(networks), Some(address)) => {
                networks.iter().any(|network| network.contains(address))
            }
        }
    }
}

/// An address and how many of its leading bits count (32 or 128: this one address). The other bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Network {
    /// Whether an address lies in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.prefix) == self.address
    }
}

/// Reads `10.0.0.0/8`, `127.0.0.1` or `::1`. (`*` is not a network.)
///
/// # Errors
/// Text that is no network, or one with bits set behind the prefix, which is nearly always a mistake.
pub fn parse(text: &str) -> Result<Network, Complaint> {
    let complain = || {
        Complaint::new(
            format!("has \"{text}\", which is no address and no network"),
            "write addresses and networks as 127.0.0.1, 10.0.0.0/8, ::1, or * for everyone",
        )
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| complain())?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => widest,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|p| *p <= widest)
            .ok_or_else(complain)?,
    };
    let first = mask(address, prefix);
    if first != address {
        return Err(Complaint::new(
            format!("has \"{text}\" with bits set behind the first {prefix}"),
            format!("write {first}/{prefix} for that network, or {address} for that one address"),
        ));
    }
    Ok(Network { address, prefix })
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(four) => {
            let keep = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            Ipv4Addr::from_bits(four.to_bits() & keep).into()
        }
        IpAddr::V6(six) => {
            let keep = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            Ipv6Addr::from_bits(six.to_bits() & keep).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let check = |text: &str, address: &str, prefix| {
            let address = address.parse().expect("address");
            assert_eq!(parse(text), Ok(Network { address, prefix }), "{text}");
        };
        check("127.0.0.1", "127.0.0.1", 32);
        check("10.0.0.0/8", "10.0.0.0", 8);
        check("0.0.0.0/0", "0.0.0.0", 0);
        check("::1", "::1", 128);
        check("fd00::/8", "fd00::", 8);
    }

    #[test]
    fn refused_networks() {
        for bad in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "10.0.0/8",
            "*",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let complaint = parse("192.168.1.1/24").expect_err("host bits");
        assert!(
            complaint.hint.contains("192.168.1.0/24"),
            "{}",
            complaint.hint
        );
    }
}
