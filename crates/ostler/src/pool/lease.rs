//! A request's hold on a worker, and how it ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::channel;
use super::grant::Grant;
use super::slot::Slot;
use super::worker::Worker;

/// A request's hold on a slot. Given back by [`Lease::give_back`] when the exchange ended cleanly;
/// dropped otherwise, which gives the slot up: its worker sees the socket's end.
pub struct Lease {
    pub(super) pool: Arc<Pool>,
    pub(super) grant: Option<Grant>,
}

impl Lease {
    pub fn worker(&self) -> &Arc<Worker> {
        self.grant
            .as_ref()
            .expect("a lease holds its grant until it is dropped")
            .worker()
    }

    /// How long its answer may take when nobody waits for it any more.
    pub fn unwanted(&self) -> Duration {
        self.pool.unwanted()
    }

    /// The slot or stream.
    pub fn grant(&mut self) -> &mut Grant {
        self.grant
            .as_mut()
            .expect("a lease holds its grant until it is dropped")
    }

    /// Ends the lease with the slot ready for the next request, or handed on to the one that its
    /// worker has taken.
    pub fn give_back(mut self) {
        let Some(grant) = self.grant.take() else {
            return;
        };
        let worker = Arc::clone(grant.worker());
        let streamed = matches!(grant, Grant::Stream(_));
        match grant {
            Grant::Slot(mut slot) => match slot.take_next() {
                Some(ticket) => self.pool.hand_on(slot, ticket),
                None if slot.is_clean() => {
                    slot.shrink();
                    self.pool.offer(slot);
                }
                None => {
                    let text = "it sent more than the response".to_owned();
                    self.pool.supervisor.misbehaved(worker.id, text);
                }
            },
            Grant::Stream(stream) => drop(stream),
        }
        if worker.prove() {
            self.pool.supervisor.served(worker.id);
        }
        self.pool.ended(&worker);
        if streamed {
            self.pool.serve_line_from_channels();
        }
    }

    /// Takes the slot out of the pool for good: it has become a tunnel.
    pub fn into_tunnel(mut self) -> Option<(Tunnel, OwnedFd, Vec<u8>)> {
        let grant = self.grant.take()?;
        let tunnel = Tunnel {
            pool: Arc::clone(&self.pool),
            worker: Arc::clone(grant.worker()),
        };
        match grant {
            Grant::Slot(mut slot) => {
                self.lose_next(&mut slot);
                slot.into_socket().map(|(fd, rest)| (tunnel, fd, rest))
            }
            Grant::Stream(_) => None,
        }
    }

    /// The slot goes, and what its worker took for it cannot be answered.
    fn lose_next(&self, slot: &mut Slot) {
        if let Some(ticket) = slot.take_next() {
            self.pool.lose(&[ticket]);
        }
    }

    /// The worker did not answer in time: it takes nothing new and is replaced.
    ///
    /// On an event loop only the request's task is cancelled, as long as the loop answers.
    pub fn timed_out(mut self) {
        if let Some(Grant::Stream(stream)) = &mut self.grant {
            stream.set_overdue();
            if stream.silent() < channel::DEAF {
                return;
            }
        }
        self.pool.supervisor.timed_out(self.worker().id);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut grant) = self.grant.take() {
            let worker = Arc::clone(grant.worker());
            let gave_up_slot = matches!(grant, Grant::Slot(_));
            if let Grant::Slot(slot) = &mut grant {
                self.lose_next(slot);
            }
            drop(grant);
            self.pool.ended(&worker);
            if gave_up_slot && !worker.is_draining() {
                self.pool.supervisor.lost_slot(worker.id);
            }
        }
    }
}

/// A hijacked slot: counts as a request of its worker until the tunnel ends.
pub struct Tunnel {
    pool: Arc<Pool>,
    worker: Arc<Worker>,
}

impl Tunnel {
    /// Resolves when the worker's tunnels are to be closed.
    pub fn farewell(&self) -> impl Future<Output = ()> + use<> {
        self.worker.farewell()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.pool.ended(&self.worker);
    }
}
