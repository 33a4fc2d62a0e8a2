//! Static files: `--static PREFIX=DIR`, `X-Sendfile` and `X-Accel-Redirect`.
//!
//! [`Statics::plan`] says what to send; the caller sends it. A file up to 64 KiB comes from memory, a larger
//! one as a descriptor and the parts of it to send. When only the disk can tell, it says so, and the caller
//! runs the [`Lookup`] where waiting is allowed. Nothing here writes to a socket, and nothing here decides
//! which requests are meant for files beyond their prefix.
//!
//! The way of a request: [`path`] (may this name be served?) → [`cache`] (is it known?) → [`look`] (what is
//! on the disk, [`beneath`] its root) → [`answer`] (what of it does the client need?).

mod answer;
mod beneath;
mod cache;
mod conditions;
mod look;
mod path;
mod range;
#[cfg(test)]
pub mod range_invariants;
mod representation;
mod types;

#[cfg(test)]
mod tests;

use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::compress::Press;
use super::disk::{Reach, Stored};
use super::reply::{Answer, Field};

use self::answer::answer;
pub use self::answer::send;
use self::beneath::Root;
pub use self::cache::{FileCache, Found, TOTAL_BYTES};
pub use self::conditions::Conditions;
use self::look::Look;
pub use self::look::Miss;
#[cfg(test)]
pub use self::representation::Presentation;
pub use self::representation::{Content, Given, Identity, Representation, SMALL};

/// One directory that files may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The URI prefix, `/static` or `/static/` (the same); `None` for a root that only `X-Sendfile` may name.
    pub prefix: Option<String>,
    pub directory: PathBuf,
    /// Whether visitors may ask for it; otherwise only an application's `X-Accel-Redirect` may.
    pub public: bool,
}

/// Every directory that files may come from, opened.
#[derive(Debug)]
pub struct Statics {
    /// Longest prefix first.
    roots: Vec<Mounted>,
}

#[derive(Debug)]
struct Mounted {
    /// Without a final slash; the root prefix is empty.
    prefix: Option<Vec<u8>>,
    /// The directory's real path as bytes, without a final slash.
    directory: Vec<u8>,
    /// The directory's path as it was configured, made absolute.
    written: Vec<u8>,
    public: bool,
    /// Shared with looks on other threads.
    root: Arc<Root>,
}

/// A directory that could not be opened at start.
#[derive(Debug)]
pub struct OpenError {
    pub directory: PathBuf,
    pub cause: std::io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = "hint: --static PREFIX=DIR wants a directory that exists and that the server's user may enter";
        write!(
            f,
            "cannot serve files from {}: {}; {hint}",
            self.directory.display(),
            self.cause
        )
    }
}

impl std::error::Error for OpenError {}

/// What of a request decides about a file. Fields are values as they came, without surrounding space.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileRequest<'a> {
    pub method: &'a [u8],
    /// The canonical path: percent-decoded once, dot segments resolved, starts with `/`.
    pub path: &'a [u8],
    /// The path as it was typed, still encoded, without the query.
    pub raw_path: &'a [u8],
    /// What stood behind `?`.
    pub query: Option<&'a [u8]>,
    pub accept_encoding: Option<&'a [u8]>,
    pub range: Option<&'a [u8]>,
    pub conditions: Conditions<'a>,
    /// Makes copies in a coding.
    pub press: Option<&'a Arc<Press>>,
}

/// What to do for a request whose path lies below a prefix.
#[derive(Debug)]
pub enum Plan {
    Send(FileReply),
    /// Only the disk can tell: run this where waiting is allowed, then [`reply`].
    Wait(Lookup),
}

/// A look-up that has to wait for the disk.
#[derive(Debug)]
pub struct Lookup {
    root: Arc<Root>,
    rest: Vec<u8>,
    known: Option<Found>,
    presses: bool,
}

