//! Binding the addresses that the settings name.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    sockopt,
};

use serde::{Deserialize, Serialize};

use crate::config::bind::FIRST_INHERITED;
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
    /// Bound by the program before us, which may take it back, or by who has started us.
    is_inherited: bool,
    /// By systemd, and nobody has said yet what it is for.
    is_handed_over: bool,
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
            is_handed_over: false,
        }
    }

    /// systemd has handed it over, and no address was found to be its own.
    pub fn is_left_over(&self) -> bool {
        self.is_handed_over
    }

    /// What was bound already, under this name from now on. Who has bound it says how many wait in the kernel, and that
    /// may be another number than before.
    fn again(self, name: ListenerName, backlog: i32) -> io::Result<Self> {
        if let Some(fd) = self.fd.as_ref().filter(|_| !self.is_handed_over) {
            listen(fd, backlog)?;
        }
        Ok(Self {
            name,
            is_handed_over: false,
            ..self
        })
    }

    /// The address it has, however it was asked for; `None` for a UNIX socket, and once it is closed.
    fn bound(&self) -> Option<SocketAddr> {
        let bound = rustix::net::getsockname(self.fd.as_ref()?).ok()?;
        SocketAddr::try_from(bound).ok()
    }

    /// See [`Self::bound`].
    pub fn port(&self) -> Option<u16> {
        self.bound().map(|address| address.port())
    }

    /// It is bound to `[::]`, takes IPv4 too, and `address` is all of that.
    fn covers(&self, address: SocketAddr) -> bool {
        let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
        let takes_ipv4 = |fd| sockopt::ipv6_v6only(fd).is_ok_and(|only| !only);
        address.is_ipv4()
            && address.ip().is_unspecified()
            && self.bound() == Some(both)
            && self.fd.as_ref().is_some_and(takes_ipv4)
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
    let Addresses {
        binds, tls_binds, ..
    } = &settings.listening;
    let binds = binds.iter().map(|bind| (bind, !plain));
    let mut binds = binds.chain(tls_binds.iter().map(|bind| (bind, true)));
    let mut binder = Binder {
        settings,
        plain,
        user,
        inherited,
        listening: Vec::new(),
    };
    let bound = binds.try_for_each(|(wanted, tls)| {
        let named = |address: String| move |cause| BindError { address, cause };
        match wanted {
            Bind::Tcp { addresses, .. } => addresses.iter().try_for_each(|&address| {
                let bound = binder.tcp(address, tls);
                bound.map_err(named(address.to_string()))
            }),
            Bind::Unix(path) => binder.unix(path).map_err(named(wanted.to_string())),
            Bind::Fd(number) => {
                let bound = binder.descriptor(*number, tls);
                bound.map_err(named(wanted.to_string()))
            }
        }
    });
    if bound.is_err() {
        binder.listening.iter().for_each(Listening::undo);
    }
    bound.map(|()| binder.listening)
}

/// What one call of [`all`] works on.
struct Binder<'a> {
    settings: &'a Settings,
    plain: bool,
    user: Option<&'a User>,
    inherited: &'a mut Vec<Listening>,
    listening: Vec<Listening>,
}

