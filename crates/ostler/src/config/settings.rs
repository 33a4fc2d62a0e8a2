//! `Settings`: every setting of `ostler run`, checked and complete. Plain data: reads nothing, decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bind::Bind;
use super::network::Trust;
use super::worker_class::WorkerClass;
use super::written::Origin;

/// The config file that is read when nobody names one and it is there.
pub const CONFIG_FILE: &str = "gunicorn.conf.py";

/// The settings of one generation. The keeper hands them to the server as JSON. Every path is absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub app: App,
    pub listening: Listening,
    pub workers: Workers,
    pub http: Http,
    pub logs: Logs,
    pub process: Process,

    /// Every setting by its name, in checked form; the fields above are made from it.
    pub values: Map<String, Value>,
    /// Where each value comes from that is not a default.
    pub origins: BTreeMap<String, Origin>,
}

/// Longest request line, in bytes: what one head buffer of the edge holds.
pub const MOST_REQUEST_LINE: u32 = 60 * 1024;
/// Most header fields: more than any client sends, and bounded work for each request.
pub const MOST_REQUEST_FIELDS: u32 = 1_000;
/// Longest header field, in bytes: what one head buffer of the edge holds.
pub const MOST_FIELD_SIZE: u32 = 60 * 1024;

impl Settings {
    /// Where the value of this setting comes from, by gunicorn's name: `workers`, `keepalive`.
    pub fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).copied().unwrap_or(Origin::Default)
    }
}

/// The app, and how it is loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// `module:callable`, `module:factory()` or `module`.
    pub name: String,
    pub interface: Interface,
    pub python: PathBuf,
    /// Where the app runs.
    pub chdir: PathBuf,
    pub pythonpath: Vec<PathBuf>,
    /// To be set on top of the inherited environment, in this order.
    pub env: Vec<(String, String)>,
    /// Starts with `/` and does not end with one, or is empty.
    pub root_path: String,
    pub preload: Preload,
    pub lifespan: Lifespan,
    pub event_loop: EventLoop,
    /// `None`: calls are not timed.
    pub perf: Option<Perf>,
}

/// Where the time of each call is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Perf {
    /// The folder of all runs.
    pub folder: PathBuf,
    /// Runs that are kept.
    pub keep: u64,
    /// Bytes that all runs take together.
    pub size: u64,
}

/// Where connections and files come from, and who is believed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listening {
    /// Never empty in `ostler run`, where they speak TLS when `tls` is set. In `ostler serve` they never do.
    pub binds: Vec<Bind>,
    /// Those that speak TLS in `ostler serve`; empty in `ostler run`.
    pub tls_binds: Vec<Bind>,
    /// Connections that wait in the kernel for each address.
    pub backlog: u32,
    pub tls: Option<Tls>,
    pub static_files: Vec<StaticFiles>,
    /// Only for the app's `X-Accel-Redirect`.
    pub internal_files: Vec<StaticFiles>,
    /// Only for the app's `X-Sendfile`.
    pub sendfile_roots: Vec<PathBuf>,
    /// `None`: no limit.
    pub max_connections_per_address: Option<u32>,
    /// `None`: one for each four cores.
    pub edge_threads: Option<u32>,
    pub forwarded_allow_ips: Trust,
    /// Header name as written (dashes or underscores, any case) → the value that means https.
    pub secure_scheme_headers: BTreeMap<String, String>,
    /// Upper case, with underscores.
    pub forwarder_headers: Vec<String>,
    /// `None`: nobody speaks the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Who does.
    pub proxy_allow_ips: Trust,
    pub header_map: HeaderMap,
}

/// How many workers there are, and what each may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    pub count: u32,
    /// In each worker of a WSGI app.
    pub threads: u32,
    pub worker_class: WorkerClass,
    /// Requests at once in one worker of an ASGI app.
    pub worker_connections: u32,
    pub websocket_threads: u32,
    pub single_process: bool,
    /// From dispatch to the response's head. `None`: no limit.
    pub timeout: Option<Duration>,
    pub graceful_timeout: Duration,
    /// `None`: a worker is never replaced for its count of requests.
    pub max_requests: Option<u64>,
    /// At most this many are added to `max_requests`, at random for each worker.
    pub max_requests_jitter: u64,
    /// Bytes of private memory of one worker; `None`: no limit.
    pub memory_soft: Option<u64>,
    /// Bytes of private memory of one worker; `None`: no limit. Never below `memory_soft`.
    pub memory_hard: Option<u64>,
    /// Requests that wait for a slot.
    pub line_length: u32,
    pub line_timeout: Duration,
}

