//! What a request is served by, once its host and path are known.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::auth::Caller;
use crate::pool::Pool;
use crate::upstream::Group;

use super::files::{FileCache, Statics};
use super::meter::Meters;
use super::policy::Policy;
use super::reason::Reason;
use super::redirect::Entrance;
use super::{Thread, lock, websocket};

/// What lies below one path of some hosts.
pub struct Site {
    pub statics: Statics,
    /// Guards the files of `statics` in memory: a cache for each edge thread, by its number.
    pub files: Vec<Mutex<FileCache>>,
    /// Files go out by `sendfile(2)` where a connection allows it.
    pub sendfile: bool,
    /// Bytes a request body may have; 0 is no limit.
    pub body_limit: u64,
    /// `SCRIPT_NAME` / `root_path` that every request carries: what is taken off its path.
    pub root: String,
    /// What is taken off the path here.
    pub mount: String,
    /// Where its requests should come to.
    pub entrance: Entrance,
    /// The number of which clients a handshake for it lets in ([`tls::Policy`](super::tls::Policy)).
    pub clients: u32,
    /// Lines with their CRLF that stand in every response to a request without TLS.
    pub plain_lines: Option<Arc<[u8]>>,
    /// The same over TLS.
    pub secure_lines: Option<Arc<[u8]>>,
    /// What holds before a request is answered.
    pub policy: Arc<Policy>,
    /// Who answers what no file answers; `None` is 404. Asked for with [`Site::behind`].
    pub behind: Option<Behind>,
    /// Counts its requests; `None` for those that belong nowhere.
    pub meters: Option<Arc<Meters>>,
}

impl Site {
    /// Who answers, for a caller who was asked.
    pub(super) fn behind(&self, _asked: &Caller) -> Result<Behind, Reason> {
        self.behind.clone().ok_or(Reason::NoRoute)
    }

    /// The static files that an edge thread has in memory.
    pub(super) fn files(&self, thread: &Thread) -> MutexGuard<'_, FileCache> {
        lock(&self.files[thread.index])
    }
}

/// Who answers requests that no file answers.
#[derive(Clone)]
pub enum Behind {
    App(Arc<App>),
    /// Other HTTP servers.
    Upstreams(Arc<Group>),
}

/// A Python app, and how its requests are handled.
pub struct App {
    pub pool: Arc<Pool>,
    /// Collect a request body before a synchronous app is called.
    pub request_buffering: bool,
    /// Take a response off its worker as fast as it comes.
    pub response_buffering: bool,
    /// In line for a worker.
    pub line: Duration,
    /// From dispatch to the response head.
    pub response: Duration,
    /// Limits and clocks of WebSockets of ASGI apps.
    pub websocket: websocket::Settings,
}
