//! Free slots and the requests that wait for one. Plain data: nothing here waits, sends or wakes but
//! through the place that a waiting request left.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::supervise::{PoolState, SlotEvent, WorkerId};

use super::backlog::{Taken, Tickets};
use super::channel::{Channel, Stream};
use super::grant::Grant;
use super::slot::Slot;
use super::worker::Worker;
use super::{Limits, Refused};

pub(super) struct Waiter {
    pub(super) thread: usize,
    /// No other worker will do.
    pub(super) wanted: Option<WorkerId>,
    pub(super) bytes: usize,
    pub(super) since: Option<Instant>,
    /// The whole request on no stream, when any worker may take it; empty otherwise.
    pub(super) frame: Vec<u8>,
    pub(super) place: oneshot::Sender<Served>,
}

/// What a request in line gets, and its frame back; `Err` when a worker took it and died.
pub(super) type Served = Result<(Grant, Vec<u8>), Lost>;

/// The worker that took it is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost;

impl Waiter {
    /// Gives a slot or stream to who waits; what they get comes back when they have left.
    pub(super) fn serve(self, grant: Grant) -> Option<Grant> {
        match self.place.send(Ok((grant, self.frame))) {
            Err(Ok((grant, _frame))) => Some(grant),
            Ok(()) | Err(Err(Lost)) => None,
        }
    }
}

/// Where a slot went whose worker has taken the next request by itself.
pub(super) enum HandedOn {
    Served,
    /// That request's client has left: its answer is for nobody.
    Unwanted(Slot),
    /// No such request lay there. The slot is closed.
    Unknown,
}

pub(super) struct State {
    pub(super) serving: PoolState,
    pub(super) generation: u64,
    /// Idle slots by home thread; slots that no thread has used yet sit in the last list.
    pub(super) free: Vec<Vec<Slot>>,
    /// Channels of event loops by edge thread.
    pub(super) channels: Vec<Vec<Arc<Channel>>>,
    pub(super) line: VecDeque<Waiter>,
    pub(super) line_bytes: usize,
    /// The head of the line, where workers take it.
    pub(super) tickets: Tickets,
    pub(super) workers: HashMap<WorkerId, Arc<Worker>>,
    /// Workers of a generation that is not switched to yet.
    pub(super) parked: Vec<SlotEvent>,
}

