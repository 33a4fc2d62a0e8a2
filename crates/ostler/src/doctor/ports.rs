//! The addresses that visitors come to: free, ours, or somebody else's.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::{Case, Finding, ok, problem, warning};
use crate::config::Bind;
use crate::sys::process;

/// Who listens somewhere, as `/proc` tells it.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    program: String,
}

pub fn look(case: &Case, found: &mut Vec<Finding>) {
    let listening = &case.serve.machine.listening;
    let admin = case.serve.admin.iter();
    for address in listening
        .binds
        .iter()
        .chain(&listening.tls_binds)
        .chain(admin)
    {
        match address {
            Bind::Tcp { addresses, .. } => {
                found.extend(addresses.iter().map(|address| port(case, *address)));
            }
            Bind::Unix(path) => found.extend(folder_of(path)),
            // Of who started the server, and seen by it alone.
            Bind::Fd(_) => {}
        }
    }
}

fn port(case: &Case, address: SocketAddr) -> Finding {
    let running = case.running.as_ref().ok();
    match try_bind(address) {
        Ok(()) if running.is_some() => warning(
            "port",
            format!(
                "{address}: the running server does not listen there; hint: `ostler upgrade` has it take the addresses of the file"
            ),
        ),
        Ok(()) => ok("port", format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder = holder(address);
            let ours = match (&holder, running) {
                (Some(holder), Some(status)) => {
                    [status.keeper, status.server].contains(&holder.pid)
                }
                // Only root sees the descriptors of others.
                (None, Some(status)) => status
                    .listeners
                    .iter()
                    .any(|listener| listens(listener, address)),
                (_, None) => false,
            };
            match (ours, holder) {
                (true, _) => ok("port", format!("{address} is ours")),
                (false, Some(Holder { pid, program })) => problem(
                    "port",
                    format!(
                        "{address}: {program} (pid {pid}) has it; hint: stop that, or name another address in `listen`"
                    ),
                ),
                (false, None) => problem(
                    "port",
                    format!(
                        "{address}: another process has it; hint: run this as root to see which, stop it, or name another address in `listen`"
                    ),
                ),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let hint = "hint: start ostler as root, or with CAP_NET_BIND_SERVICE as `ostler systemd` has it";
            // Who asks need not be who starts it.
            let mine = process::is_root();
            let text = format!("{address}: {error}; {hint}");
            if mine {
                problem("port", text)
            } else {
                warning("port", text)
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => problem(
            "port",
            format!(
                "{address}: this machine has no such address; hint: correct `listen`, or 0.0.0.0 for all"
            ),
        ),
        Err(error) => problem("port", format!("{address}: {error}")),
    }
}

/// Takes the address for a moment, without letting anybody in.
fn try_bind(address: SocketAddr) -> io::Result<()> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // As the keeper binds it: connections of a server that has just ended are not in the way.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(bind(&socket, &address)?)
}

/// "https://0.0.0.0:443" is one of these.
fn listens(listener: &str, address: SocketAddr) -> bool {
    let text = listener
        .split_once("://")
        .map_or(listener, |(_, rest)| rest);
    text.parse() == Ok(address)
        || text
            .rsplit_once(':')
            .is_some_and(|(_, port)| port == address.port().to_string())
}

fn folder_of(path: &Path) -> Option<Finding> {
    let folder = path.parent().filter(|folder| !folder.is_dir())?;
    Some(problem(
        "port",
        format!(
            "{}: there is no folder {}; hint: make it",
            path.display(),
            folder.display()
        ),
    ))
}

/// The process that listens at an address.
fn holder(address: SocketAddr) -> Option<Holder> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .find_map(|table| {
            let text = fs::read_to_string(table).ok()?;
            listening(&text, address)
        })?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids: Vec<u32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // Whoever started the others has the lowest number, but for a wrap.
    pids.sort_unstable();
    pids.into_iter().find_map(|pid| {
        let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let has = fds.any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
        });
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = program.trim().to_owned();
        has.then_some(Holder { pid, program })
    })
}

/// The inode of the socket that listens at `address`, or at its port on all addresses (proc_net_tcp(5)).
fn listening(table: &str, address: SocketAddr) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (at, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let at = ip(at)?;
        let same = at == address.ip() || at.is_unspecified() || address.ip().is_unspecified();
        let listens = *fields.get(3)? == LISTEN && port == address.port() && same;
        listens.then(|| fields.get(9)?.parse().ok())?
    })
}

/// Words of 32 bits in the order of this machine.
fn ip(hex: &str) -> Option<IpAddr> {
    let words =
        (0..hex.len() / 8).map(|at| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> = words
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let found = holder(address).expect("ourselves");
        assert_eq!(found.pid, std::process::id());
        assert_eq!(
            try_bind(address).map_err(|error| error.kind()),
            Err(io::ErrorKind::AddrInUse)
        );
        drop(listener);
        // A program that another test is just starting has it until its `exec`.
        let late = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while holder(address).is_some() || try_bind(address).is_err() {
            assert!(std::time::Instant::now() < late, "{:?}", holder(address));
            std::thread::yield_now();
        }
        assert!(listens("https://0.0.0.0:443", ([10, 0, 0, 1], 443).into()));
        assert!(!listens("https://0.0.0.0:443", ([10, 0, 0, 1], 80).into()));
    }
}
