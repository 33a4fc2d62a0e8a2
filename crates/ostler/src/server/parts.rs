//! The parts of a server, made from settings: logs, edge threads, the edge, the limits of the pool, and what the supervisor
//! is to run. Starts no process and serves nothing.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{oneshot, watch};

use crate::certs::Served;
use crate::config::{AccessLogFormat, ClientCertificates, HeaderMap, LogTarget, Settings, Tls};
use crate::edge::files::{FileCache, TOTAL_BYTES};
use crate::edge::h1::head::HEAD_MAX;
use crate::edge::{self, App, Behind, Edge, Peers, Policy, Site, Thread, Times};
use crate::keeper;
use crate::keeper::protocol::{self, Entrance, Route};
use crate::logs::{self, AccessLog};
use crate::pool::{self, Pool};
use crate::routes::Table;
use crate::store;
use crate::supervise;

/// Disk that spooled bodies may take together, in bytes: 1 GiB.
const SPOOL: u64 = 1 << 30;

/// An edge thread: its runtime is driven by a thread of its own until told to stop.
pub(super) struct EdgeThread {
    pub(super) handle: Handle,
    pub(super) thread: Arc<Thread>,
    pub(super) stop: Option<oneshot::Sender<()>>,
    pub(super) joined: Option<std::thread::JoinHandle<()>>,
}

pub(super) struct Logs {
    pub(super) access: Option<AccessLog>,
    error: logs::Sink,
}

impl Logs {
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
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
        let access = match target(&settings.logs.access_log) {
            None => None,
            Some(path) => {
                let format = match &settings.logs.access_log_format {
                    AccessLogFormat::Json => logs::Format::Json,
                    AccessLogFormat::Atoms(atoms) => logs::Format::compile(atoms)?,
                };
                let target = path.map_or(logs::Target::Stdout, logs::Target::Path);
                Some(AccessLog::open(format, &target, offset)?)
            }
        };
        Ok(Self { access, error })
    }

    pub(super) fn reopen(&self) {
        self.error.reopen();
        if let Some(access) = &self.access {
            access.sink().reopen();
        }
    }

    pub(super) fn close(&self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        if let Some(access) = &self.access {
            access.sink().close(PATIENCE);
        }
        self.error.close(PATIENCE);
    }
}

/// The edge threads: one for each four cores, so that workers have the rest; one at least. Where there are no `workers`,
/// one for each core.
pub(super) fn edge_threads(
    settings: &Settings,
    workers: bool,
    access: Option<&AccessLog>,
    requests: Option<(PathBuf, store::Bounds)>,
) -> anyhow::Result<(Vec<EdgeThread>, Option<Arc<store::Log>>)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = settings.listening.edge_threads.map_or_else(
        || if workers { (cores / 4).max(1) } else { cores },
        |count| count as usize,
    );
    let requests = requests.and_then(|(folder, bounds)| {
        let path = folder.join("requests.db");
        store::Log::open(&path, bounds, count)
            .inspect_err(|error| {
                let path = path.display();
                tracing::error!("no request log: {path}: {error}; hint: move the file away");
            })
            .ok()
    });
    let inbox = |index| requests.as_ref().map(|log| log.inbox(index));
    let threads = (0..count).map(|index| EdgeThread::start(index, access, inbox(index)));
    let threads = threads.collect::<anyhow::Result<_>>()?;
    Ok((threads, requests.map(Arc::new)))
}

/// What of the request log is kept.
pub(super) fn bounds(machine: &protocol::Machine) -> store::Bounds {
    let (age, size) = machine.keep_requests;
    let age = Duration::from_secs(age);
    store::Bounds { age, size }
}

impl EdgeThread {
    fn start(
        index: usize,
        access: Option<&AccessLog>,
        requests: Option<Arc<store::Inbox>>,
    ) -> anyhow::Result<Self> {
        let runtime: Runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(edge::DISK_THREADS)
            .thread_name(format!("edge-{index}-disk"))
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = Thread::new(index, access, requests);
        let own = Arc::clone(&thread);
        let joined = std::thread::Builder::new()
            .name(format!("edge-{index}"))
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = own.give_back() => {}
                    }
                });
                // What still runs is cut off; the drain before this waited for it long enough.
                runtime.shutdown_timeout(Duration::from_millis(100));
            })?;
        Ok(Self {
            handle,
            thread,
            stop: Some(stop),
            joined: Some(joined),
        })
    }
}

