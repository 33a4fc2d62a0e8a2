//! What is to be served, and another configuration in its place.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::run::RunPlan;
use crate::cli::serve::{self, ProjectPlan, ServePlan};
use crate::config::{self, Settings};

use super::bind::Listening;
use super::certificates::{self, Files};
use super::protocol::{Configuration, Entrance, FromKeeper, Machine, Project, ProjectId, to_file};
use super::servers::Servers;
use super::serving::TEXT_MAX;
use super::{Keeper, Plan};

/// Warnings that who asked is told of one configuration, and the characters of each: they must fit in a message
/// even when each character takes six bytes in JSON. The log has all.
const MOST_WARNINGS: usize = 20;
const LONGEST_WARNING: usize = 500;

/// A configuration that a server takes or refuses, and the files of certificates that were read for it.
pub(super) struct Told {
    plan: ServePlan,
    files: Files,
}

impl Keeper {
    /// What a server is to serve.
    pub(super) fn configuration(&self) -> Configuration {
        let projects = match &self.plan {
            Plan::Run(_) => vec![Project {
                id: ProjectId::RUN,
                name: String::new(),
                routes: Vec::new(),
                rules: Vec::new(),
                entrance: Entrance::default(),
                closed: false,
                pair: None,
                clients: None,
                settings: self.machine.settings.clone(),
                patient: self.ever_ready,
                has_app: true,
            }],
            Plan::Serve(plan) => self.projects(plan),
        };
        Configuration {
            again: self.ever_ready,
            machine: self.machine.clone(),
            projects,
        }
    }

    /// How the zygotes of a project are started.
    pub(super) fn plan_of(&self, id: ProjectId) -> Option<Arc<RunPlan>> {
        match &self.plan {
            Plan::Run(plan) => Some(Arc::clone(plan)),
            Plan::Serve(plan) => {
                let found = plan.projects.iter().find(|known| known.id == id);
                found.and_then(|project| project.run.clone())
            }
        }
    }

    /// How lines begin that are about one of several projects.
    pub(super) fn spoken_of(&self, id: ProjectId) -> String {
        match &self.plan {
            Plan::Run(_) => String::new(),
            Plan::Serve(plan) => {
                let found = plan.projects.iter().find(|known| known.id == id);
                found.map_or_else(String::new, |project| format!("{}: ", project.name))
            }
        }
    }

    /// How long requests may take to end when the server stops.
    pub(super) fn longest_graceful(&self) -> Duration {
        let own = self.machine.settings.workers.graceful_timeout;
        match &self.plan {
            Plan::Run(_) => own,
            Plan::Serve(plan) => {
                let projects = plan.projects.iter();
                let graceful = projects.map(|project| project.graceful);
                graceful.max().unwrap_or(own)
            }
        }
    }

    /// Reads the configuration anew and has the server take it. What is wrong with it is said, and then
    /// nothing changes.
    pub(super) async fn configure_anew(&mut self, servers: &Servers, ticket: Option<u64>) {
        let Plan::Serve(now) = &self.plan else {
            return;
        };
        let next = serve::again(now).and_then(|mut next| {
            let changed = config::changed_at_start(&self.started, &next.machine.settings);
            next.warnings
                .extend(changed.map(|warning| warning.to_string()));
            self.next_configuration(next)
        });
        match next {
            Ok((next, warnings, file)) => {
                self.told.push_back(next);
                let message = FromKeeper::Configure { ticket, warnings };
                servers.tell(&message, &[file.as_fd()]).await;
            }
            Err(problems) => {
                for line in problems.lines().filter(|line| !line.is_empty()) {
                    tracing::error!("{line}");
                }
                tracing::error!("reload failed: the configuration stays as it was");
                if let Some(ticket) = ticket {
                    let problems = problems.chars().take(TEXT_MAX).collect();
                    let message = FromKeeper::Refused { ticket, problems };
                    servers.tell(&message, &[]).await;
                }
            }
        }
    }

    /// A file of a certificate has changed: has the server take what is in all of them now.
    pub(super) async fn read_certificates(&mut self, servers: &Servers) {
        let now = match (self.told.back(), &self.plan) {
            (Some(told), _) => &told.plan,
            (None, Plan::Serve(now)) => &**now,
            (None, Plan::Run(_)) => return,
        };
        let mut next = now.clone();
        // They were said when the plan was made.
        next.warnings.clear();
        match self.next_configuration(next) {
            Ok((next, warnings, file)) => {
                tracing::info!("certificate files have changed: they are read again");
                self.told.push_back(next);
                let ticket = None;
                let message = FromKeeper::Configure { ticket, warnings };
                servers.tell(&message, &[file.as_fd()]).await;
            }
            Err(error) => tracing::error!("{error}; what was read before is served"),
        }
    }

