//! Zygotes: adopting, loading, forking, ending them, and what they say.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::control::{FromZygote, decode};
use super::super::state::Event;
use super::{
    Backlog, Channel, Follower, News, Pidfd, Plan, RunningZygote, Signal, Supervisor, Worker,
    WorkerId, Zygote, send,
};
use crate::sys::{Exit, Message, fds};

impl Supervisor {
    /// Takes a configured zygote over.
    pub(super) async fn adopt(&mut self, zygote: Zygote, plan: Plan) -> bool {
        let Zygote {
            generation,
            control,
            pidfd,
        } = zygote;
        let control = match Channel::new(control) {
            Ok(control) => Arc::new(control),
            Err(error) => {
                let _ = pidfd.send(Signal::Kill);
                let text = format!("no socket for a zygote: {error}");
                return self
                    .step(Event::LoadFailed {
                        generation,
                        exit: 1,
                        text,
                    })
                    .await;
            }
        };
        let policy = plan.policy.clone();
        let follower = Follower::of_zygote(generation, Arc::clone(&control), self.to_said.clone());
        let backlog = Backlog::new();
        if let Err(error) = &backlog {
            tracing::warn!(%error, "no backlog: workers wait for each request to be sent to them");
        }
        let running = RunningZygote {
            control,
            pidfd,
            plan,
            follower,
            backlog: backlog.ok().map(Arc::new),
        };
        self.zygotes.insert(generation, running);
        self.step(Event::ZygoteStarted { generation, policy }).await
    }

    pub(super) async fn load(&mut self, generation: u64) {
        let Some(zygote) = self.zygotes.get(&generation) else {
            return;
        };
        let mut load = zygote.plan.load.clone();
        load["type"] = "load".into();
        load["generation"] = generation.into();
        self.tell_zygote(generation, &load, &[]).await;
    }

