//! Workers: their slots, their signals, what they say and their end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde_json::json;

use super::super::control::{FromWorker, decode};
use super::super::state::Event;
use super::{Interface, Signal, SlotEvent, Supervisor, Worker, WorkerId, send};
use crate::sys::{Exit, Message, channel, fds};

impl Supervisor {
    pub(super) fn signal(&self, id: WorkerId, signal: Signal) {
        // Without a handle it is not forked yet: the deadline comes again.
        if let Some(pidfd) = self
            .workers
            .get(&id)
            .and_then(|worker| worker.pidfd.as_ref())
            && let Err(error) = pidfd.send(signal)
        {
            tracing::error!(worker = id.0, %error, "cannot signal a worker");
        }
    }

    /// A worker that serves is to serve what it has, and nothing more.
    pub(super) fn take_no_more(&self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(|worker| worker.admitted) {
            self.signal(id, Signal::TakeNoMore);
        }
    }

    pub(super) async fn heard_from_worker(&mut self, id: WorkerId, message: Message) -> bool {
        match decode::<FromWorker>(&message.bytes) {
            Ok(FromWorker::Booted { wire, interface }) => self.booted(id, wire, interface).await,
            Ok(FromWorker::Ready) => self.ready(id).await,
            Ok(FromWorker::Slot) => self.more_slots(id, message.fds).await,
            Ok(FromWorker::Failed { exit, text }) => {
                self.step(Event::BootFailed {
                    worker: id,
                    exit,
                    text,
                })
                .await
            }
            Ok(FromWorker::Log { level, text }) => {
                match level.as_str() {
                    "error" | "critical" => tracing::error!("{text}"),
                    "warning" => tracing::warn!("{text}"),
                    _ => tracing::info!("{text}"),
                }
                false
            }
            Ok(FromWorker::Changed { file }) => self.changed(id, &file).await,
            Err(error) => {
                let text = format!("worker {} said what nobody understands: {error}", id.0);
                self.break_off(id, text).await
            }
        }
    }

    /// Ends a worker that does not keep to the protocol: nothing it says can be relied on.
    async fn break_off(&mut self, id: WorkerId, text: String) -> bool {
        self.signal(id, Signal::Kill);
        self.step(Event::BootFailed {
            worker: id,
            exit: 1,
            text,
        })
        .await
    }

    /// Makes the worker's slots and sends it its ends.
    async fn booted(&mut self, id: WorkerId, wire: u32, interface: Interface) -> bool {
        if wire != ostler_wire::VERSION {
            let text = format!("worker {} speaks version {wire} of the wire", id.0);
            return self.break_off(id, text).await;
        }
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        if worker.interface.is_some() {
            let text = format!("worker {} booted twice", id.0);
            return self.break_off(id, text).await;
        }
        worker.interface = Some(interface);
        self.interface = Some(interface);
        let plan = self
            .zygotes
            .get(&worker.generation)
            .map_or(&self.plan, |zygote| &zygote.plan);
        let count = match interface {
            Interface::Wsgi => plan.threads,
            Interface::Asgi => plan.edge_threads,
        };
        if interface == Interface::Wsgi {
            let zygote = self.zygotes.get(&worker.generation);
            worker.backlog = zygote.and_then(|zygote| zygote.backlog.clone());
        }
        match slots(count) {
            Ok((ours, theirs)) => {
                worker.sockets = ours;
                if send_slots(worker, &theirs).await {
                    return false;
                }
                self.break_off(id, format!("worker {} does not take its slots", id.0))
                    .await
            }
            Err(error) => {
                let text = format!("no socket for a slot: {error}; hint: raise `ulimit -n`");
                self.break_off(id, text).await
            }
        }
    }

    async fn ready(&mut self, id: WorkerId) -> bool {
        match self.workers.get(&id) {
            Some(worker) if worker.interface.is_some() => {
                self.step(Event::Ready { worker: id }).await
            }
            _ => false,
        }
    }

    /// Lets the pool have a worker's slots.
    pub(super) async fn admit(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(interface) = worker.interface else {
            return;
        };
        worker.admitted = true;
        let event = SlotEvent::WorkerReady {
            worker: id,
            generation: worker.generation,
            pid: i32::try_from(worker.pid).unwrap_or(0),
            interface,
            sockets: std::mem::take(&mut worker.sockets),
            backlog: worker.backlog.clone(),
        };
        self.tell_pool(event).await;
    }

    async fn more_slots(&mut self, id: WorkerId, sockets: Vec<OwnedFd>) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        if worker.interface != Some(Interface::Wsgi) {
            let text = format!("worker {} sent a slot, which its kind has not", id.0);
            return self.break_off(id, text).await;
        }
        let sockets = sockets
            .into_iter()
            .filter(|socket| fds::set_nonblocking(socket).is_ok());
        if !worker.admitted {
            worker.sockets.extend(sockets);
            return false;
        }
        for socket in sockets.collect::<Vec<_>>() {
            self.tell_pool(SlotEvent::SlotAdded { worker: id, socket })
                .await;
        }
        false
    }

    /// A file of the app changed. Every worker sees that; one of them is listened to, or a single
    /// change would be as many reloads.
    async fn changed(&mut self, id: WorkerId, file: &str) -> bool {
        let mut serving = self.workers.iter().filter(|(_, worker)| worker.admitted);
        let newest = serving.clone().map(|(_, worker)| worker.generation).max();
        let speaker = serving.find(|(_, worker)| Some(worker.generation) == newest);
        if speaker.is_none_or(|(&speaker, _)| speaker != id) {
            return false;
        }
        tracing::info!("{}{file} changed", self.about);
        self.step(Event::Reload).await
    }

    pub(super) async fn gone(&mut self, id: WorkerId, exit: Exit) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        if worker.admitted {
            self.tell_pool(SlotEvent::Gone {
                worker: id,
                how: exit,
            })
            .await;
        }
        if worker.pid != 0 {
            let facts = json!({"pid": worker.pid, "age": worker.age});
            self.call_hook("child_exit", facts, json!({}));
        }
    }
}

/// Pairs of sockets: our ends, which do not block, and the worker's.
fn slots(count: u32) -> io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let pair = |_| {
        let (ours, theirs) = fds::stream_pair()?;
        fds::set_nonblocking(&ours)?;
        Ok((ours, theirs))
    };
    (0..count).map(pair).collect()
}

async fn send_slots(worker: &Worker, ends: &[OwnedFd]) -> bool {
    let control = Arc::clone(&worker.control);
    if let Some(backlog) = &worker.backlog {
        let message = json!({"type": "backlog"});
        if !send(&control, &message, &[backlog.receiver.as_fd()]).await {
            return false;
        }
    }
    let pieces: Vec<_> = ends.chunks(channel::FDS_MAX).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let more = index + 1 < pieces.len();
        let message = json!({"type": "slots", "count": piece.len(), "more": more});
        let borrowed: Vec<_> = piece.iter().map(AsFd::as_fd).collect();
        if !send(&control, &message, &borrowed).await {
            return false;
        }
    }
    true
}
