//! The files that keys come from: read when the server starts, and again when they change.
//!
//! The server reads them, not the keeper, though that may read more: a look at a slow disk would hold up the one
//! thread that starts and reaps everything. So the file must be readable by the server's user; that is the user of
//! the apps too, who see the keys in the requests anyway.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::serve::KeySource;

use super::keyfile::{self, Parsed};
use super::keys::{KeySet, Keys};
use super::slow::SlowLine;

/// A file is looked at this often. Two looks must see the same before it counts, so that one that is just being
/// written does not revoke everything: a change is in force after a second at most, and a good deal less than two.
const LOOK: Duration = Duration::from_millis(500);

/// Largest file, in bytes: ten thousand keys.
const LARGEST: u64 = 1 << 20;

/// Why there are no keys to begin with.
#[derive(Debug)]
pub enum OpenError {
    Unreadable {
        path: PathBuf,
        cause: io::Error,
    },
    /// Everything was read and no key is there.
    NoKey {
        path: Option<PathBuf>,
        variable: String,
    },
    Variable {
        variable: String,
        place: usize,
        what: &'static str,
    },
    Unusable(&'static str),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, cause } => write!(f, "API keys: {}", unreadable(path, cause)),
            Self::NoKey { path, variable } => {
                let file = path
                    .as_deref()
                    .map(|path| format!("in {} nor ", path.display()));
                let file = file.unwrap_or_default();
                write!(
                    f,
                    "access.keys is set and there is no API key, neither {file}in the variable {variable}; \
                     hint: write a line `name,key` into the file, or set {variable}=key1,key2"
                )
            }
            Self::Variable {
                variable,
                place,
                what,
            } => {
                write!(
                    f,
                    "key {place} of the variable {variable} is no key: {what}"
                )
            }
            Self::Unusable(what) => write!(f, "API keys: {what}"),
        }
    }
}

impl std::error::Error for OpenError {}

fn unreadable(path: &Path, cause: &io::Error) -> String {
    let hint = match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "; hint: the server's user must be able to read it: chgrp its group, chmod 640, and x on the folders above"
        }
        _ => "",
    };
    format!("{} cannot be read: {cause}{hint}", path.display())
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// Reads the keys of `source` and follows its file as long as they are in use. `variable` is the value of its
/// variable; `about` begins lines of the log. With `again` a set without a key is better than an error: whoever
/// asks gets 403.
///
/// # Errors
/// There is no key.
pub fn open(
    source: &KeySource,
    variable: Option<String>,
    about: &str,
    line: &Arc<SlowLine>,
    again: bool,
) -> Result<Arc<Keys>, OpenError> {
    let mut watch = Watch {
        source: source.clone(),
        variable: variable.unwrap_or_default(),
        about: about.to_owned(),
        seen: None,
        taken: None,
    };
    let set = watch.first().or_else(|error| match again {
        true => {
            tracing::error!("{about}{error}; until then nobody gets in");
            KeySet::new(source.hash, []).map_err(OpenError::Unusable)
        }
        false => Err(error),
    })?;
    let keys = Arc::new(Keys::new(set, Arc::clone(line)));
    if watch.source.file.is_some() {
        tokio::spawn(watch.run(Arc::downgrade(&keys)));
    }
    Ok(keys)
}

struct Watch {
    source: KeySource,
    variable: String,
    about: String,
    /// At the last look; `None`: there was nothing to see.
    seen: Option<Stamp>,
    /// What was read last.
    taken: Option<Stamp>,
}

/// What a look at the file gave.
enum Look {
    Same,
    /// Something was read.
    Set(Box<KeySet>),
    /// The keys stay as they are: why, for the log.
    Keep(String),
}

