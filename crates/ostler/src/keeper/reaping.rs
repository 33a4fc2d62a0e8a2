//! All zygotes of the keeper, and every other child it has or adopts: none is left a zombie.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::run::RunPlan;
use crate::sys::{Channel, Child, Exit, Pidfd, Signal, process, process::Children};

use super::heritage::LeftZygote;
use super::in_time;
use super::protocol::ZygoteId;
use super::signals::{Order, Signals};
use super::zygotes::{self, Configured, Confines, Said, Trouble, Unfit};

/// How long the exit handlers of preloaded apps may take: what a zygote allows them, and a second.
const PATIENCE: Duration = Duration::from_secs(6);

/// Killed processes and the hook process are gone within this.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// How asking a zygote for its settings ended.
type Conversation = Result<(Said, Channel), Unfit>;

/// Zygotes that run, and zygotes that are being asked for their settings.
#[derive(Default)]
pub struct Zygotes {
    /// By pid.
    running: HashMap<u32, Running>,
    asked: HashMap<u32, Asked>,
    conversations: JoinSet<(u32, Conversation)>,
    /// A hook process was started, which outlives its zygote and becomes our child.
    pub with_hooks: bool,
}

struct Running {
    /// `None` once the server is gone that knows it by this number.
    id: Option<ZygoteId>,
    /// The pid of that server.
    server: u32,
    pidfd: Pidfd,
}

struct Asked {
    /// As above.
    id: Option<ZygoteId>,
    server: u32,
    child: Child,
    /// It ended while it was asked.
    exit: Option<Exit>,
    /// It is of no use; its end, which completes the story, is awaited.
    unfit: Option<Unfit>,
}

/// A zygote that a server asked for.
pub struct Started {
    pub id: ZygoteId,
    /// The pid of the server.
    pub server: u32,
    pub zygote: Result<Configured, Trouble>,
}

/// A child that has ended and was reaped.
pub enum Reaped {
    /// Its server may want to know.
    Zygote {
        id: ZygoteId,
        server: u32,
        exit: Exit,
    },
    /// It could not tell its settings.
    Unfit(Box<Started>),
    Other {
        pid: u32,
        exit: Exit,
    },
}

impl Zygotes {
    /// Keeps a zygote that the server with this pid gets.
    pub fn keep(&mut self, pid: u32, id: ZygoteId, server: u32, pidfd: Pidfd) {
        let id = Some(id);
        self.running.insert(pid, Running { id, server, pidfd });
    }

    /// Takes over one that the program before us has started.
    pub fn inherit(&mut self, left: &LeftZygote, child: Child) {
        let (id, server, pidfd) = (left.id.clone(), left.server, child.pidfd);
        self.running
            .insert(child.pid, Running { id, server, pidfd });
    }

    /// For the program that comes after us, with the descriptors that it names.
    pub fn left(&self) -> impl Iterator<Item = (LeftZygote, BorrowedFd<'_>)> {
        self.running.iter().map(|(&pid, zygote)| {
            let fd = zygote.pidfd.as_fd();
            let left = LeftZygote {
                pid,
                pidfd: fd.as_raw_fd(),
                server: zygote.server,
                id: zygote.id.clone(),
            };
            (left, fd)
        })
    }

    /// None is being asked for its settings.
    pub fn all_told(&self) -> bool {
        self.asked.is_empty()
    }

    pub fn is_there(&self, pid: u32) -> bool {
        self.running.contains_key(&pid)
    }

    /// Starts a zygote for the server; [`Zygotes::started`] gives it.
    pub fn start(
        &mut self,
        plan: &Arc<RunPlan>,
        confines: &Confines<'_>,
        id: ZygoteId,
        server: u32,
    ) -> Result<(), Trouble> {
        let (child, control) = zygotes::spawn(plan, confines)?;
        let (pid, plan) = (child.pid, Arc::clone(plan));
        let asked = Asked {
            id: Some(id),
            server,
            child,
            exit: None,
            unfit: None,
        };
        self.asked.insert(pid, asked);
        self.conversations.spawn(async move {
            let said = zygotes::converse(&plan, &control).await;
            (pid, said.map(|said| (said, control)))
        });
        Ok(())
    }

    /// The next zygote that has told its settings. Those that cannot are told when they are
    /// reaped.
    pub async fn started(&mut self) -> Started {
        loop {
            match self.conversations.join_next().await {
                None => std::future::pending().await,
                Some(Ok((pid, said))) => {
                    if let Some(started) = self.told(pid, said) {
                        return started;
                    }
                }
                // Aborted with its server.
                Some(Err(_)) => {}
            }
        }
    }

