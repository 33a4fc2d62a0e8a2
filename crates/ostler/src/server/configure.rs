//! Another configuration in the place of the one in force: checked and built whole, then swapped; only what
//! vanished ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;

use crate::admin::api::{Change as Changed, Reloaded};
use crate::certs;
use crate::keeper::protocol::{self, Configuration, ToKeeper};
use crate::supervise::Hooks;

use super::parts::Machine;
use super::project::{Change, Project};
use super::reloads::{Awaited, Since};
use super::{Server, admin, certificates};

/// Everything of a new configuration that could fail, done.
struct Built {
    machine: Machine,
    certificates: certs::Next,
    changes: Vec<(usize, Change)>,
    new: Vec<Project>,
    /// Indices of projects that it does not have.
    vanished: Vec<usize>,
}

impl Server {
    /// Takes what the keeper has read, or says why nothing changes.
    pub(super) async fn configure(
        &mut self,
        fds: Vec<OwnedFd>,
        ticket: Option<u64>,
        warnings: Vec<String>,
    ) {
        let asked = ticket.and_then(|ticket| self.reloads.answered(ticket));
        let built = self.build(fds);
        let taken = built.is_ok();
        // The keeper must know before it is asked for zygotes.
        self.tell_keeper(ToKeeper::Configured { taken }).await;
        match built {
            Ok(built) => {
                let (changes, awaited) = self.swap(built).await;
                if let Some(asked) = asked {
                    self.reloads.begun(asked, changes, warnings, awaited);
                }
            }
            Err(error) => {
                tracing::error!("error: {error:#}");
                tracing::error!("reload failed: the configuration stays as it was");
                if let Some(asked) = asked {
                    let failed = Reloaded::failed(format!("error: {error:#}\n"));
                    // Who has asked may have left.
                    let _ = asked.answer.send(Reloaded { warnings, ..failed });
                }
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
        let certificates = certificates::prepare(&self.certs, &machine, &projects)?;
        let machine = Machine::new(machine, &projects, self.certs.served(), Some(&self.machine))?;
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
            certificates,
            changes,
            new,
            vanished,
        })
    }

    /// `ostler run`: the one app is loaded anew.
    pub(super) fn reload_all(&mut self, ticket: Option<u64>) {
        let asked = ticket.and_then(|ticket| self.reloads.answered(ticket));
        let awaited = self.projects.iter_mut().map(Project::restart).collect();
        if let Some(asked) = asked {
            self.reloads.begun(asked, Vec::new(), Vec::new(), awaited);
        }
    }

    /// Gives what has changed, and what has to start for it.
    async fn swap(&mut self, built: Built) -> (Vec<Changed>, Vec<Awaited>) {
        let Built {
            machine,
            certificates,
            changes,
            new,
            vanished,
        } = built;
        let (mut told, mut awaited) = (Vec::new(), Vec::new());
        if self.machine.said != machine.said {
            told.push(Changed {
                project: String::new(),
                what: "[server] changed".to_owned(),
            });
        }
        let mut tell = |project: &Project, what: &str| {
            tracing::info!("{}{what}", project.spoken_of());
            told.push(Changed {
                project: project.name.clone(),
                what: what.to_owned(),
            });
        };
        self.take_machine(machine);
        for (index, change) in changes {
            let project = &mut self.projects[index];
            let restarts = change.restarts && project.has_app;
            let what = match restarts {
                true => "changed; its workers are replaced",
                false => "changed",
            };
            tell(project, what);
            project.change(change);
            if restarts {
                awaited.push(project.restart());
            }
        }
        for index in vanished {
            let project = &mut self.projects[index];
            tell(project, "is served no more; its last requests end");
            project.retire(&self.threads[0].handle);
        }
        let ids: Vec<_> = new.iter().map(|project| project.id).collect();
        for project in &new {
            tell(project, "is new");
            if project.has_app {
                awaited.push(admin::awaited(project, Since::Generation(1)));
            }
        }
        self.projects.extend(new);
        // A host is served when it has a certificate to be served with.
        self.certs.take(certificates);
        self.replace_edge();
        tracing::info!("reload complete: the configuration is in force");
        for project in self.projects.iter().filter(|known| ids.contains(&known.id)) {
            self.begin(project).await;
        }
        (told, awaited)
    }
}
