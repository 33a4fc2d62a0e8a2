//! What keeper and server say to each other, and what a server starts with.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::config::serve::{Acme, Clients, DRAIN, Pair, Rules};
use crate::routes::Host;
use crate::sys::{Exit, Pidfd, fds, process};

/// Keeper → server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromKeeper {
    /// A zygote was started as asked. With it come its control socket, its pidfd and a file with
    /// what its config file asks for, see [`settings_from`].
    Zygote {
        zygote: ZygoteId,
        pid: u32,
        /// The version of Python.
        python: String,
    },
    /// It could not be started, or its config file is broken.
    ZygoteFailed {
        zygote: ZygoteId,
        exit: u8,
        text: String,
    },
    ZygoteExited {
        zygote: ZygoteId,
        exit: Exit,
    },
    Stop {
        graceful: bool,
    },
    /// `ostler run`: the app is to be loaded anew. The ticket is that of [`ToKeeper::Reload`].
    Reload {
        ticket: Option<u64>,
    },
    /// `ostler serve`: another configuration. With it comes a file with a [`Configuration`], see
    /// [`configuration_from`].
    Configure {
        ticket: Option<u64>,
        warnings: Vec<String>,
    },
    /// Nothing changes for this ticket: what is written is wrong.
    Refused {
        ticket: u64,
        problems: String,
    },
    /// Another server takes its place: no new connections, and the end when those that are open have ended.
    Drain {
        within: Duration,
    },
    /// The answer to [`ToKeeper::Upgrade`], when it went well.
    Upgraded {
        ticket: u64,
        what: String,
    },
    /// No server before it writes to the state folder any more.
    InCharge,
    /// The answer to [`ToKeeper::Maintain`]: whether it was on before, or why it cannot be kept.
    Maintained {
        ticket: u64,
        kept: Result<bool, String>,
    },
    /// TTIN and TTOU.
    Workers {
        by: i32,
    },
    /// USR1.
    ReopenLogs,
}

/// Server → keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToKeeper {
    StartZygote {
        zygote: ZygoteId,
    },
    /// The app serves; under `ostler serve`: connections are accepted.
    Ready,
    /// The app of this project serves, the first time.
    Serves {
        project: ProjectId,
    },
    /// It was started beside another server, and what has to serve does not.
    NotReady {
        problems: String,
    },
    /// The answer to [`FromKeeper::Drain`]: it writes no more to the state folder, but to logs.
    Drains,
    /// Somebody asks for what USR2 does.
    Upgrade {
        ticket: u64,
    },
    /// Somebody asks for what HUP does.
    Reload {
        ticket: u64,
    },
    /// A project's maintenance page is to be on, or off, and to stay so.
    Maintain {
        ticket: u64,
        project: String,
        on: bool,
    },
    /// The answer to [`FromKeeper::Configure`]: the configuration is in force, or nothing has changed.
    Configured {
        taken: bool,
    },
}

/// The zygote of one generation of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteId {
    pub project: ProjectId,
    pub generation: u64,
}

/// A project as long as it is in the configuration. One that went and came again has another number: the
/// first may still be ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProjectId(pub u64);

impl ProjectId {
    /// The one project of `ostler run`.
    pub const RUN: Self = Self(0);
}

/// The first message to a server: what the descriptors behind it are.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    pub configuration: Configuration,
    /// Another server accepts connections until the apps of these projects serve here.
    pub beside: Option<Vec<ProjectId>>,
    /// Listening sockets: descriptors 5 and on.
    pub listeners: Vec<ListenerName>,
    /// Descriptor numbers of the control socket and pidfd of the zygote that `ostler run` has begun with,
    /// and of the hook process. Its pid and Python's version.
    pub first: Option<First>,
    /// `pid` of the keeper: what people signal.
    pub keeper: u32,
    /// Who started it.
    pub operator: u32,
    /// Descriptor number of the admin socket.
    pub admin: Option<i32>,
    /// Those of the sockets where the metrics are read.
    pub metrics: Vec<i32>,
    /// A folder for the request log, which the server may write to.
    pub requests: Option<PathBuf>,
    /// Variables that its environment does not have: what runs as its user can read that.
    pub hidden: BTreeMap<String, String>,
    pub marks: MarkKey,
}

