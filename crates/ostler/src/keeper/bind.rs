//! Binding the addresses that the settings name.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};

use crate::config::{Bind, Settings};
use crate::sys::fds;

/// One listening socket.
#[derive(Debug)]
pub struct Listening {
    /// As it is shown: `http://127.0.0.1:8000`, `unix:/run/app.sock`.
    pub name: String,
    /// `None` once the server has been told to stop: a listener that stays open would let clients
    /// in that nobody serves.
    pub fd: Option<OwnedFd>,
    /// Removed when the keeper ends.
    pub path: Option<PathBuf>,
}

/// Why an address could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub address: String,
    pub cause: io::Error,
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

/// Binds everything, or nothing.
pub fn all(settings: &Settings) -> Result<Vec<Listening>, BindError> {
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut listening = Vec::new();
    for wanted in &settings.binds {
        match wanted {
            Bind::Tcp { addresses, .. } => {
                for address in addresses {
                    let name = format!("{scheme}://{address}");
                    let fd = tcp(*address, settings.backlog).map_err(|cause| BindError {
                        address: address.to_string(),
                        cause,
                    })?;
                    let name = match local(&fd) {
                        Some(local) if address.port() == 0 => format!("{scheme}://{local}"),
                        _ => name,
                    };
                    listening.push(Listening {
                        name,
                        fd: Some(fd),
                        path: None,
                    });
                }
            }
            Bind::Unix(path) => {
                let name = format!("unix:{}", path.display());
                let fd =
                    unix(path, settings.backlog, settings.umask).map_err(|cause| BindError {
                        address: name.clone(),
                        cause,
                    })?;
                listening.push(Listening {
                    name,
                    fd: Some(fd),
                    path: Some(path.clone()),
                });
            }
            Bind::Fd(number) => {
                let name = format!("fd://{number}");
                let fd = fds::claim_listener(*number).map_err(|cause| BindError {
                    address: name.clone(),
                    cause,
                })?;
                listening.push(Listening {
                    name,
                    fd: Some(fd),
                    path: None,
                });
            }
        }
    }
    Ok(listening)
}

fn local(fd: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(fd).ok()?).ok()
}

fn tcp(address: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() && !address.ip().is_unspecified() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    bind(&fd, &address)?;
    listen(&fd, backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(fd)
}

/// Binds a UNIX socket. One that a dead server left behind is taken away first; one that somebody
/// answers on, or a file that is no socket, is not.
fn unix(path: &Path, backlog: u32, umask: Option<u32>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let address = SocketAddrUnix::new(path)?;
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            ));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // As gunicorn: the socket's mode follows --umask, which is 0 by default.
    let mode = rustix::fs::Mode::from_raw_mode(umask.unwrap_or(0));
    let before = rustix::process::umask(mode);
    let bound = bind(&fd, &address);
    rustix::process::umask(before);
    bound?;
    listen(&fd, backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(fd)
}