impl State {
    /// No worker yet, for `threads` edge threads.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            serving: PoolState::Starting,
            generation: 0,
            free: (0..=threads).map(|_| Vec::new()).collect(),
            channels: (0..threads).map(|_| Vec::new()).collect(),
            line: VecDeque::new(),
            line_bytes: 0,
            tickets: Tickets::default(),
            workers: HashMap::new(),
            parked: Vec::new(),
        }
    }

    /// Whether a request that holds `bytes` may wait with the others.
    pub(super) fn room_for(&self, bytes: usize, limits: &Limits) -> Result<(), Refused> {
        if self.line.len() + self.tickets.len() >= limits.line_length {
            Err(Refused::LineFull)
        } else if self.line_bytes + bytes > limits.line_bytes {
            Err(Refused::LineBytes)
        } else {
            Ok(())
        }
    }

    /// Whether requests are turned away without waiting.
    pub(super) fn refusal(&self) -> Result<(), Refused> {
        match self.serving {
            PoolState::CrashLooping { retry_after } => Err(Refused::CrashLooping { retry_after }),
            PoolState::Stopping if self.workers.is_empty() => Err(Refused::Stopping),
            PoolState::Stopping | PoolState::Starting | PoolState::Serving => Ok(()),
        }
    }

    pub(super) fn forget_leavers(&mut self) {
        let mut freed = 0;
        self.line.retain(|waiter| {
            let waits = !waiter.place.is_closed();
            freed += if waits { 0 } else { waiter.bytes };
            waits
        });
        self.line_bytes -= freed.min(self.line_bytes);
        if self.tickets.forget_leavers() {
            // What they asked for must not be taken: no worker works for nobody.
            self.recall();
            self.lay_ahead();
        }
    }

    /// Dropping their places tells all who wait.
    pub(super) fn clear_line(&mut self) {
        self.line.clear();
        self.line_bytes = 0;
        self.tickets.clear();
    }

    /// Whether a worker is there and not on its way out.
    pub(super) fn takes_requests(&self, id: WorkerId) -> bool {
        let worker = self.workers.get(&id);
        worker.is_some_and(|worker| !worker.is_draining())
    }

    /// The worker with the most free slots. Slots are leased last used first, which would bring
    /// every long-lived session to the same worker until its threads are all taken.
    pub(super) fn idlest(&self) -> Option<WorkerId> {
        let mut free: HashMap<WorkerId, u32> = HashMap::new();
        for slot in self.free.iter().flatten() {
            *free.entry(slot.worker.id).or_default() += 1;
        }
        let most = free.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(worker, _)| worker)
    }

    /// Adds a channel of `thread`, unless its worker has begun to drain meanwhile.
    pub(super) fn join(&mut self, thread: usize, channel: &Arc<Channel>) -> bool {
        let joins = !channel.worker.is_draining();
        if joins {
            self.channels[thread].push(Arc::clone(channel));
        }
        joins
    }

    /// Gives an idle slot to the head of the line, or to the free list. Returns it when its worker
    /// drains: whoever had it may not have known yet, and the free lists were cleared of it before.
    #[must_use]
    pub(super) fn offer(&mut self, slot: Slot) -> Option<Slot> {
        if slot.worker.is_draining() {
            return Some(slot);
        }
        let worker = Arc::clone(&slot.worker);
        let mut slot = slot;
        slot.begin_anew();
        while let Some(waiter) = self.next_waiter(worker.id) {
            worker.lease_began();
            let Some(Grant::Slot(back)) = waiter.serve(Grant::Slot(slot)) else {
                self.lay_ahead();
                return None;
            };
            slot = back;
            worker.lease_abandoned();
        }
        let list = slot.home().unwrap_or(self.free.len() - 1);
        self.free[list].push(slot);
        None
    }

    /// A free slot or stream, of `wanted` when that is given. It is counted from now on: others who
    /// wait do not take the same room, and a worker that drains in this moment is not empty.
    pub(super) fn take_free(
        &mut self,
        thread: usize,
        wanted: Option<WorkerId>,
        streams_per_worker: u32,
    ) -> Option<Grant> {
        let take = |list: &mut Vec<Slot>| match wanted {
            None => list.pop(),
            Some(id) => {
                let last = list.iter().rposition(|slot| slot.worker.id == id)?;
                Some(list.remove(last))
            }
        };
        let own = take(&mut self.free[thread]);
        let slot = own.or_else(|| self.free.iter_mut().rev().find_map(take));
        match slot {
            Some(slot) => {
                slot.worker.lease_began();
                Some(Grant::Slot(slot))
            }
            None => self
                .open_stream(thread, wanted, streams_per_worker)
                .map(Grant::Stream),
        }
    }

    /// A stream on the least busy event loop that has room, or on that of `wanted`; counted as
    /// [`State::take_free`] does.
    pub(super) fn open_stream(
        &self,
        thread: usize,
        wanted: Option<WorkerId>,
        per_worker: u32,
    ) -> Option<Stream> {
        let channel = self.channels[thread]
            .iter()
            .filter(|channel| channel.worker.in_flight() < per_worker)
            .filter(|channel| wanted.is_none_or(|id| channel.worker.id == id))
            .min_by_key(|channel| channel.worker.in_flight())?;
        channel.worker.lease_began();
        Some(channel.open())
    }

    /// Hands a slot on to the request that its worker has taken from the backlog.
    pub(super) fn hand_on(&mut self, mut slot: Slot, ticket: u32) -> HandedOn {
        slot.begin_taken(ticket);
        let worker = Arc::clone(&slot.worker);
        worker.lease_began();
        let handed = match self.tickets.taken(ticket) {
            Taken::Unknown => {
                worker.lease_abandoned();
                HandedOn::Unknown
            }
            Taken::Left => HandedOn::Unwanted(slot),
            Taken::By(waiter) => match waiter.serve(Grant::Slot(slot)) {
                Some(Grant::Slot(slot)) => HandedOn::Unwanted(slot),
                Some(Grant::Stream(_)) | None => HandedOn::Served,
            },
        };
        self.lay_ahead();
        handed
    }

    /// The first in line that `worker` may serve; those in the backlog come before the line.
    pub(super) fn next_waiter(&mut self, worker: WorkerId) -> Option<Waiter> {
        if let Some(waiter) = self.tickets.take_back() {
            return Some(waiter);
        }
        let may = |waiter: &Waiter| waiter.wanted.is_none_or(|wanted| wanted == worker);
        let place = self.line.iter().position(may)?;
        self.take_waiter(place)
    }

    /// Thread and wish of who is at `place` in line.
    pub(super) fn waiter(&self, place: usize) -> Option<(usize, Option<WorkerId>)> {
        let waiter = self.line.get(place)?;
        Some((waiter.thread, waiter.wanted))
    }

    pub(super) fn take_waiter(&mut self, place: usize) -> Option<Waiter> {
        let waiter = self.line.remove(place)?;
        self.line_bytes -= waiter.bytes.min(self.line_bytes);
        Some(waiter)
    }

    /// Lets requests that waited for a worker which leaves be served by any other.
    pub(super) fn release_those_who_want(&mut self, id: WorkerId) {
        let mut place = 0;
        while let Some((thread, wanted)) = self.waiter(place) {
            place += 1;
            if wanted != Some(id) {
                continue;
            }
            self.line[place - 1].wanted = None;
            // Free slots and waiting requests that any worker may serve never coexist.
            if let Some(grant) = self.take_free(thread, None, 0)
                && let Some(waiter) = self.take_waiter(place - 1)
            {
                place -= 1;
                if let Some(Grant::Slot(slot)) = waiter.serve(grant) {
                    slot.worker.lease_abandoned();
                    let list = slot.home().unwrap_or(self.free.len() - 1);
                    self.free[list].push(slot);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_full_by_requests_or_by_bytes() {
        let limits = Limits {
            line_length: 2,
            line_bytes: 10,
            ..Limits::default()
        };
        let mut state = State::new(1);
        for (waits, asks, expected) in [
            (None, 10, Ok(())),
            (None, 11, Err(Refused::LineBytes)),
            (Some(6), 4, Ok(())),
            (None, 5, Err(Refused::LineBytes)),
            (Some(0), 0, Err(Refused::LineFull)),
        ] {
            if let Some(bytes) = waits {
                state.line.push_back(Waiter {
                    thread: 0,
                    wanted: None,
                    bytes,
                    since: None,
                    frame: Vec::new(),
                    place: oneshot::channel().0,
                });
                state.line_bytes += bytes;
            }
            assert_eq!(state.room_for(asks, &limits), expected, "{asks} more");
        }
    }
}
