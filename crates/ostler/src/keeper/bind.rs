//! Binding the addresses that the settings name.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    sockopt,
};

use serde::{Deserialize, Serialize};

use crate::config::{Bind, Listening as Addresses, Settings};
use crate::sys::{User, fds};

use super::protocol::ListenerName;

/// One listening socket.
#[derive(Debug)]
pub struct Listening {
    pub name: ListenerName,
    /// `None` once the server has been told to stop.
    pub fd: Option<OwnedFd>,
    /// As it was asked for: with it the same is found again.
    wanted: String,
    file: Option<SocketFile>,
    /// Bound by the program before us, which may take it back.
    is_inherited: bool,
}

/// A listening socket as it is left to another program, see [`super::heritage`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Left {
    pub fd: i32,
    wanted: String,
    name: ListenerName,
    file: Option<SocketFile>,
}

/// A UNIX socket's name in the file system, which the kernel does not take away.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another server may have put its own socket there meanwhile.
    identity: (u64, u64),
}

/// Why an address could not be bound.
#[derive(Debug)]
pub struct BindError {
    address: String,
    cause: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hint = match self.cause.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there; stop it or choose another --bind"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or the capability net_bind_service"
            }
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            _ => "check --bind",
        };
        write!(
            f,
            "cannot listen on {}: {}; hint: {hint}",
            self.address, self.cause
        )
    }
}

impl Listening {
    /// Removes the socket's file, if it has one and it still is its own.
    pub fn remove(&self) {
        if let Some(file) = &self.file
            && identity(&file.path) == Some(file.identity)
        {
            let _ = fs::remove_file(&file.path);
        }
    }

    /// Removes the file of a socket that was bound in vain.
    pub fn undo(&self) {
        if !self.is_inherited {
            self.remove();
        }
    }

    /// `None` once it is closed.
    pub fn left(&self) -> Option<Left> {
        Some(Left {
            fd: self.fd.as_ref()?.as_raw_fd(),
            wanted: self.wanted.clone(),
            name: self.name.clone(),
            file: self.file.clone(),
        })
    }

    pub fn inherited(left: &Left, fd: OwnedFd) -> Self {
        Self {
            name: left.name.clone(),
            fd: Some(fd),
            wanted: left.wanted.clone(),
            file: left.file.clone(),
            is_inherited: true,
        }
    }

    /// Listens on, and more may wait in the kernel, or less.
    fn again(self, backlog: i32) -> io::Result<Self> {
        self.fd.as_ref().map_or(Ok(()), |fd| listen(fd, backlog))?;
        Ok(self)
    }

    /// The port it has, however it was asked for; `None` for a UNIX socket, and once it is closed.
    pub fn port(&self) -> Option<u16> {
        let bound = rustix::net::getsockname(self.fd.as_ref()?).ok()?;
        SocketAddr::try_from(bound)
            .ok()
            .map(|address| address.port())
    }

    /// Whether this is what is asked for: another socket could not be bound beside it.
    pub fn is_at(&self, path: &Path) -> bool {
        self.file.as_ref().is_some_and(|file| file.path == path)
    }
}

