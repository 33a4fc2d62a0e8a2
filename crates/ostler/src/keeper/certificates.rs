//! Files of certificates: read by the keeper, whose user may, and read again when they change; and the folder for
//! those that a CA gives. Knows nothing of what is in them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchown, fstat, openat, statat,
};
use rustix::path::Arg;
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
    /// What is there is another one than what was read.
    pub fn look_again(&mut self) {
        self.seen.iter_mut().for_each(|(_, seen)| *seen = None);
    }

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
        Some(user) => give(&folder, user).map_err(about),
        None => Ok(()),
    }
}

/// The CA, the names, the file.
const DEPTH: u32 = 3;

/// Gives a folder to who the server runs as from now on. Apps may have the same user and put anything there, so
/// nothing is followed and nothing is found by its path: links, and files that have other names too, stay as they
/// are. Once the folder itself is the user's, only that user and root have ever written there.
pub(super) fn give(folder: &Path, user: &User) -> io::Result<()> {
    let folder = open_folder(CWD, folder)?;
    let meta = fstat(&folder)?;
    if (meta.st_uid, meta.st_gid) == (user.uid, user.gid) {
        return Ok(());
    }
    give_all(&folder, user, DEPTH)
}

/// What is in it first: what is cut off in between begins anew.
fn give_all(folder: &OwnedFd, user: &User, depth: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match open_folder(folder, name) {
            Ok(below) if depth > 0 => give_all(&below, user, depth - 1)?,
            Ok(_) => {}
            // A file, a link, or gone.
            Err(_) => {
                let file = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(file.st_mode).is_file() && file.st_nlink == 1 {
                    chownat(
                        folder,
                        name,
                        Some(uid),
                        Some(gid),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                }
            }
        }
    }
    Ok(fchown(folder, Some(uid), Some(gid))?)
}

fn open_folder(below: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(below, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::logs::scratch::Scratch;

    /// Only root can give anything away, and only to another user can it be seen.
    #[test]
    fn what_is_given_away_is_found_by_no_link() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let scratch = Scratch::new("give");
        let (folder, victim) = (scratch.path("certs"), scratch.path("victim"));
        fs::create_dir_all(folder.join("ca/name")).unwrap();
        fs::create_dir_all(&victim).unwrap();
        for file in [folder.join("ca/name/current.pem"), victim.join("shadow")] {
            fs::write(file, "").unwrap();
        }
        symlink(&victim, folder.join("ca/folder")).unwrap();
        symlink(victim.join("shadow"), folder.join("ca/name/file")).unwrap();
        fs::hard_link(victim.join("shadow"), folder.join("ca/name/hard")).unwrap();
        let user = User {
            uid: 65534,
            gid: 65534,
            ..crate::sys::users::own()
        };
        give(&folder, &user).unwrap();
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        for own in [
            &folder,
            &folder.join("ca"),
            &folder.join("ca/name/current.pem"),
        ] {
            assert_eq!(owner(own), 65534, "{}", own.display());
        }
        assert_eq!((owner(&victim), owner(&victim.join("shadow"))), (0, 0));
        // What is the user's already is not looked into again.
        fs::write(folder.join("ca/later"), "").unwrap();
        give(&folder, &user).unwrap();
        assert_eq!(owner(&folder.join("ca/later")), 0);
    }
}
