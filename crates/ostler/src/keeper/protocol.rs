//! What keeper and server say to each other, and what a server starts with.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::sys::{Exit, Pidfd, fds, process};

/// Keeper → server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromKeeper {
    /// A zygote was started as asked. With it come its control socket, its pidfd and a file with
    /// what its config file asks for, see [`settings_from`].
    Zygote {
        generation: u64,
        pid: u32,
    },
    /// It could not be started, or its config file is broken.
    ZygoteFailed {
        generation: u64,
        exit: u8,
        text: String,
    },
    ZygoteExited {
        generation: u64,
        exit: Exit,
    },
    Stop {
        graceful: bool,
    },
    Reload,
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
        generation: u64,
    },
    /// The app serves.
    Ready,
}

/// The first message to a server: what the descriptors behind it are.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    pub settings: Settings,
    /// Listening sockets, by how they are written: descriptors 5 and on.
    pub listeners: Vec<String>,
    /// Descriptor numbers of the first zygote's control socket and pidfd, and of the hook process.
    pub zygote: (u32, i32, i32),
    pub hooks: Option<i32>,
    /// The version of Python.
    pub python: String,
    /// `pid` of the keeper: what people signal.
    pub keeper: u32,
    /// The app served before, in a server that was lost.
    pub resumed: bool,
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

fn from_file<T: DeserializeOwned>(file: OwnedFd) -> io::Result<T> {
    Ok(serde_json::from_slice(&fds::read_all(file, FILE_MAX)?)?)
}

/// Everything a server starts with, as its own.
#[derive(Debug)]
pub struct ServerHandover {
    pub settings: Settings,
    pub keeper: OwnedFd,
    pub keeper_pid: u32,
    pub python: String,
    /// By how they are written: `127.0.0.1:8000`, `unix:/run/app.sock`.
    pub listeners: BTreeMap<String, OwnedFd>,
    pub zygote: OwnedFd,
    pub zygote_pidfd: Pidfd,
    pub hooks: Option<OwnedFd>,
    pub resumed: bool,
}

impl ServerHandover {
    /// Takes the inherited descriptors over.
    ///
    /// # Errors
    /// When this process was not started by a keeper.
    pub fn from_inherited() -> io::Result<Self> {
        let handover: Handover = from_file(fds::claim(HANDOVER_FD)?)?;
        process::set_name(c"ostler: server");
        let mut listeners = BTreeMap::new();
        for (fd, name) in (HANDOVER_FD + 1..).zip(handover.listeners) {
            listeners.insert(name, fds::claim(fd)?);
        }
        let (pid, control, pidfd) = handover.zygote;
        Ok(Self {
            settings: handover.settings,
            keeper: fds::claim(KEEPER_FD)?,
            keeper_pid: handover.keeper,
            python: handover.python,
            listeners,
            zygote: fds::claim(control)?,
            zygote_pidfd: Pidfd::from_fd(fds::claim(pidfd)?, pid)?,
            hooks: handover.hooks.map(fds::claim).transpose()?,
            resumed: handover.resumed,
        })
    }
}
