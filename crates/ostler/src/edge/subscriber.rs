//! Who counts as one where addresses are counted. It must not know what is counted.

use std::net::{IpAddr, Ipv6Addr};

/// The addresses that one subscriber has: an IPv4 address, or the first half of an IPv6 address. The smallest network
/// that anybody is given is a /64 (RFC 6177), of whose addresses a new one can be had for each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subscriber(IpAddr);

impl Subscriber {
    /// An IPv4 address counts as such however it is written.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let network = address.to_bits() >> HOST << HOST;
                Ipv6Addr::from_bits(network).into()
            }
        })
    }

    /// The same as bytes, which tell any two of them apart.
    pub fn bytes(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        match self.0 {
            IpAddr::V4(address) => {
                bytes[0] = 4;
                bytes[1..5].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes[0] = 6;
                bytes[1..].copy_from_slice(&address.octets()[..8]);
            }
        }
        bytes
    }
}

/// Bits of an IPv6 address that its subscriber chooses.
const HOST: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_as_one_subscriber() {
        let of = |text: &str| Subscriber::of(text.parse().expect("an address"));
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("192.0.2.1", "192.0.2.2", false),
            ("0.0.0.0", "::", false),
        ] {
            assert_eq!(of(one) == of(other), same, "{one} {other}");
            assert_eq!(of(one).bytes() == of(other).bytes(), same, "{one} {other}");
        }
    }
}