impl Lookup {
    /// Looks, however long the disk takes.
    pub fn run(mut self) -> Found {
        let look = Look {
            root: &self.root,
            reach: Reach::Disk,
            presses: self.presses,
        };
        let found = look.find(&self.rest, &mut self.known);
        found.unwrap_or_else(|miss| Found::Nothing(miss.refusal()))
    }
}

/// A file that an application named, not looked for yet.
#[derive(Debug)]
pub struct Named {
    root: Arc<Root>,
    below: Vec<u8>,
}

impl Named {
    /// Looks for it.
    pub fn find(&self, given: Given<'_>, reach: Reach) -> Result<Representation, Miss> {
        let root = &self.root;
        let presses = false;
        let look = Look {
            root,
            reach,
            presses,
        };
        look.find_named(&self.below, given)
    }
}

/// What to send. `head` holds response fields, each with its CRLF, and lacks `Date`, `Connection` and the
/// empty line; it has `Content-Length` wherever the status allows one.
#[derive(Clone, Debug)]
pub enum FileReply {
    /// Head and body, both finished.
    Memory {
        status: u16,
        head: Arc<[u8]>,
        body: Arc<[u8]>,
    },
    /// Head, then for each part its prefix and its slice of `file`. If the file turns out shorter than
    /// promised (it was truncated meanwhile), the connection must be cut: the length is already said.
    File {
        status: u16,
        head: Arc<[u8]>,
        parts: Vec<Part>,
        file: Arc<Stored>,
    },
    /// Only a head: HEAD, 304, 308, OPTIONS. `Content-Length` may still speak of the body a GET would get.
    Empty { status: u16, head: Arc<[u8]> },
    /// An answer with a reason, to be written by `reply`.
    Refused(Refusal),
}

/// Bytes of our own, then bytes of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub prefix: Vec<u8>,
    pub offset: u64,
    /// May be 0: the closing boundary has no bytes behind it.
    pub len: u64,
}

/// Why no file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: bytes in the path that no file name of ours has.
    BadPath,
    /// 403: it is there, but the server's user may not read it.
    Forbidden,
    /// 404: nothing that is served.
    NotFound,
    /// 405: only GET, HEAD and OPTIONS.
    Method,
    /// 412: `If-Match` or `If-Unmodified-Since` named another state.
    Precondition,
    /// 416: the ranges lie behind the end of a file of this many bytes.
    Range { size: u64 },
    /// 502: an application named a file outside every configured directory.
    NotMapped,
    /// 503: out of descriptors or memory; worth another try.
    Busy,
    /// 503: the disk has not answered.
    Slow,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Refusal::BadPath => 400,
            Refusal::Forbidden => 403,
            Refusal::NotFound => 404,
            Refusal::Method => 405,
            Refusal::Precondition => 412,
            Refusal::Range { .. } => 416,
            Refusal::NotMapped => 502,
            Refusal::Busy | Refusal::Slow => 503,
        }
    }

    /// The reason code for logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::BadPath => "static_bad_path",
            Refusal::Forbidden => "static_unreadable",
            Refusal::NotFound => "static_not_found",
            Refusal::Method => "static_method",
            Refusal::Precondition => "static_precondition",
            Refusal::Range { .. } => "static_range",
            Refusal::NotMapped => "sendfile_not_mapped",
            Refusal::Busy => "static_busy",
            Refusal::Slow => "static_slow",
        }
    }

    /// One sentence for the visitor.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::BadPath => "The address holds characters that no file here has.",
            Refusal::Forbidden => "The server is not allowed to read this file.",
            Refusal::NotFound => "There is no such file.",
            Refusal::Method => "A file can only be read (GET or HEAD).",
            Refusal::Precondition => "The file is no longer the one the request was made for.",
            Refusal::Range { .. } => "The file is shorter than the requested range.",
            Refusal::NotMapped => "The application pointed to a file that the server may not send.",
            Refusal::Busy => "The server has too many files open at the moment.",
            Refusal::Slow => "The disk that the file lies on has not answered in time.",
        }
    }

    /// The response field that belongs to the answer.
    pub fn field(self) -> Option<Field> {
        match self {
            Refusal::Method => Some(Field::Allow(METHODS)),
            Refusal::Range { size } => Some(Field::UnsatisfiedRange(size)),
            Refusal::Busy => Some(Field::RetryAfter(1)),
            Refusal::Slow => Some(Field::RetryAfter(30)),
            Refusal::BadPath
            | Refusal::Forbidden
            | Refusal::NotFound
            | Refusal::Precondition
            | Refusal::NotMapped => None,
        }
    }

    /// The whole answer.
    pub fn answer(self) -> Answer<'static> {
        Answer {
            status: self.status(),
            code: self.code(),
            layer: "static",
            text: self.text(),
            field: self.field(),
        }
    }

    fn from_errno(errno: Errno) -> Refusal {
        match errno {
            Errno::ACCESS | Errno::PERM => Refusal::Forbidden,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::IO => Refusal::Busy,
            // A path that leaves the root (XDEV, LOOP) is as absent as one that never was.
            _ => Refusal::NotFound,
        }
    }
}