impl Watch {
    fn first(&mut self) -> Result<KeySet, OpenError> {
        let mut text = Zeroizing::default();
        let mut path = None;
        if let Some(file) = &self.source.file {
            match read(file) {
                Ok((stamp, read)) => {
                    (text, self.taken) = (read, Some(stamp));
                    path = Some(file.clone());
                }
                // The usual name may be missing where a variable has the keys.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound && !self.source.named => {
                    path = Some(file.clone());
                }
                Err(cause) => {
                    let path = file.clone();
                    return Err(OpenError::Unreadable { path, cause });
                }
            }
        }
        self.seen = self.taken;
        let variable = self.source.variable.clone();
        if let Err((place, what)) = keyfile::parse_variable(&self.variable) {
            return Err(OpenError::Variable {
                variable,
                place,
                what,
            });
        }
        let parsed = keyfile::parse(&text);
        self.tell_bad(&parsed);
        match self.set(&parsed).map_err(OpenError::Unusable)? {
            set if set.len() == 0 => Err(OpenError::NoKey { path, variable }),
            set => Ok(set),
        }
    }

    /// The keys of the file and of the variable.
    fn set(&self, parsed: &Parsed<'_>) -> Result<KeySet, &'static str> {
        let variable = keyfile::parse_variable(&self.variable).unwrap_or_default();
        let own = parsed.entries.iter().map(|entry| (entry.user, entry.key));
        let others = variable.iter().map(|(user, key)| (user.as_str(), *key));
        KeySet::new(self.source.hash, own.chain(others))
    }

    fn tell_bad(&self, parsed: &Parsed<'_>) {
        let file = self.source.file.as_deref().unwrap_or(Path::new(""));
        for (number, what) in &parsed.bad {
            tracing::warn!(
                "{}{}:{number}: {what}; the line is passed over",
                self.about,
                file.display()
            );
        }
        if parsed.more > 0 {
            tracing::warn!("{}and {} more bad lines", self.about, parsed.more);
        }
    }

    /// Looks until nobody uses the keys any more.
    async fn run(mut self, keys: Weak<Keys>) {
        loop {
            tokio::time::sleep(LOOK).await;
            if keys.strong_count() == 0 {
                return;
            }
            // A disk may take its time, and a slow function does.
            let looked = tokio::task::spawn_blocking(move || {
                let look = self.look();
                (self, look)
            });
            let Ok((watch, look)) = looked.await else {
                return;
            };
            self = watch;
            let Some(keys) = keys.upgrade() else {
                return;
            };
            match look {
                Look::Same => {}
                Look::Keep(why) => {
                    tracing::error!("{}{why}; the API keys stay as they were", self.about)
                }
                Look::Set(set) => {
                    let path = self.source.file.as_deref().unwrap_or(Path::new(""));
                    let count = set.len();
                    match count {
                        0 => tracing::warn!(
                            "{}{} is empty: every API key is revoked",
                            self.about,
                            path.display()
                        ),
                        _ => tracing::info!("{}API keys read anew: {count}", self.about),
                    }
                    keys.replace(*set);
                }
            }
        }
    }

    fn look(&mut self) -> Look {
        let Some(path) = self.source.file.clone() else {
            return Look::Same;
        };
        let stamp = match std::fs::metadata(&path) {
            Ok(about) => Some(Stamp::of(&about)),
            Err(_) => None,
        };
        let settled = self.seen == stamp;
        self.seen = stamp;
        if !settled || stamp == self.taken {
            return Look::Same;
        }
        self.taken = stamp;
        let text = match read(&path) {
            Ok((stamp, text)) => {
                self.taken = Some(stamp);
                text
            }
            Err(cause) => return Look::Keep(unreadable(&path, &cause)),
        };
        let parsed = keyfile::parse(&text);
        self.tell_bad(&parsed);
        if parsed.entries.is_empty() && !parsed.bad.is_empty() {
            return Look::Keep(format!("{} has no key and a bad line", path.display()));
        }
        match self.set(&parsed) {
            Ok(set) => Look::Set(Box::new(set)),
            Err(what) => Look::Keep(what.to_owned()),
        }
    }
}

impl Stamp {
    fn of(about: &std::fs::Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            size: about.size(),
            written: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// The text of a regular file, and its state before it was read: what changes meanwhile is seen at the next look.
fn read(path: &Path) -> io::Result<(Stamp, Zeroizing<String>)> {
    // A FIFO would be waited for.
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // With room for all of it, so that it is never moved and a copy left behind.
    let room = about.len().min(LARGEST) as usize + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    // One bad line must not cost all others.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((Stamp::of(&about), Zeroizing::new(text)))
}
