//! Requests that lie where workers take them by themselves: the head of the line, while every slot is
//! in use.
//!
//! A worker takes its next request with the end of its response, without sleeping in between. The
//! kernel gives each packet to one of those who ask, and we are one of them: whenever a slot comes back
//! without a request, a client leaves or a worker dies, we take back what is still there. Each request
//! has a ticket, by which the worker says what it took ([`Kind::Taken`](ostler_wire::Kind::Taken)).

use std::collections::HashMap;
use std::sync::Arc;

use ostler_wire::{BACKLOG_FRAME, FrameHead, HEAD_LEN, set_stream};
use rustix::net::{RecvFlags, recv};

use super::line::{State, Waiter};
use super::slot::send_now;
use crate::supervise::Backlog;

/// Requests that may lie there. With one for each slot workers came to an empty backlog for every
/// fourth request, because the edge had not come around yet; the fewer there are, the less it costs to
/// take them back when a client leaves: two system calls for each. ARCHITECTURE has the measurement.
const MOST: usize = 32;

/// The backlog of the generation that serves, and who waits there.
#[derive(Default)]
pub(super) struct Tickets {
    socket: Option<Arc<Backlog>>,
    last: u32,
    waiting: HashMap<u32, Waiter>,
    /// Something may lie there: also what its client has left.
    may_hold: bool,
}

/// What a worker took.
pub(super) enum Taken {
    By(Waiter),
    /// Its client has left meanwhile.
    Left,
    /// There never was such a ticket.
    Unknown,
}

impl Tickets {
    /// Requests that lie there or were taken by a worker that has not said so yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Who waits there, in no order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Waiter> {
        self.waiting.values()
    }

    /// Lays `waiter` into the backlog; gives it back when that cannot take it.
    fn lay(&mut self, mut waiter: Waiter) -> Result<(), Waiter> {
        let Some(socket) = &self.socket else {
            return Err(waiter);
        };
        // 0 is what a slot has without a ticket.
        let ticket = self.last.wrapping_add(1).max(1);
        set_stream(&mut waiter.frame, ticket);
        match send_now(&socket.sender, &waiter.frame, None) {
            Ok(_whole) => {
                self.last = ticket;
                self.may_hold = true;
                self.waiting.insert(ticket, waiter);
                Ok(())
            }
            Err(_full) => {
                set_stream(&mut waiter.frame, 0);
                Err(waiter)
            }
        }
    }

    /// Takes the oldest request back that nobody has taken.
    pub(super) fn take_back(&mut self) -> Option<Waiter> {
        while self.may_hold {
            let socket = self.socket.as_ref()?;
            let mut head = [0; HEAD_LEN];
            // The rest of the packet is cut off: the frame is still ours. Without a packet there is an
            // error, or nothing at all when a worker has shut the socket down.
            let Ok((HEAD_LEN, _)) = recv(&socket.receiver, &mut head[..], RecvFlags::DONTWAIT)
            else {
                self.may_hold = false;
                return None;
            };
            let Ok(Some(head)) = FrameHead::decode(&head) else {
                continue;
            };
            if let Some(mut waiter) = self.waiting.remove(&head.stream) {
                set_stream(&mut waiter.frame, 0);
                return Some(waiter);
            }
        }
        None
    }

    /// A worker says that it took this one.
    pub(super) fn taken(&mut self, ticket: u32) -> Taken {
        // Tickets begin anew after four billion: what lies less than half the way back was given out.
        let given_out = ticket != 0 && self.last.wrapping_sub(ticket) < u32::MAX / 2;
        match self.waiting.remove(&ticket) {
            Some(waiter) => Taken::By(waiter),
            None if given_out => Taken::Left,
            None => Taken::Unknown,
        }
    }

    /// True when there were any.
    pub(super) fn forget_leavers(&mut self) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|_, waiter| !waiter.place.is_closed());
        self.waiting.len() < before
    }

    /// Those of `tickets` that still wait: the worker that took them is gone and has not said so.
    pub(super) fn lose(&mut self, tickets: &[u32]) -> Vec<Waiter> {
        let lost = tickets
            .iter()
            .filter_map(|ticket| self.waiting.remove(ticket));
        lost.collect()
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

impl State {
    /// Lays the head of the line into the backlog, as long as slots are in use that will ask for it. One
    /// who waits for a certain worker holds up those behind: workers that always have a next request
    /// would never come to theirs.
    pub(super) fn lay_ahead(&mut self) {
        if self.tickets.socket.is_none() || self.line.is_empty() || !self.somebody_will_ask() {
            return;
        }
        while self.tickets.len() < MOST
            && let Some(first) = self.line.front()
            && (1..=BACKLOG_FRAME).contains(&first.frame.len())
            && first.wanted.is_none()
            && let Some(waiter) = self.take_waiter(0)
        {
            if let Err(waiter) = self.tickets.lay(waiter) {
                return self.put_first(waiter);
            }
        }
    }

    /// Whether a slot is in use, and its worker stays.
    fn somebody_will_ask(&self) -> bool {
        let mut workers = self.workers.values();
        workers.any(|worker| worker.in_flight() > 0 && !worker.is_draining())
    }

    /// Brings everything that nobody has taken back into the line, and lays it into another backlog
    /// from now on.
    pub(super) fn change_backlog(&mut self, socket: Option<Arc<Backlog>>) {
        let same = match (&self.tickets.socket, &socket) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            self.recall();
            self.tickets.socket = socket;
            self.lay_ahead();
        }
    }

    /// Brings everything that nobody has taken back to the head of the line. Returns the tickets of
    /// the others, whose workers are about to say so.
    pub(super) fn recall(&mut self) -> Vec<u32> {
        let mut back = Vec::new();
        while let Some(waiter) = self.tickets.take_back() {
            back.push(waiter);
        }
        for waiter in back.into_iter().rev() {
            self.put_first(waiter);
        }
        self.tickets.waiting.keys().copied().collect()
    }

    fn put_first(&mut self, waiter: Waiter) {
        self.line_bytes += waiter.bytes;
        self.line.push_front(waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_begin_anew() {
        let after = |last| Tickets {
            last,
            ..Tickets::default()
        };
        assert!(matches!(after(u32::MAX).taken(u32::MAX), Taken::Left));
        assert!(matches!(after(u32::MAX).taken(1), Taken::Unknown));
        assert!(matches!(after(1).taken(u32::MAX), Taken::Left));
        assert!(matches!(after(1).taken(2), Taken::Unknown));
        assert!(matches!(after(1).taken(0), Taken::Unknown));
    }
}
