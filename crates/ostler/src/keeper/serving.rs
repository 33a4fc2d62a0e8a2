//! The keeper's side of a running server: starting it, talking with it, ending it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::sys::{self, Channel, Child, Exit, Spawn, fds, process};

use super::protocol::{
    First, FromKeeper, HANDOVER_FD, Handover, Machine, ProjectId, ToKeeper, ZygoteId, to_file,
};
use super::reaping::{Reaped, Started};
use super::servers::{Role, Server, Servers};
use super::signals::Order;
use super::zygotes::{Configured, Confines, Trouble};
use super::{Keeper, Plan, QUICK_STOP, STOP_SLACK, Stop};

impl Keeper {
    /// Starts a server, under `ostler run` with a configured zygote.
    pub(super) fn start_server(
        &mut self,
        zygote: Option<Configured>,
        hooks: Option<Channel>,
    ) -> Result<Server, Trouble> {
        let (ours, theirs) = fds::seqpacket_pair()?;
        self.zygotes.with_hooks |= hooks.is_some();
        let hooks = hooks.map(Channel::into_fd);
        let zygote = zygote.map(|zygote| (zygote.child, zygote.control.into_fd(), zygote.python));
        let listening = self
            .listening
            .iter()
            .filter_map(|listening| listening.fd.as_ref());
        let listening: Vec<&OwnedFd> = listening.collect();
        let admin = self.admin.as_ref().and_then(|admin| admin.fd.as_ref());
        let metrics = self.metrics.iter();
        let metrics: Vec<&OwnedFd> = metrics
            .filter_map(|listening| listening.fd.as_ref())
            .collect();
        let first = HANDOVER_FD + 1 + i32::try_from(listening.len()).unwrap_or(0);
        let last = first + zygote.as_ref().map_or(0, |_| 2) + i32::from(hooks.is_some());
        let hidden = self.hidden();
        let handover = Handover {
            configuration: self.configuration(),
            beside: self.way_back.is_some().then(|| self.must_serve()),
            listeners: self
                .listening
                .iter()
                .map(|listening| listening.name.clone())
                .collect(),
            first: zygote.as_ref().map(|(child, _, python)| First {
                pid: child.pid,
                control: first,
                pidfd: first + 1,
                hooks: hooks.as_ref().map(|_| first + 2),
                python: python.clone(),
            }),
            keeper: process::own_pid(),
            operator: sys::users::own().uid,
            requests: self.requests.clone(),
            hidden: values(&hidden),
            marks: self.marks,
            admin: admin.map(|_| last),
            metrics: (last + i32::from(admin.is_some())..)
                .take(metrics.len())
                .collect(),
        };
        let handover = to_file("ostler-handover", &handover)?;
        let mut passed = vec![theirs.as_fd(), handover.as_fd()];
        passed.extend(listening.into_iter().map(AsFd::as_fd));
        if let Some((child, control, _)) = &zygote {
            passed.extend([control.as_fd(), child.pidfd.as_fd()]);
        }
        passed.extend(hooks.as_ref().map(AsFd::as_fd));
        passed.extend(admin.map(AsFd::as_fd));
        passed.extend(metrics.iter().map(|fd| fd.as_fd()));
        let child = spawn(passed, self.user.as_ref(), &hidden)?;
        if let Some((zygote, ..)) = zygote {
            let id = ZygoteId {
                project: ProjectId::RUN,
                generation: 1,
            };
            self.zygotes.keep(zygote.pid, id, child.pid, zygote.pidfd);
        }
        Ok(Server::new(child, ours)?)
    }

    /// Passes an order on.
    pub(super) async fn take(&mut self, order: Order, servers: &mut Servers) {
        match order {
            Order::Reap => {}
            Order::Stop => self.begin_stop(true, servers).await,
            Order::Interrupt => {
                let again = self.stop.as_ref().is_some_and(|stop| stop.interrupted);
                self.begin_stop(!again, servers).await;
                if let Some(stop) = &mut self.stop {
                    stop.interrupted = true;
                }
            }
            Order::Quit => self.begin_stop(false, servers).await,
            Order::Reload => self.reload(servers, None).await,
            Order::ReopenLogs => self.reopen_logs(servers).await,
            Order::Workers { by } => servers.tell(&FromKeeper::Workers { by }, &[]).await,
            Order::Upgrade => self.begin_upgrade(servers, None).await,
        }
    }

    /// Has what is written taken anew; the ticket is that of who asked.
    async fn reload(&mut self, servers: &Servers, ticket: Option<u64>) {
        // gunicorn opens its logs anew on HUP, and rotation scripts count on it.
        self.reopen_logs(servers).await;
        if self.way_back.is_some() {
            let problems =
                "error: an upgrade is under way; hint: reload when it is done\n".to_owned();
            tracing::error!("{}", problems.trim_end());
            return refuse(servers, ticket, problems).await;
        }
        match self.plan {
            Plan::Run(_) => servers.tell(&FromKeeper::Reload { ticket }, &[]).await,
            Plan::Serve(_) => self.configure_anew(servers, ticket).await,
        }
    }

