//! Telling systemd how far we are (sd_notify(3)).

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket that systemd named, if it did.
#[derive(Debug)]
pub struct Notify {
    socket: Option<OsString>,
}

impl Notify {
    pub fn from_env() -> Self {
        Self {
            socket: env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
        }
    }

    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = send(socket, state)
        {
            tracing::warn!(%error, "systemd cannot be told that this is {state:?}");
        }
    }
}

fn send(socket: &OsString, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // An abstract address, as systemd writes it.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::scratch::Scratch;

    #[test]
    fn systemd_is_told_by_path_and_by_abstract_name() {
        let scratch = Scratch::new("notify");
        let path = scratch.path("socket");
        let name = format!("ostler-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("name");
        let cases = [
            (
                path.clone().into_os_string(),
                UnixDatagram::bind(&path).expect("bind"),
            ),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&abstract_name).expect("bind"),
            ),
        ];
        for (address, systemd) in cases {
            Notify {
                socket: Some(address),
            }
            .ready();
            let mut bytes = [0; 64];
            let count = systemd.recv(&mut bytes).expect("told");
            assert!(bytes[..count].starts_with(b"READY=1\n"));
        }
    }

    #[test]
    fn without_systemd_nothing_happens() {
        Notify { socket: None }.stopping();
        Notify {
            socket: Some("/nowhere/socket".into()),
        }
        .stopping();
    }
}
