//! Certificates: had from a CA through ACME (RFC 8555) and renewed, or read from the operator's files,
//! and handed to the edge. Knows nothing of routes, requests and connections.
//!
//! `state` decides and touches nothing; `errand` is the shell of one certificate, `engine` of all of them; `ca`
//! speaks to the CA; `disk` is what survives a crash; `given` are the operator's own; `served` is what handshakes read.

mod answers;
mod budget;
mod ca;
mod certificate;
mod disk;
mod dns;
mod engine;
mod errand;
mod given;
mod http;
pub mod import;
mod keys;
mod names;
mod precheck;
mod served;
mod settings;
mod shared;
mod state;
#[cfg(test)]
mod stub;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use engine::Engine;

pub use given::Given;
pub use http::client_config;
pub use served::{ACME_TLS, Served};
pub use settings::{Settings, Wanted};

/// Why certificates cannot be kept at all. The operator must act.
#[derive(Debug)]
pub enum CertsError {
    /// Our folder cannot be used.
    State(io::Error),
    /// Nobody could tell the CA from somebody else.
    Roots(String),
}

impl fmt::Display for CertsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(error) => write!(f, "certificates cannot be kept: {error}"),
            Self::Roots(text) => write!(f, "the CA cannot be spoken to: {text}"),
        }
    }
}

impl std::error::Error for CertsError {}

/// How one certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What it is for; a wildcard begins with `*.`.
    pub names: Vec<String>,
    /// In a few words.
    pub state: &'static str,
    /// Until it expires, rounded down; negative after that; `None` while there is none.
    pub days_left: Option<i64>,
    pub expires: Option<SystemTime>,
    pub last_error: Option<String>,
    pub next_attempt: Option<SystemTime>,
}

/// All certificates of a server.
#[derive(Default)]
pub struct Certs {
    served: Arc<Served>,
    given: Vec<Given>,
    acme: Option<Running>,
}

/// Certificates that a CA gives, being kept.
struct Running {
    settings: Settings,
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What is to be had and handed out, with everything done that could fail.
pub struct Next {
    given: Vec<Given>,
    wanted: Vec<Wanted>,
    acme: Acme,
}

/// Who is asked for the wanted ones.
enum Acme {
    Nobody,
    AsBefore,
    Anew(Box<Settings>, Engine),
}

impl Certs {
    /// What gives handshakes their certificate, and a CA its answers.
    pub fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// Looks at what is to come: certificates that are there, and names for which there is to be one by `acme`.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// Our folder or the roots cannot be used.
    pub fn prepare(
        &self,
        given: Vec<Given>,
        wanted: Vec<Wanted>,
        acme: Option<Settings>,
    ) -> Result<Next, CertsError> {
        let acme = acme.filter(|_| !wanted.is_empty());
        let acme = match (acme, &self.acme) {
            (None, _) => Acme::Nobody,
            (Some(settings), Some(now)) if settings == now.settings => Acme::AsBefore,
            (Some(settings), _) => {
                let engine = Engine::open(settings.clone(), Arc::clone(&self.served))?;
                Acme::Anew(Box::new(settings), engine)
            }
        };
        Ok(Next {
            given,
            wanted,
            acme,
        })
    }

    /// Puts it in force. Blocks on the disk.
    pub fn take(&mut self, next: Next) {
        self.given = next.given;
        self.served.give(given::table(&self.given));
        match next.acme {
            Acme::AsBefore => {}
            Acme::Nobody => {
                self.stop();
                self.served.replace(served::Table::default());
            }
            Acme::Anew(settings, engine) => {
                let before = self.stop();
                let engine = Arc::new(engine);
                let (stop, stopping) = watch::channel(false);
                let own = Arc::clone(&engine);
                let task = tokio::spawn(async move {
                    if let Some(before) = before {
                        // Two that write to one folder would undo what the other did.
                        let _ = before.await;
                    }
                    own.run(stopping).await;
                });
                self.acme = Some(Running {
                    settings: *settings,
                    engine,
                    stop,
                    task,
                });
            }
        }
        if let Some(running) = &self.acme {
            running.engine.wanted(next.wanted);
        }
    }

    /// Asks the CA nothing more. The task ends soon.
    fn stop(&mut self) -> Option<JoinHandle<()>> {
        let before = self.acme.take()?;
        before.stop.send_replace(true);
        Some(before.task)
    }

    pub fn status(&self) -> Vec<Status> {
        let now = SystemTime::now();
        let given = self.given.iter().map(|given| given.status(now));
        let had = self.acme.iter().flat_map(|acme| acme.engine.status());
        given.chain(had).collect()
    }
}
