//! The keeper's side of a running server: starting it, talking with it, ending it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::config;
use crate::sys::{self, Channel, Child, Exit, Signal, Spawn, fds, process};

use super::protocol::{
    First, FromKeeper, HANDOVER_FD, Handover, Machine, ProjectId, ToKeeper, ZygoteId, to_file,
};
use super::reaping::{Reaped, Started};
use super::signals::Order;
use super::zygotes::{Configured, Trouble};
use super::{Keeper, Plan, QUICK_STOP, STOP_SLACK, Stop};

/// A server whose socket has no room for this long does not read it any more.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// A running server.
pub struct Server {
    child: Child,
    channel: Channel,
    /// It has not closed its socket yet.
    open: bool,
    started: Instant,
}

impl Server {
    /// How long ago it was started.
    pub fn lived(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn kill(&self) {
        let _ = self.child.pidfd.send(Signal::Kill);
    }

    /// The next thing it says; `None` for nonsense, and once for its end.
    pub async fn hear(&mut self) -> Option<ToKeeper> {
        if !self.open {
            // Its end follows as a signal.
            std::future::pending::<()>().await;
        }
        match self.channel.recv().await {
            Ok(Some(message)) => serde_json::from_slice(&message.bytes)
                .inspect_err(|error| tracing::error!(%error, "the server talks nonsense"))
                .ok(),
            Ok(None) | Err(_) => {
                self.open = false;
                None
            }
        }
    }

    pub(super) async fn tell(&self, message: &FromKeeper, fds: &[BorrowedFd<'_>]) {
        let told = timeout(SEND_LIMIT, self.channel.send_json(message, fds)).await;
        if !matches!(told, Ok(Ok(()))) && self.open {
            tracing::error!("the server does not listen");
        }
    }
}

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
        let handover = Handover {
            configuration: self.configuration(),
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
        let child = spawn(passed, self.user.as_ref())?;
        if let Some((zygote, ..)) = zygote {
            let id = ZygoteId {
                project: ProjectId::RUN,
                generation: 1,
            };
            self.zygotes.keep(zygote.pid, id, zygote.pidfd);
        }
        let channel = Channel::new(ours)?;
        Ok(Server {
            child,
            channel,
            open: true,
            started: Instant::now(),
        })
    }

    /// Passes an order on.
    pub(super) async fn take(&mut self, order: Order, server: &Server) {
        match order {
            Order::Reap => {}
            Order::Stop => self.begin_stop(true, server).await,
            Order::Interrupt => {
                let again = self.stop.as_ref().is_some_and(|stop| stop.interrupted);
                self.begin_stop(!again, server).await;
                if let Some(stop) = &mut self.stop {
                    stop.interrupted = true;
                }
            }
            Order::Quit => self.begin_stop(false, server).await,
            Order::Reload => self.reload(server, None).await,
            Order::ReopenLogs => self.reopen_logs(server).await,
            Order::Workers { by } => server.tell(&FromKeeper::Workers { by }, &[]).await,
            Order::Upgrade => {
                tracing::warn!("USR2 does nothing: ostler does not execute itself anew yet");
            }
        }
    }

    /// Has what is written taken anew; the ticket is that of who asked.
    async fn reload(&mut self, server: &Server, ticket: Option<u64>) {
        // gunicorn opens its logs anew on HUP, and rotation scripts count on it.
        self.reopen_logs(server).await;
        match self.plan {
            Plan::Run(_) => server.tell(&FromKeeper::Reload { ticket }, &[]).await,
            Plan::Serve(_) => self.configure_anew(server, ticket).await,
        }
    }

    async fn reopen_logs(&self, server: &Server) {
        self.log.reopen();
        server.tell(&FromKeeper::ReopenLogs, &[]).await;
    }

    /// Tells the server to stop; saying it again changes nothing, unless it is to be quicker.
    async fn begin_stop(&mut self, graceful: bool, server: &Server) {
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
        server.tell(&FromKeeper::Stop { graceful }, &[]).await;
        for listening in &mut self.listening {
            listening.fd = None;
        }
    }

    /// Does what the server asks for.
    pub(super) async fn obey(&mut self, said: Option<ToKeeper>, server: &Server) {
        match said {
            Some(ToKeeper::StartZygote { zygote: id }) => {
                let Some(plan) = self.plan_of(id.project) else {
                    // It went with a configuration that has come into force meanwhile.
                    return;
                };
                if let Err(trouble) = self.zygotes.start(&plan, id.clone()) {
                    let zygote = Err(trouble);
                    self.hand_over(Started { id, zygote }, server).await;
                }
            }
            Some(ToKeeper::Reload { ticket }) => self.reload(server, Some(ticket)).await,
            Some(ToKeeper::Configured { taken }) => self.configured(taken),
            Some(ToKeeper::Maintain {
                ticket,
                project,
                on,
            }) => {
                let kept = self.maintenance.switch(&project, on);
                server
                    .tell(&FromKeeper::Maintained { ticket, kept }, &[])
                    .await;
            }
            Some(ToKeeper::Ready) => {
                self.ever_ready = true;
                self.notify.ready();
            }
            None => {}
        }
    }

    /// Gives the server the zygote it asked for, or the reason why there is none.
    pub(super) async fn hand_over(&mut self, started: Started, server: &Server) {
        let Started { id, zygote } = started;
        let failed = |Trouble { exit, text }| FromKeeper::ZygoteFailed {
            zygote: id.clone(),
            exit,
            text: text.chars().take(TEXT_MAX).collect(),
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
                let mut projects = plan.projects.iter_mut();
                if let Some(project) = projects.find(|known| known.id == id.project) {
                    project.graceful = zygote.settings.workers.graceful_timeout;
                }
            }
        }
        let Child { pid, pidfd } = zygote.child;
        match to_file("ostler-settings", &zygote.settings) {
            Ok(settings) => {
                let control = zygote.control.into_fd();
                let fds = [control.as_fd(), pidfd.as_fd(), settings.as_fd()];
                let message = FromKeeper::Zygote {
                    zygote: id.clone(),
                    pid,
                    python: zygote.python,
                };
                server.tell(&message, &fds).await;
            }
            Err(error) => server.tell(&failed(error.into()), &[]).await,
        }
        self.zygotes.keep(pid, id, pidfd);
    }

    /// Reaps every child that has ended, adopted ones too; gives the server's end.
    pub(super) async fn reap(&mut self, server: &Server) -> io::Result<Option<Exit>> {
        let mut end = None;
        while let Some(reaped) = self.zygotes.reap()? {
            match reaped {
                Reaped::Zygote { id, exit } => {
                    let message = FromKeeper::ZygoteExited { zygote: id, exit };
                    server.tell(&message, &[]).await;
                }
                Reaped::Unfit(started) => self.hand_over(*started, server).await,
                Reaped::Other { pid, exit } if pid == server.child.pid => end = Some(exit),
                Reaped::Other { .. } => {}
            }
        }
        Ok(end)
    }
}

/// Longest text of a failure, in characters: a message must fit in one piece even when each of
/// them takes six bytes in JSON.
pub(super) const TEXT_MAX: usize = 20_000;

fn spawn(fds: Vec<BorrowedFd<'_>>, user: Option<&sys::User>) -> io::Result<Child> {
    let args: [OsString; 2] = ["ostler".into(), "__server".into()];
    let server = Spawn {
        name: "the server",
        program: Path::new("/proc/self/exe"),
        args: args.into(),
        env: sys::spawn::own_env(),
        fds,
        user,
        raise_open_files: true,
    };
    server.start()
}