/// What a client may ask, and how long it may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Bytes of a request line, at most [`MOST_REQUEST_LINE`].
    pub limit_request_line: u32,
    /// Header fields of a request, at most [`MOST_REQUEST_FIELDS`].
    pub limit_request_fields: u32,
    /// Bytes of one header field, at most [`MOST_FIELD_SIZE`].
    pub limit_request_field_size: u32,
    /// Bytes; `None`: no limit.
    pub limit_request_body: Option<u64>,
    /// How long a connection may be idle. `None`: it is closed after each response.
    pub keepalive: Option<Duration>,
    /// For the whole head of a request; `None`: no limit.
    pub header_timeout: Option<Duration>,
    /// For the next byte of a request body; `None`: no limit.
    pub body_timeout: Option<Duration>,
    /// For the client to take the next byte of a response; `None`: no limit.
    pub write_timeout: Option<Duration>,
    /// Bytes a second of a request body; `None`: no limit.
    pub minimum_rate: Option<u64>,
    pub request_buffering: bool,
    pub response_buffering: bool,
    /// Bytes; `None`: no limit.
    pub websocket_max_message_size: Option<u64>,
    pub sendfile: bool,
    /// Where spool files live; `None`: the system's place for temporary files.
    pub tmp_upload_dir: Option<PathBuf>,
}

/// What is written, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logs {
    pub access_log: LogTarget,
    pub access_log_format: AccessLogFormat,
    /// Never `Off`.
    pub error_log: LogTarget,
    pub log_level: LogLevel,
    pub capture_output: bool,
}

/// The processes themselves, and what ostler is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub user: Option<Account>,
    /// `None` with a user: the user's own group.
    pub group: Option<Account>,
    pub umask: Option<u32>,
    pub pidfile: Option<PathBuf>,
    pub daemon: bool,
    pub proc_name: String,
    pub reload: bool,
    /// Absolute paths or patterns.
    pub reload_extra_files: Vec<String>,
    pub check_config: bool,
    pub print_config: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    Auto,
    Wsgi,
    Asgi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preload {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifespan {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLoop {
    Auto,
    Asyncio,
    Uvloop,
}

/// Versions of the PROXY protocol that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    V1,
    V2,
    Auto,
}

/// What becomes of a header name with `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderMap {
    /// The header is left out.
    Drop,
    /// The request gets 400.
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    pub certfile: PathBuf,
    /// The certificate's file where no other is named.
    pub keyfile: PathBuf,
    pub clients: ClientCertificates,
    /// What the files hold, once [`Tls::read`] was called.
    pub texts: TlsTexts,
}

/// Read by the keeper, whose user may: a private key is often for root alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsTexts {
    pub certificate: String,
    pub key: String,
    /// The authorities of client certificates; empty where none are asked for.
    pub clients: String,
}

impl fmt::Debug for TlsTexts {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTexts")
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A text that names the file which cannot be read.
    pub fn read(&mut self) -> Result<(), String> {
        let read = |what: &str, path: &Path| {
            let hint = "hint: it must be readable by the user who starts ostler";
            std::fs::read_to_string(path).map_err(|error| {
                format!(
                    "error: cannot read the {what}: {}: {error}; {hint}",
                    path.display()
                )
            })
        };
        self.texts = TlsTexts {
            certificate: read("certificate", &self.certfile)?,
            key: read("private key", &self.keyfile)?,
            clients: match &self.clients {
                ClientCertificates::NotAsked => String::new(),
                ClientCertificates::Optional(path) | ClientCertificates::Required(path) => {
                    read("client authorities", path)?
                }
            },
        };
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    NotAsked,
    /// Asked for; one that is shown must be signed by these authorities (a PEM file).
    Optional(PathBuf),
    /// A client without one signed by these authorities is turned away.
    Required(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticFiles {
    /// Starts with `/`; ends with one only when it is `/`.
    pub prefix: String,
    pub directory: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    Off,
    /// Standard output for the access log, standard error for the error log.
    Standard,
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    Json,
    /// gunicorn's atoms.
    Atoms(String),
}

/// From the most to the least talkative; a level includes those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

/// A user or group, not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Account {
    Id(u32),
    Name(String),
}
