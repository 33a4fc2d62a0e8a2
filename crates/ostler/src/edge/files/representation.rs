//! One state of one file, ready to be sent: validators, finished response fields, bytes or descriptor.
//!
//! It must not know which request it answers, nor what else lies beside the file.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::conditions::Validators;
use super::types;
use crate::edge::compress::Press;
use crate::edge::disk::{self, Reach, Stored};
use crate::edge::h1::coding::Coding;

/// What tells two states of a path apart. `ctime` is in it because a tool may set `mtime` back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// The identity of a regular file; `None` for anything else.
    pub fn of(stat: &Stat) -> Option<Identity> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        Some(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).ok()?,
            modified: (
                stat.st_mtime,
                i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            changed: (
                stat.st_ctime,
                i64::try_from(stat.st_ctime_nsec).unwrap_or(0),
            ),
        })
    }

    /// Whether this state is at least as new as another file's.
    pub fn not_older_than(&self, other: &Identity) -> bool {
        self.modified >= other.modified
    }

    /// A strong entity tag with its quotes. Inode, size and time are hashed: two files swapped by a rename
    /// differ even with equal times, and nobody learns an inode number. The same on every restart.
    fn etag(&self) -> String {
        format!("\"{:016x}\"", self.hash())
    }

    /// The tag of a copy in a coding: also of its bytes, which another version of an encoder makes otherwise.
    fn etag_of_copy(&self, coding: Coding, bytes: &[u8]) -> String {
        let copy = fnv(bytes.iter().copied());
        format!("\"{:016x}-{}-{copy:016x}\"", self.hash(), coding.token())
    }

    fn hash(&self) -> u64 {
        let parts = [
            self.inode,
            self.size,
            self.modified.0.cast_unsigned(),
            self.modified.1.cast_unsigned(),
        ];
        fnv(parts.into_iter().flat_map(u64::to_le_bytes))
    }
}

/// FNV-1a, 64 bit.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Where the bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    /// All of it.
    Memory(Arc<[u8]>),
    /// In this regular file, from offset 0.
    File(Arc<Stored>),
}

/// Response fields that somebody else has already written, so that they are not written twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// An application's `Content-Type`; an empty one counts as none (Django's way to leave it to the server).
    pub content_type: Option<&'a [u8]>,
    /// An application's `ETag`.
    pub etag: Option<&'a [u8]>,
    /// An application's `Last-Modified`.
    pub last_modified: Option<&'a [u8]>,
}

/// One state of one file.
#[derive(Debug)]
pub struct Representation {
    pub identity: Identity,
    /// Bytes.
    pub size: u64,
    pub content: Content,
    pub content_type: Box<str>,
    /// Whether `head` states the type; otherwise the application already has.
    pub own_type: bool,
    /// Response fields of 200, each line with its CRLF.
    pub head: Arc<[u8]>,
    /// Where in `head` the fields start that 206 has too.
    pub common_at: usize,
    /// Response fields of 304.
    pub head_not_modified: Arc<[u8]>,
    etag: Box<[u8]>,
    modified: i64,
    settled: bool,
}

/// How a representation is presented.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presentation<'a> {
    /// The name the type is taken from: the file's own, not its neighbour's.
    pub name: &'a [u8],
    pub coding: Option<Coding>,
    /// Another coding of it can be had.
    pub varies: bool,
    /// Copies of it are made, if it is of a kind that they are made of.
    pub may_be_copied: bool,
    pub given: Given<'a>,
}

