//! `ostler maintenance`: a project's page is switched when the keeper has kept that it is.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::admin::api::{Maintained, Maintenance};
use crate::keeper::protocol::{ProjectId, ToKeeper};

use super::Server;
use super::project::Project;

/// What the keeper has been asked to keep.
#[derive(Debug, Default)]
pub(super) struct Switching {
    last: u64,
    /// By ticket. The keeper answers each, and the admin API lets in few who ask at once.
    asked: HashMap<u64, Asked>,
}

#[derive(Debug)]
struct Asked {
    project: String,
    on: bool,
    answer: oneshot::Sender<Maintained>,
}

impl Server {
    /// Has the keeper keep it. A name that no project has may still be switched off: it may have had one.
    pub(super) async fn switch_maintenance(
        &mut self,
        project: String,
        on: bool,
        answer: oneshot::Sender<Maintained>,
    ) {
        if on && self.here(&project).is_none() {
            let _ = answer.send(self.unknown_maintained(&project));
            return;
        }
        self.switching.last += 1;
        let ticket = self.switching.last;
        let message = ToKeeper::Maintain {
            ticket,
            project: project.clone(),
            on,
        };
        let asked = Asked {
            project,
            on,
            answer,
        };
        self.switching.asked.insert(ticket, asked);
        self.tell_keeper(message).await;
    }

    /// The keeper has kept it: `Ok` with whether it was on before.
    pub(super) fn maintained(&mut self, ticket: u64, kept: Result<bool, String>) {
        let Some(asked) = self.switching.asked.remove(&ticket) else {
            return;
        };
        let told = match (self.here(&asked.project), kept) {
            (None, Ok(false)) => self.unknown_maintained(&asked.project),
            (_, Err(problem)) => Maintained {
                problem,
                ..Maintained::default()
            },
            (project, Ok(was)) => {
                let page = match asked.on {
                    true => "shows its maintenance page",
                    false => "shows its maintenance page no more",
                };
                if was != asked.on {
                    tracing::info!("{}: {page}", asked.project);
                }
                if let Some(project) = project {
                    project.closed.store(asked.on, Ordering::Relaxed);
                }
                Maintained {
                    known: true,
                    changed: was != asked.on,
                    now: project.map(maintenance).unwrap_or_default(),
                    problem: String::new(),
                }
            }
        };
        // Who has asked may have left.
        let _ = asked.answer.send(told);
    }

    /// A project of the configuration.
    fn here(&self, name: &str) -> Option<&Project> {
        let mut here = self.projects.iter().filter(|project| !project.retired);
        here.find(|project| project.name == name && project.id != ProjectId::RUN)
    }

    fn unknown_maintained(&self, name: &str) -> Maintained {
        Maintained {
            problem: self.unknown(name),
            ..Maintained::default()
        }
    }

    /// What is said of a name that no project has.
    pub(super) fn unknown(&self, name: &str) -> String {
        /// Longest name that is compared, in bytes.
        const LONGEST: usize = 64;
        let here = self.projects.iter().filter(|project| !project.retired);
        let names: Vec<&str> = here.map(|project| &project.name[..]).collect();
        let far = |known: &str| strsim::damerau_levenshtein(name, known);
        let near = names.iter().filter(|_| name.len() <= LONGEST);
        let near = near.min_by_key(|known| far(known));
        let near = near.filter(|known| !known.is_empty() && far(known) <= 1 + known.len() / 5);
        let hint = match (&names[..], near) {
            ([] | [""], _) => "there are none with names".to_owned(),
            (_, Some(near)) => format!("did you mean `{near}`? There are {}", names.join(", ")),
            (_, None) => format!("there are {}", names.join(", ")),
        };
        format!("error: no project is called `{name}`; hint: {hint}\n")
    }
}

/// How it is with one project.
pub(super) fn maintenance(project: &Project) -> Maintenance {
    Maintenance {
        switched: project.closed.load(Ordering::Relaxed),
        file: project.closed_by_file(),
    }
}

/// What a person should know of it.
pub(super) fn note(project: &Project) -> Option<String> {
    let (name, now) = (&project.name, maintenance(project));
    match (now.switched, &now.file[..]) {
        (true, _) => Some(format!(
            "{name} shows its maintenance page; hint: ostler maintenance off {name}"
        )),
        (false, []) => None,
        (false, routes) => Some(format!(
            "{name} shows its maintenance page on {}, as its configuration has it (`maintenance = true`)",
            routes.join(", ")
        )),
    }
}