/// What cookies tell upstreams apart by is made with this. The keeper has it, so that clients keep their upstream when
/// another server takes the place of one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkKey(pub [u8; 32]);

impl MarkKey {
    /// # Errors
    /// There is no randomness.
    pub fn random() -> io::Result<Self> {
        let mut key = [0; 32];
        let filled = aws_lc_rs::rand::fill(&mut key);
        filled.map_err(|_| io::Error::other("no randomness"))?;
        Ok(Self(key))
    }
}

impl fmt::Debug for MarkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MarkKey")
    }
}

/// Everything that a server is to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// A server served before: what has become wrong since then keeps none from starting.
    pub again: bool,
    pub machine: Machine,
    pub projects: Vec<Project>,
}

/// What holds for all projects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Addresses, limits of connections, logs.
    pub settings: Settings,
    /// So many proxies stand before ostler; `None`: the settings say which addresses they have.
    pub trusted_hops: Option<u32>,
    /// A host of a project, where requests for unknown hosts go.
    pub default_host: Option<String>,
    /// The state folder; `None` under `ostler run`, which has none.
    pub state: Option<PathBuf>,
    /// Who certificates are had from, when some host needs one.
    pub acme: Option<Acme>,
    /// Seconds and bytes of the request log; 0 seconds is none.
    pub keep_requests: (u64, u64),
    /// How long the server before an upgrade may take to end.
    pub drain: Duration,
}

impl Machine {
    /// `ostler run`: the one app's settings are the machine's.
    pub fn of(settings: Settings) -> Self {
        Self {
            settings,
            trusted_hops: None,
            default_host: None,
            state: None,
            acme: None,
            keep_requests: (0, 0),
            drain: DRAIN,
        }
    }
}

/// One listening socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerName {
    /// As it is shown: `http://127.0.0.1:8000`, `unix:/run/app.sock`.
    pub text: String,
    /// Its connections begin with a TLS handshake, where there is a certificate.
    pub tls: bool,
}

/// What a server starts with of one app.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Project {
    pub id: ProjectId,
    /// Empty for that of `ostler run`.
    pub name: String,
    /// Where it is found; empty: everywhere.
    pub routes: Vec<Route>,
    /// What holds on its routes beside the app, each different one once.
    pub rules: Vec<Rules>,
    pub entrance: Entrance,
    /// Its maintenance page is switched on, when it is new to the server.
    pub closed: bool,
    /// Its own certificate.
    pub pair: Option<Pair>,
    /// Which certificates its clients show.
    pub clients: Option<Clients>,
    /// As far as they are known before its zygote has evaluated its config file.
    pub settings: Settings,
    /// Trouble with it is met with patience, and ends nothing: it served before, in a server that was
    /// lost, or it is one of several.
    pub patient: bool,
    /// Some of it is served by an app of its own.
    pub has_app: bool,
}

/// Where requests for a project should come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrance {
    /// The port for HTTPS; `None`: plain HTTP is answered too.
    pub https: Option<u16>,
    /// The one of its hosts that the others are redirected to.
    pub host: Option<String>,
    /// Seconds for which browsers are told to keep to HTTPS.
    pub hsts: Option<u64>,
}

/// One place where a project is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub host: Host,
    /// `/`, or a path that does not end with one.
    pub prefix: String,
    /// Its app is told the prefix and sees the path below it.
    pub strip: bool,
    /// Which of the project's rules hold here.
    pub rules: usize,
}

impl Route {
    /// Every request.
    pub fn everywhere() -> Self {
        Self {
            host: Host::Any,
            prefix: "/".to_owned(),
            strip: false,
            rules: 0,
        }
    }
}

