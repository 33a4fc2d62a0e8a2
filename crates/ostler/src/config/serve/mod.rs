//! `ostler.toml` → [`Serve`], or every problem at once with its place. Opens no socket and starts nothing.
//!
//! In call order: [`include`] reads the operator's files into one tree ([`read`] one file), [`owners`] lays what the
//! repositories' own files say below it, [`shape`] checks every value by itself, [`finish`] looks at the file system
//! and makes a [`Serve`]. [`schema`] is the one list of keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bind::Bind;
use super::error::Warning;
use super::settings::{Settings, StaticFiles};
use super::written::Layer;

mod acme;
mod finish;
mod host;
mod include;
#[cfg(any(test, fuzzing))]
pub mod invariants;
mod owners;
mod print;
mod problem;
mod read;
mod rules;
pub mod schema;
mod shape;
mod source;
mod upstreams;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub use acme::Eab;
pub use acme::{Acme, Challenge, KeyKind};
pub use host::{Host, is_public};
pub use owners::FILE;
pub use problem::Problems;
pub use read::Variables;
pub use rules::{
    Authority, By, Cors, Errors, Headers, KeyHash, KeySource, Rate, Redirect, Rules, TokenKeys,
    TokenSource,
};
pub use upstreams::{Address, Health, Target, Upstreams};

/// What open connections may take to end at an upgrade when nothing else is said: as long as a large download.
pub const DRAIN: Duration = Duration::from_secs(300);

/// Everything that `ostler serve` serves, checked and complete. Every path is absolute. Two of them are equal when
/// they mean the same, however they are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Serve {
    /// What is the machine's: only `listening`, `http`, `logs` and `process` mean something.
    pub machine: Settings,
    /// So many proxies stand before ostler: the client's address is that many from the end of `X-Forwarded-For`,
    /// whoever the peer is. `None`: `machine.listening.forwarded_allow_ips` tells whom to believe.
    pub trusted_hops: Option<u32>,
    /// The state folder.
    pub state: PathBuf,
    /// The request log: seconds and bytes that are kept; 0 seconds is none.
    pub keep_requests: (u64, u64),
    /// How long the server before an upgrade may take to end.
    pub drain: Duration,
    /// Where the metrics are read.
    pub admin: Vec<Bind>,
    /// Requests for unknown hosts go where this one goes.
    pub default_host: Option<String>,
    /// Who certificates are had from; `None` when no host needs one.
    pub acme: Option<Acme>,
    /// By name.
    pub projects: Vec<Project>,
}

/// A folder that is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Lower-case letters, digits and `-`.
    pub name: String,
    /// Some of its routes are served by an app of its own.
    pub has_app: bool,
    /// It is there.
    pub source: PathBuf,
    /// No other project has one of them. Never empty.
    pub hosts: Vec<Host>,
    /// Requests without TLS are answered, and not redirected.
    pub https_optional: bool,
    /// Requests for its other hosts are redirected to this one.
    pub canonical_host: Option<String>,
    /// Seconds for which browsers are told to keep to HTTPS.
    pub hsts: Option<u64>,
    /// Its own certificate.
    pub pair: Option<Pair>,
    /// Whose clients show certificates.
    pub clients: Option<Clients>,
    /// Never empty.
    pub routes: Vec<Route>,
    /// Settings of `ostler run` for the app, by name, in checked form: [`Written::toml`](super::Written::toml).
    /// Relative paths start at `chdir`, those of `chdir`, `env_file`, `config` and `python` at `source`.
    pub web: Layer,
    pub statics: Vec<StaticFiles>,
}

/// A certificate and its private key in the operator's files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The certificate, then its chain (PEM).
    pub certfile: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1 (PEM); may be the same file.
    pub keyfile: PathBuf,
    /// What the files hold, once the keeper has read them.
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Pair {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("certfile", &self.certfile)
            .finish_non_exhaustive()
    }
}

/// Which certificates clients show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// The authorities (PEM).
    pub ca: PathBuf,
    /// What that file holds, once the keeper has read it.
    pub authorities: String,
    /// One without a certificate is turned away.
    pub required: bool,
}

/// Where a project lies below its hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// `/`, or starts with `/` and does not end with one.
    pub prefix: String,
    /// The app gets the path without the prefix, and the prefix as `SCRIPT_NAME` or `root_path`.
    pub strip: bool,
    /// Only for these of the project's hosts; for all of them when empty.
    pub hosts: Vec<Host>,
    /// What holds here beside the app.
    pub rules: Rules,
}

/// What a good file gives.
pub struct Checked {
    pub serve: Serve,
    pub warnings: Vec<Warning>,
    /// Where it all comes from.
    tree: read::Table,
    sources: source::Sources,
}

impl Checked {
    /// The configuration in force as TOML, with the source of each value.
    pub fn print(&self) -> String {
        print::print(&self.tree, &self.sources)
    }
}

/// What of the request log is kept by a server without a file.
pub fn requests_without_file() -> (u64, u64) {
    finish::kept_requests(None, None)
}

/// The state folder of a server without a file.
pub fn state_without_file() -> PathBuf {
    finish::folder_of_state(None)
}

/// The state folder that the operator's file at `path` names, whatever else may be wrong with it. `None` when it
/// cannot be read at all.
pub fn state(path: &Path, directory: &Path, variables: Variables<'_>) -> Option<PathBuf> {
    let mut sources = source::Sources::default();
    let mut list = Vec::new();
    let tree = include::load(path, directory, variables, &mut sources, &mut list)?;
    let draft = shape::shape(&tree, &sources, &mut list);
    Some(finish::folder_of_state(draft.state))
}

/// Reads and checks the operator's file at `path` (relative to `directory`, which is absolute) and all that it names.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn load(path: &Path, directory: &Path, variables: Variables<'_>) -> Result<Checked, Problems> {
    let mut sources = source::Sources::default();
    let mut list = Vec::new();
    let mut warnings = Vec::new();
    let tree = include::load(path, directory, variables, &mut sources, &mut list);
    let Some(mut tree) = tree else {
        return Err(Problems { sources, list });
    };
    owners::lay(&mut tree, &mut sources, &mut list, &mut warnings);
    let draft = shape::shape(&tree, &sources, &mut list);
    let serve = finish::finish(draft, &sources, &mut list, &mut warnings);
    match serve {
        Some(serve) if list.is_empty() => Ok(Checked {
            serve,
            warnings,
            tree,
            sources,
        }),
        _ => Err(Problems { sources, list }),
    }
}
