//! What is said over the admin API, as both its ends read it. Plain data.

use serde::{Deserialize, Serialize};

/// How everything stands: `GET /v1/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// The pid that is known and signalled.
    pub keeper: u32,
    pub server: u32,
    /// Seconds since this server was started.
    pub uptime: u64,
    /// Who server and apps run as.
    pub user: String,
    pub listeners: Vec<String>,
    pub connections: Connections,
    pub limits: MachineLimits,
    pub projects: Vec<Project>,
    pub certificates: Vec<Certificate>,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Connections {
    pub open: u32,
    /// Those of them that have become WebSockets or tunnels.
    pub sockets: u32,
}

/// Limits of connections. Times are seconds; `None` is no limit.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineLimits {
    pub max_connections_per_address: Option<u32>,
    pub header_timeout: Option<f64>,
    pub keepalive: Option<f64>,
    pub body_timeout: Option<f64>,
    pub write_timeout: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Project {
    /// Empty for that of `ostler run`.
    pub name: String,
    pub app: String,
    pub python: String,
    /// `wsgi` or `asgi`, once a worker has said so.
    pub interface: Option<String>,
    pub state: State,
    /// The generation that serves, or should.
    pub generation: u64,
    /// The one that is to take over.
    pub next: Option<u64>,
    /// Workers that ended although nobody wanted them to, since the server was started.
    pub crashes: u64,
    /// Workers that were started since then.
    pub starts: u64,
    /// Hosts with prefixes: `shop.test/`.
    pub routes: Vec<String>,
    pub maintenance: Maintenance,
    pub workers: Vec<Worker>,
    pub line: Line,
    /// Other servers that its requests go on to.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    pub limits: Limits,
    /// The last ones, oldest first.
    pub errors: Vec<Trouble>,
}

/// Who has put a project's maintenance page there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Maintenance {
    /// `ostler maintenance on`.
    pub switched: bool,
    /// Routes where the configuration itself has it.
    pub file: Vec<String>,
}

/// What came of `POST /v1/maintenance`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Maintained {
    /// There is such a project, or there was one that was switched.
    pub known: bool,
    /// It was not so before.
    pub changed: bool,
    pub now: Maintenance,
    /// Why nothing has changed; empty when it has been done.
    pub problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No worker is ready yet.
    Starting,
    Serving,
    /// Workers keep ending before they serve.
    CrashLooping,
    Stopping,
    /// It is no longer in the configuration; its last requests end.
    Leaving,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Worker {
    pub worker: u64,
    /// 0 until it is there.
    pub pid: u32,
    pub generation: u64,
    /// `starting`, `ready`, `leaving` or `draining`.
    pub state: String,
    /// Requests that it serves now, and how many it can serve at once.
    pub busy: u32,
    pub slots: u32,
    /// Requests that it has served.
    pub requests: u64,
    /// Seconds since it was started.
    pub age: u64,
    /// Bytes that it has for itself; `None` when the kernel does not tell.
    pub memory: Option<u64>,
}

/// One address that requests go on to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Upstream {
    /// As it is configured; with the address behind it where that is a name.
    pub address: String,
    pub weight: u32,
    /// Requests that it has now.
    pub busy: u32,
    /// Requests that were sent there, again ones too.
    pub requests: u64,
    /// Those that met no connection, no answer in time, or none that could be sent on.
    pub failures: u64,
    /// Connections that were begun.
    pub connections: u64,
    /// Why it gets no requests, where it gets none.
    pub out: Option<Out>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Out {
    /// Seconds.
    pub since: u64,
    pub why: String,
}

/// Requests that wait for a worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    pub length: usize,
    /// Seconds that the first has waited.
    pub oldest: Option<f64>,
}

/// Limits of an app. Times are seconds, sizes bytes; `None` is no limit.
#[derive(Debug, Serialize, Deserialize)]
pub struct Limits {
    pub timeout: Option<f64>,
    pub graceful_timeout: f64,
    pub line_length: u32,
    pub line_timeout: f64,
    pub max_requests: Option<u64>,
    pub memory_soft: Option<u64>,
    pub memory_hard: Option<u64>,
    /// Those of requests.
    #[serde(default)]
    pub routes: Vec<RouteLimits>,
}

/// Limits of requests, on the routes that have the same ones.
#[derive(Debug, Serialize, Deserialize)]
pub struct RouteLimits {
    /// As among the project's: `shop.test/`.
    pub routes: Vec<String>,
    /// Bytes; `None` is no limit.
    pub limit_request_body: Option<u64>,
    /// As they are written: `100/m per key`.
    pub rates: Vec<String>,
}

/// Something that went wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trouble {
    /// RFC 3339, UTC.
    pub at: String,
    pub text: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// What it is for; a wildcard begins with `*.`.
    pub names: Vec<String>,
    /// How it is, in a few words.
    pub state: String,
    /// RFC 3339, UTC; `None` while there is none.
    pub expires: Option<String>,
    /// Rounded down; negative when it has expired.
    pub days_left: Option<i64>,
    /// Why there is no other one, or what is wrong with this one.
    pub error: Option<String>,
    /// When the CA is asked again: RFC 3339, UTC.
    pub next_attempt: Option<String>,
}

/// What was seen of a name that is to have a certificate: `GET /v1/names`.
#[derive(Debug, Serialize, Deserialize)]
pub struct NameLook {
    pub name: String,
    /// Why it can have none now, and what to do.
    pub problem: Option<String>,
    pub unclear: Vec<String>,
}

/// What came of a reload: `POST /v1/reload`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reloaded {
    pub outcome: Outcome,
    /// It was an upgrade: `POST /v1/upgrade`.
    #[serde(default)]
    pub upgraded: bool,
    pub changes: Vec<Change>,
    pub warnings: Vec<String>,
    /// Why it failed, as `ostler check` says it.
    pub problems: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in force, and serves.
    Done,
    /// It is in force; what has to start has not started yet.
    Begun,
    /// It is as it was, or not all of it came up: the problems say which.
    Failed,
    /// There is no such project.
    Unknown,
}

/// What a reload did to one project.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    pub project: String,
    /// "changed", "is new".
    pub what: String,
}

impl Maintenance {
    /// The page is shown on one route at least.
    pub fn anywhere(&self) -> bool {
        self.switched || !self.file.is_empty()
    }
}

impl Reloaded {
    /// One that failed.
    pub fn failed(problems: String) -> Self {
        Self {
            outcome: Outcome::Failed,
            upgraded: false,
            changes: Vec::new(),
            warnings: Vec::new(),
            problems,
        }
    }
}