    /// Completes a plan, and makes a file of it for the server. Gives what is to be warned of as well.
    fn next_configuration(
        &mut self,
        mut next: ServePlan,
    ) -> Result<(Told, Vec<String>, OwnedFd), String> {
        stay_bound(&mut next.machine, &self.started, &self.machine);
        let files = certificates::read(&mut next)?;
        certificates::make_folder(&next.machine, self.user.as_ref())?;
        let mut warnings = next.warnings.clone();
        if let Plan::Serve(now) = &self.plan
            && (&now.admin, &now.machine.state) != (&next.admin, &next.machine.state)
        {
            let text = "`admin` and `state` of [server] come into force with the next start";
            warnings.push(text.to_owned());
        }
        if (self.machine.keep_requests.0 == 0) != (next.machine.keep_requests.0 == 0) {
            let text = "`keep_requests` begins or ends the request log with the next start";
            warnings.push(text.to_owned());
        }
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        warnings.truncate(MOST_WARNINGS);
        let cut = |warning: String| warning.chars().take(LONGEST_WARNING).collect();
        let warnings = warnings.into_iter().map(cut).collect();
        let before = match (self.told.back(), &self.plan) {
            (Some(told), _) => Some(&told.plan),
            (None, Plan::Serve(now)) => Some(&**now),
            (None, Plan::Run(_)) => None,
        };
        for project in &mut next.projects {
            let mut known = before.iter().flat_map(|before| &before.projects);
            // Who gets an app, or has none any more, is another project of the same name.
            let same = |known: &&ProjectPlan| {
                known.name == project.name && known.run.is_some() == project.run.is_some()
            };
            if let Some(same) = known.find(same) {
                project.id = same.id;
                if project.settings == same.settings {
                    project.graceful = same.graceful;
                }
            }
        }
        number(&mut self.last_project, &mut next);
        let configuration = Configuration {
            again: false,
            machine: next.machine.clone(),
            projects: self.projects(&next),
        };
        let file = to_file("ostler-configuration", &configuration);
        let file = file.map_err(|error| format!("error: {error}"))?;
        Ok((Told { plan: next, files }, warnings, file))
    }

    /// The server has answered for the oldest configuration it was told.
    pub(super) fn configured(&mut self, taken: bool) {
        if let Some(Told { plan, files }) = self.told.pop_front().filter(|_| taken) {
            self.files = files;
            self.machine = plan.machine.clone();
            self.plan = Plan::Serve(Box::new(plan));
        }
    }

    fn projects(&self, plan: &ServePlan) -> Vec<Project> {
        let mut secure = self.listening.iter().filter(|socket| socket.name.tls);
        let https = secure.find_map(Listening::port);
        let projects = plan.projects.iter().map(|project| Project {
            id: project.id,
            name: project.name.clone(),
            routes: project.routes.clone(),
            rules: project.rules.clone(),
            entrance: Entrance {
                https: https.filter(|_| !project.https_optional),
                host: project.canonical_host.clone(),
                hsts: project.hsts,
            },
            closed: self.maintenance.has(&project.name),
            pair: project.pair.clone(),
            clients: project.clients.clone(),
            settings: project.settings.clone(),
            patient: true,
            has_app: project.run.is_some(),
        });
        projects.collect()
    }

    /// The numbers of projects with these names.
    pub(super) fn numbers_of(&self, names: &[String]) -> HashSet<ProjectId> {
        match &self.plan {
            Plan::Run(_) => names.iter().map(|_| ProjectId::RUN).collect(),
            Plan::Serve(plan) => {
                let named = |project: &&ProjectPlan| names.contains(&project.name);
                let projects = plan.projects.iter().filter(named);
                projects.map(|project| project.id).collect()
            }
        }
    }

    /// Gives each project of the first configuration its number.
    pub(super) fn number_projects(&mut self) {
        if let Plan::Serve(plan) = &mut self.plan {
            number(&mut self.last_project, plan);
        }
    }
}

/// Numbers the projects that have no number yet.
fn number(last: &mut u64, plan: &mut ServePlan) {
    for project in &mut plan.projects {
        if project.id == ProjectId::RUN {
            *last += 1;
            project.id = ProjectId(*last);
        }
    }
}

/// A reload binds nothing: the addresses stay those of the start, and with them what HTTPS there needs. `now` is what
/// is in force.
fn stay_bound(next: &mut Machine, started: &Settings, now: &Machine) {
    let (bound, listening) = (&started.listening, &mut next.settings.listening);
    match (bound.tls_binds.is_empty(), listening.tls_binds.is_empty()) {
        // Handshakes go on as they are.
        (false, true) => {
            listening.tls.clone_from(&now.settings.listening.tls);
            next.acme.clone_from(&now.acme);
        }
        // Nobody could show a certificate.
        (true, false) => next.acme = None,
        (true, true) | (false, false) => {}
    }
    listening.binds.clone_from(&bound.binds);
    listening.tls_binds.clone_from(&bound.tls_binds);
    if let Some(bind) = started.values.get("bind") {
        next.settings.values.insert("bind".to_owned(), bind.clone());
    }
}
