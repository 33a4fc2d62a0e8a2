//! Another program in this process: `ostler upgrade`, USR2. In call order: the program is asked whether it can
//! ([`Keeper::begin_upgrade`], [`Keeper::answered`]), it is executed ([`Keeper::become_successor`]), starts a server
//! beside the one that serves, and takes its place when the apps that served do so there ([`Keeper::take_over`]). Until
//! then the program before is executed again when anything goes wrong ([`Keeper::go_back`]), as if nothing had been.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::Settings;
use crate::sys::{self, Child, Exit, Spawn, User, anew, fds};

use super::bind::Listening;
use super::heritage::{Heritage, Inheritance, QUESTION, YES};
use super::protocol::{FromKeeper, Machine, ProjectId};
use super::servers::Servers;
use super::serving::{TEXT_MAX, refuse};
use super::signals::{Order, Signals};
use super::{Keeper, Plan};

/// A program says within this whether it can take over: it reads its configuration.
const ANSWER: Duration = Duration::from_secs(60);

/// Apps serve within this beside the server that serves. The longest import that a start waits for takes 300 s.
const ARRIVAL: Duration = Duration::from_secs(330);

/// Servers that are ending, before another upgrade begins: each has workers and memory of its own.
const MOST_LEAVING: usize = 8;

/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 64 * 1024;

/// A program that is asked whether it can take over.
pub(super) struct Asking {
    child: Child,
    /// What it says.
    answer: OwnedFd,
    ticket: Option<u64>,
    /// It can: its version.
    yes: Option<String>,
    deadline: Instant,
}

/// What leads back to the program before.
pub(super) struct WayBack {
    inheritance: Inheritance,
    /// Sockets that are in use no more when there is no way back.
    unused: Vec<Listening>,
    /// It ends then.
    deadline: Instant,
}

/// What a keeper leaves to itself, for the case that its successor goes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) plan: Plan,
    pub(super) machine: Machine,
    pub(super) started: Settings,
    pub(super) user: Option<User>,
    pub(super) requests: Option<PathBuf>,
}

