//! The files that rules name and that are read when sites are made: whether they still are what they were. Those that
//! are followed by themselves (keys, static files) are not among them. Reads none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::serve::Rules;

/// One for each file, in the order of the rules; `None` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named(Vec<Option<Stamp>>);

/// Another one means another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Named {
    /// As they are now. To be asked before they are read: a change in between is seen the next time.
    pub(super) fn by(rules: &[Rules]) -> Self {
        let files = rules.iter().flat_map(|rules| {
            let pages = rules.errors.pages.iter().map(|(_, path)| path);
            let ca = rules
                .upstreams
                .iter()
                .filter_map(|upstreams| upstreams.ca.as_ref());
            pages.chain(&rules.errors.maintenance).chain(ca)
        });
        Self(files.map(|path| stamp(path)).collect())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}