    /// Sends a message to a zygote. One that cannot take it is of no use any more.
    pub(super) async fn tell_zygote(
        &mut self,
        generation: u64,
        message: &Value,
        fds: &[BorrowedFd<'_>],
    ) -> bool {
        let Some(zygote) = self.zygotes.get(&generation) else {
            return false;
        };
        let told = send(&zygote.control, message, fds).await;
        if !told {
            tracing::warn!(
                generation,
                "the zygote does not listen any more and is killed"
            );
            let _ = zygote.pidfd.send(Signal::Kill);
        }
        told
    }

    pub(super) fn kill_zygote(&mut self, generation: u64) {
        if let Some(zygote) = self.zygotes.remove(&generation)
            && let Err(error) = zygote.pidfd.send(Signal::Kill)
        {
            // It goes by itself when it sees the end of its control socket, closed here.
            tracing::warn!(generation, %error, "cannot kill a zygote");
        }
        self.orphan(generation);
    }

    /// What a zygote said before it ended comes first: why it could not load the app, for one.
    pub(super) async fn zygote_exited(&mut self, generation: u64, exit: Exit) -> bool {
        match self.zygotes.get(&generation) {
            Some(zygote) => {
                zygote.follower.tell(News::Exit(exit));
                false
            }
            None => self.step(Event::ZygoteGone { generation, exit }).await,
        }
    }

    /// The workers of this generation have nobody left who could say how they end.
    pub(super) fn orphan(&mut self, generation: u64) {
        for worker in self
            .workers
            .values()
            .filter(|worker| worker.generation == generation)
        {
            worker.follower.tell(News::Orphan);
        }
    }

    pub(super) async fn heard_from_zygote(&mut self, generation: u64, message: Message) -> bool {
        match decode::<FromZygote>(&message.bytes) {
            Ok(FromZygote::Loaded { preloaded, why_not }) => {
                let about = &self.about;
                match why_not {
                    Some(why) if preloaded => tracing::warn!("{about}preloaded although {why}"),
                    Some(why) => {
                        tracing::info!(
                            "{about}not preloaded: {why}; each worker imports the app itself"
                        );
                    }
                    None => {}
                }
                self.step(Event::Loaded { generation }).await
            }
            Ok(FromZygote::Failed { exit, text }) => {
                self.step(Event::LoadFailed {
                    generation,
                    exit,
                    text,
                })
                .await
            }
            Ok(FromZygote::Forked { worker, pid }) => {
                self.forked(WorkerId(worker), generation, pid, message)
                    .await
            }
            Ok(FromZygote::Exited { worker, status }) => {
                let exit = Exit::from_wait_status(status).unwrap_or(Exit::Unknown);
                if let Some(worker) = self.own_worker(WorkerId(worker), generation) {
                    worker.follower.tell(News::Exit(exit));
                }
                false
            }
            Ok(
                said @ (FromZygote::Hello { .. }
                | FromZygote::Unsupported { .. }
                | FromZygote::Configured { .. }),
            ) => self.nonsense(generation, &format!("{said:?}")).await,
            Err(error) => self.nonsense(generation, &error).await,
        }
    }

    /// A zygote that breaks the protocol cannot be trusted with forks.
    async fn nonsense(&mut self, generation: u64, said: &str) -> bool {
        let said: String = said.chars().take(200).collect();
        self.kill_zygote(generation);
        let text = format!("the zygote said what nobody understands: {said}");
        self.step(Event::LoadFailed {
            generation,
            exit: 1,
            text,
        })
        .await
    }

    /// A worker, if it is one of this generation: a zygote speaks for its own.
    fn own_worker(&mut self, id: WorkerId, generation: u64) -> Option<&mut Worker> {
        self.workers
            .get_mut(&id)
            .filter(|worker| worker.generation == generation)
    }

    pub(super) async fn fork(&mut self, generation: u64, id: WorkerId, age: u64) {
        let pair = fds::seqpacket_pair();
        let pair = pair.and_then(|(ours, theirs)| Ok((Channel::new(ours)?, theirs)));
        let (control, theirs) = match pair {
            Ok((ours, theirs)) => (Arc::new(ours), theirs),
            Err(error) => {
                let text = format!("no socket for a worker: {error}; hint: raise `ulimit -n`");
                return self.cannot_fork(id, text);
            }
        };
        let message = json!({"type": "fork", "worker": id.0, "age": age});
        if !self
            .tell_zygote(generation, &message, &[theirs.as_fd()])
            .await
        {
            return self.cannot_fork(id, "the zygote does not fork any more".to_owned());
        }
        let follower = Follower::of_worker(id, Arc::clone(&control), self.to_said.clone());
        let worker = Worker {
            generation,
            age,
            started: std::time::Instant::now(),
            pid: 0,
            pidfd: None,
            control,
            follower,
            interface: None,
            sockets: Vec::new(),
            backlog: None,
            admitted: false,
            over_soft: false,
        };
        self.workers.insert(id, worker);
    }

    fn cannot_fork(&mut self, worker: WorkerId, text: String) {
        self.queued.push_back(Event::BootFailed {
            worker,
            exit: 1,
            text,
        });
        self.queued.push_back(Event::Exited {
            worker,
            exit: Exit::Unknown,
        });
    }

    async fn forked(&mut self, id: WorkerId, generation: u64, pid: u32, said: Message) -> bool {
        let Some(worker) = self.own_worker(id, generation) else {
            return false;
        };
        let handle = said
            .fds
            .into_iter()
            .next()
            .ok_or(std::io::ErrorKind::NotFound.into());
        match handle.and_then(|fd| Pidfd::from_fd(fd, pid)) {
            Ok(pidfd) => {
                worker.pid = pid;
                if let Ok(watched) = pidfd.try_clone() {
                    worker.follower.tell(News::Handle(watched));
                }
                worker.pidfd = Some(pidfd);
                self.step(Event::Forked { worker: id, pid }).await
            }
            Err(error) => {
                let text = format!("`forked` without a handle on process {pid}: {error}");
                self.nonsense(generation, &text).await
            }
        }
    }
}