impl Representation {
    /// Makes an open regular file ready. Reads it when it is small.
    ///
    /// Errors: `AGAIN` when reach is [`Reach::Memory`] and it is not there, otherwise the read's.
    pub fn load(
        file: OwnedFd,
        identity: Identity,
        how: Presentation<'_>,
        reach: Reach,
    ) -> Result<Representation, Errno> {
        let (identity, content) = read_if_small(file, identity, reach)?;
        let size = match &content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(_) => identity.size,
        };
        let how = Presentation {
            varies: how.varies
                || (how.may_be_copied && Press::takes(types::content_type(how.name), size)),
            ..how
        };
        let kind = types::content_type(how.name);
        Ok(Self::new(
            identity,
            size,
            content,
            kind,
            how,
            identity.etag(),
        ))
    }

    /// A copy in a coding of the file at `identity`: `bytes` are what `content` holds.
    pub fn copy(
        identity: Identity,
        content_type: &str,
        coding: Coding,
        content: Content,
        bytes: &[u8],
    ) -> Representation {
        let how = Presentation {
            coding: Some(coding),
            varies: true,
            ..Presentation::default()
        };
        let etag = identity.etag_of_copy(coding, bytes);
        let size = bytes.len() as u64;
        Self::new(identity, size, content, content_type, how, etag)
    }

    fn new(
        identity: Identity,
        size: u64,
        content: Content,
        kind: &str,
        how: Presentation<'_>,
        own_etag: String,
    ) -> Representation {
        let given = how.given;
        let own_type = given.content_type.is_none_or(<[u8]>::is_empty);
        let content_type = match given.content_type {
            Some(kind) if !own_type => String::from_utf8_lossy(kind).into_owned(),
            _ => kind.to_owned(),
        };
        let seconds = u64::try_from(identity.modified.0).unwrap_or(0);
        let last_modified = crate::edge::h1::date::imf_fixdate(seconds);
        let last_modified = std::str::from_utf8(&last_modified).expect("a date is ASCII");

        let mut head = String::with_capacity(256);
        let _ = write!(head, "Content-Length: {size}\r\n");
        if own_type {
            let _ = write!(head, "Content-Type: {content_type}\r\n");
        }
        let common_at = head.len();
        let mut validators = String::with_capacity(96);
        if given.etag.is_none() {
            let _ = write!(validators, "ETag: {own_etag}\r\n");
        }
        if given.last_modified.is_none() {
            let _ = write!(validators, "Last-Modified: {last_modified}\r\n");
        }
        if how.varies {
            validators.push_str("Vary: Accept-Encoding\r\n");
        }
        head.push_str(&validators);
        head.push_str("Accept-Ranges: bytes\r\n");
        if own_type {
            head.push_str("X-Content-Type-Options: nosniff\r\n");
        }
        if let Some(coding) = how.coding {
            let _ = write!(head, "Content-Encoding: {}\r\n", coding.token());
        }
        Representation {
            identity,
            size,
            content,
            content_type: content_type.into(),
            own_type,
            head: Arc::from(head.into_bytes()),
            common_at,
            head_not_modified: Arc::from(validators.into_bytes()),
            etag: given
                .etag
                .map_or(own_etag.into_bytes(), <[u8]>::to_vec)
                .into(),
            modified: given
                .last_modified
                .and_then(crate::edge::h1::date::parse)
                .unwrap_or(identity.modified.0),
            settled: identity.modified.0 + SETTLED_AFTER <= seconds_now(),
        }
    }

    /// Whether its bytes are surely those of its identity: see [`Representation::is_still`].
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// What conditional requests are compared with.
    pub fn validators(&self) -> Validators<'_> {
        Validators {
            etag: &self.etag,
            modified: self.modified,
            settled: self.settled,
        }
    }

    /// Whether the file at `identity` now is surely still this one. Before Linux 6.13 files are stamped by a
    /// clock of a few milliseconds: a state seen right after a change could be followed by another with the
    /// same stamp, so such a state is never trusted twice.
    pub fn is_still(&self, identity: &Identity) -> bool {
        self.settled && self.identity == *identity
    }

    /// Bytes held in memory.
    pub fn weight(&self) -> usize {
        let body = match &self.content {
            Content::Memory(bytes) => bytes.len(),
            Content::File(_) => 0,
        };
        body + self.head.len()
            + self.head_not_modified.len()
            + self.content_type.len()
            + size_of::<Representation>()
    }

    /// Whether it keeps a descriptor open.
    pub fn holds_descriptor(&self) -> bool {
        matches!(self.content, Content::File(_))
    }
}

/// Files up to this many bytes are answered from memory.
pub const SMALL: u64 = 64 * 1024;

/// Seconds after which a modification time can be trusted to be the last one of its second.
const SETTLED_AFTER: i64 = 2;

/// A file that changes this often while it is read is being written; what was read last is sent.
const READ_ATTEMPTS: usize = 3;

fn read_if_small(
    file: OwnedFd,
    identity: Identity,
    reach: Reach,
) -> Result<(Identity, Content), Errno> {
    if identity.size > SMALL {
        return Ok((identity, Content::File(Arc::new(Stored::new(file)))));
    }
    let mut before = identity;
    let mut bytes = Vec::new();
    for _ in 0..READ_ATTEMPTS {
        bytes = read(&file, before.size, reach)?;
        let after = rustix::fs::fstat(&file)?;
        let after = Identity::of(&after).ok_or(Errno::NOENT)?;
        if after == before && bytes.len() as u64 == before.size {
            break;
        }
        if after.size > SMALL {
            return Ok((after, Content::File(Arc::new(Stored::new(file)))));
        }
        before = after;
    }
    Ok((before, Content::Memory(Arc::from(bytes))))
}

fn read(file: &OwnedFd, size: u64, reach: Reach) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| Errno::FBIG)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match disk::read(file, filled as u64, &mut bytes[filled..], reach) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn seconds_now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
