//! Carries out what [`super::state`] decides: the only place that speaks to zygotes and workers.

mod follow;
mod look;
mod workers;
mod zygotes;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::hooks::HookQueue;
use super::state::{Action, Event, Fleet, Level};
use super::{
    Backlog, Hooks, Interface, Plan, Request, SlotEvent, SupervisorHandle, WorkerId, memory,
};
use crate::sys::{Channel, Exit, Pidfd, Signal};
use follow::{Follower, News, Said};
pub use look::{Look, WorkerLook};

/// Orders from the rest of the server that may wait: more than there can be slots, each of which
/// has at most one thing to say at a time.
const INPUTS: usize = 65_536;

/// Messages of zygotes and workers that may wait; beyond it they wait in their own sockets.
const MESSAGES: usize = 256;

/// Events that may wait for the pool.
const EVENTS: usize = 64;

/// A zygote or worker whose socket has no room for this long does not read it any more.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// How often workers' memory is looked at: a leak of 100 MiB/s overshoots a limit by 200 MiB.
const MEMORY_EVERY: Duration = Duration::from_secs(2);

/// A started zygote: its control socket and a handle on it.
#[derive(Debug)]
pub struct Zygote {
    pub generation: u64,
    pub control: OwnedFd,
    pub pidfd: Pidfd,
}

/// What the rest of the server tells the supervisor.
#[derive(Debug)]
pub(super) enum Input {
    Event(Event),
    Zygote(Zygote, Box<Plan>),
    /// The keeper has reaped a zygote.
    ZygoteExited(u64, Exit),
    /// The app is to be loaded anew.
    Reload,
    /// Somebody wants to know how its workers stand.
    Look(oneshot::Sender<Look>),
}

/// A worker as the shell knows it.
struct Worker {
    generation: u64,
    age: u64,
    started: Instant,
    pid: u32,
    pidfd: Option<Pidfd>,
    control: Arc<Channel>,
    follower: Follower,
    interface: Option<Interface>,
    /// Our ends of its slots, until the pool may have them.
    sockets: Vec<OwnedFd>,
    /// Where it takes requests by itself.
    backlog: Option<Arc<Backlog>>,
    admitted: bool,
    over_soft: bool,
}

struct RunningZygote {
    control: Arc<Channel>,
    pidfd: Pidfd,
    plan: Plan,
    follower: Follower,
    backlog: Option<Arc<Backlog>>,
}

/// All zygotes and workers of a server.
pub struct Supervisor {
    /// How its lines in the log begin.
    about: String,
    fleet: Fleet,
    /// What the generation asks for whose limits hold.
    plan: Plan,
    zygotes: HashMap<u64, RunningZygote>,
    workers: BTreeMap<WorkerId, Worker>,
    /// What actions have brought about and the fleet does not know yet.
    queued: VecDeque<Event>,
    inputs: mpsc::Receiver<Input>,
    said: mpsc::Receiver<Said>,
    to_said: mpsc::Sender<Said>,
    slots: mpsc::Sender<SlotEvent>,
    requests: mpsc::UnboundedSender<Request>,
    hooks: Option<HookQueue>,
    hook_process: Option<Hooks>,
    interface: Option<Interface>,
    memory_unreadable: bool,
}

impl Supervisor {
    /// A supervisor whose first zygote (generation 1) is on its way, and the handle to speak to it.
    /// `requests` is what it asks of others; slots of workers go to the pool by the receiver.
    /// `resumed`: the app ran before, in a server that was lost. Its lines in the log begin with `about`.
    pub fn new(
        about: String,
        plan: Plan,
        hooks: Hooks,
        requests: mpsc::UnboundedSender<Request>,
        resumed: bool,
    ) -> (Self, SupervisorHandle, mpsc::Receiver<SlotEvent>) {
        let (to_inputs, inputs) = mpsc::channel(INPUTS);
        let (to_said, said) = mpsc::channel(MESSAGES);
        let (slots, events) = mpsc::channel(EVENTS);
        let fleet = Fleet::new(plan.policy.clone(), resumed);
        let supervisor = Self {
            about,
            fleet,
            plan,
            zygotes: HashMap::new(),
            workers: BTreeMap::new(),
            queued: VecDeque::new(),
            inputs,
            said,
            to_said,
            slots,
            requests,
            hooks: None,
            hook_process: Some(hooks),
            interface: None,
            memory_unreadable: false,
        };
        (supervisor, SupervisorHandle { inputs: to_inputs }, events)
    }

