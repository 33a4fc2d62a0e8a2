//! Opening a path beneath a directory and never outside it, whatever the path or the links in it say.
//!
//! The kernel resolves (`openat2`, Linux 5.6); where a sandbox forbids that call, each component is opened
//! by itself and no link is followed at all. The kernel also tells when it would have to ask the disk
//! (`RESOLVE_CACHED`, Linux 5.12). This file must not know about names that are hidden or about HTTP.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::edge::disk::Reach;

/// A directory that paths are resolved beneath. Holds one `O_PATH` descriptor, so that renaming the
/// directory's parents later changes nothing.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    resolver: Resolver,
    /// The kernel can tell whether it has a path in memory. Otherwise every look goes to the disk.
    tells: bool,
}

/// A file that was opened, and how its path got there.
#[derive(Debug)]
pub struct Opened {
    /// Readable, non-blocking (so that opening a FIFO does not wait for a writer).
    pub file: OwnedFd,
    /// A symbolic link was followed: the names in the path are not the file's own names.
    pub through_link: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Resolver {
    Kernel,
    Components,
}

impl Root {
    /// Opens a directory as a root. The path itself may hold links: the operator wrote it.
    pub fn open(directory: &Path) -> Result<Root, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
        // A seccomp filter that does not know the call answers ENOSYS or, in older Docker, EPERM.
        let probe = rustix::fs::openat2(&directory, ".", flags, Mode::empty(), BENEATH);
        let resolver = match probe {
            Err(Errno::NOSYS | Errno::PERM) => Resolver::Components,
            _ => Resolver::Kernel,
        };
        // EINVAL: a kernel that does not know the flag. EAGAIN would be an answer.
        let cached = rustix::fs::openat2(&directory, ".", flags, Mode::empty(), IN_MEMORY);
        let knows = matches!(cached, Ok(_) | Err(Errno::AGAIN));
        Ok(Root {
            tells: resolver == Resolver::Kernel && knows && !asks_a_server(&directory),
            directory,
            resolver,
        })
    }

    /// From here on nothing is known without a look to the disk.
    #[cfg(test)]
    pub fn never_tell(&mut self) {
        self.tells = false;
    }

    /// Opens `below` (relative, no leading slash) for reading.
    ///
    /// Errors: `AGAIN` when reach is [`Reach::Memory`] and only the disk can tell, `XDEV` and `LOOP` for
    /// a path or link that leaves the root, otherwise as `openat(2)`.
    pub fn open_file(&self, below: &[u8], reach: Reach) -> Result<Opened, Errno> {
        if below.is_empty() || below.starts_with(b"/") {
            return Err(Errno::NOENT);
        }
        match (self.resolver, reach) {
            (_, Reach::Memory) if !self.tells => Err(Errno::AGAIN),
            (Resolver::Kernel, _) => self.by_kernel(below, reach),
            (Resolver::Components, _) => self.by_components(below),
        }
    }

    fn by_kernel(&self, below: &[u8], reach: Reach) -> Result<Opened, Errno> {
        let resolve = |how| match reach {
            Reach::Memory => self.resolve_in_memory(below, how),
            Reach::Disk => self.resolve(below, how),
        };
        match resolve(ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {
                let file = resolve(ResolveFlags::empty())?;
                Ok(Opened {
                    file,
                    through_link: true,
                })
            }
            outcome => Ok(Opened {
                file: outcome?,
                through_link: false,
            }),
        }
    }

    fn resolve_in_memory(&self, below: &[u8], how: ResolveFlags) -> Result<OwnedFd, Errno> {
        let how = IN_MEMORY | how;
        match rustix::fs::openat2(&self.directory, below, READ, Mode::empty(), how) {
            // XDEV: the path leaves the root, or it only crosses into another file system.
            Err(Errno::XDEV | Errno::INTR) => Err(Errno::AGAIN),
            outcome => outcome,
        }
    }