/// Binds everything, or nothing. Socket files belong to `user`. Connections to the settings' `binds` begin with
/// TLS where there is a certificate, unless they are `plain`. What is among the `inherited` is taken from there.
pub fn all(
    settings: &Settings,
    plain: bool,
    user: Option<&User>,
    inherited: &mut Vec<Listening>,
) -> Result<Vec<Listening>, BindError> {
    let mut listening = Vec::new();
    let mut found = |wanted: &str, tls: bool| {
        let same = |known: &mut Listening| known.wanted == wanted && known.name.tls == tls;
        inherited.extract_if(.., same).next()
    };
    let Addresses {
        binds, tls_binds, ..
    } = &settings.listening;
    let binds = binds.iter().map(|bind| (bind, !plain));
    let mut binds = binds.chain(tls_binds.iter().map(|bind| (bind, true)));
    let bound = binds.try_for_each(|(wanted, tls)| {
        let named = |cause| BindError {
            address: wanted.to_string(),
            cause,
        };
        match wanted {
            Bind::Tcp { addresses, .. } => addresses.iter().try_for_each(|&address| {
                let named = |cause| BindError {
                    address: address.to_string(),
                    cause,
                };
                listening.push(match found(&address.to_string(), tls) {
                    Some(known) => known.again(backlog(settings)).map_err(named)?,
                    None => tcp(address, tls, settings).map_err(named)?,
                });
                Ok(())
            }),
            Bind::Unix(path) => {
                // As gunicorn: the socket's mode follows --umask, which is 0 by default.
                let umask = settings.process.umask.unwrap_or(0);
                listening.push(match found(&path.to_string_lossy(), false) {
                    Some(known) => known.again(backlog(settings)).map_err(named)?,
                    None => unix(path, umask, backlog(settings), user).map_err(named)?,
                });
                Ok(())
            }
            Bind::Fd(number) => {
                let text = format!("fd://{number}");
                if let Some(known) = found(&text, tls) {
                    listening.push(known);
                    return Ok(());
                }
                let fd = fds::claim_listener(*number).map_err(named)?;
                listening.push(Listening {
                    wanted: text.clone(),
                    name: ListenerName { text, tls },
                    fd: Some(fd),
                    file: None,
                    is_inherited: false,
                });
                Ok(())
            }
        }
    });
    if bound.is_err() {
        listening.iter().for_each(Listening::undo);
    }
    bound.map(|()| listening)
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn tcp(address: SocketAddr, tls: bool, settings: &Settings) -> io::Result<Listening> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, as everywhere, unless that has a socket of its own.
        let only = !address.ip().is_unspecified() || has_ipv4(settings, address.port());
        sockopt::set_ipv6_v6only(&fd, only)?;
    }
    bind(&fd, &address)?;
    listen(&fd, backlog(settings))?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    let listening = &settings.listening;
    // Under `ostler run` a certificate makes them all HTTPS; else only addresses of their own are.
    let secure = listening.tls.is_some() || !listening.tls_binds.is_empty();
    let scheme = if tls && secure { "https" } else { "http" };
    let text = format!("{scheme}://{bound}");
    Ok(Listening {
        wanted: address.to_string(),
        name: ListenerName { text, tls },
        fd: Some(fd),
        file: None,
        is_inherited: false,
    })
}

/// The settings ask for `0.0.0.0` with this port.
fn has_ipv4(settings: &Settings, port: u16) -> bool {
    let all_of_it = |address: &SocketAddr| {
        address.is_ipv4() && address.ip().is_unspecified() && address.port() == port
    };
    let Addresses {
        binds, tls_binds, ..
    } = &settings.listening;
    binds.iter().chain(tls_binds).any(|bind| match bind {
        Bind::Tcp { addresses, .. } => addresses.iter().any(all_of_it),
        Bind::Unix(_) | Bind::Fd(_) => false,
    })
}

fn backlog(settings: &Settings) -> i32 {
    settings.listening.backlog.try_into().unwrap_or(i32::MAX)
}

/// Binds a UNIX socket. One that a dead server left behind is taken away first; one that somebody
/// answers on, or a file that is no socket, is not.
pub(super) fn unix(
    path: &Path,
    umask: u32,
    backlog: i32,
    user: Option<&User>,
) -> io::Result<Listening> {
    let address = SocketAddrUnix::new(path)?;
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            let text = "a file that is no socket is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        if is_alive(&address)? {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        fs::remove_file(path)?;
    }
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    let before = rustix::process::umask(Mode::from_raw_mode(umask));
    let bound = bind(&fd, &address);
    rustix::process::umask(before);
    bound?;
    let file = identity(path).map(|identity| SocketFile {
        path: path.to_owned(),
        identity,
    });
    let text = format!("unix:{}", path.display());
    let listening = Listening {
        wanted: path.to_string_lossy().into_owned(),
        name: ListenerName { text, tls: false },
        fd: None,
        file,
        is_inherited: false,
    };
    let ready = user
        .map_or(Ok(()), |user| {
            std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
        })
        .and_then(|()| Ok(listen(&fd, backlog)?));
    match ready {
        Ok(()) => Ok(Listening {
            fd: Some(fd),
            ..listening
        }),
        Err(error) => {
            listening.remove();
            Err(error)
        }
    }
}

/// Whether somebody listens at this socket, busy or not.
fn is_alive(address: &SocketAddrUnix) -> io::Result<bool> {
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    Ok(!matches!(
        connect(&probe, address),
        Err(rustix::io::Errno::CONNREFUSED)
    ))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