    async fn reopen_logs(&self, servers: &Servers) {
        self.log.reopen();
        servers.tell_all(&FromKeeper::ReopenLogs).await;
    }

    /// Tells the servers to stop; saying it again changes nothing, unless it is to be quicker.
    pub(super) async fn begin_stop(&mut self, graceful: bool, servers: &mut Servers) {
        let patience = match graceful {
            true => self.longest_graceful() + STOP_SLACK,
            false => QUICK_STOP,
        };
        let deadline = Instant::now() + patience;
        match &mut self.stop {
            Some(stop) => stop.deadline = stop.deadline.min(deadline),
            None => {
                self.stop = Some(Stop {
                    interrupted: false,
                    deadline,
                });
                self.notify.stopping();
            }
        }
        // It accepts nothing yet; and what was left to us is let go, the listening sockets too.
        servers.coming.iter().for_each(Server::kill);
        self.way_back = None;
        servers.tell_all(&FromKeeper::Stop { graceful }).await;
        for listening in &mut self.listening {
            listening.fd = None;
        }
    }

    /// Does what a server asks for.
    pub(super) async fn obey(&mut self, from: u32, said: Option<ToKeeper>, servers: &mut Servers) {
        let (Some(role), Some(said)) = (servers.role(from), said) else {
            return;
        };
        match (role, said) {
            (_, ToKeeper::StartZygote { zygote: id }) => {
                self.start_zygote(from, role, id, servers).await;
            }
            (Role::Coming, ToKeeper::Ready) => self.take_over(servers).await,
            (Role::Coming, ToKeeper::NotReady { problems }) => {
                self.go_back(problems, servers).await;
            }
            (_, ToKeeper::Serves { project }) => drop(self.serving.insert(project)),
            (Role::Leaving, ToKeeper::Drains) => {
                let mut leaving = servers.leaving.iter_mut();
                if let Some(server) = leaving.find(|server| server.child.pid == from) {
                    server.drains = true;
                }
                servers.put_in_charge().await;
            }
            (Role::Current, ToKeeper::Reload { ticket }) => {
                self.reload(servers, Some(ticket)).await;
            }
            (Role::Current, ToKeeper::Upgrade { ticket }) => {
                self.begin_upgrade(servers, Some(ticket)).await;
            }
            (
                Role::Current,
                ToKeeper::Maintain {
                    ticket,
                    project,
                    on,
                },
            ) => {
                let kept = match &self.way_back {
                    None => self.maintenance.switch(&project, on),
                    // The server that is coming has been told how it was.
                    Some(_) => {
                        Err("an upgrade is under way; hint: try again when it is done".to_owned())
                    }
                };
                let message = FromKeeper::Maintained { ticket, kept };
                servers.tell(&message, &[]).await;
            }
            (Role::Current, ToKeeper::Configured { taken }) => self.configured(taken),
            (Role::Current, ToKeeper::Ready) => {
                self.ever_ready = true;
                self.notify.ready();
            }
            // Said by a server that has another role since.
            _ => {}
        }
    }

    /// Variables that neither server nor apps have in their environment.
    fn hidden(&self) -> BTreeSet<String> {
        match &self.plan {
            Plan::Run(_) => BTreeSet::new(),
            Plan::Serve(plan) => plan.hidden(),
        }
    }

    async fn start_zygote(&mut self, server: u32, role: Role, id: ZygoteId, servers: &Servers) {
        // What a plan says is for the server that was started with it.
        let has_a_plan = match role {
            Role::Current => self.way_back.is_none(),
            Role::Coming => true,
            Role::Leaving => false,
        };
        let started = match self.plan_of(id.project) {
            // It went with a configuration that has come into force meanwhile.
            None => return,
            Some(plan) if has_a_plan => {
                // A command line is the operator's own, as its config file is; a project is a guest.
                let is_guest = matches!(self.plan, Plan::Serve(_));
                let confines = Confines {
                    user: self.user.as_ref().filter(|_| is_guest),
                    hidden: self.hidden(),
                };
                self.zygotes.start(&plan, &confines, id.clone(), server)
            }
            Some(_) => Err(Trouble {
                exit: 1,
                text: "error: another server is taking the place of this one".to_owned(),
            }),
        };
        if let Err(trouble) = started {
            let zygote = Err(trouble);
            self.hand_over(Started { id, server, zygote }, servers)
                .await;
        }
    }

