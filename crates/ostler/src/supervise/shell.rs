//! Carries out what [`super::state`] decides: the only place that speaks to zygotes and workers.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::control::{FromWorker, FromZygote, decode};
use super::state::{Action, Event, Fleet, Level};
use super::{
    Hooks, Interface, MEMORY_EVERY, Plan, Request, SlotEvent, SupervisorHandle, WorkerId, memory,
};
use crate::sys::{Channel, Exit, Pidfd, Signal, fds};

/// Sockets in one message (the kernel allows 253 descriptors).
const SOCKETS_PER_MESSAGE: usize = 200;

/// After a worker's pidfd says that it ended, its zygote has this long to say how.
const EXIT_WORD: Duration = Duration::from_secs(1);

/// A started zygote: its control socket and a handle on it.
#[derive(Debug)]
pub struct Zygote {
    pub generation: u64,
    pub control: OwnedFd,
    pub pidfd: Pidfd,
}

/// What reaches the supervisor.
#[derive(Debug)]
pub enum Input {
    Event(Event),
    Zygote(Zygote, Box<Plan>),
    FromZygote(u64, Vec<u8>, Vec<OwnedFd>),
    FromWorker(WorkerId, Vec<u8>, Vec<OwnedFd>),
    /// The pidfd of a worker fired.
    Ended(WorkerId),
}

/// A worker as the shell knows it.
struct Worker {
    generation: u64,
    age: u64,
    pid: u32,
    pidfd: Option<Pidfd>,
    control: Arc<Channel>,
    interface: Option<Interface>,
    sockets: Vec<OwnedFd>,
    over_soft: bool,
}

struct RunningZygote {
    control: Arc<Channel>,
    pidfd: Pidfd,
}

/// All zygotes and workers of a server.
pub struct Supervisor {
    fleet: Fleet,
    plan: Plan,
    zygotes: HashMap<u64, RunningZygote>,
    workers: HashMap<WorkerId, Worker>,
    inputs: mpsc::UnboundedReceiver<Input>,
    to_self: mpsc::UnboundedSender<Input>,
    slots: mpsc::Sender<SlotEvent>,
    requests: mpsc::UnboundedSender<Request>,
    hooks: Hooks,
    interface: Option<Interface>,
}

impl Supervisor {
    /// A supervisor without a zygote yet, and the handle to speak to it. `requests` is what it asks
    /// of others; slots of workers go to the pool by the receiver.
    pub fn new(
        plan: Plan,
        hooks: Hooks,
        requests: mpsc::UnboundedSender<Request>,
    ) -> (Self, SupervisorHandle, mpsc::Receiver<SlotEvent>) {
        // Unbounded, but each sender is bounded by what it watches: requests, workers, zygotes.
        let (to_self, inputs) = mpsc::unbounded_channel();
        let (slots, events) = mpsc::channel(64);
        let supervisor = Self {
            fleet: Fleet::new(plan.policy.clone()),
            plan,
            zygotes: HashMap::new(),
            workers: HashMap::new(),
            inputs,
            to_self: to_self.clone(),
            slots,
            requests,
            hooks,
            interface: None,
        };
        (supervisor, SupervisorHandle { events: to_self }, events)
    }

