//! One timer per connection, moved without touching the timer wheel.
//!
//! A connection waits under a different deadline at each step (idle, head, body, response, write)
//! and mostly not long enough for any of them to matter. Registering a timer for each wait costs
//! more than parsing the request. So one timer stays registered, looks at the deadline at least
//! every [`LOOK`], and is set anew only for deadlines nearer than its next look.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// The longest sleep: deadlines further away need no new registration.
const LOOK: Duration = Duration::from_secs(5);

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// When the present wait of one connection ends.
pub struct Deadline {
    at: Instant,
    looks_at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    /// A timer that looks for the first time after [`LOOK`].
    pub fn new(now: Instant) -> Self {
        let looks_at = now + LOOK;
        Self {
            at: looks_at,
            looks_at,
            sleep: Box::pin(tokio::time::sleep_until(looks_at.into())),
        }
    }

    /// Moves the deadline.
    pub fn set(&mut self, at: Instant) {
        self.at = at;
        if at < self.looks_at {
            self.arm(at);
        }
    }

    fn arm(&mut self, at: Instant) {
        self.looks_at = at;
        self.sleep.as_mut().reset(at.into());
    }

    /// Ready when the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Elapsed> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= self.at {
                // Armed for the next wait: a fired timer must not be polled again as it is.
                self.arm(now + LOOK);
                return Poll::Ready(Elapsed);
            }
            self.arm(self.at.min(now + LOOK));
        }
        Poll::Pending
    }

    /// Waits for `wait` until the deadline. The deadline is looked at only when `wait` is not ready.
    pub async fn bound<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut wait = pin!(wait);
        poll_fn(|cx| match wait.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    fn on_paused_clock(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(test);
    }

    #[test]
    fn a_ready_wait_beats_a_passed_deadline() {
        on_paused_clock(async {
            let now = Instant::now();
            let mut deadline = Deadline::new(now);
            deadline.set(now - Duration::from_secs(1));
            assert_eq!(deadline.bound(ready(7)).await, Ok(7));
            assert_eq!(deadline.bound(pending::<()>()).await, Err(Elapsed));
        });
    }

    #[test]
    fn a_deadline_moved_nearer_and_further_fires_at_its_last_place() {
        on_paused_clock(async {
            let start = Instant::now();
            let mut deadline = Deadline::new(start);
            deadline.set(start + Duration::from_millis(5));
            deadline.set(start + Duration::from_millis(60));
            assert_eq!(deadline.bound(pending::<()>()).await, Err(Elapsed));
            assert!(
                start.elapsed() >= Duration::from_millis(60),
                "{:?}",
                start.elapsed()
            );
        });
    }
}