    /// Supervises until everything has ended.
    pub async fn run(mut self) {
        self.hooks = self.hook_process.take().map(HookQueue::start);
        let mut memory = tokio::time::interval(MEMORY_EVERY);
        memory.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                    Some(Input::Event(event)) => self.step(event).await,
                    Some(Input::Zygote(zygote, plan)) => self.adopt(zygote, *plan).await,
                    Some(Input::ZygoteExited(generation, exit)) => {
                        self.zygote_exited(generation, exit).await
                    }
                    Some(Input::Reload) => self.reload().await,
                    Some(Input::Look(answer)) => {
                        // Who has asked may have gone.
                        let _ = answer.send(self.look());
                        false
                    }
                    // Nobody is left who could want anything.
                    None => true,
                },
                Some(said) = self.said.recv() => self.hear(said).await,
                () = sleep => self.step(Event::Tick).await,
                _ = memory.tick(), if self.limits_memory() => self.look_at_memory().await,
            };
            if ended {
                return;
            }
        }
    }

    /// What the rest of the server has told it since it was asked last, in short.
    #[cfg(test)]
    pub fn overheard(&mut self) -> Vec<String> {
        let inputs = std::iter::from_fn(|| self.inputs.try_recv().ok());
        inputs.map(|input| format!("{input:?}")).collect()
    }

    async fn hear(&mut self, said: Said) -> bool {
        match said {
            Said::Zygote(generation, message) => self.heard_from_zygote(generation, message).await,
            Said::Worker(worker, message) => self.heard_from_worker(worker, message).await,
            Said::ZygoteEnded(generation, exit) => {
                self.zygotes.remove(&generation);
                self.orphan(generation);
                self.step(Event::ZygoteGone { generation, exit }).await
            }
            Said::Ended(worker, exit) => self.step(Event::Exited { worker, exit }).await,
        }
    }

    /// One event and all that follows from it; true at the end of everything.
    async fn step(&mut self, event: Event) -> bool {
        self.queued.push_back(event);
        while let Some(event) = self.queued.pop_front() {
            for action in self.fleet.step(event, Instant::now()) {
                if self.act(action).await {
                    return true;
                }
            }
        }
        false
    }

    async fn act(&mut self, action: Action) -> bool {
        match action {
            Action::StartZygote { generation } => {
                self.ask(Request::StartZygote { generation });
            }
            Action::Load { generation } => self.load(generation).await,
            Action::Fork {
                generation,
                worker,
                age,
            } => self.fork(generation, worker, age).await,
            Action::RetireZygote { generation } => {
                let message = json!({"type": "retire"});
                self.tell_zygote(generation, &message, &[]).await;
            }
            Action::KillZygote { generation } => self.kill_zygote(generation),
            Action::Admit { worker } => self.admit(worker).await,
            Action::Drain { worker, within } => {
                self.take_no_more(worker);
                self.tell_pool(SlotEvent::Draining { worker, within }).await;
            }
            Action::Signal { worker, signal } => self.signal(worker, signal),
            Action::Switch { generation } => {
                if let Some(zygote) = self.zygotes.get(&generation) {
                    self.plan = zygote.plan.clone();
                }
                self.tell_pool(SlotEvent::GenerationSwitched { generation })
                    .await;
                let (applied, in_force) = oneshot::channel();
                self.ask(Request::Switched {
                    generation,
                    applied,
                });
                // What is said of the switch afterwards is then true of every new connection.
                let _ = in_force.await;
            }
            Action::Gone { worker, exit } => self.gone(worker, exit).await,
            Action::Pool(state) => self.tell_pool(SlotEvent::State(state)).await,
            Action::Say { level, text } => {
                let about = &self.about;
                if level == Level::Error {
                    self.ask(Request::Trouble { text: text.clone() });
                }
                match level {
                    Level::Info => tracing::info!("{about}{text}"),
                    Level::Warning => tracing::warn!("{about}{text}"),
                    Level::Error => tracing::error!("{about}{text}"),
                }
            }
            Action::WhenReady => {
                self.call_hook("when_ready", Value::Null, json!({}));
                let interface = self.interface.unwrap_or(Interface::Wsgi);
                self.ask(Request::Ready { interface });
            }
            Action::WorkersChanged { new, old } => {
                self.call_hook(
                    "nworkers_changed",
                    Value::Null,
                    json!({"new": new, "old": old}),
                );
            }
            Action::Reloading => {
                self.call_hook("on_reload", Value::Null, json!({}));
            }
            Action::Serves { generation } => self.ask(Request::Serves { generation }),
            Action::GaveUp { generation, why } => self.ask(Request::GaveUp { generation, why }),
            Action::Finish { code } => {
                self.call_hook("on_exit", Value::Null, json!({}));
                if let Some(hooks) = self.hooks.take() {
                    hooks.finish().await;
                }
                self.ask(Request::Finish { code });
                return true;
            }
        }
        false
    }

    fn ask(&self, request: Request) {
        // The server listens for as long as it has a supervisor.
        let _ = self.requests.send(request);
    }

    async fn tell_pool(&self, event: SlotEvent) {
        // The pool lives as long as the server; at the end nobody needs to know.
        let _ = self.slots.send(event).await;
    }

    /// Has a hook of gunicorn's master called, with the facts that `server` shows there.
    fn call_hook(&mut self, hook: &'static str, worker: Value, mut args: Value) {
        let Some(hooks) = &mut self.hooks else { return };
        let workers = self.workers.values().filter(|worker| worker.pid != 0);
        let workers: Vec<_> = workers
            .map(|worker| json!({"pid": worker.pid, "age": worker.age}))
            .collect();
        let mut server = json!({"num_workers": self.plan.policy.workers, "workers": workers});
        if hook == "on_reload"
            && let Some(newest) = self.zygotes.keys().max()
        {
            server["cfg"] = self.zygotes[newest].plan.load["cfg"].clone();
        }
        args["server"] = server;
        hooks.call(hook, worker, args);
    }

    // Memory

    fn limits_memory(&self) -> bool {
        self.plan.memory_soft.is_some() || self.plan.memory_hard.is_some()
    }

    async fn look_at_memory(&mut self) -> bool {
        let workers = self.workers.iter().filter(|(_, worker)| worker.pid != 0);
        let pids: Vec<_> = workers.map(|(&id, worker)| (id, worker.pid)).collect();
        let seen = tokio::task::spawn_blocking(move || {
            let measure = |(id, pid)| (id, memory::private(pid));
            pids.into_iter().map(measure).collect::<Vec<_>>()
        });
        for (id, bytes) in seen.await.unwrap_or_default() {
            match bytes {
                Ok(bytes) => {
                    if let Some(event) = self.weigh(id, bytes)
                        && self.step(event).await
                    {
                        return true;
                    }
                }
                Err(error) => self.cannot_measure(&error),
            }
        }
        false
    }

    /// What follows from the private memory of a worker, in bytes; `None` when it is gone.
    fn weigh(&mut self, id: WorkerId, bytes: Option<u64>) -> Option<Event> {
        let worker = self.workers.get_mut(&id)?;
        let bytes = bytes?;
        let over = |limit: Option<u64>| limit.is_some_and(|limit| bytes > limit);
        let why = format!("it uses {} MiB of private memory", bytes >> 20);
        if over(self.plan.memory_hard) {
            let why = format!("{why} (--memory-hard)");
            return Some(Event::Excess { worker: id, why });
        }
        let first = over(self.plan.memory_soft) && !worker.over_soft;
        worker.over_soft |= first;
        let why = format!("{why} (--memory-soft)");
        first.then_some(Event::Recycle { worker: id, why })
    }

    fn cannot_measure(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.memory_unreadable, true) {
            tracing::error!(%error, "the memory of workers cannot be read; its limits do not hold");
        }
    }
}

/// Sends a message unless the other end has stopped reading; says whether it went.
async fn send(channel: &Channel, message: &Value, fds: &[BorrowedFd<'_>]) -> bool {
    let sent = tokio::time::timeout(SEND_LIMIT, channel.send_json(message, fds)).await;
    matches!(sent, Ok(Ok(())))
}