/// What a time that is off is set to.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn pool_limits(settings: &Settings) -> pool::Limits {
    let least = pool::Limits::default().unwanted;
    pool::Limits {
        line_length: settings.workers.line_length as usize,
        unwanted: settings.workers.timeout.unwrap_or(FOREVER).max(least),
        streams_per_worker: settings.workers.worker_connections,
        max_requests: settings.workers.max_requests.unwrap_or(0),
        max_requests_jitter: settings.workers.max_requests_jitter,
        ..pool::Limits::default()
    }
}

/// Connections that one address may hold; 0 is no limit.
pub(super) fn connections_per_address(settings: &Settings) -> usize {
    settings.listening.max_connections_per_address.unwrap_or(0) as usize
}

/// What edges have in common, one after the other.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) peers: Arc<Peers>,
    spool: Arc<edge::Budget>,
    phase: watch::Receiver<edge::Phase>,
    next_id: Arc<AtomicU64>,
}

/// What holds for all projects, checked.
pub(super) struct Machine {
    pub(super) said: protocol::Machine,
    tls: Option<Arc<edge::tls::Tls>>,
    /// What a CA is answered.
    certs: Arc<Served>,
}

impl Machine {
    /// `before` is the one in force.
    ///
    /// # Errors
    /// Certificate, key or authorities cannot be used.
    pub(super) fn new(
        said: protocol::Machine,
        projects: &[protocol::Project],
        certs: &Arc<Served>,
        before: Option<&Self>,
    ) -> anyhow::Result<Self> {
        let tls = match (&said.state, &said.settings.listening.tls) {
            // `ostler serve`: each host has its own certificate.
            (Some(_), _) => {
                let hosts = projects.iter().flat_map(|project| {
                    let hosts = project.routes.iter().map(|route| &route.host);
                    hosts.zip(std::iter::repeat(project.clients.as_ref()))
                });
                let before = before.and_then(|before| before.tls.as_deref());
                Some(edge::tls::Tls::by_host(
                    certs,
                    hosts,
                    said.default_host.as_deref(),
                    before,
                )?)
            }
            (None, Some(files)) => Some(tls(files)?),
            (None, None) => None,
        };
        let tls = tls.map(Arc::new);
        let certs = Arc::clone(certs);
        Ok(Self { said, tls, certs })
    }
}

impl Shared {
    pub(super) fn new(
        settings: &Settings,
        phase: watch::Receiver<edge::Phase>,
    ) -> anyhow::Result<Self> {
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness"))?;
        Ok(Self {
            peers: Peers::new(connections_per_address(settings)),
            spool: Arc::new(edge::Budget::new(spool_folder(settings), SPOOL)),
            phase,
            next_id: Arc::new(AtomicU64::new(u64::from_le_bytes(seed))),
        })
    }
}

/// Where files without a name are made.
pub(super) fn spool_folder(settings: &Settings) -> PathBuf {
    let folder = settings.http.tmp_upload_dir.clone();
    folder.unwrap_or_else(std::env::temp_dir)
}

/// What connections are served by from now on.
pub(super) fn edge(machine: &Machine, routes: Table<Arc<Site>>, shared: &Shared) -> Edge {
    let Machine { said, tls, certs } = machine;
    let settings = &said.settings;
    let times = Times {
        head: settings.http.header_timeout.unwrap_or(FOREVER),
        idle: settings.http.keepalive.unwrap_or(Duration::ZERO),
        body_silence: settings.http.body_timeout.unwrap_or(FOREVER),
        min_rate: settings.http.minimum_rate.unwrap_or(0),
        write_stall: settings.http.write_timeout.unwrap_or(FOREVER),
        ..Times::default()
    };
    Edge {
        routes,
        peers: Arc::clone(&shared.peers),
        tls: tls.clone(),
        certs: Arc::clone(certs),
        limits: head_limits(settings),
        times,
        forwarding: edge::Forwarding::new(
            match said.trusted_hops {
                Some(hops) => edge::TrustedProxies::Hops(hops),
                None => edge::TrustedProxies::At(settings.listening.forwarded_allow_ips.clone()),
            },
            settings.listening.secure_scheme_headers.clone(),
            settings
                .listening
                .forwarder_headers
                .iter()
                .any(|name| name == "SCRIPT_NAME"),
        ),
        proxies: settings
            .listening
            .proxy_protocol
            .map(|protocol| edge::proxy_protocol::Proxies {
                protocol,
                peers: settings.listening.proxy_allow_ips.clone(),
            }),
        spool: Arc::clone(&shared.spool),
        phase: shared.phase.clone(),
        next_id: Arc::clone(&shared.next_id),
        successor: OnceLock::new(),
    }
}