    fn resolve(&self, below: &[u8], how: ResolveFlags) -> Result<OwnedFd, Errno> {
        let how = BENEATH | how;
        // EAGAIN: a rename happened somewhere while a `..` inside a link was resolved (openat2(2)).
        for _ in 0..RENAME_RETRIES {
            match rustix::fs::openat2(&self.directory, below, READ, Mode::empty(), how) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                outcome => return outcome,
            }
        }
        Err(Errno::AGAIN)
    }

    fn by_components(&self, below: &[u8]) -> Result<Opened, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut names = below
            .split(|&b| b == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
            .peekable();
        let mut held: Option<OwnedFd> = None;
        while let Some(name) = names.next() {
            if name == b".." {
                return Err(Errno::XDEV);
            }
            let at = held.as_ref().map_or(self.directory.as_fd(), AsFd::as_fd);
            if names.peek().is_none() && !below.ends_with(b"/") {
                let file = rustix::fs::openat(at, name, READ | OFlags::NOFOLLOW, Mode::empty())?;
                return Ok(Opened {
                    file,
                    through_link: false,
                });
            }
            held = Some(rustix::fs::openat(at, name, step, Mode::empty())?);
        }
        let at = held.as_ref().map_or(self.directory.as_fd(), AsFd::as_fd);
        let file = rustix::fs::openat(at, ".", READ, Mode::empty())?;
        Ok(Opened {
            file,
            through_link: false,
        })
    }
}

/// The last name of an open file's real path, where `/proc` tells.
pub fn real_name(file: &OwnedFd) -> Option<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes();
    path.rsplit(|&b| b == b'/').next().map(<[u8]>::to_vec)
}

/// Whether opening or looking at a file of this file system waits for somebody else, be its name in memory
/// or not.
fn asks_a_server(directory: &OwnedFd) -> bool {
    let known = rustix::fs::fstatfs(directory);
    // The field's type differs between machines; the numbers have 32 bits.
    known.map_or(true, |known| SERVED.contains(&(known.f_type as u32)))
}

/// File systems behind a server (statfs(2), linux/magic.h): FUSE, NFS, SMB (three names), 9p, Ceph, AFS, Coda.
const SERVED: [u32; 9] = [
    0x6573_5546,
    0x0000_6969,
    0x0000_517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
];

/// Only what the kernel has in memory, and no other file system below: that may be one behind a server.
const IN_MEMORY: ResolveFlags = BENEATH
    .union(ResolveFlags::CACHED)
    .union(ResolveFlags::NO_XDEV);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// More renames than this within one resolution are somebody's game, not a deploy.
