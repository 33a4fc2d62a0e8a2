//! What keeper and server say to each other, and what a server starts with.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::sys::{Exit, Pidfd, fds};

/// Keeper → server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromKeeper {
    /// A zygote was started as asked; its control socket and pidfd come with the message.
    Zygote {
        generation: u64,
        pid: u32,
        settings: Box<Settings>,
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
    StartZygote { generation: u64 },
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
}

/// Descriptor of the keeper's socket in a server.
pub const KEEPER_FD: i32 = 3;

/// Descriptor of the JSON of [`Handover`] in a server.
pub const HANDOVER_FD: i32 = 4;

/// The JSON of a handover is at most this long, in bytes: settings with a large environment.
const HANDOVER_MAX: u64 = 16 << 20;

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
}

impl ServerHandover {
    /// Takes the inherited descriptors over.
    ///
    /// # Errors
    /// When this process was not started by a keeper.
    pub fn from_inherited() -> io::Result<Self> {
        let bytes = fds::read_all(fds::claim(HANDOVER_FD)?, HANDOVER_MAX)?;
        let handover: Handover = serde_json::from_slice(&bytes)?;
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
        })
    }
}
