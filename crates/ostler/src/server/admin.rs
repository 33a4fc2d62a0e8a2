//! What the admin API asks of the server, answered: how everything stands, and reloads.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;

use crate::admin::{self, Ask, Gate, api};
use crate::certs;
use crate::edge::{Peers, Site};
use crate::keeper::protocol::{AdminSocket, ProjectId, Route, ToKeeper};
use crate::pool::{self, Pool};
use crate::supervise::{self, Interface, PoolState, SupervisorHandle};
use crate::sys::users;

use super::Server;
use super::project::Project;
use super::reloads::{Asked, Awaited, Since};

/// Errors of a project that are kept for those who ask.
const MOST_TROUBLES: usize = 5;

/// Bytes that are kept of one: the end of a traceback.
const LONGEST_TROUBLE: usize = 4096;

/// What went wrong with a project last.
#[derive(Debug, Default)]
pub(super) struct Troubles(Vec<api::Trouble>);

impl Troubles {
    pub(super) fn keep(&mut self, text: &str) {
        let text = text.trim_end();
        let from = text.len().saturating_sub(LONGEST_TROUBLE);
        let from = (from..=text.len()).find(|at| text.is_char_boundary(*at));
        if self.0.len() == MOST_TROUBLES {
            self.0.remove(0);
        }
        self.0.push(api::Trouble {
            at: rfc3339(SystemTime::now()),
            text: text[from.unwrap_or(0)..].to_owned(),
        });
    }
}

fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at).replace_nanosecond(0);
    let text = at.ok().and_then(|at| at.format(&Rfc3339).ok());
    // Only a year beyond 9999 has none.
    text.unwrap_or_default()
}

impl Server {
    /// Begins to answer on the socket that the keeper has bound.
    pub(super) fn open_admin(&mut self, socket: AdminSocket) -> anyhow::Result<()> {
        let listener = std::os::unix::net::UnixListener::from(socket.fd);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let gate = Gate {
            operator: socket.operator,
            own: users::own().uid,
            keeper: self.keeper_pid,
        };
        let router = admin::router(self.desk.clone());
        let places = self.places.clone();
        let door = tokio::spawn(admin::serve(listener, gate, router, places));
        self.doors.push(door);
        Ok(())
    }

    /// Begins to answer where the metrics are read, which everybody may who gets there.
    pub(super) fn open_metrics(&mut self, sockets: Vec<OwnedFd>) -> anyhow::Result<()> {
        for fd in sockets {
            let router = admin::metrics_router(self.desk.clone());
            let listener = admin::Open::new(fd)?;
            self.doors.push(tokio::spawn(listener.serve(router)));
        }
        Ok(())
    }

