//! What a Python is started with: the text it runs first, and the worker extension as a file that
//! it can map. Knows nothing of what the extension does.

use std::{
    fs::{DirBuilder, OpenOptions, Permissions},
    hash::{DefaultHasher, Hasher},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    ptr,
};

use super::fds;

/// What `python -c` runs. Descriptor 3 is the control socket, 4 the extension, which stays open: a
/// zygote that starts over loads it again.
///
/// It must parse on every Python from 2.7 on, because an unfit one is refused in words: a message
/// `{"type": "unsupported", "text": …}` and exit 2.
pub const BOOT: &str = r#"
import os, sys
def refuse(why):
    import json
    where = "Python %d.%d.%d at %s" % (tuple(sys.version_info[:3]) + (sys.executable,))
    text = "%s %s; ostler runs apps on CPython 3.9 or newer with glibc and with the GIL; for anything else, put the app in a container project" % (where, why)
    os.write(3, json.dumps({"type": "unsupported", "text": text}).encode("utf-8"))
    os._exit(2)
kind = getattr(sys, "implementation", None)
if sys.version_info < (3, 9):
    refuse("is too old")
if kind.name != "cpython":
    refuse("is " + kind.name + ", not CPython")
if "t" in getattr(sys, "abiflags", ""):
    refuse("is a free-threaded build")
if "musl" in getattr(kind, "_multiarch", ""):
    refuse("is built for musl")
if sys.maxsize < 2**32:
    refuse("is a 32-bit build")
try:
    from importlib import machinery, util
    loader = machinery.ExtensionFileLoader("_ostler", "/proc/self/fd/4")
    spec = util.spec_from_file_location("_ostler", "/proc/self/fd/4", loader=loader)
    module = util.module_from_spec(spec)
    sys.modules["_ostler"] = module
    loader.exec_module(module)
except ImportError as error:
    refuse("cannot load the worker extension (%s)" % error)
del refuse, kind, machinery, util, loader, spec, module
from _ostler import zygote
zygote.main(3)
"#;

/// The worker extension as a descriptor that another process can map and run: a sealed memory
/// file, or, where the system refuses to run one, a file named by its content in a folder that
/// only this user can write.
///
/// # Errors
/// The last folder's error, when no folder of [`folders`] can hold a file that may be run.
pub fn extension() -> io::Result<OwnedFd> {
    program(super::worker_so::WORKER_SO)
}

fn program(bytes: &[u8]) -> io::Result<OwnedFd> {
    match fds::sealed("ostler-worker", bytes) {
        Ok(fd) if may_run(&fd).is_ok() => return Ok(fd),
        Ok(_) | Err(_) => {}
    }
    let mut last = io::Error::other("no folder to keep the worker extension in");
    for folder in folders() {
        match in_folder(&folder, bytes).and_then(|fd| may_run(&fd).map(|()| fd)) {
            Ok(fd) => return Ok(fd),
            Err(error) => {
                let text = format!("cannot keep the worker extension in {}", folder.display());
                last = io::Error::new(error.kind(), format!("{text}: {error}"));
            }
        }
    }
    Err(last)
}

/// Where the extension goes when memory files may not be run, best first.
fn folders() -> Vec<PathBuf> {
    let from = |name: &str, below: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value
            .map(|value| PathBuf::from(value).join(below))
            .filter(|path| path.is_absolute())
    };
    let uid = rustix::process::geteuid().as_raw();
    [
        (uid == 0).then(|| PathBuf::from("/run/ostler")),
        from("XDG_RUNTIME_DIR", "ostler"),
        from("XDG_STATE_HOME", "ostler"),
        from("HOME", ".local/state/ostler"),
        Some(PathBuf::from(format!("/var/tmp/ostler-{uid}"))),
        Some(PathBuf::from(format!("/tmp/ostler-{uid}"))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A file with exactly these bytes in `folder`, which must be ours alone.
fn in_folder(folder: &Path, bytes: &[u8]) -> io::Result<OwnedFd> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let metadata = std::fs::symlink_metadata(folder)?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !own || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("the folder is not ours alone"));
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    let path = folder.join(format!("worker-{:016x}.so", hasher.finish()));
    // The hash is only a name; what counts is that every byte is ours.
    if let Ok(fd) = open_if_same(&path, bytes) {
        return Ok(fd);
    }
    let written = folder.join(format!(".worker-{}.new", std::process::id()));
    let _ = std::fs::remove_file(&written);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o500)
        .open(&written)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&written, &path)?;
    open_if_same(&path, bytes)
}

fn open_if_same(path: &Path, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    let mut seen = Vec::with_capacity(bytes.len());
    (&mut file)
        .take(bytes.len() as u64 + 1)
        .read_to_end(&mut seen)?;
    if seen != bytes {
        return Err(io::Error::other("the file has other bytes"));
    }
    // For zygotes that are another user from their first instruction, whatever the umask.
    file.set_permissions(Permissions::from_mode(0o555))?;
    Ok(OwnedFd::from(file))
}

/// Whether the kernel lets a process map this file as a program: `noexec` mounts, SELinux and
/// `vm.memfd_noexec` are all asked at once by trying.
fn may_run(fd: &impl AsFd) -> io::Result<()> {
    use rustix::mm::{MapFlags, ProtFlags};
    const PAGE: usize = 4096;
    let protection = ProtFlags::READ | ProtFlags::EXEC;
    // SAFETY: a new private mapping at an address the kernel chooses replaces nothing; it is never
    // read or run, and unmapped at once.
    unsafe {
        let page = rustix::mm::mmap(ptr::null_mut(), PAGE, protection, MapFlags::PRIVATE, fd, 0)?;
        rustix::mm::munmap(page, PAGE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_program() -> Vec<u8> {
        std::fs::read("/bin/true").expect("/bin/true")
    }

    fn run(fd: &OwnedFd) -> bool {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
        loop {
            match std::process::Command::new(&path).status() {
                // A test beside this one forked while the file was being written, and the child has
                // yet to close what it inherited.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                status => return status.expect("runs").success(),
            }
        }
    }

    #[test]
    fn the_memory_file_can_be_run() {
        assert!(run(&program(&own_program()).expect("program")));
    }

    #[test]
    fn the_fallback_file_is_written_once_and_can_be_run() {
        let folder = std::env::temp_dir().join(format!("ostler-boot-{}", std::process::id()));
        let first = in_folder(&folder, &own_program()).expect("first");
        let second = in_folder(&folder, &own_program()).expect("second");
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).expect("stat").st_ino;
        assert_eq!(inode(&first), inode(&second));
        assert!(run(&second));
        std::fs::remove_dir_all(&folder).expect("clean");
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = std::env::temp_dir().join(format!("ostler-open-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("folder");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("mode");
        assert!(in_folder(&folder, b"bytes").is_err());
        std::fs::remove_dir_all(&folder).expect("clean");
    }
}