const RENAME_RETRIES: usize = 16;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::logs::scratch::Scratch;

    fn roots(path: &Path) -> [Root; 2] {
        let kernel = Root::open(path).unwrap();
        let mut components = Root::open(path).unwrap();
        components.resolver = Resolver::Components;
        components.tells = false;
        [kernel, components]
    }

    fn content(opened: Opened) -> String {
        std::io::read_to_string(std::fs::File::from(opened.file)).unwrap()
    }

    #[test]
    fn links_inside_are_followed_and_links_outside_are_not() {
        let scratch = Scratch::new("links");
        scratch.write("secret", "secret");
        scratch.write("root/sub/file", "inside");
        let root = scratch.path("root");
        symlink("sub/file", root.join("in")).unwrap();
        symlink("sub", root.join("in-dir")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("..", root.join("out-dir")).unwrap();
        symlink(scratch.path("secret"), root.join("absolute")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let [kernel, components] = roots(&root);

        let opened = kernel.open_file(b"in", Reach::Disk).unwrap();
        assert!(opened.through_link);
        assert_eq!(content(opened), "inside");
        assert_eq!(
            content(kernel.open_file(b"in-dir/file", Reach::Disk).unwrap()),
            "inside"
        );
        assert!(
            !kernel
                .open_file(b"sub/file", Reach::Disk)
                .unwrap()
                .through_link
        );
        // Without the kernel's help no link is followed, not even a good one.
        assert!(components.open_file(b"in", Reach::Disk).is_err());
        assert!(components.open_file(b"in-dir/file", Reach::Disk).is_err());
        for root in [kernel, components] {
            assert_eq!(
                content(root.open_file(b"sub/file", Reach::Disk).unwrap()),
                "inside"
            );
            for path in [
                "out",
                "out-dir/secret",
                "absolute",
                "magic/etc/passwd",
                "loop",
                "../secret",
                "sub/../../secret",
                "/etc/passwd",
                "",
            ] {
                assert!(
                    root.open_file(path.as_bytes(), Reach::Disk).is_err(),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
        let scratch = Scratch::new("swap");
        scratch.write("outside/file", "outside");
        scratch.write("root/real/file", "inside");
        let root = scratch.path("root");
        symlink("real", root.join("dir")).unwrap();
        let swap = || {
            for round in 0..2000 {
                let to = if round % 2 == 0 { "../outside" } else { "real" };
                symlink(to, root.join("fresh")).unwrap();
                std::fs::rename(root.join("fresh"), root.join("dir")).unwrap();
            }
        };
        let roots = roots(&root);
        std::thread::scope(|scope| {
            let swapping = scope.spawn(swap);
            while !swapping.is_finished() {
                for root in &roots {
                    for path in ["dir/file", "dir/../dir/file"] {
                        if let Ok(opened) = root.open_file(path.as_bytes(), Reach::Disk) {
                            assert_eq!(content(opened), "inside");
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn memory_tells_what_it_knows_and_asks_for_the_disk_otherwise() {
        let scratch = Scratch::new("reach");
        scratch.write("root/sub/file", "inside");
        scratch.write("outside", "outside");
        let root = scratch.path("root");
        symlink("sub/file", root.join("in")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        let open = |root: &Root, path: &str, reach| {
            let opened = root.open_file(path.as_bytes(), reach);
            opened.map(|opened| (opened.through_link, content(opened)))
        };
        let [kernel, components] = roots(&root);
        let mut silent = Root::open(&root).unwrap();
        silent.never_tell();
        for path in ["sub/file", "in", "out", "missing", "sub/file/more"] {
            // The disk's answer puts the path into memory.
            let on_disk = open(&kernel, path, Reach::Disk);
            let in_memory = open(&kernel, path, Reach::Memory);
            assert!(
                in_memory == on_disk || in_memory == Err(Errno::AGAIN),
                "{path}: {in_memory:?} {on_disk:?}"
            );
            assert!(
                in_memory.is_ok() || !kernel.tells || on_disk.is_err(),
                "{path}"
            );
            for root in [&components, &silent] {
                assert_eq!(open(root, path, Reach::Memory), Err(Errno::AGAIN), "{path}");
            }
        }
        assert!(open(&silent, "in", Reach::Disk).is_ok());
    }

    #[test]
    fn the_real_name_is_told_behind_a_link() {
        let scratch = Scratch::new("real-name");
        scratch.write(".env", "SECRET=1");
        symlink(".env", scratch.path("settings.txt")).unwrap();
        let opened = Root::open(&scratch.path(""))
            .unwrap()
            .open_file(b"settings.txt", Reach::Disk)
            .unwrap();
        assert_eq!(real_name(&opened.file).as_deref(), Some(&b".env"[..]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_path_escapes_the_root(
            segments in prop::collection::vec(
                prop::sample::select(vec!["..", ".", "", "a", "b", "up", "abs", "in", "file", "secret", "tmp", "etc", "passwd", "..\\", "proc"]),
                0..9,
            ),
        ) {
            let scratch = Scratch::new("escape");
            scratch.write("secret", "outside");
            scratch.write("file", "outside");
            scratch.write("root/a/b/file", "inside");
            scratch.write("root/file", "inside");
            let root = scratch.path("root");
            symlink("..", root.join("up")).unwrap();
            symlink("../../..", root.join("a/b/up")).unwrap();
            symlink("/", root.join("abs")).unwrap();
            symlink("a/b", root.join("in")).unwrap();
            let path = segments.join("/");
            for root in roots(&root) {
                if let Ok(opened) = root.open_file(path.as_bytes(), Reach::Disk) {
                    let stat = rustix::fs::fstat(&opened.file).unwrap();
                    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile {
                        prop_assert_eq!(content(opened), "inside");
                    } else {
                        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened.file));
                        let real = std::fs::read_link(link).unwrap();
                        prop_assert!(real.starts_with(scratch.path("root").canonicalize().unwrap()));
                    }
                }
            }
        }
    }
}
