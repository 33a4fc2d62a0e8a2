//! The server process: what it holds, built in order, stopped in reverse.

mod parts;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::Settings;
use crate::edge::{self, Edge, Listener, Live};
use crate::keeper::protocol::{self, FromKeeper, ServerHandover, ToKeeper};
use crate::pool::{self, Pool};
use crate::supervise::{self, Interface, Request, Supervisor, SupervisorHandle, Zygote};
use crate::sys::{Channel, Pidfd};

use parts::{EdgeThread, Logs, Shared};

/// What is still being sent when the last worker is gone has this long.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// WebSockets have this long to close when the server stops: a second more than a client that does
/// not answer a close frame is waited for.
const SOCKETS_CLOSE: Duration = Duration::from_secs(6);

/// Runs the server that a keeper started.
pub fn run() -> ExitCode {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build();
    let served = match (ServerHandover::from_inherited(), runtime) {
        (Ok(handover), Ok(runtime)) => runtime.block_on(serve(handover)),
        (Err(error), _) | (_, Err(error)) => {
            Err(anyhow::anyhow!("the server cannot start: {error}"))
        }
    };
    match served {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(handover: ServerHandover) -> anyhow::Result<u8> {
    let settings = handover.settings;
    let logs = Logs::open(&settings)?;
    let threads = parts::edge_threads(&settings, logs.access.as_ref())?;
    let (requests, mut asked) = mpsc::unbounded_channel();
    let hooks = match handover.hooks {
        Some(fd) => supervise::Hooks::new(Some(Channel::new(fd)?)),
        None => supervise::Hooks::new(None),
    };
    let plan = parts::plan(&settings, threads.len());
    let (supervisor, handle, slots) =
        Supervisor::new(plan.clone(), hooks, requests, handover.resumed);
    let handles = threads.iter().map(|thread| thread.handle.clone()).collect();
    let pool = Pool::new(parts::pool_limits(&settings), handle.clone(), handles);
    let (stop, stopping) = watch::channel(false);
    let shared = Shared::new(&settings, &pool, stopping, threads.len())?;
    let edge = Live::new(parts::edge(&settings, shared)?);

    tokio::spawn(Arc::clone(&pool).run(slots));
    tokio::spawn(supervisor.run());
    let zygote = Zygote {
        generation: 1,
        control: handover.zygote,
        pidfd: handover.zygote_pidfd,
    };
    handle.zygote_started(zygote, plan);

    let keeper = Channel::new(handover.keeper)?;
    let mut listeners = Vec::new();
    for (name, fd) in handover.listeners {
        listeners.push((name, Listener::from_fd(fd)?));
    }
    let mut server = Server {
        settings,
        edge,
        next: None,
        stopping: false,
        threads,
        handle,
        keeper,
        stop,
        listeners,
        logs,
        keeper_pid: handover.keeper_pid,
        python: handover.python,
    };
    let code = server.run(&mut asked).await;
    server.end().await;
    Ok(code)
}

/// The running server, for the loop that listens to keeper and supervisor.
struct Server {
    settings: Settings,
    edge: Arc<Live>,
    stopping: bool,
    next: Option<Next>,
    threads: Vec<EdgeThread>,
    handle: SupervisorHandle,
    keeper: Channel,
    keeper_pid: u32,
    python: String,
    stop: watch::Sender<bool>,
    listeners: Vec<(String, Listener)>,
    logs: Logs,
}

/// What is to be in force when a generation that is starting begins to serve.
struct Next {
    generation: u64,
    settings: Settings,
    edge: Edge,
}

impl Server {
    async fn run(&mut self, asked: &mut mpsc::UnboundedReceiver<Request>) -> u8 {
        if let Err(error) = self.listen() {
            tracing::error!(%error, "cannot accept connections");
            return 1;
        }
        loop {
            tokio::select! {
                request = asked.recv() => match request {
                    Some(Request::StartZygote { generation }) => {
                        let _ = self.keeper.send_json(&ToKeeper::StartZygote { generation }, &[]).await;
                    }
                    Some(Request::Ready { interface }) => {
                        self.announce(interface);
                        let _ = self.keeper.send_json(&ToKeeper::Ready, &[]).await;
                    }
                    Some(Request::Switched { generation, applied }) => {
                        self.apply_settings(generation);
                        let _ = applied.send(());
                    }
                    Some(Request::Finish { code }) => return code,
                    None => return 1,
                },
                message = self.keeper.recv() => match message {
                    Ok(Some(message)) => match serde_json::from_slice(&message.bytes) {
                        Ok(said) => self.obey(said, message.fds).await,
                        Err(error) => tracing::error!(%error, "the keeper said what nobody understands"),
                    },
                    // The keeper is gone, and with it everything: the kernel ends us as well.
                    _ => return 1,
                },
            }
        }
    }

    /// Starts accepting on every edge thread.
    fn listen(&self) -> std::io::Result<()> {
        for (_, listener) in &self.listeners {
            for thread in &self.threads {
                let (edge, own) = (Arc::clone(&self.edge), Arc::clone(&thread.thread));
                let listener = listener.try_clone()?;
                thread.handle.spawn(async move {
                    if let Err(error) = edge::accept(listener, edge, own).await {
                        tracing::error!(%error, "a listener failed");
                    }
                });
            }
        }
        Ok(())
    }

    /// The lines people wait for.
    fn announce(&self, interface: Interface) {
        let settings = &self.settings;
        for (name, _) in &self.listeners {
            tracing::info!("Listening at: {name} ({})", self.keeper_pid);
        }
        let (kind, threads) = match interface {
            Interface::Wsgi => ("WSGI", settings.workers.threads),
            Interface::Asgi => ("ASGI", 1),
        };
        let hint = match (settings.workers.count, interface) {
            (1, _) if settings.workers.threads == 1 => "; more: --workers N, --threads N",
            _ => "",
        };
        tracing::info!(
            "{kind} app {} on Python {} ({}): {} × {}{hint}",
            settings.app.name,
            self.python,
            settings.app.python.display(),
            plural(settings.workers.count, "worker"),
            plural(threads, "thread"),
        );
        tracing::info!("ready");
    }

    async fn obey(&mut self, said: FromKeeper, fds: Vec<OwnedFd>) {
        match said {
            FromKeeper::Stop { graceful } => self.begin_stop(graceful),
            FromKeeper::Reload => self.handle.reload(),
            FromKeeper::Workers { by } => self.handle.adjust(by),
            FromKeeper::ReopenLogs => self.logs.reopen(),
            FromKeeper::ZygoteFailed {
                generation,
                exit,
                text,
            } => {
                self.handle.zygote_failed(generation, exit, text);
            }
            FromKeeper::ZygoteExited { generation, exit } => {
                self.handle.zygote_gone(generation, exit);
            }
            FromKeeper::Zygote { generation, pid } => {
                if let Err(error) = self.take_zygote(generation, pid, fds) {
                    let text = format!("error: {error:#}");
                    self.handle.zygote_failed(generation, 1, text);
                }
            }
        }
    }

    /// Has the supervisor start a generation, unless its settings cannot be served: then nothing
    /// changes at all. A zygote that is not handed on ends with its control socket.
    fn take_zygote(&mut self, generation: u64, pid: u32, fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        // At most one generation is on its way, and it is this one.
        self.next = None;
        let [control, pidfd, settings] = fds
            .try_into()
            .map_err(|_| anyhow::anyhow!("a zygote came without its descriptors"))?;
        let pidfd = Pidfd::from_fd(pidfd, pid).context("no handle on a zygote")?;
        let settings = protocol::settings_from(settings).context("no settings of a zygote")?;
        let edge = parts::edge(&settings, Shared::of(&self.edge.now()))
            .context("the new settings cannot be served")?;
        let plan = parts::plan(&settings, self.threads.len());
        let zygote = Zygote {
            generation,
            control,
            pidfd,
        };
        self.next = Some(Next {
            generation,
            settings,
            edge,
        });
        self.handle.zygote_started(zygote, plan);
        Ok(())
    }

    /// Connections that come from now on are served as the settings of the new generation say:
    /// limits, times, files, certificates. What the old ones share stays: the pool and who is
    /// connected, with the new limits, and the disk for bodies.
    fn apply_settings(&mut self, generation: u64) {
        let Some(next) = self.next.take_if(|next| next.generation == generation) else {
            return;
        };
        next.edge
            .pool
            .set_limits(parts::pool_limits(&next.settings));
        next.edge
            .peers
            .set_cap(parts::connections_per_address(&next.settings));
        self.edge.replace(next.edge);
        self.settings = next.settings;
    }

    /// Stops accepting, lets requests end, then the workers.
    fn begin_stop(&mut self, graceful: bool) {
        // Asked again, only an end at once is news.
        if std::mem::replace(&mut self.stopping, true) && graceful {
            return;
        }
        self.listeners.clear();
        tracing::info!(
            "stopping: no new connections{}",
            if graceful {
                "; requests under way may finish"
            } else {
                ""
            }
        );
        self.stop.send_replace(true);
        for thread in &self.threads {
            thread.thread.stopping.notify_waiters();
        }
        let patience = graceful.then_some(self.settings.workers.graceful_timeout);
        let (edge, handle) = (self.edge.now(), self.handle.clone());
        tokio::spawn(async move {
            let left = match patience {
                Some(patience) => Some(let_end(&edge, patience).await),
                None => {
                    edge.pool.say_farewell();
                    None
                }
            };
            handle.stop(left);
        });
    }

    /// Ends the edge threads, then the logs: the last lines must be written.
    async fn end(&mut self) {
        // The workers are gone; their last answers may still be on their way.
        let _ = timeout(LAST_BYTES, self.edge.now().peers.empty()).await;
        for thread in &mut self.threads {
            if let Some(stop) = thread.stop.take() {
                let _ = stop.send(());
            }
        }
        for thread in &mut self.threads {
            if let Some(joined) = thread.joined.take() {
                let _ = joined.join();
            }
        }
        tracing::info!("stopped");
        self.logs.close();
    }
}

/// Waits for requests, then for WebSockets, at most `patience` for both; returns what is left of it
/// for the workers that served them.
async fn let_end(edge: &Edge, patience: Duration) -> Duration {
    let began = Instant::now();
    let (farewell, deadline) = (began + patience.mul_f64(pool::FAREWELL), began + patience);
    // What the kernel had accepted comes in now.
    sleep(2 * edge::LAST_ACCEPT).await;
    let _ = timeout_at(farewell, edge.peers.quiet()).await;
    match edge.peers.sockets() {
        0 => {}
        count => tracing::info!(
            "stopping: {} told to come again",
            plural(count, "WebSocket")
        ),
    }
    edge.pool.say_farewell();
    let all_ended = async {
        let _ = timeout(SOCKETS_CLOSE, edge.peers.empty()).await;
        edge.peers.quiet().await;
    };
    let _ = timeout_at(deadline, all_ended).await;
    deadline.saturating_duration_since(Instant::now())
}

fn plural(count: u32, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