impl Statics {
    /// Opens every directory; none of them may be missing.
    pub fn open(routes: Vec<Route>) -> Result<Statics, OpenError> {
        let mut roots = Vec::with_capacity(routes.len());
        for route in routes {
            roots.push(Mounted::open(route)?);
        }
        roots.sort_by_key(|mounted| std::cmp::Reverse(mounted.prefix.as_ref().map_or(0, Vec::len)));
        Ok(Statics { roots })
    }

    /// Whether there is no directory at all.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// What to do for a request, or `None` when its path lies below no prefix.
    ///
    /// `now` is the monotonic time; a file changed on disk is noticed within a second of it. Never waits for
    /// the disk; may copy up to 64 KiB per representation when the cache does not know the file.
    pub fn plan(
        &self,
        cache: &mut FileCache,
        request: &FileRequest<'_>,
        now: Instant,
    ) -> Option<Plan> {
        let (mounted, rest) = self.find(request.path)?;
        if !mounted.public {
            return Some(Plan::Send(FileReply::Refused(Refusal::NotFound)));
        }
        Some(match request.method {
            b"GET" | b"HEAD" => mounted.plan(cache, request, rest, now),
            b"OPTIONS" => Plan::Send(FileReply::Empty {
                status: 204,
                head: Arc::from(format!("Allow: {METHODS}\r\n").into_bytes()),
            }),
            _ => Plan::Send(FileReply::Refused(Refusal::Method)),
        })
    }

    /// The prefix of the public folder that a path lies in, without a final slash.
    pub fn prefix_of(&self, path: &[u8]) -> Option<&[u8]> {
        let (mounted, _) = self.find(path)?;
        mounted.prefix.as_deref().filter(|_| mounted.public)
    }

    /// The file of an application's `X-Accel-Redirect: URI`: below one of the prefixes, public or not, under the
    /// same rules about names.
    ///
    /// For this and [`Statics::sendfile`], the caller keeps the application's other fields, but drops its
    /// `Content-Length`, `Content-Range`, `Accept-Ranges`, an empty `Content-Type`, and the field that named the
    /// file.
    pub fn accel_redirect(&self, uri: &[u8]) -> Result<Named, Refusal> {
        let raw = uri.split(|&b| b == b'?').next().unwrap_or(uri);
        let decoded = path::decode(raw).ok_or(Refusal::NotMapped)?;
        let (mounted, rest) = self.find(&decoded).ok_or(Refusal::NotMapped)?;
        let below = rest.strip_prefix(b"/").unwrap_or(rest);
        path::check(below)?;
        Ok(mounted.named(below))
    }