fn tls(tls: &Tls) -> anyhow::Result<edge::tls::Tls> {
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
    Ok(edge::tls::Tls::one(edge::tls::config(&files)?))
}

pub(super) fn app(settings: &Settings, pool: &Arc<Pool>) -> App {
    let max_message = settings.http.websocket_max_message_size;
    App {
        pool: Arc::clone(pool),
        request_buffering: settings.http.request_buffering,
        response_buffering: settings.http.response_buffering,
        line: settings.workers.line_timeout,
        response: settings.workers.timeout.unwrap_or(FOREVER),
        websocket: edge::WebSocketSettings {
            max_message: max_message.map_or(usize::MAX, |size| size as usize),
            ..edge::WebSocketSettings::default()
        },
    }
}

/// An app and the files beside it, as they are found on one route.
pub(super) fn site(
    settings: &Settings,
    route: &Route,
    entrance: &Entrance,
    clients: u32,
    behind: Behind,
    policy: Arc<Policy>,
    threads: usize,
) -> anyhow::Result<Site> {
    let stripped = match route.strip {
        true => route.prefix.trim_end_matches('/'),
        false => "",
    };
    let hsts = entrance
        .hsts
        .map(|age| format!("Strict-Transport-Security: max-age={age}\r\n"));
    let body_limit = settings.http.limit_request_body.unwrap_or(0);
    Ok(Site {
        statics: edge::files::Statics::open(file_routes(settings, stripped))?,
        files: file_caches(threads),
        sendfile: settings.http.sendfile,
        body_limit: match policy.body {
            Some(body) if body_limit == 0 => body,
            Some(body) => body.min(body_limit),
            None => body_limit,
        },
        root: format!("{stripped}{}", settings.app.root_path),
        mount: stripped.to_owned(),
        entrance: edge::Entrance {
            https: entrance.https,
            host: entrance.host.clone(),
        },
        clients,
        plain_lines: lines(&policy, None),
        secure_lines: lines(&policy, hsts.as_deref()),
        policy,
        behind: Some(behind),
        meters: None,
    })
}

/// What stands in every response of a site.
fn lines(policy: &Policy, more: Option<&str>) -> Option<Arc<[u8]>> {
    let lines = [&policy.fields.lines, more.unwrap_or_default().as_bytes()].concat();
    (!lines.is_empty()).then(|| lines.into())
}

/// For requests that belong to no project.
pub(super) fn nowhere(threads: usize) -> anyhow::Result<Site> {
    Ok(Site {
        statics: edge::files::Statics::open(Vec::new())?,
        files: file_caches(threads),
        sendfile: false,
        body_limit: 0,
        root: String::new(),
        mount: String::new(),
        entrance: edge::Entrance::default(),
        clients: edge::tls::OPEN,
        plain_lines: None,
        secure_lines: None,
        policy: Arc::default(),
        behind: None,
        meters: None,
    })
}

fn file_caches(threads: usize) -> Vec<Mutex<FileCache>> {
    let cache = |_| Mutex::new(FileCache::new(TOTAL_BYTES / threads));
    (0..threads).map(cache).collect()
}

/// Every directory that files may come from; `root` goes before the paths they are found under.
fn file_routes(settings: &Settings, root: &str) -> Vec<edge::files::Route> {
    let route = |prefix: Option<&String>, directory: &PathBuf, public| edge::files::Route {
        prefix: prefix.map(|prefix| format!("{root}{prefix}")),
        directory: directory.clone(),
        public,
    };
    let statics = settings.listening.static_files.iter();
    let internal = settings.listening.internal_files.iter();
    let roots = settings.listening.sendfile_roots.iter();
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
        line: settings.http.limit_request_line as usize,
        fields: settings.http.limit_request_fields as usize,
        field: settings.http.limit_request_field_size as usize,
        refuse_underscores: settings.listening.header_map == HeaderMap::Refuse,
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
pub(super) fn plan(settings: &Settings, edge_threads: usize) -> supervise::Plan {
    supervise::Plan {
        policy: supervise::Policy {
            workers: settings.workers.count,
            graceful: settings.workers.graceful_timeout,
            stop_first: settings.workers.single_process,
        },
        load: keeper::load_message(settings),
        threads: settings.workers.threads,
        edge_threads: edge_threads as u32,
        memory_soft: settings.workers.memory_soft,
        memory_hard: settings.workers.memory_hard,
    }
}
