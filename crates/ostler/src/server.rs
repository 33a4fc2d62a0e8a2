//! The server process: what it holds, built in order, stopped in reverse.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::{AccessLogFormat, ClientCertificates, HeaderMap, LogTarget, Settings};
use crate::edge::files::{FileCache, TOTAL_BYTES};
use crate::edge::h1::head::HEAD_MAX;
use crate::edge::{self, Edge, Listener, Live, Peers, Thread, Times};
use crate::keeper;
use crate::keeper::protocol::{self, FromKeeper, ServerHandover, ToKeeper};
use crate::logs::{self, AccessLog};
use crate::pool::{self, Pool};
use crate::supervise::{self, Interface, Request, Supervisor, SupervisorHandle, Zygote};
use crate::sys::{Channel, Pidfd};

/// Disk that spooled bodies may take together, in bytes: 1 GiB.
const SPOOL: u64 = 1 << 30;

/// What is still being sent when the last worker is gone has this long.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// WebSockets have this long to close when the server stops: a second more than a client that does
/// not answer a close frame is waited for.
const SOCKETS_CLOSE: Duration = Duration::from_secs(6);

/// Threads that do blocking work for one edge thread: disk reads behind `wsgi.file_wrapper`.
const BLOCKING_THREADS: usize = 8;

/// An edge thread: its runtime is driven by a thread of its own until told to stop.
struct EdgeThread {
    handle: Handle,
    thread: Arc<Thread>,
    stop: Option<oneshot::Sender<()>>,
    joined: Option<std::thread::JoinHandle<()>>,
}

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
    let threads = edge_threads(&settings, logs.access.as_ref())?;
    let (requests, mut asked) = mpsc::unbounded_channel();
    let hooks = match handover.hooks {
        Some(fd) => supervise::Hooks::new(Some(Channel::new(fd)?)),
        None => supervise::Hooks::new(None),
    };
    let plan = plan(&settings, threads.len());
    let (supervisor, handle, slots) =
        Supervisor::new(plan.clone(), hooks, requests, handover.resumed);
    let handles = threads.iter().map(|thread| thread.handle.clone()).collect();
    let pool = Pool::new(pool_limits(&settings), handle.clone(), handles);
    let (stop, stopping) = watch::channel(false);
    let shared = Shared::new(&settings, &pool, stopping, threads.len())?;
    let edge = Live::new(edge(&settings, shared)?);

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
            Interface::Wsgi => ("WSGI", settings.threads),
            Interface::Asgi => ("ASGI", 1),
        };
        let hint = match (settings.workers, interface) {
            (1, _) if settings.threads == 1 => "; more: --workers N, --threads N",
            _ => "",
        };
        tracing::info!(
            "{kind} app {} on Python {} ({}): {} × {}{hint}",
            settings.app,
            self.python,
            settings.python.display(),
            plural(settings.workers, "worker"),
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
        let edge = edge(&settings, Shared::of(&self.edge.now()))
            .context("the new settings cannot be served")?;
        let plan = plan(&settings, self.threads.len());
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
        next.edge.pool.set_limits(pool_limits(&next.settings));
        next.edge
            .peers
            .set_cap(connections_per_address(&next.settings));
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
        let patience = graceful.then_some(self.settings.graceful_timeout);
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

// Parts, from settings.

struct Logs {
    access: Option<AccessLog>,
    error: logs::Sink,
}

impl Logs {
    fn open(settings: &Settings) -> anyhow::Result<Self> {
        let offset = logs::local_offset();
        let target = |target: &LogTarget| match target {
            LogTarget::Off => None,
            LogTarget::Standard => Some(None),
            LogTarget::File(path) => Some(Some(path.clone())),
        };
        let (level, errors) = (keeper::level(settings), keeper::target(settings));
        let error = logs::error_sink(&errors, offset)?;
        let colours = logs::wants_colours(&errors, std::env::var_os("NO_COLOR").as_deref());
        logs::start(level, error.clone(), offset, colours);
        let access = match target(&settings.access_log) {
            None => None,
            Some(path) => {
                let format = match &settings.access_log_format {
                    AccessLogFormat::Json => logs::Format::Json,
                    AccessLogFormat::Atoms(atoms) => logs::Format::compile(atoms)?,
                };
                let target = path.map_or(logs::Target::Stdout, logs::Target::Path);
                Some(AccessLog::open(format, &target, offset)?)
            }
        };
        Ok(Self { access, error })
    }

    fn reopen(&self) {
        self.error.reopen();
        if let Some(access) = &self.access {
            access.sink().reopen();
        }
    }

    fn close(&self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        if let Some(access) = &self.access {
            access.sink().close(PATIENCE);
        }
        self.error.close(PATIENCE);
    }
}

/// The edge threads: half the cores, so that workers have the rest; one on small machines.
fn edge_threads(
    settings: &Settings,
    access: Option<&AccessLog>,
) -> anyhow::Result<Vec<EdgeThread>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = settings
        .edge_threads
        .map_or((cores / 4).max(1), |count| count as usize);
    (0..count)
        .map(|index| EdgeThread::start(index, access))
        .collect()
}

