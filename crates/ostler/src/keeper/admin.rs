//! The socket of the admin API: bound here, so that it stays when a server is lost, and handed over. Nothing is
//! read from it here.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::bind::{self, BindError, Listening};
use super::certificates;
use crate::admin::client::SOCKET;
use crate::config::{Bind, Settings};
use crate::sys::User;

/// Only who started ostler, and root, may connect.
const UMASK: u32 = 0o177;

/// Connections that wait in the kernel while a server is started anew.
const BACKLOG: i32 = 32;

/// Others may look into the folder, where what is secret has a mode of its own.
const FOLDER: u32 = 0o755;

/// Binds it in the state folder, which is made when it is not there. Without it everything is served all the
/// same, and who starts ostler is told.
pub fn open(state: &Path, inherited: &mut Option<Listening>) -> Option<Listening> {
    let path = state.join(SOCKET);
    if let Some(same) = inherited.take_if(|known| known.is_at(&path)) {
        return Some(same);
    }
    let bound = DirBuilder::new()
        .recursive(true)
        .mode(FOLDER)
        .create(state)
        .and_then(|()| bind::unix(&path, UMASK, BACKLOG, None));
    bound
        .inspect_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "another ostler has it; give each its own `[server] state`"
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => {
                    "name a folder that you may write to: `[server] state`"
                }
                _ => "correct `[server] state`",
            };
            eprintln!(
                "warning: no `ostler status` and `ostler reload`: {}: {error}; hint: {hint}",
                path.display()
            );
        })
        .ok()
}

/// Binds the addresses where the metrics are read.
pub fn metrics(
    machine: &Settings,
    addresses: &[Bind],
    inherited: &mut Vec<Listening>,
) -> Result<Vec<Listening>, BindError> {
    let public = |bind: &&Bind| match bind {
        Bind::Tcp { addresses, .. } => addresses.iter().any(|address| !address.ip().is_loopback()),
        Bind::Unix(_) | Bind::Fd(_) => false,
    };
    for address in addresses.iter().filter(public) {
        eprintln!(
            "warning: the metrics can be read by everybody who reaches {address}; hint: admin = \"127.0.0.1:9180\""
        );
    }
    // Bound as visitors' addresses are, but in plain HTTP and by who started ostler.
    let mut settings = machine.clone();
    settings.listening.binds = addresses.to_vec();
    settings.listening.tls_binds.clear();
    bind::all(&settings, true, None, inherited)
}

/// Makes the folder of the request log, which is the server's to write to and nobody else's.
pub fn requests(state: &Path, user: Option<&User>) -> Option<PathBuf> {
    let path = state.join("requests");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    let owned = made.and_then(|()| match user {
        Some(user) => certificates::give(&path, user),
        None => Ok(()),
    });
    owned
        .inspect_err(|error| {
            eprintln!(
                "warning: no `ostler requests`: {}: {error}; hint: `[server] state` names another folder, `keep_requests = 0` none",
                path.display()
            );
        })
        .ok()?;
    // The server may be started elsewhere, as a daemon is.
    std::path::absolute(&path).ok()
}
