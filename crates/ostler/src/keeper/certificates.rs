//! Files of certificates: read by the keeper, whose user may, and read again when they change; and the folder for
//! those that a CA gives. Knows nothing of what is in them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::cli::serve::ServePlan;
use crate::sys::User;

use super::protocol::Machine;

/// A changed file is noticed by then. A few `stat` calls cost nothing, and inotify does not see every way a file
/// can be replaced (a link's target, a network file system).
const LOOK: Duration = Duration::from_secs(5);

/// No certificate with its chain, and no key, is larger.
const MOST_BYTES: u64 = 1 << 20;

/// Files, and how they were when they were last read.
#[derive(Debug)]
pub struct Files {
    seen: Vec<(PathBuf, Option<Stamp>)>,
    next_look: Instant,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            seen: Vec::new(),
            next_look: Instant::now() + LOOK,
        }
    }
}

/// Another one means another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Files {
    /// Waits until one of them is another than it was. Nothing is lost when it is not waited for to the end.
    pub async fn changed(&mut self) {
        loop {
            match self.seen.is_empty() {
                true => std::future::pending().await,
                false => sleep_until(self.next_look).await,
            }
            self.next_look = Instant::now() + LOOK;
            let mut changed = false;
            for (path, seen) in &mut self.seen {
                let now = stamp(path);
                changed |= std::mem::replace(seen, now) != now;
            }
            if changed {
                return;
            }
        }
    }
}

/// Reads what `plan` names.
///
/// # Errors
/// A text that names the file which cannot be read.
pub fn read(plan: &mut ServePlan) -> Result<Files, String> {
    let mut files = Files::default();
    let machine = &mut plan.machine;
    if let Some(tls) = &mut machine.settings.listening.tls {
        files.add(&tls.certfile);
        files.add(&tls.keyfile);
        tls.read()?;
    }
    if let Some(acme) = &mut machine.acme
        && let Some(path) = &acme.ca_root
    {
        acme.ca_root_text = Some(files.read("the roots of the CA", path)?);
    }
    for project in &mut plan.projects {
        if let Some(pair) = &mut project.pair {
            pair.certificate = files.read("the certificate", &pair.certfile)?;
            pair.key = files.read("the private key", &pair.keyfile)?;
        }
        if let Some(clients) = &mut project.clients {
            clients.authorities = files.read("the authorities of clients", &clients.ca)?;
        }
    }
    Ok(files)
}

impl Files {
    fn add(&mut self, path: &Path) {
        self.seen.push((path.to_owned(), stamp(path)));
    }

    fn read(&mut self, what: &str, path: &Path) -> Result<String, String> {
        // Before the look into it: a change in between is seen later.
        self.add(path);
        let about = |error: io::Error| {
            let path = path.display();
            format!(
                "error: cannot read {what}: {path}: {error}; hint: it must be readable by the user who starts ostler"
            )
        };
        let length = fs::metadata(path).map_err(about)?.len();
        if length > MOST_BYTES {
            return Err(about(io::Error::other("the file is too large")));
        }
        fs::read_to_string(path).map_err(about)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// Where what a CA gives is kept, below the state folder.
pub fn certificates_folder(state: &Path) -> PathBuf {
    state.join("certs")
}

/// Makes the folder for what a CA gives, where one is asked: only the server's user can look into it.
///
/// # Errors
/// A text that names the folder.
pub fn make_folder(machine: &Machine, user: Option<&User>) -> Result<(), String> {
    let (Some(state), Some(_)) = (&machine.state, &machine.acme) else {
        return Ok(());
    };
    let folder = certificates_folder(state);
    let about = |error: io::Error| {
        let path = folder.display();
        format!(
            "error: cannot make the folder for certificates {path}: {error}; hint: `state` in [server] names another folder"
        )
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(state)
        .map_err(about)?;
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(about)?,
    }
    match user {
        Some(user) => give(&folder, user, DEPTH).map_err(about),
        None => Ok(()),
    }
}

/// The CA, the names, the file.
const DEPTH: u32 = 3;

/// Gives a folder to who the server runs as from now on. Follows no link.
fn give(path: &Path, user: &User, depth: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    if (meta.uid(), meta.gid()) != (user.uid, user.gid) {
        chown(path, Some(user.uid), Some(user.gid))?;
    }
    if meta.is_dir() && depth > 0 {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user, depth - 1)?;
        }
    }
    Ok(())
}