/// A zygote that was started before its server.
#[derive(Debug, Serialize, Deserialize)]
pub struct First {
    pub pid: u32,
    pub control: i32,
    pub pidfd: i32,
    pub hooks: Option<i32>,
    pub python: String,
}

/// Descriptor of the keeper's socket in a server.
pub const KEEPER_FD: i32 = 3;

/// Descriptor of the JSON of [`Handover`] in a server.
pub const HANDOVER_FD: i32 = 4;

/// JSON in a file is at most this long, in bytes: settings with a large environment. They would not
/// always fit in a message.
const FILE_MAX: u64 = 16 << 20;

/// Puts `value` in a file that nobody can change, for a descriptor to be passed on.
pub fn to_file(name: &str, value: &impl Serialize) -> io::Result<OwnedFd> {
    fds::sealed(name, &serde_json::to_vec(value)?)
}

/// What [`FromKeeper::Zygote`] brings as its third descriptor.
pub fn settings_from(file: OwnedFd) -> io::Result<Settings> {
    from_file(file)
}

/// What [`FromKeeper::Configure`] brings.
pub fn configuration_from(file: OwnedFd) -> io::Result<Configuration> {
    from_file(file)
}

/// Reads what [`to_file`] has made.
pub fn from_file<T: DeserializeOwned>(file: OwnedFd) -> io::Result<T> {
    Ok(serde_json::from_slice(&fds::read_all(file, FILE_MAX)?)?)
}

/// Everything a server starts with, as its own.
#[derive(Debug)]
pub struct ServerHandover {
    pub configuration: Configuration,
    pub beside: Option<Vec<ProjectId>>,
    pub keeper: OwnedFd,
    pub keeper_pid: u32,
    pub operator: u32,
    pub admin: Option<AdminSocket>,
    pub metrics: Vec<OwnedFd>,
    pub requests: Option<PathBuf>,
    pub hidden: BTreeMap<String, String>,
    pub marks: MarkKey,
    pub listeners: Vec<(ListenerName, OwnedFd)>,
    pub first: Option<FirstZygote>,
}

/// Where the admin API is listened for, and who may speak there.
#[derive(Debug)]
pub struct AdminSocket {
    pub fd: OwnedFd,
    pub operator: u32,
}

/// [`First`], with its descriptors.
#[derive(Debug)]
pub struct FirstZygote {
    pub control: OwnedFd,
    pub pidfd: Pidfd,
    pub hooks: Option<OwnedFd>,
    /// The version of Python.
    pub python: String,
}

impl ServerHandover {
    /// Takes the inherited descriptors over.
    ///
    /// # Errors
    /// When this process was not started by a keeper.
    pub fn from_inherited() -> io::Result<Self> {
        let handover: Handover = from_file(fds::claim(HANDOVER_FD)?)?;
        process::set_name(c"ostler: server");
        let mut listeners = Vec::new();
        for (fd, name) in (HANDOVER_FD + 1..).zip(handover.listeners) {
            listeners.push((name, fds::claim(fd)?));
        }
        let operator = handover.operator;
        let admin = handover.admin.map(fds::claim).transpose()?;
        let metrics = handover.metrics.into_iter().map(fds::claim);
        Ok(Self {
            metrics: metrics.collect::<io::Result<_>>()?,
            operator,
            requests: handover.requests,
            hidden: handover.hidden,
            marks: handover.marks,
            admin: admin.map(|fd| AdminSocket { fd, operator }),
            configuration: handover.configuration,
            beside: handover.beside,
            keeper: fds::claim(KEEPER_FD)?,
            keeper_pid: handover.keeper,
            listeners,
            first: handover.first.map(FirstZygote::claim).transpose()?,
        })
    }
}

impl FirstZygote {
    fn claim(first: First) -> io::Result<Self> {
        Ok(Self {
            control: fds::claim(first.control)?,
            pidfd: Pidfd::from_fd(fds::claim(first.pidfd)?, first.pid)?,
            hooks: first.hooks.map(fds::claim).transpose()?,
            python: first.python,
        })
    }
}