impl WayBack {
    pub(super) fn new(inheritance: Inheritance, unused: Vec<Listening>) -> Self {
        let deadline = Instant::now() + ARRIVAL;
        Self {
            inheritance,
            unused,
            deadline,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Asking {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Keeper {
    /// Asks the program that lies where ours did whether it takes over.
    pub(super) async fn begin_upgrade(&mut self, servers: &Servers, ticket: Option<u64>) {
        let begun = match self.why_not(servers) {
            Some(why) => Err(why.to_owned()),
            None => self
                .ask_successor(servers, ticket)
                .map_err(|error| format!("{error}; hint: is ostler still there?")),
        };
        match begun {
            Ok(asking) => {
                let program = self.program.display();
                tracing::info!("upgrade: {program} is asked whether it can take over");
                self.asking = Some(asking);
            }
            Err(why) => self.no_upgrade(servers, ticket, &why).await,
        }
    }

    fn why_not(&self, servers: &Servers) -> Option<&'static str> {
        if self.stop.is_some() {
            Some("ostler is stopping")
        } else if self.asking.is_some() || self.way_back.is_some() {
            Some("an upgrade is under way; hint: wait for its end")
        } else if servers.current.is_none() || !self.ever_ready {
            Some("nothing serves yet; hint: wait, or restart it")
        } else if servers.leaving.len() >= MOST_LEAVING {
            Some(
                "too many servers of upgrades before have open connections; hint: wait, or a shorter `drain` in [server]",
            )
        } else {
            None
        }
    }

    fn ask_successor(&self, servers: &Servers, ticket: Option<u64>) -> io::Result<Asking> {
        let before = anew::own_binary()?;
        let heritage = self.heritage(servers, &before)?.to_file()?;
        let answer = fds::writable("ostler-answer")?;
        let mut env = sys::spawn::own_env();
        env.push((anew::HERITAGE.into(), format!("{QUESTION}:3:4").into()));
        let asked = Spawn {
            name: "the new ostler",
            program: &self.program,
            args: std::env::args_os().collect(),
            env,
            fds: vec![heritage.as_fd(), answer.as_fd()],
            user: None,
            raise_open_files: false,
        };
        Ok(Asking {
            child: asked.start()?,
            answer,
            ticket,
            yes: None,
            deadline: Instant::now() + ANSWER,
        })
    }

    async fn no_upgrade(&self, servers: &Servers, ticket: Option<u64>, why: &str) {
        let why = why.trim_end();
        tracing::error!("upgrade failed: {why}; everything stays as it was");
        refuse(servers, ticket, format!("error: {why}\n")).await;
    }

    /// A child that is nothing else has ended: perhaps who was asked.
    pub(super) async fn answered(&mut self, pid: u32, exit: Exit, servers: &Servers) {
        let asked = |asking: &&mut Asking| asking.child.pid == pid;
        let Some(asking) = self.asking.as_mut().filter(asked) else {
            return;
        };
        let copy = asking.answer.try_clone();
        let said = copy.and_then(|answer| fds::read_all(answer, ANSWER_BYTES));
        let said = said.map(|said| String::from_utf8_lossy(&said).into_owned());
        let said = said.unwrap_or_else(|error| error.to_string());
        let yes = said.lines().last().and_then(|line| line.strip_prefix(YES));
        match yes.filter(|_| exit.is_success()) {
            Some(version) => asking.yes = Some(version.to_owned()),
            None => {
                let ticket = asking.ticket;
                self.asking = None;
                let program = self.program.display();
                let why = match said.trim() {
                    "" => format!(
                        "{program} cannot take over: {exit}; hint: is it an ostler that knows `ostler upgrade`?"
                    ),
                    said => format!("{program} cannot take over:\n{said}"),
                };
                self.no_upgrade(servers, ticket, &why).await;
            }
        }
    }

    /// Who was asked has not answered in time, or what would be lost by going on does not end.
    pub(super) async fn asked_in_vain(&mut self, servers: &Servers) {
        let Some(asking) = self.asking.take() else {
            return;
        };
        let _ = asking.child.pidfd.send(sys::Signal::Kill);
        let why = match asking.yes {
            None => "the new program does not answer",
            Some(_) => "an app was being started all the time; hint: try again",
        };
        self.no_upgrade(servers, asking.ticket, why).await;
    }

    /// The program has said yes, and nothing is under way that would be lost.
    pub(super) fn may_become_successor(&self) -> bool {
        let said_yes = self
            .asking
            .as_ref()
            .is_some_and(|asking| asking.yes.is_some());
        said_yes && self.zygotes.all_told() && self.told.is_empty() && self.stop.is_none()
    }

    /// Executes the program that has said yes; or gives a signal that has come before.
    pub(super) async fn become_successor(
        &mut self,
        servers: &Servers,
        signals: &mut Signals,
    ) -> Option<Order> {
        // From here on they wait in the kernel, for who comes after us. What the runtime has taken is seen once it has
        // looked at its pipe.
        let _blocked = sys::signal::block_all();
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        if let Some(order) = signals.now() {
            return Some(order);
        }
        let Asking { ticket, yes, .. } = self.asking.take()?;
        let version = yes.unwrap_or_default();
        tracing::info!("upgrade: this process becomes ostler {version}");
        let failed = self.execute(servers, ticket);
        let Err(error) = failed;
        let why = format!("{}: {error}", self.program.display());
        self.no_upgrade(servers, ticket, &why).await;
        None
    }

    fn execute(
        &self,
        servers: &Servers,
        ticket: Option<u64>,
    ) -> io::Result<std::convert::Infallible> {
        let before = anew::own_binary()?;
        let mut heritage = self.heritage(servers, &before)?;
        heritage.ticket = ticket;
        let file = heritage.to_file()?;
        let mut kept = vec![before.as_fd()];
        kept.extend(servers.left().flat_map(|(_, fds)| fds));
        kept.extend(self.zygotes.left().map(|(_, fd)| fd));
        kept.extend(
            self.sockets()
                .filter_map(|socket| Some(socket.fd.as_ref()?.as_fd())),
        );
        Err(anew::execute(&self.program, &file, &kept))
    }

    fn sockets(&self) -> impl Iterator<Item = &Listening> {
        let own = self.listening.iter().chain(&self.admin);
        own.chain(&self.metrics)
    }

    fn heritage(&self, servers: &Servers, before: &OwnedFd) -> io::Result<Heritage> {
        let own = serde_json::to_value(Own {
            plan: self.plan.clone(),
            machine: self.machine.clone(),
            started: self.started.clone(),
            user: self.user.clone(),
            requests: self.requests.clone(),
        })?;
        Ok(Heritage {
            servers: servers.left().map(|(left, _)| left).collect(),
            zygotes: self.zygotes.left().map(|(left, _)| left).collect(),
            with_hooks: self.zygotes.with_hooks,
            listening: self.listening.iter().filter_map(Listening::left).collect(),
            admin: self.admin.as_ref().and_then(Listening::left),
            metrics: self.metrics.iter().filter_map(Listening::left).collect(),
            last_project: self.last_project,
            serving: self.names_of_serving(),
            marks: Some(self.marks),
            ..Heritage::new(self.program.clone(), before, own)
        })
    }

    fn names_of_serving(&self) -> Vec<String> {
        match &self.plan {
            Plan::Run(_) => self.serving.iter().map(|_| String::new()).collect(),
            Plan::Serve(plan) => {
                let serve = plan.projects.iter();
                let serve = serve.filter(|project| self.serving.contains(&project.id));
                serve.map(|project| project.name.clone()).collect()
            }
        }
    }

    /// The apps that have to serve before the server that is coming takes over: those that have served.
    pub(super) fn must_serve(&self) -> Vec<ProjectId> {
        match &self.way_back {
            Some(back) => self
                .numbers_of(&back.inheritance.said.serving)
                .into_iter()
                .collect(),
            None => Vec::new(),
        }
    }

    /// The server that was coming accepts connections: the one before it ends with those it has.
    pub(super) async fn take_over(&mut self, servers: &mut Servers) {
        let (Some(coming), Some(back)) = (servers.coming.take(), self.way_back.take()) else {
            return;
        };
        let WayBack {
            inheritance,
            unused,
            ..
        } = back;
        let (before, own) = (&inheritance.said.version, env!("CARGO_PKG_VERSION"));
        let drain = self.machine.drain;
        let pid = coming.child.pid;
        let what = format!(
            "ostler {own} serves in the place of {before} (server {pid}); connections that are open have {} s",
            drain.as_secs()
        );
        tracing::info!("upgrade complete: {what}");
        self.ever_ready = true;
        self.notify.ready();
        match servers.current.replace(coming) {
            Some(before) => {
                // First, since one that has nothing to do ends at once: nobody else can answer who has asked.
                if let Some(ticket) = inheritance.said.ticket {
                    let message = FromKeeper::Upgraded { ticket, what };
                    before.tell(&message, &[]).await;
                }
                let message = FromKeeper::Drain { within: drain };
                before.tell(&message, &[]).await;
                servers.leaving.push(before);
            }
            None => servers.put_in_charge().await,
        }
        unused.iter().for_each(Listening::remove);
    }

    /// The server that was coming has ended.
    pub(super) async fn did_not_come(&mut self, exit: Exit, servers: &mut Servers) {
        if self.stop.is_none() {
            let why = format!("error: the new server ended: {exit}; hint: the log says why\n");
            self.go_back(why, servers).await;
        }
    }

    /// A server whose place another one has taken.
    pub(super) async fn has_left(&mut self, pid: u32, exit: Exit, servers: &Servers) {
        self.zygotes.kill_of(pid);
        tracing::info!("the server before an upgrade (pid {pid}) has ended: {exit}");
        // It may not have come to say that it writes no more.
        servers.put_in_charge().await;
    }

    /// The program before us takes this process back, and with it everything it had.
    pub(super) async fn go_back(&mut self, why: String, servers: &mut Servers) {
        let Some(back) = self.way_back.take() else {
            return;
        };
        if let Some(coming) = servers.coming.take() {
            self.zygotes.kill_of(coming.child.pid);
            coming.kill();
        }
        self.sockets().for_each(Listening::undo);
        for line in why.lines() {
            tracing::error!("{line}");
        }
        let why: String = why.chars().take(TEXT_MAX).collect();
        let is_there = |pid| servers.find(pid).is_some() || self.zygotes.is_there(pid);
        let error = back.inheritance.give_back(why, is_there);
        // It was held open all the time.
        tracing::error!(%error, "the program before cannot be executed; its server serves on");
    }

    /// What the program that we left this process to could not do.
    pub(super) async fn tell_failed(&self, inheritance: &Inheritance, servers: &Servers) {
        let why = inheritance.said.failed.as_deref().unwrap_or_default();
        let why = why.strip_prefix("error: ").unwrap_or(why);
        self.no_upgrade(servers, inheritance.said.ticket, why).await;
    }
}