    /// Answers what was asked, or begins to.
    pub(super) async fn attend(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => self.tell_status(answer),
            Ask::Requests(answer) => {
                // Who has asked may have left.
                let _ = answer.send(self.log.clone());
            }
            Ask::Metrics(answer) => self.tell_metrics(answer),
            Ask::Upgrade(answer) => {
                let ticket = self.reloads.ask(Asked { wait: true, answer });
                self.tell_keeper(ToKeeper::Upgrade { ticket }).await;
            }
            Ask::Names(answer) => self.look_at_names(answer),
            Ask::Maintain {
                project,
                on,
                answer,
            } => self.switch_maintenance(project, on, answer).await,
            Ask::Reload {
                project: None,
                wait,
                answer,
            } => {
                let ticket = self.reloads.ask(Asked { wait, answer });
                self.tell_keeper(ToKeeper::Reload { ticket }).await;
            }
            Ask::Reload {
                project: Some(name),
                wait,
                answer,
            } => self.reload_one(&name, Asked { wait, answer }),
        }
    }

    /// Replaces the workers of one project; no file is read but the app's own.
    fn reload_one(&mut self, name: &str, asked: Asked) {
        let here = |project: &&mut Project| !project.retired;
        let mut projects = self.projects.iter_mut().filter(here);
        let Some(project) = projects.find(|project| project.name == name) else {
            let problems = self.unknown(name);
            // Who has asked may have left.
            let _ = asked.answer.send(api::Reloaded {
                outcome: api::Outcome::Unknown,
                ..api::Reloaded::failed(problems)
            });
            return;
        };
        if !project.has_app {
            let problems = format!("error: `{name}` has no app whose workers could be replaced\n");
            // As above.
            let _ = asked.answer.send(api::Reloaded::failed(problems));
            return;
        }
        let awaited = project.restart();
        let change = api::Change {
            project: project.name.clone(),
            what: "its workers are replaced".to_owned(),
        };
        self.reloads
            .begun(asked, vec![change], Vec::new(), vec![awaited]);
    }

    /// The keeper has read a wrong configuration.
    pub(super) fn refused(&mut self, ticket: u64, problems: String) {
        if let Some(asked) = self.reloads.answered(ticket) {
            // As above.
            let _ = asked.answer.send(api::Reloaded::failed(problems));
        }
    }

    fn look_at_names(&self, answer: oneshot::Sender<Vec<api::NameLook>>) {
        let look = self.certs.look();
        tokio::spawn(async move {
            let looked = match look {
                Some(look) => look.run().await,
                None => Vec::new(),
            };
            let looked = looked.into_iter().map(|looked| api::NameLook {
                name: looked.name,
                problem: looked.problem,
                unclear: looked.unclear,
            });
            // Who has asked may have left.
            let _ = answer.send(looked.collect());
        });
    }

    fn tell_status(&self, answer: oneshot::Sender<api::Status>) {
        let settings = &self.machine.said.settings;
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        let own = users::own().uid;
        let account = users::account_by_uid(own).ok().flatten();
        let mut notes = Vec::new();
        if own != 0 && own == self.operator {
            let text = "server and apps run as the user who started ostler: nothing keeps one project from another";
            notes.push(text.to_owned());
        }
        notes.extend(self.projects.iter().filter_map(super::maintenance::note));
        let status = api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            keeper: self.keeper_pid,
            server: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            user: account.map_or_else(|| own.to_string(), |account| account.name),
            listeners: self
                .listeners
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
            connections: connections(&self.shared.peers),
            limits: api::MachineLimits {
                max_connections_per_address: settings.listening.max_connections_per_address,
                header_timeout: seconds(settings.http.header_timeout),
                keepalive: seconds(settings.http.keepalive),
                body_timeout: seconds(settings.http.body_timeout),
                write_timeout: seconds(settings.http.write_timeout),
            },
            projects: Vec::new(),
            certificates: self.certs.status().into_iter().map(certificate).collect(),
            notes,
        };
        let seen: Vec<Seen> = self.projects.iter().map(Seen::new).collect();
        // Supervisors may take a moment to answer, and this loop has others to attend to.
        tokio::spawn(async move {
            let mut status = status;
            for seen in seen {
                status.projects.push(seen.finish(true).await);
            }
            let _ = answer.send(status);
        });
    }
}

fn certificate(status: certs::Status) -> api::Certificate {
    api::Certificate {
        names: status.names,
        state: status.state.to_owned(),
        expires: status.expires.map(rfc3339),
        days_left: status.days_left,
        error: status.last_error,
        next_attempt: status.next_attempt.map(rfc3339),
    }
}

fn connections(peers: &Peers) -> api::Connections {
    api::Connections {
        open: peers.total(),
        sockets: peers.sockets(),
    }
}

/// One project as the server's loop sees it.
pub(super) struct Seen {
    project: api::Project,
    handle: SupervisorHandle,
    pool: std::sync::Arc<Pool>,
    /// What each worker can serve at once, by interface.
    threads: u32,
    streams: u32,
    retired: bool,
    has_app: bool,
}

impl Seen {
    pub(super) fn new(project: &Project) -> Self {
        let settings = project.settings();
        let routes = project.places().map(|(route, _)| place(project, route));
        Self {
            project: api::Project {
                name: project.name.clone(),
                app: settings.app.name.clone(),
                python: project.python.clone(),
                interface: None,
                state: api::State::Starting,
                generation: 0,
                next: None,
                crashes: 0,
                starts: 0,
                routes: routes.collect(),
                maintenance: super::maintenance::maintenance(project),
                workers: Vec::new(),
                line: api::Line {
                    length: 0,
                    oldest: None,
                },
                limits: limits(project),
                upstreams: upstreams(project),
                errors: project.troubles.0.clone(),
            },
            handle: project.handle.clone(),
            pool: std::sync::Arc::clone(&project.pool),
            threads: settings.workers.threads,
            streams: settings.workers.worker_connections,
            retired: project.retired,
            has_app: project.has_app,
        }
    }

