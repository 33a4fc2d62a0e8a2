//! The files that keys come from: read when the server starts, and again when they change.
//!
//! The server reads them, not the keeper, though that may read more: a look at a slow disk would hold up the one
//! thread that starts and reaps everything. So the file must be readable by the server's user; that is the user of
//! the apps too, who see the keys in the requests anyway.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use zeroize::Zeroizing;

use crate::config::serve::KeySource;

use super::follow::{Followed, LOOK, unreadable};
use super::keyfile::{self, Parsed};
use super::keys::{KeySet, Keys};
use super::slow::SlowLine;

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
        file: source.file.clone().map(Followed::new),
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
    file: Option<Followed>,
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
        if let Some(file) = &mut self.file {
            path = Some(file.path.clone());
            match file.read() {
                Ok(read) => text = read,
                // The usual name may be missing where a variable has the keys.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound && !self.source.named => {}
                Err(cause) => {
                    let path = file.path.clone();
                    return Err(OpenError::Unreadable { path, cause });
                }
            }
        }
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
                    keys.replace(*set);
                    match count {
                        0 => tracing::warn!(
                            "{}{} is empty: every API key is revoked",
                            self.about,
                            path.display()
                        ),
                        _ => tracing::info!("{}API keys read anew: {count}", self.about),
                    }
                }
            }
        }
    }

    fn look(&mut self) -> Look {
        let Some(file) = &mut self.file else {
            return Look::Same;
        };
        let path = file.path.clone();
        let text = match file.look() {
            None => return Look::Same,
            Some(Ok(text)) => text,
            Some(Err(cause)) => return Look::Keep(unreadable(&path, &cause)),
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
