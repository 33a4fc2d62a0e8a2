//! What one address (of IPv6: one /64) makes us hold: answers that it does not read, bodies that it does not end, streams and messages
//! without an end. Each has a limit of its own; these are for their sums, since an address may have many of each. It knows
//! nothing of what is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::subscriber::Subscriber;

/// Bytes of memory that one address may make us hold. What is not counted is less than [`STEP`] of each thing, 256
/// connections with their tasks, TLS and heads, and the windows of HTTP/2: with these it stays below 64 MiB.
const MEMORY: u64 = 32 << 20;

/// Bytes in its spool files: a quarter of what there is for all.
const DISK: u64 = 256 << 20;

/// What is held is counted in steps of this many bytes, and what is less not at all: most requests never get there, and
/// whoever shares an address with one that holds too much still gets small answers.
pub const STEP: u64 = 16 * 1024;

/// What a stream of HTTP/2 takes by being open: a task, what `h2` keeps of it, a little of an answer.
pub const STREAM: u64 = 2 * STEP;

/// The sums of an address.
#[derive(Debug)]
pub struct Account {
    pub of: Subscriber,
    memory: AtomicU64,
    disk: AtomicU64,
}

/// The part of a sum that one connection, stream, message or file has. Nobody's when it has no account: of a peer that
/// speaks for many.
#[derive(Debug, Default)]
pub struct Share {
    account: Option<Arc<Account>>,
    of: Of,
    /// In [`STEP`]s: every connection has one of these.
    steps: u32,
}

#[derive(Debug, Default, Clone, Copy)]
enum Of {
    #[default]
    Memory,
    Disk,
}

impl Share {
    pub fn of_memory(account: Option<Arc<Account>>) -> Self {
        Self {
            account,
            ..Self::default()
        }
    }

    /// One that holds nothing yet, of the same sum.
    pub fn another(&self) -> Self {
        Self {
            account: self.account.clone(),
            of: self.of,
            steps: 0,
        }
    }

    /// A file's, of the same address.
    pub fn of_disk(&self) -> Self {
        Self {
            account: self.account.clone(),
            of: Of::Disk,
            steps: 0,
        }
    }

    /// Notes how many bytes are held now; false, with nothing noted, when these are more than before and the address
    /// would have too many. Who holds nothing else may go on: one upload or message may be as large as its own setting says.
    pub fn hold(&mut self, bytes: u64) -> bool {
        self.hold_of(bytes, 1)
    }

    /// The same for what may lie elsewhere: half of the sum is for what cannot.
    pub fn hold_of_half(&mut self, bytes: u64) -> bool {
        self.hold_of(bytes, 2)
    }

    fn hold_of(&mut self, bytes: u64, parts: u64) -> bool {
        let steps = u32::try_from(bytes / STEP).unwrap_or(u32::MAX);
        let Some(account) = self.account.as_ref().filter(|_| steps != self.steps) else {
            return true;
        };
        let (sum, most) = account.sum(self.of);
        let (before, now) = (u64::from(self.steps) * STEP, u64::from(steps) * STEP);
        if now < before {
            sum.fetch_sub(before - now, Ordering::Relaxed);
        } else {
            let more = now - before;
            let fits = |held: u64| {
                let sum = held.checked_add(more)?;
                (sum <= most / parts || held == before).then_some(sum)
            };
            let held = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
            if held.is_err() {
                return false;
            }
        }
        self.steps = steps;
        true
    }

    /// Whether the address holds more than half of what it may.
    pub fn is_much(&self) -> bool {
        self.account.as_ref().is_some_and(|account| {
            let (sum, most) = account.sum(self.of);
            sum.load(Ordering::Relaxed) > most / 2
        })
    }

    /// Whether the address has so little left that one that holds more than half of what there is had better wait. There
    /// is one of these at most. Others do not wait but fail, since who waits holds a worker.
    pub fn should_wait(&self) -> bool {
        let Some(account) = &self.account else {
            return false;
        };
        let (sum, most) = account.sum(self.of);
        let room = 4 * u64::from(ostler_wire::MAX_PAYLOAD);
        u64::from(self.steps) * STEP > most / 2 && sum.load(Ordering::Relaxed) > most - room
    }
}

impl Account {
    pub fn new(of: Subscriber) -> Self {
        let (memory, disk) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { of, memory, disk }
    }

    fn sum(&self, of: Of) -> (&AtomicU64, u64) {
        match of {
            Of::Memory => (&self.memory, MEMORY),
            Of::Disk => (&self.disk, DISK),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_sum_for_all_it_holds_and_gets_it_back() {
        let account = Arc::new(Account::new(Subscriber::of(
            std::net::Ipv4Addr::LOCALHOST.into(),
        )));
        let mut first = Share::of_memory(Some(Arc::clone(&account)));
        let mut second = Share::of_memory(Some(Arc::clone(&account)));
        assert!(first.hold(MEMORY - STEP) && second.hold(STEP));
        assert!(!second.hold(2 * STEP));
        assert!(second.hold(2 * STEP - 1), "less than a step more");
        assert!(first.should_wait() && !second.should_wait() && second.is_much());
        let mut third = first.another();
        assert!(second.hold(0) && !third.hold_of_half(STEP) && third.hold(STEP) && third.hold(0));
        assert!(first.hold(MEMORY / 2 - STEP) && third.hold_of_half(STEP) && !third.is_much());
        assert!(!third.hold_of_half(2 * STEP) && third.hold(0) && first.hold(MEMORY - STEP));
        let mut file = first.of_disk();
        assert!(file.hold(DISK - STEP) && !first.of_disk().hold(2 * STEP));
        drop(file);
        assert!(first.hold(0) && second.hold(2 * STEP) && !first.should_wait());
        drop((first, second));
        assert_eq!(account.memory.load(Ordering::Relaxed), 0);
        assert_eq!(account.disk.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_holds_nothing_else_has_no_limit_here() {
        let account = Arc::new(Account::new(Subscriber::of(
            std::net::Ipv4Addr::LOCALHOST.into(),
        )));
        let mut one = Share::of_memory(Some(account));
        let mut other = one.another();
        assert!(one.hold(MEMORY / 2) && one.hold(2 * MEMORY) && !other.hold(STEP));
        assert!(one.hold(3 * MEMORY) && one.hold(MEMORY - STEP) && other.hold(STEP));
        assert!(!one.hold(MEMORY), "not alone");
    }

    #[test]
    fn who_is_not_counted_holds_what_it_likes() {
        let mut share = Share::of_memory(None);
        assert!(share.hold(100 * MEMORY) && !share.should_wait());
    }
}