    /// Supervises until everything has ended.
    pub async fn run(mut self) {
        let mut memory = tokio::time::interval(MEMORY_EVERY);
        memory.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let look = self.fleet.next_look();
            let sleep = async {
                match look {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => true,
                },
                () = sleep => self.step(Event::Tick).await,
                _ = memory.tick(), if self.limits_memory() => {
                    self.look_at_memory().await;
                    false
                }
            };
            if ended {
                return;
            }
        }
    }

    async fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Event(event) => self.step(event).await,
            Input::Zygote(zygote, plan) => self.adopt(zygote, *plan).await,
            Input::FromZygote(generation, bytes, fds) => {
                self.on_zygote(generation, &bytes, fds).await
            }
            Input::FromWorker(worker, bytes, fds) => self.on_worker(worker, &bytes, fds).await,
            Input::Ended(worker) => {
                self.step(Event::Exited {
                    worker,
                    exit: Exit::Unknown,
                })
                .await
            }
        }
    }

    /// One step of the machine; true at the end of everything.
    async fn step(&mut self, event: Event) -> bool {
        for action in self.fleet.step(event, Instant::now()) {
            if self.act(action).await {
                return true;
            }
        }
        false
    }

    async fn act(&mut self, action: Action) -> bool {
        match action {
            Action::StartZygote { generation } => {
                let _ = self.requests.send(Request::StartZygote { generation });
            }
            Action::Fork {
                generation,
                worker,
                age,
            } => self.fork(generation, worker, age).await,
            Action::RetireZygote { generation } => {
                if let Some(zygote) = self.zygotes.get(&generation) {
                    let _ = zygote
                        .control
                        .send_json(&json!({"type": "retire"}), &[])
                        .await;
                }
            }
            Action::KillZygote { generation } => {
                if let Some(zygote) = self.zygotes.remove(&generation) {
                    let _ = zygote.pidfd.send(Signal::Kill);
                }
            }
            Action::Drain { worker } => self.tell_pool(SlotEvent::Draining { worker }).await,
            Action::Signal { worker, signal } => self.signal(worker, signal),
            Action::Switch { generation } => {
                self.tell_pool(SlotEvent::GenerationSwitched { generation })
                    .await;
            }
            Action::Gone { worker, exit } => self.gone(worker, exit).await,
            Action::Pool(state) => self.tell_pool(SlotEvent::State(state)).await,
            Action::Say { level, text } => match level {
                Level::Info => tracing::info!("{text}"),
                Level::Warning => tracing::warn!("{text}"),
                Level::Error => tracing::error!("{text}"),
            },
            Action::WhenReady => {
                self.hooks.tell("when_ready", Value::Null, json!({})).await;
                let interface = self.interface.unwrap_or(Interface::Wsgi);
                let _ = self.requests.send(Request::Ready { interface });
            }
            Action::WorkersChanged { new, old } => {
                let args = json!({"new": new, "old": old});
                self.hooks.tell("nworkers_changed", Value::Null, args).await;
            }
            Action::Reloaded => {
                tracing::info!("reload complete: the new workers serve");
                self.hooks.tell("on_reload", Value::Null, json!({})).await;
            }
            Action::Finish { code } => {
                self.hooks.tell("on_exit", Value::Null, json!({})).await;
                let _ = self.requests.send(Request::Finish { code });
                return true;
            }
        }
        false
    }

    async fn tell_pool(&self, event: SlotEvent) {
        // The pool lives as long as the server; at the end nobody needs to know.
        let _ = self.slots.send(event).await;
    }

    // Zygotes

    /// Takes a configured zygote over and lets it load the app.
    async fn adopt(&mut self, zygote: Zygote, plan: Plan) -> bool {
        let Zygote {
            generation,
            control,
            pidfd,
        } = zygote;
        let control = match Channel::new(control) {
            Ok(control) => Arc::new(control),
            Err(error) => {
                let text = format!("no control socket: {error}");
                return self
                    .step(Event::LoadFailed {
                        generation,
                        exit: 1,
                        text,
                    })
                    .await;
            }
        };
        let mut load = plan.load.clone();
        load["generation"] = generation.into();
        let policy = plan.policy.clone();
        self.plan = plan;
        let _ = self.step(Event::Policy(policy)).await;
        let _ = control.send_json(&load, &[]).await;
        let gone = Input::Event(Event::ZygoteGone { generation });
        self.read(Arc::clone(&control), Some(gone), move |bytes, fds| {
            Input::FromZygote(generation, bytes, fds)
        });
        self.zygotes
            .insert(generation, RunningZygote { control, pidfd });
        false
    }

    /// Passes the messages of one socket on, in order, and `end` after the last one: a zygote that
    /// fails says why before its socket closes.
    fn read(
        &self,
        channel: Arc<Channel>,
        end: Option<Input>,
        input: impl Fn(Vec<u8>, Vec<OwnedFd>) -> Input + Send + 'static,
    ) {
        let to_self = self.to_self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = channel.recv().await {
                if to_self.send(input(message.bytes, message.fds)).is_err() {
                    return;
                }
            }
            if let Some(end) = end {
                let _ = to_self.send(end);
            }
        });
    }

    async fn on_zygote(&mut self, generation: u64, bytes: &[u8], fds: Vec<OwnedFd>) -> bool {
        match decode::<FromZygote>(bytes) {
            Ok(FromZygote::Loaded { preloaded, why_not }) => {
                match why_not {
                    Some(why) if preloaded => tracing::warn!("preloaded although {why}"),
                    Some(why) => {
                        tracing::info!("not preloaded: {why}; each worker imports the app itself")
                    }
                    None => {}
                }
                self.step(Event::Loaded { generation }).await
            }
            Ok(FromZygote::Failed { exit, text }) => {
                self.step(Event::LoadFailed {
                    generation,
                    exit,
                    text,
                })
                .await
            }
            Ok(FromZygote::Forked { worker, pid }) => {
                self.forked(WorkerId(worker), pid, fds);
                false
            }
            Ok(FromZygote::Exited { worker, status }) => {
                let exit = Exit::from_wait_status(status).unwrap_or(Exit::Unknown);
                self.step(Event::Exited {
                    worker: WorkerId(worker),
                    exit,
                })
                .await
            }
            Ok(_) => false,
            Err(error) => {
                tracing::error!(
                    generation,
                    "the zygote sent what nobody understands: {error}"
                );
                self.act(Action::KillZygote { generation }).await
            }
        }
    }

    async fn fork(&mut self, generation: u64, worker: WorkerId, age: u64) {
        let Some(zygote) = self.zygotes.get(&generation) else {
            return;
        };
        let pair =
            fds::seqpacket_pair().and_then(|(ours, theirs)| Ok((Channel::new(ours)?, theirs)));
        let (control, theirs) = match pair {
            Ok((ours, theirs)) => (Arc::new(ours), theirs),
            Err(error) => {
                tracing::error!(%error, "no socket for a worker; hint: raise the descriptor limit");
                let _ = self.to_self.send(Input::Ended(worker));
                return;
            }
        };
        let message = json!({"type": "fork", "worker": worker.0, "age": age});
        if zygote
            .control
            .send_json(&message, &[theirs.as_fd()])
            .await
            .is_err()
        {
            let _ = self.to_self.send(Input::Ended(worker));
            return;
        }
        self.read(Arc::clone(&control), None, move |bytes, fds| {
            Input::FromWorker(worker, bytes, fds)
        });
        self.workers.insert(
            worker,
            Worker {
                generation,
                age,
                pid: 0,
                pidfd: None,
                control,
                interface: None,
                sockets: Vec::new(),
                over_soft: false,
            },
        );
    }

    fn forked(&mut self, id: WorkerId, pid: u32, mut fds: Vec<OwnedFd>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.pid = pid;
        let pidfd = fds.pop().ok_or(std::io::ErrorKind::NotFound.into());
        match pidfd.and_then(|fd| Pidfd::from_fd(fd, pid)) {
            Ok(pidfd) => {
                if let Ok(watched) = pidfd.try_clone() {
                    let to_self = self.to_self.clone();
                    tokio::spawn(async move {
                        if watched.ended().await.is_ok() {
                            tokio::time::sleep(EXIT_WORD).await;
                            let _ = to_self.send(Input::Ended(id));
                        }
                    });
                }
                worker.pidfd = Some(pidfd);
            }
            Err(error) => tracing::error!(pid, %error, "the zygote sent no handle on its worker"),
        }
    }

    fn signal(&self, worker: WorkerId, signal: Signal) {
        if let Some(pidfd) = self
            .workers
            .get(&worker)
            .and_then(|worker| worker.pidfd.as_ref())
            && let Err(error) = pidfd.send(signal)
        {
            tracing::error!(worker = worker.0, %error, "cannot signal a worker");
        }
    }

    // Workers

    async fn on_worker(&mut self, id: WorkerId, bytes: &[u8], fds: Vec<OwnedFd>) -> bool {
        match decode::<FromWorker>(bytes) {
            Ok(FromWorker::Booted { wire, interface }) => self.booted(id, wire, interface).await,
            Ok(FromWorker::Ready) => return self.ready(id).await,
            Ok(FromWorker::Slot) => {
                for socket in fds {
                    if fds::set_nonblocking(&socket).is_ok() {
                        self.tell_pool(SlotEvent::SlotAdded { worker: id, socket })
                            .await;
                    }
                }
            }
            Ok(FromWorker::Failed { exit, text }) => {
                return self
                    .step(Event::BootFailed {
                        worker: id,
                        exit,
                        text,
                    })
                    .await;
            }
            Ok(FromWorker::Log { level, text }) => match level.as_str() {
                "error" | "critical" => tracing::error!("{text}"),
                "warning" => tracing::warn!("{text}"),
                _ => tracing::info!("{text}"),
            },
            Ok(FromWorker::Changed { file }) => {
                tracing::info!("{file} changed");
                return self.step(Event::Reload).await;
            }
            Err(error) => {
                tracing::error!(
                    worker = id.0,
                    "the worker sent what nobody understands: {error}"
                );
                self.signal(id, Signal::Kill);
            }
        }
        false
    }

    /// Makes the worker's slots and sends it its ends.
    async fn booted(&mut self, id: WorkerId, wire: u32, interface: Interface) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if wire != ostler_wire::VERSION {
            tracing::error!(
                worker = id.0,
                wire,
                "the worker speaks another version of the wire"
            );
            return self.signal(id, Signal::Kill);
        }
        let count = match interface {
            Interface::Wsgi => self.plan.threads,
            Interface::Asgi => self.plan.edge_threads,
        };
        let mut theirs = Vec::new();
        for _ in 0..count {
            match fds::stream_pair().and_then(|(ours, theirs)| {
                fds::set_nonblocking(&ours)?;
                Ok((ours, theirs))
            }) {
                Ok((ours, end)) => {
                    worker.sockets.push(ours);
                    theirs.push(end);
                }
                Err(error) => {
                    tracing::error!(%error, "no socket for a slot; hint: raise the descriptor limit");
                    return self.signal(id, Signal::Kill);
                }
            }
        }
        worker.interface = Some(interface);
        let control = Arc::clone(&worker.control);
        self.interface = Some(interface);
        let pieces: Vec<_> = theirs.chunks(SOCKETS_PER_MESSAGE).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let more = index + 1 < pieces.len();
            let message = json!({"type": "slots", "count": piece.len(), "more": more});
            let borrowed: Vec<_> = piece.iter().map(AsFd::as_fd).collect();
            let _ = control.send_json(&message, &borrowed).await;
        }
    }

    async fn ready(&mut self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        let Some(interface) = worker.interface else {
            return false;
        };
        tracing::debug!(worker = id.0, pid = worker.pid, "worker ready");
        let event = SlotEvent::WorkerReady {
            worker: id,
            generation: worker.generation,
            pid: worker.pid as i32,
            interface,
            sockets: std::mem::take(&mut worker.sockets),
        };
        self.tell_pool(event).await;
        self.step(Event::Ready { worker: id }).await
    }

    async fn gone(&mut self, id: WorkerId, exit: Exit) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        tracing::debug!(worker = id.0, pid = worker.pid, "worker ended: {exit}");
        self.tell_pool(SlotEvent::Gone {
            worker: id,
            how: exit,
        })
        .await;
        let shim = json!({"pid": worker.pid, "age": worker.age});
        self.hooks.tell("child_exit", shim, json!({})).await;
    }

    // Memory

    fn limits_memory(&self) -> bool {
        self.plan.memory_soft.is_some() || self.plan.memory_hard.is_some()
    }

    async fn look_at_memory(&mut self) {
        let pids: Vec<_> = self
            .workers
            .iter()
            .map(|(&id, worker)| (id, worker.pid))
            .collect();
        let used = tokio::task::spawn_blocking(move || {
            let measure = |(id, pid)| memory::private(pid).map(|bytes| (id, bytes));
            pids.into_iter().filter_map(measure).collect::<Vec<_>>()
        });
        for (id, bytes) in used.await.unwrap_or_default() {
            let over = |limit: Option<u64>| limit.is_some_and(|limit| bytes > limit);
            let mib = bytes >> 20;
            if over(self.plan.memory_hard) {
                tracing::error!(
                    worker = id.0,
                    "killed: it uses {mib} MiB of private memory (--memory-hard)"
                );
                self.signal(id, Signal::Kill);
            } else if over(self.plan.memory_soft)
                && let Some(worker) = self.workers.get_mut(&id)
                && !std::mem::replace(&mut worker.over_soft, true)
            {
                let why = format!("it uses {mib} MiB of private memory (--memory-soft)");
                self.step(Event::Recycle { worker: id, why }).await;
            }
        }
    }
}