impl Binder<'_> {
    /// The socket that is there already for this address.
    fn take(&mut self, wanted: &str, tls: bool) -> Option<Listening> {
        let same = |known: &mut Listening| {
            known.wanted == wanted && (known.is_handed_over || known.name.tls == tls)
        };
        self.inherited.extract_if(.., same).next()
    }

    fn tcp(&mut self, address: SocketAddr, tls: bool) -> io::Result<()> {
        let mut known = self.take(&address.to_string(), tls);
        let mut there = self.listening.iter().chain(&*self.inherited);
        if known.is_none() && there.any(|socket| socket.covers(address)) {
            let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
            if asks_for(self.settings, both) {
                return Ok(());
            }
            known = self.take(&both.to_string(), tls);
        }
        let backlog = backlog(self.settings);
        let socket = match known {
            Some(known) => {
                let bound = known.bound().unwrap_or(address);
                known.again(tcp_name(bound, tls, self.settings), backlog)?
            }
            None => tcp(address, tls, self.settings)?,
        };
        self.listening.push(socket);
        Ok(())
    }

    fn unix(&mut self, path: &Path) -> io::Result<()> {
        // As gunicorn: the socket's mode follows --umask, which is 0 by default.
        let umask = self.settings.process.umask.unwrap_or(0);
        let backlog = backlog(self.settings);
        let socket = match self.take(&path.to_string_lossy(), false) {
            Some(known) => known.again(unix_name(path), backlog)?,
            None => unix(path, umask, backlog, self.user)?,
        };
        self.listening.push(socket);
        Ok(())
    }

    fn descriptor(&mut self, number: i32, tls: bool) -> io::Result<()> {
        let text = format!("fd://{number}");
        if let Some(known) = self.take(&text, tls) {
            self.listening.push(known);
            return Ok(());
        }
        let fd = fds::claim_listener(number)?;
        let family = rustix::net::getsockname(&fd)?.address_family();
        if self.plain && tls && family == AddressFamily::UNIX {
            let text = "it is a UNIX socket, and TLS is spoken over TCP only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.listening.push(Listening {
            wanted: text.clone(),
            name: ListenerName { text, tls },
            fd: Some(fd),
            file: None,
            is_inherited: false,
            is_handed_over: false,
        });
        Ok(())
    }
}

/// Takes the listening sockets that systemd has bound and hands over, `count` of them (sd_listen_fds(3)): they are told
/// apart by their addresses. Those that `named` has as `fd://N` are taken when it is their turn.
///
/// # Errors
/// One of them is no listening socket.
pub fn handed_over(count: u16, named: &[&Bind]) -> io::Result<Vec<Listening>> {
    let numbers = (FIRST_INHERITED..).take(usize::from(count));
    let ours = numbers.filter(|number| !named.contains(&&Bind::Fd(*number)));
    let sockets = ours.map(|number| -> io::Result<Listening> {
        let fd = fds::claim_listener(number)?;
        let address = rustix::net::getsockname(&fd)?;
        let wanted = match SocketAddrUnix::try_from(address.clone()) {
            Ok(unix) => {
                let path = unix.path_bytes().unwrap_or_default();
                String::from_utf8_lossy(path).into_owned()
            }
            Err(_) => SocketAddr::try_from(address)?.to_string(),
        };
        Ok(Listening {
            name: ListenerName {
                text: wanted.clone(),
                tls: false,
            },
            wanted,
            fd: Some(fd),
            file: None,
            is_inherited: true,
            is_handed_over: true,
        })
    });
    sockets.collect()
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
        let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        let only = !address.ip().is_unspecified() || asks_for(settings, ipv4);
        sockopt::set_ipv6_v6only(&fd, only)?;
    }
    bind(&fd, &address)?;
    listen(&fd, backlog(settings))?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    Ok(Listening {
        wanted: address.to_string(),
        name: tcp_name(bound, tls, settings),
        fd: Some(fd),
        file: None,
        is_inherited: false,
        is_handed_over: false,
    })
}

fn tcp_name(bound: SocketAddr, tls: bool, settings: &Settings) -> ListenerName {
    let listening = &settings.listening;
    // Under `ostler run` a certificate makes them all HTTPS; else only addresses of their own are.
    let secure = listening.tls.is_some() || !listening.tls_binds.is_empty();
    let scheme = if tls && secure { "https" } else { "http" };
    let text = format!("{scheme}://{bound}");
    ListenerName { text, tls }
}

fn unix_name(path: &Path) -> ListenerName {
    let text = format!("unix:{}", path.display());
    ListenerName { text, tls: false }
}

fn asks_for(settings: &Settings, wanted: SocketAddr) -> bool {
    let Addresses {
        binds, tls_binds, ..
    } = &settings.listening;
    binds.iter().chain(tls_binds).any(|bind| match bind {
        Bind::Tcp { addresses, .. } => addresses.contains(&wanted),
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
    let listening = Listening {
        wanted: path.to_string_lossy().into_owned(),
        name: unix_name(path),
        fd: None,
        file,
        is_inherited: false,
        is_handed_over: false,
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