    /// Asks the supervisor; with what `memory` the workers have when that is asked for, which costs a walk through
    /// the pages of each.
    pub(super) async fn finish(self, memory: bool) -> api::Project {
        let Self { mut project, .. } = self;
        let seen = self.pool.look();
        project.state = match seen.serving {
            _ if self.retired => api::State::Leaving,
            PoolState::Starting if !self.has_app => api::State::Serving,
            PoolState::Starting => api::State::Starting,
            PoolState::Serving => api::State::Serving,
            PoolState::CrashLooping { .. } => api::State::CrashLooping,
            PoolState::Stopping => api::State::Stopping,
        };
        project.line = api::Line {
            length: seen.line,
            oldest: seen.oldest.map(|oldest| oldest.as_secs_f64()),
        };
        let Some(look) = self.handle.look().await else {
            project.errors.push(api::Trouble {
                at: rfc3339(SystemTime::now()),
                text: "its supervisor does not say how its workers are".to_owned(),
            });
            return project;
        };
        project.interface = look.interface.map(|interface| match interface {
            Interface::Wsgi => "wsgi".to_owned(),
            Interface::Asgi => "asgi".to_owned(),
        });
        let slots = match look.interface {
            Some(Interface::Asgi) => self.streams,
            Some(Interface::Wsgi) | None => self.threads,
        };
        project.generation = look.generation;
        project.next = look.next;
        project.crashes = look.crashes;
        project.starts = look.starts;
        let pids: Vec<u32> = look.workers.iter().map(|worker| worker.pid).collect();
        let measured = tokio::task::spawn_blocking(move || {
            let measure = |&pid| supervise::private_memory(pid).ok().flatten();
            pids.iter()
                .filter(|_| memory)
                .map(measure)
                .collect::<Vec<_>>()
        });
        let memory = measured.await.unwrap_or_default();
        let memory = memory.into_iter().chain(std::iter::repeat(None));
        let workers = look.workers.iter().zip(memory);
        project.workers = workers
            .map(|(worker, memory)| shown(worker, &seen, slots, memory))
            .collect();
        project
    }
}

/// The upstreams of a project.
fn upstreams(project: &Project) -> Vec<api::Upstream> {
    let groups = project.groups();
    let looks = groups.iter().flat_map(|group| group.look());
    let shown = looks.map(|look| api::Upstream {
        address: look.shown,
        weight: look.weight,
        busy: look.in_flight,
        requests: look.requests,
        failures: look.failures,
        connections: look.connections,
        out: look.out.map(|(why, since)| api::Out {
            since: since.as_secs(),
            why,
        }),
    });
    shown.collect()
}

fn shown(
    worker: &supervise::WorkerLook,
    pool: &pool::Look,
    slots: u32,
    memory: Option<u64>,
) -> api::Worker {
    let leased = pool.workers.iter().find(|leased| leased.id == worker.id);
    api::Worker {
        worker: worker.id.0,
        pid: worker.pid,
        generation: worker.generation,
        state: worker.phase.to_owned(),
        busy: leased.map_or(0, |leased| leased.busy),
        slots,
        requests: leased.map_or(0, |leased| leased.served),
        age: worker.age.as_secs(),
        memory,
    }
}

/// A route as it is shown.
fn place(project: &Project, route: &Route) -> String {
    match project.id {
        ProjectId::RUN => "everything".to_owned(),
        _ => format!("{}{}", route.host, route.prefix),
    }
}

fn limits(project: &Project) -> api::Limits {
    let workers = &project.settings().workers;
    api::Limits {
        timeout: workers.timeout.map(|limit| limit.as_secs_f64()),
        graceful_timeout: workers.graceful_timeout.as_secs_f64(),
        line_length: workers.line_length,
        line_timeout: workers.line_timeout.as_secs_f64(),
        max_requests: workers.max_requests,
        memory_soft: workers.memory_soft,
        memory_hard: workers.memory_hard,
        routes: limits_of_routes(project),
    }
}

/// As the edge judges by them.
fn limits_of_routes(project: &Project) -> Vec<api::RouteLimits> {
    let mut all: Vec<(&Site, api::RouteLimits)> = Vec::new();
    for (route, site) in project.places() {
        let same = |known: &Site| {
            known.body_limit == site.body_limit && known.policy.rates().eq(site.policy.rates())
        };
        let place = place(project, route);
        match all.iter_mut().find(|(known, _)| same(known)) {
            Some((_, limits)) => limits.routes.push(place),
            None => {
                let limits = api::RouteLimits {
                    routes: vec![place],
                    limit_request_body: Some(site.body_limit).filter(|limit| *limit > 0),
                    rates: site.policy.rates().map(|rate| rate.to_string()).collect(),
                };
                all.push((site, limits));
            }
        }
    }
    all.into_iter().map(|(_, limits)| limits).collect()
}

/// What is waited for when a project was told to reload for the `reload`th time.
pub(super) fn awaited(project: &Project, since: Since) -> Awaited {
    Awaited {
        project: project.id,
        name: project.name.clone(),
        since,
        troubles: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_troubles_are_kept_and_of_each_its_end() {
        let mut troubles = Troubles::default();
        for number in 0..9 {
            troubles.keep(&format!("{number}\n"));
        }
        let kept: Vec<&str> = troubles.0.iter().map(|trouble| &trouble.text[..]).collect();
        assert_eq!(kept, ["4", "5", "6", "7", "8"]);
        troubles.keep(&format!("{}KeyError\n", "é".repeat(LONGEST_TROUBLE)));
        let last = &troubles.0[MOST_TROUBLES - 1].text;
        assert!(last.ends_with("éKeyError") && last.len() <= LONGEST_TROUBLE);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