    /// The file of an application's `X-Sendfile: /absolute/path`: any regular file beneath any of the
    /// directories, whatever its name, since the application chose it.
    pub fn sendfile(&self, file: &[u8]) -> Result<Named, Refusal> {
        let beneath = self
            .roots
            .iter()
            .filter_map(|mounted| Some((mounted, mounted.beneath(file)?)));
        // Directories may lie in each other; the closest one to the file has the say.
        let (mounted, below) = beneath
            .min_by_key(|(_, below)| below.len())
            .ok_or(Refusal::NotMapped)?;
        Ok(mounted.named(below))
    }

    /// The mounted directory with the longest prefix of `path`, and what follows the prefix.
    fn find<'p>(&self, path: &'p [u8]) -> Option<(&Mounted, &'p [u8])> {
        self.roots.iter().find_map(|mounted| {
            let rest = path.strip_prefix(mounted.prefix.as_deref()?)?;
            // `/static` covers `/static` and `/static/x`, not `/statics`.
            let at_border = rest.is_empty() || rest.starts_with(b"/");
            at_border.then_some((mounted, rest))
        })
    }
}

impl Mounted {
    fn open(route: Route) -> Result<Mounted, OpenError> {
        let failed = |cause: std::io::Error| OpenError {
            directory: route.directory.clone(),
            cause,
        };
        let root = Root::open(&route.directory).map_err(|errno| failed(errno.into()))?;
        let real = route.directory.canonicalize().map_err(failed)?;
        let written = std::path::absolute(&route.directory).map_err(failed)?;
        let prefix = route.prefix.map(|prefix| {
            let trimmed = prefix.trim_matches('/');
            if trimmed.is_empty() {
                Vec::new()
            } else {
                format!("/{trimmed}").into_bytes()
            }
        });
        Ok(Mounted {
            prefix,
            directory: bare(real),
            written: bare(written),
            public: route.public,
            root: Arc::new(root),
        })
    }

    fn plan(
        &self,
        cache: &mut FileCache,
        request: &FileRequest<'_>,
        rest: &[u8],
        now: Instant,
    ) -> Plan {
        if path::has_encoded_separator(request.raw_path) {
            return Plan::Send(FileReply::Refused(Refusal::NotFound));
        }
        let fresh = cache.fresh(request.path, now, |found| answer(found, request, now));
        if let Some(reply) = fresh {
            return Plan::Send(reply);
        }
        let mut known = cache.take(request.path);
        let look = Look {
            root: &self.root,
            reach: Reach::Memory,
            presses: request.press.is_some(),
        };
        match look.find(rest, &mut known) {
            Ok(found) => Plan::Send(reply(cache, request, found, now)),
            Err(_would_wait) => Plan::Wait(Lookup {
                root: Arc::clone(&self.root),
                rest: rest.to_vec(),
                known,
                presses: look.presses,
            }),
        }
    }

    fn named(&self, below: &[u8]) -> Named {
        Named {
            root: Arc::clone(&self.root),
            below: below.to_vec(),
        }
    }

    /// What is left of an absolute path below this directory; `None` when it does not lie there or tries to
    /// climb.
    fn beneath<'p>(&self, file: &'p [u8]) -> Option<&'p [u8]> {
        let under = |directory: &[u8]| file.strip_prefix(directory)?.strip_prefix(b"/");
        let below = under(&self.directory).or_else(|| under(&self.written))?;
        let climbs = below.split(|&b| b == b'/').any(|name| name == b"..");
        (!climbs && !below.contains(&0)).then_some(below)
    }
}

/// What to send for a request now that its path was looked up, which is remembered as of `now`.
pub fn reply(
    cache: &mut FileCache,
    request: &FileRequest<'_>,
    mut found: Found,
    now: Instant,
) -> FileReply {
    let reply = answer(&mut found, request, now);
    cache.remember(request.path, found, now);
    reply
}

/// What a file can be asked to do.
const METHODS: &str = "GET, HEAD, OPTIONS";

fn bare(path: PathBuf) -> Vec<u8> {
    let mut bytes = path.into_os_string().into_vec();
    while bytes.last() == Some(&b'/') {
        bytes.pop();
    }
    bytes
}