    fn told(&mut self, pid: u32, said: Conversation) -> Option<Started> {
        let mut asked = self.asked.remove(&pid)?;
        let Some(id) = asked.id.clone() else {
            self.asked.insert(pid, asked);
            return None;
        };
        let server = asked.server;
        match (said, asked.exit) {
            (Ok((said, control)), None) => {
                let zygote = Ok(said.with(asked.child, control));
                Some(Started { id, server, zygote })
            }
            (Ok(_), Some(exit)) => {
                let text = format!("error: the zygote ended after it told its settings: {exit}");
                Some(Started {
                    id,
                    server,
                    zygote: Err(Trouble { exit: 1, text }),
                })
            }
            (Err(unfit), Some(exit)) => Some(Started {
                id,
                server,
                zygote: Err(unfit.ended_by(exit)),
            }),
            (Err(unfit), None) => {
                unfit.kill_if_alive(&asked.child.pidfd);
                asked.unfit = Some(unfit);
                self.asked.insert(pid, asked);
                None
            }
        }
    }

    /// Kills those of one server; nobody is told of their ends any more.
    pub fn kill_of(&mut self, server: u32) {
        self.kill(|of| of == server);
    }

    fn kill(&mut self, killed: impl Fn(u32) -> bool) {
        for zygote in self
            .running
            .values_mut()
            .filter(|zygote| killed(zygote.server))
        {
            zygote.id = None;
            let _ = zygote.pidfd.send(Signal::Kill);
        }
        // With its socket closed its conversation ends as well.
        for zygote in self
            .asked
            .values_mut()
            .filter(|zygote| killed(zygote.server))
        {
            zygote.id = None;
            let _ = zygote.child.pidfd.send(Signal::Kill);
        }
    }

    /// Reaps one child that has ended.
    pub fn reap(&mut self) -> io::Result<Option<Reaped>> {
        loop {
            let Children::Ended { pid, exit } = process::next_child()? else {
                return Ok(None);
            };
            let ours = self.running.contains_key(&pid) || self.asked.contains_key(&pid);
            if ours && !exit.is_success() {
                // A zygote that did not end in order leaves workers, and they theirs, in its
                // process group, whose number is safe to use until the zygote is reaped.
                let _ = process::kill_group(pid);
            }
            process::reap(pid)?;
            if !ours {
                return Ok(Some(Reaped::Other { pid, exit }));
            }
            if let Some(reaped) = self.reaped(pid, exit) {
                return Ok(Some(reaped));
            }
        }
    }

    fn reaped(&mut self, pid: u32, exit: Exit) -> Option<Reaped> {
        if let Some(zygote) = self.running.remove(&pid) {
            let server = zygote.server;
            return zygote.id.map(|id| Reaped::Zygote { id, server, exit });
        }
        let asked = self.asked.get_mut(&pid)?;
        asked.exit = Some(exit);
        if asked.id.is_some() && asked.unfit.is_none() {
            // Its conversation is about to end as well, and tells.
            return None;
        }
        let Asked {
            id, unfit, server, ..
        } = self.asked.remove(&pid)?;
        let zygote = Err(unfit?.ended_by(exit));
        let id = id?;
        Some(Reaped::Unfit(Box::new(Started { id, server, zygote })))
    }

    /// Waits until all zygotes have ended, `gently` with some patience before they are killed. A
    /// signal to stop ends the patience.
    pub async fn wait_for_all(&mut self, signals: &mut Signals, gently: bool) {
        let begun = Instant::now();
        let mut deadline = if gently { begun + PATIENCE } else { begun };
        let mut killed = false;
        while let Ok(true) = self.reap_all() {
            match in_time(deadline, signals.next()).await {
                Some(Order::Interrupt | Order::Quit) if !killed => deadline = Instant::now(),
                Some(_) => {}
                None if killed => return tracing::error!("a killed zygote does not end"),
                None => {
                    self.kill(|_| true);
                    killed = true;
                    deadline = Instant::now() + LAST_WAIT;
                }
            }
        }
        if self.with_hooks {
            self.wait_for_hooks(signals).await;
        }
    }

    /// Reaps what has ended; true while there are zygotes.
    fn reap_all(&mut self) -> io::Result<bool> {
        while self.reap()?.is_some() {}
        Ok(!self.running.is_empty() || !self.asked.is_empty())
    }

    /// The hook process goes by itself when its socket is closed. What else is left are programs
    /// that the app has started to outlive it.
    async fn wait_for_hooks(&mut self, signals: &mut Signals) {
        let deadline = Instant::now() + LAST_WAIT;
        while let Ok(Children::Running) = process::next_child() {
            if in_time(deadline, signals.next()).await.is_none() {
                return;
            }
            let _ = self.reap_all();
        }
    }
}
