//! Another configuration in the place of the one in force: checked and built whole, then swapped; only what
//! vanished ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;

use crate::keeper::protocol::{self, Configuration, ToKeeper};
use crate::supervise::Hooks;

use super::Server;
use super::parts::Machine;
use super::project::{Change, Project};

/// Everything of a new configuration that could fail, done.
struct Built {
    machine: Machine,
    changes: Vec<(usize, Change)>,
    new: Vec<Project>,
    /// Indices of projects that it does not have.
    vanished: Vec<usize>,
}

impl Server {
    /// Takes what the keeper has read, or says why nothing changes.
    pub(super) async fn configure(&mut self, fds: Vec<OwnedFd>) {
        let built = self.build(fds);
        let taken = built.is_ok();
        // The keeper must know before it is asked for zygotes.
        self.tell_keeper(ToKeeper::Configured { taken }).await;
        match built {
            Ok(built) => self.swap(built).await,
            Err(error) => {
                tracing::error!("error: {error:#}");
                tracing::error!("reload failed: the configuration stays as it was");
            }
        }
    }

    fn build(&self, fds: Vec<OwnedFd>) -> anyhow::Result<Built> {
        let [file] = fds
            .try_into()
            .map_err(|_| anyhow::anyhow!("a configuration came without its file"))?;
        let Configuration {
            machine, projects, ..
        } = protocol::configuration_from(file).context("the configuration cannot be read")?;
        anyhow::ensure!(!self.stopping, "the server is stopping");
        let machine = Machine::new(machine)?;
        let count = self.threads.len();
        let mut changes = Vec::new();
        let mut starting = Vec::new();
        let stays = |index: usize| {
            projects
                .iter()
                .any(|next| next.id == self.projects[index].id)
        };
        let here = |index: &usize| !self.projects[*index].retired;
        let vanished = (0..self.projects.len())
            .filter(here)
            .filter(|index| !stays(*index));
        let vanished = vanished.collect();
        for next in &projects {
            let known = self
                .projects
                .iter()
                .position(|project| project.id == next.id);
            match known {
                Some(index) => {
                    let change = self.projects[index].compare(next, count)?;
                    changes.extend(change.map(|change| (index, change)));
                }
                None => starting.push(next.clone()),
            }
        }
        let mut new: Vec<Project> = Vec::new();
        for project in starting {
            let threads = self.threads.iter().map(|thread| thread.handle.clone());
            let started = Project::start(
                project,
                Hooks::new(None),
                threads.collect(),
                self.requests.clone(),
                (Arc::clone(&self.policies), false),
            );
            match started {
                Ok(project) => new.push(project),
                Err(error) => {
                    new.iter().for_each(|project| project.handle.stop(None));
                    return Err(error);
                }
            }
        }
        Ok(Built {
            machine,
            changes,
            new,
            vanished,
        })
    }

    async fn swap(&mut self, built: Built) {
        let Built {
            machine,
            changes,
            new,
            vanished,
        } = built;
        self.take_machine(machine);
        for (index, change) in changes {
            let project = &mut self.projects[index];
            let what = match change.restarts {
                true => "changed; its workers are replaced",
                false => "changed",
            };
            tracing::info!("{}{what}", project.spoken_of());
            project.change(change);
        }
        for index in vanished {
            let project = &mut self.projects[index];
            tracing::info!(
                "{}is served no more; its last requests end",
                project.spoken_of()
            );
            project.retire(&self.threads[0].handle);
        }
        let ids: Vec<_> = new.iter().map(|project| project.id).collect();
        for project in &new {
            tracing::info!("{}is new", project.spoken_of());
        }
        self.projects.extend(new);
        self.replace_edge();
        tracing::info!("reload complete: the configuration is in force");
        for id in ids {
            self.ask_for_zygote(id, 1).await;
        }
    }
}