    /// Gives the server the zygote it asked for, or the reason why there is none.
    pub(super) async fn hand_over(&mut self, started: Started, servers: &Servers) {
        let Started { id, server, zygote } = started;
        let failed = |Trouble { exit, text }| FromKeeper::ZygoteFailed {
            zygote: id.clone(),
            exit,
            text: text.chars().take(TEXT_MAX).collect(),
        };
        let pid = server;
        let Some(server) = servers.find(pid) else {
            if let Ok(zygote) = zygote {
                zygote.end().await;
            }
            return;
        };
        let mut zygote = match zygote {
            Ok(zygote) => zygote,
            Err(trouble) => return server.tell(&failed(trouble), &[]).await,
        };
        let about = self.spoken_of(id.project);
        for warning in &zygote.warnings {
            tracing::warn!("{about}{warning}");
        }
        match &mut self.plan {
            Plan::Run(_) => {
                if let Some(tls) = &mut zygote.settings.listening.tls
                    && let Err(text) = tls.read()
                {
                    zygote.end().await;
                    return server.tell(&failed(Trouble { exit: 1, text }), &[]).await;
                }
                if let Some(warning) = config::not_reloaded(&self.started, &zygote.settings) {
                    tracing::warn!("{warning}");
                }
                self.machine = Machine::of(zygote.settings.clone());
            }
            Plan::Serve(plan) => {
                if let Some(warning) = config::machines(&zygote.settings) {
                    tracing::warn!("{about}{warning}");
                }
                if zygote.master_hooks {
                    tracing::warn!(
                        "{about}hooks of gunicorn's master are not called under `ostler serve`; those of workers are"
                    );
                }
                // It is that user already, whatever a project's own file or a changed one of the machine says.
                if self.user.is_some() {
                    let process = &mut zygote.settings.process;
                    (process.user, process.group) = (None, None);
                }
                let mut projects = plan.projects.iter_mut();
                if let Some(project) = projects.find(|known| known.id == id.project) {
                    project.graceful = zygote.settings.workers.graceful_timeout;
                }
            }
        }
        let Child { pid: own, pidfd } = zygote.child;
        match to_file("ostler-settings", &zygote.settings) {
            Ok(settings) => {
                let control = zygote.control.into_fd();
                let fds = [control.as_fd(), pidfd.as_fd(), settings.as_fd()];
                let message = FromKeeper::Zygote {
                    zygote: id.clone(),
                    pid: own,
                    python: zygote.python,
                };
                server.tell(&message, &fds).await;
            }
            Err(error) => server.tell(&failed(error.into()), &[]).await,
        }
        self.zygotes.keep(own, id, pid, pidfd);
    }

    /// Reaps every child that has ended, adopted ones too; gives the end of the server that accepts connections, and
    /// how long it had lived.
    pub(super) async fn reap(
        &mut self,
        servers: &mut Servers,
    ) -> io::Result<Option<(u32, Exit, Duration)>> {
        let mut end = None;
        while let Some(reaped) = self.zygotes.reap()? {
            match reaped {
                Reaped::Zygote { id, server, exit } => {
                    if let Some(server) = servers.find(server) {
                        let message = FromKeeper::ZygoteExited { zygote: id, exit };
                        server.tell(&message, &[]).await;
                    }
                }
                Reaped::Unfit(started) => self.hand_over(*started, servers).await,
                Reaped::Other { pid, exit } => match servers.ended(pid) {
                    Some((Role::Current, server)) => end = Some((pid, exit, server.lived())),
                    Some((Role::Coming, _)) => self.did_not_come(exit, servers).await,
                    Some((Role::Leaving, _)) => self.has_left(pid, exit, servers).await,
                    None => self.answered(pid, exit, servers).await,
                },
            }
        }
        Ok(end)
    }
}

/// Those that have a value.
fn values(names: &BTreeSet<String>) -> BTreeMap<String, String> {
    let of = |name: &String| Some((name.clone(), std::env::var(name).ok()?));
    names.iter().filter_map(of).collect()
}

/// Tells who asked that nothing comes of it.
pub(super) async fn refuse(servers: &Servers, ticket: Option<u64>, problems: String) {
    if let Some(ticket) = ticket {
        let problems = problems.chars().take(TEXT_MAX).collect();
        servers
            .tell(&FromKeeper::Refused { ticket, problems }, &[])
            .await;
    }
}

/// Longest text of a failure, in characters: a message must fit in one piece even when each of
/// them takes six bytes in JSON.
pub(super) const TEXT_MAX: usize = 20_000;

fn spawn(
    fds: Vec<BorrowedFd<'_>>,
    user: Option<&sys::User>,
    hidden: &BTreeSet<String>,
) -> io::Result<Child> {
    let args: [OsString; 2] = ["ostler".into(), "__server".into()];
    let server = Spawn {
        name: "the server",
        program: Path::new("/proc/self/exe"),
        args: args.into(),
        env: sys::spawn::env_without(hidden),
        fds,
        user,
        raise_open_files: true,
    };
    server.start()
}