impl EdgeThread {
    fn start(index: usize, access: Option<&AccessLog>) -> anyhow::Result<Self> {
        let runtime: Runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name(format!("edge-{index}-disk"))
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let joined = std::thread::Builder::new()
            .name(format!("edge-{index}"))
            .spawn(move || {
                let _ = runtime.block_on(stopped);
                // What still runs is cut off; the drain before this waited for it long enough.
                runtime.shutdown_timeout(Duration::from_millis(100));
            })?;
        let thread = Thread::new(index, access);
        Ok(Self {
            handle,
            thread,
            stop: Some(stop),
            joined: Some(joined),
        })
    }
}

fn pool_limits(settings: &Settings) -> pool::Limits {
    pool::Limits {
        line_length: settings.line_length as usize,
        line_timeout: settings.line_timeout,
        streams_per_worker: settings.worker_connections,
        max_requests: settings.max_requests.unwrap_or(0),
        max_requests_jitter: settings.max_requests_jitter,
        ..pool::Limits::default()
    }
}

/// Connections that one address may hold; 0 is no limit.
fn connections_per_address(settings: &Settings) -> usize {
    settings.max_connections_per_address.unwrap_or(0) as usize
}

/// What edges have in common, one after the other.
struct Shared {
    pool: Arc<Pool>,
    peers: Arc<Peers>,
    spool: Arc<edge::Budget>,
    stopping: watch::Receiver<bool>,
    next_id: Arc<AtomicU64>,
    /// How many edge threads there are.
    threads: usize,
}

impl Shared {
    fn new(
        settings: &Settings,
        pool: &Arc<Pool>,
        stopping: watch::Receiver<bool>,
        threads: usize,
    ) -> anyhow::Result<Self> {
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness"))?;
        let folder = settings.tmp_upload_dir.clone();
        let folder = folder.unwrap_or_else(std::env::temp_dir);
        Ok(Self {
            pool: Arc::clone(pool),
            peers: Peers::new(connections_per_address(settings)),
            spool: Arc::new(edge::Budget::new(folder, SPOOL)),
            stopping,
            next_id: Arc::new(AtomicU64::new(u64::from_le_bytes(seed))),
            threads,
        })
    }

    fn of(edge: &Edge) -> Self {
        Self {
            pool: Arc::clone(&edge.pool),
            peers: Arc::clone(&edge.peers),
            spool: Arc::clone(&edge.spool),
            stopping: edge.stopping.clone(),
            next_id: Arc::clone(&edge.next_id),
            threads: edge.files.len(),
        }
    }
}

