//! How long a client is waited for that does not take what is there for it.
//!
//! What it takes is asked of the kernel and not seen from our writes: a socket becomes writable only
//! once a third of its send buffer is free (tcp(7), `sk_stream_is_writeable`), which may hold
//! megabytes. A client on a slow line reads that for minutes and must not be taken for one that
//! stopped; one that takes a byte now and then must not live on a large buffer.

use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::Times;
use super::deadline::Deadline;
use super::io::Io;
use super::outgoing::ClientGone;

/// Looks at the client within the time in which it may take nothing: it is given up at most a
/// quarter of that too late.
const LOOKS: u32 = 4;

/// The patience with one client, from when it first had to be waited for until it has all that was
/// there for it. It may take nothing for a while, but not for long, and not a byte at a time for ever.
#[derive(Debug, Default)]
pub struct Patience(Option<Wait>);

impl Patience {
    /// To be called whenever the client takes nothing more at once; ready when it is given up.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        io: &Io,
        times: &Times,
        deadline: &mut Deadline,
    ) -> Poll<ClientGone> {
        let begin = || Wait::new(Instant::now(), io.taken(), times);
        let wait = self.0.get_or_insert_with(begin);
        loop {
            deadline.set(wait.look_at);
            ready!(deadline.poll(cx));
            if wait.is_over(Instant::now(), io.taken(), times) {
                return Poll::Ready(ClientGone);
            }
        }
    }
}

#[derive(Debug)]
struct Wait {
    began: Instant,
    /// Bytes the client had taken by then.
    had: u64,
    /// When it was last seen to have taken something.
    moved: Instant,
    /// Bytes it had taken at the last look.
    taken: u64,
    look_at: Instant,
}

impl Wait {
    fn new(now: Instant, taken: u64, times: &Times) -> Self {
        Self {
            began: now,
            had: taken,
            moved: now,
            taken,
            look_at: now + times.write_stall / LOOKS,
        }
    }

    /// Looks at the client, which has taken `taken` bytes of the connection by now.
    fn is_over(&mut self, now: Instant, taken: u64, times: &Times) -> bool {
        if taken > self.taken {
            self.moved = now;
        }
        self.taken = taken;
        let earned = times.earned(taken.saturating_sub(self.had));
        let stalled = self.moved + times.write_stall;
        let too_slow = self.began + times.write_stall + earned;
        self.look_at = stalled.min(now + times.write_stall / LOOKS);
        now >= stalled.min(too_slow)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Second in which a client is given up that has taken `taken(second)` bytes.
    fn given_up(taken: impl Fn(u64) -> u64) -> Option<u64> {
        let (times, start) = (Times::default(), Instant::now());
        let mut wait = Wait::new(start, taken(0), &times);
        while wait.look_at < start + Duration::from_secs(3600) {
            let now = wait.look_at;
            let second = (now - start).as_secs();
            if wait.is_over(now, taken(second), &times) {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn a_client_is_given_up_when_it_takes_nothing_or_far_too_little() {
        // 30 s of patience, 500 bytes a second, a look every 7.5 s.
        let check = |what, taken: &dyn Fn(u64) -> u64, end: Option<u64>| {
            let seen = given_up(taken);
            let fits = match (seen, end) {
                (Some(seen), Some(end)) => (end..end + 8).contains(&seen),
                (seen, end) => seen == end,
            };
            assert!(fits, "{what}: {seen:?}");
        };
        check("takes nothing", &|_| 7, Some(30));
        check("a byte a second", &|second| second, Some(30));
        check("400 a second", &|second| 400 * second, Some(150));
        check("600 a second", &|second| 600 * second, None);
        check("in gulps", &|second| 100_000 * (second / 25), None);
        check(
            "stops after 100 s",
            &|second| 20_000 * second.min(100),
            Some(130),
        );
    }
}
