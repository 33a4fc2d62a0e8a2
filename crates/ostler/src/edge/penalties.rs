//! Addresses (of IPv6: each /64) that had a connection broken off, and for a while get new ones only now and then: a TLS
//! handshake costs more than what it was broken off for (threats E-12). An address may stand for a whole
//! office, so it is not shut out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::subscriber::Subscriber;

/// How long an address is slowed down after the last offence.
const PENALTY: Duration = Duration::from_secs(60);

/// Connections it may then open at once: what a browser opens.
const BURST: u32 = 10;

/// After those it gets one in this time.
const EACH: Duration = Duration::from_secs(1);

/// Addresses that are remembered: a megabyte. An attacker who has more is not stopped by address.
const MOST: usize = 10_000;

/// Who is slowed down.
#[derive(Debug, Default)]
pub struct Penalties {
    /// How many there are: most of the time nobody, and then nothing is locked.
    count: AtomicUsize,
    /// Guards the penalties by address.
    addresses: Mutex<HashMap<Subscriber, Penalty>>,
}

#[derive(Debug)]
struct Penalty {
    until: Instant,
    /// When all of its connections will be paid for, at one in [`EACH`].
    paid: Instant,
}

impl Penalties {
    /// True when the address was not slowed down already.
    pub fn add(&self, address: Subscriber, now: Instant) -> bool {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = addresses
            .get(&address)
            .is_some_and(|penalty| penalty.until > now);
        if addresses.len() >= MOST {
            addresses.retain(|_, penalty| penalty.until > now);
        }
        if known || addresses.len() < MOST {
            let until = now + PENALTY;
            let penalty = addresses.entry(address);
            let penalty = penalty.or_insert(Penalty { until, paid: now });
            penalty.until = until;
        }
        self.count.store(addresses.len(), Ordering::Release);
        !known
    }

    /// Whether a new connection of this address is refused; counts it otherwise.
    pub fn keeps_off(&self, address: Subscriber, now: Instant) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(penalty) = addresses.get_mut(&address) else {
            return false;
        };
        if penalty.until <= now {
            addresses.remove(&address);
            self.count.store(addresses.len(), Ordering::Release);
            return false;
        }
        let paid = penalty.paid.max(now) + EACH;
        if paid > now + EACH * BURST {
            return true;
        }
        penalty.paid = paid;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Subscriber {
        Subscriber::of(address.parse().expect("an address"))
    }

    #[test]
    fn who_offends_gets_a_few_connections_and_then_one_a_second() {
        let (penalties, start) = (Penalties::default(), Instant::now());
        let (a, b) = (at("2001:db8::1"), at("2001:db8:0:1::1"));
        let served = |from: Instant, tries: usize| {
            (0..tries).filter(|_| !penalties.keeps_off(a, from)).count()
        };
        assert_eq!(served(start, 100), 100);
        assert!(penalties.add(a, start) && !penalties.add(at("2001:db8::2"), start));
        assert_eq!(served(start, 100), BURST as usize);
        assert_eq!(served(start + 3 * EACH, 100), 3);
        assert!(!penalties.keeps_off(b, start), "nobody else is");
        assert_eq!(served(start + PENALTY, 100), 100, "it is over");
        assert!(penalties.add(a, start + PENALTY));
    }

    #[test]
    fn memory_is_bounded() {
        let (penalties, start) = (Penalties::default(), Instant::now());
        for number in 0..(MOST as u32 + 100) {
            penalties.add(at(&std::net::Ipv4Addr::from(number).to_string()), start);
        }
        assert_eq!(penalties.count.load(Ordering::Relaxed), MOST);
        penalties.add(at("192.0.2.1"), start + PENALTY);
        assert_eq!(penalties.count.load(Ordering::Relaxed), 1);
    }
}