fn edge(settings: &Settings, shared: Shared) -> anyhow::Result<Edge> {
    const FOREVER: Duration = Duration::from_secs(365 * 86_400);
    let times = Times {
        head: settings.header_timeout.unwrap_or(FOREVER),
        idle: settings.keepalive.unwrap_or(Duration::ZERO),
        body_silence: settings.body_timeout.unwrap_or(FOREVER),
        min_rate: settings.minimum_rate.unwrap_or(0),
        write_stall: settings.write_timeout.unwrap_or(FOREVER),
        response: settings.timeout.unwrap_or(FOREVER),
        ..Times::default()
    };
    let tls = match &settings.tls {
        None => None,
        Some(tls) => {
            let pem = |path: &PathBuf, text: &str| edge::tls::Pem {
                path: path.clone(),
                text: text.to_owned(),
            };
            let (client_ca, client_required) = match &tls.clients {
                ClientCertificates::NotAsked => (None, false),
                ClientCertificates::Optional(path) => (Some(pem(path, &tls.texts.clients)), false),
                ClientCertificates::Required(path) => (Some(pem(path, &tls.texts.clients)), true),
            };
            let files = edge::tls::Files {
                certificate: pem(&tls.certfile, &tls.texts.certificate),
                key: pem(&tls.keyfile, &tls.texts.key),
                client_ca,
                client_required,
            };
            Some(edge::tls::config(&files)?.into())
        }
    };
    Ok(Edge {
        pool: shared.pool,
        peers: shared.peers,
        statics: edge::files::Statics::open(file_routes(settings))?,
        files: (0..shared.threads)
            .map(|_| Mutex::new(FileCache::new(TOTAL_BYTES / shared.threads)))
            .collect(),
        tls,
        limits: head_limits(settings),
        times,
        forwarding: edge::Forwarding::new(
            settings.forwarded_allow_ips.clone(),
            settings.secure_scheme_headers.clone(),
            settings
                .forwarder_headers
                .iter()
                .any(|name| name == "SCRIPT_NAME"),
        ),
        proxies: settings
            .proxy_protocol
            .map(|protocol| edge::proxy_protocol::Proxies {
                protocol,
                peers: settings.proxy_allow_ips.clone(),
            }),
        body_limit: settings.limit_request_body.unwrap_or(0),
        request_buffering: settings.request_buffering,
        response_buffering: settings.response_buffering,
        sendfile: settings.sendfile,
        websocket: edge::WebSocketSettings {
            max_message: settings
                .websocket_max_message_size
                .map_or(usize::MAX, |size| size as usize),
            ..edge::WebSocketSettings::default()
        },
        root: settings.root_path.clone(),
        spool: shared.spool,
        stopping: shared.stopping,
        next_id: shared.next_id,
    })
}

/// Every directory that files may come from.
fn file_routes(settings: &Settings) -> Vec<edge::files::Route> {
    let route = |prefix: Option<&String>, directory: &PathBuf, public| edge::files::Route {
        prefix: prefix.cloned(),
        directory: directory.clone(),
        public,
    };
    let statics = settings.static_files.iter();
    let internal = settings.internal_files.iter();
    let roots = settings.sendfile_roots.iter();
    statics
        .map(|files| route(Some(&files.prefix), &files.directory, true))
        .chain(internal.map(|files| route(Some(&files.prefix), &files.directory, false)))
        .chain(roots.map(|root| route(None, root, false)))
        .collect()
}

/// Who raises a limit of one part of the head means requests that have such parts.
fn head_limits(settings: &Settings) -> edge::h1::head::Limits {
    let usual = edge::h1::head::Limits::default();
    let limits = edge::h1::head::Limits {
        line: settings.limit_request_line as usize,
        fields: settings.limit_request_fields as usize,
        field: settings.limit_request_field_size as usize,
        refuse_underscores: settings.header_map == HeaderMap::Refuse,
        ..usual
    };
    let raised =
        limits.line > usual.line || limits.fields > usual.fields || limits.field > usual.field;
    edge::h1::head::Limits {
        total: if raised { HEAD_MAX } else { usual.total },
        ..limits
    }
}

/// What the supervisor is to run: the `load` message and how many of it.
fn plan(settings: &Settings, edge_threads: usize) -> supervise::Plan {
    supervise::Plan {
        policy: supervise::Policy {
            workers: settings.workers,
            graceful: settings.graceful_timeout,
            stop_first: settings.single_process,
        },
        load: keeper::load_message(settings),
        threads: settings.threads,
        edge_threads: edge_threads as u32,
        memory_soft: settings.memory_soft,
        memory_hard: settings.memory_hard,
    }
}
