//! One app of the server: its supervisor, its pool, and what requests for it are served by.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::config::serve::Rules;
use crate::edge::meter::Meters;
use crate::edge::{Behind, Policy, Site, tls};
use crate::keeper::protocol::{self, Entrance, ProjectId, Route};
use crate::pool::{Asks, Pool, Session};
use crate::supervise::{Hooks, Request, Supervisor, SupervisorHandle, Zygote};
use crate::upstream::Group;

use super::admin::{self, Troubles};
use super::named::Named;
use super::parts::{self, Machine};
use super::policies::Policies;
use super::reloads::{Awaited, Since};

/// A running app.
pub(super) struct Project {
    pub(super) id: ProjectId,
    /// Empty for that of `ostler run`.
    pub(super) name: String,
    /// Its supervisor has something to run.
    pub(super) has_app: bool,
    /// As the configuration has them.
    said: Settings,
    found: Found,
    policies: Arc<Policies>,
    pub(super) pool: Arc<Pool>,
    /// Counts its requests, over all its settings.
    pub(super) meters: Arc<Meters>,
    pub(super) handle: SupervisorHandle,
    /// Its maintenance page is switched on, whatever the configuration says.
    pub(super) closed: Arc<AtomicBool>,
    served: Served,
    next: Option<Next>,
    /// The version of Python.
    pub(super) python: String,
    /// Everything of it has ended, with this exit code.
    pub(super) ended: Option<u8>,
    /// It is no longer in the configuration: its last requests are ending.
    pub(super) retired: bool,
    /// How often it was told to reload, and how often its supervisor has said that it has heard.
    told: u64,
    pub(super) heard: u64,
    pub(super) troubles: Troubles,
}

/// The settings in force, as they are once the app's config file was evaluated, and what requests are served
/// by.
struct Served {
    settings: Settings,
    sites: Vec<(Route, Arc<Site>)>,
}

/// How requests for it are found, and where they should come to.
#[derive(Clone, PartialEq, Eq)]
struct Found {
    routes: Vec<Route>,
    rules: Vec<Rules>,
    files: Named,
    entrance: Entrance,
    /// The number of which clients a handshake for it lets in.
    clients: u32,
}

/// What a configuration changes about a project that goes on.
pub(super) struct Change {
    said: Settings,
    found: Found,
    served: Served,
    /// The same for the generation that is starting.
    begun: Option<Served>,
    /// Its workers are replaced.
    pub(super) restarts: bool,
}

/// What is to be in force when a generation that is starting begins to serve.
struct Next {
    generation: u64,
    served: Served,
    python: String,
    /// `ostler run`: the one app's settings are the machine's.
    machine: Option<Machine>,
}

impl Project {
    /// Starts a supervisor and a pool. What the supervisor asks for goes to `requests`, with the
    /// project's name. `policies`, and whether it was served before.
    pub(super) fn start(
        project: protocol::Project,
        hooks: Hooks,
        threads: Vec<Handle>,
        requests: mpsc::UnboundedSender<(ProjectId, Request)>,
        (policies, again): (Arc<Policies>, bool),
    ) -> anyhow::Result<Self> {
        let protocol::Project {
            id,
            name,
            routes,
            rules,
            entrance,
            closed,
            settings,
            patient,
            pair: _,
            clients,
            has_app,
        } = project;
        let clients = tls::number(clients.as_ref());
        let found = Found {
            routes,
            files: Named::by(&rules),
            rules,
            entrance,
            clients,
        };
        let count = threads.len();
        let plan = parts::plan(&settings, count);
        let (asks, mut asked) = mpsc::unbounded_channel();
        let (supervisor, handle, slots) =
            Supervisor::new(spoken_of(&name), plan, hooks, asks, patient);
        let pool = Pool::new(parts::pool_limits(&settings), handle.clone(), threads);
        let meters = Arc::new(Meters::new(&name, count));
        let closed = Arc::new(AtomicBool::new(closed));
        let made = found.made(&policies, &closed, (&spoken_of(&name), again), count)?;
        let sites = sites(&settings, &found, made, &pool, &meters, count)?;
        tokio::spawn(Arc::clone(&pool).run(slots));
        tokio::spawn(supervisor.run());
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                // Closed when the server ends, and then nobody needs to know.
                let _ = requests.send((id, request));
            }
        });
        Ok(Self {
            id,
            name,
            has_app,
            said: settings.clone(),
            found,
            policies,
            pool,
            meters,
            handle,
            closed,
            served: Served { settings, sites },
            next: None,
            python: String::new(),
            ended: None,
            retired: false,
            told: 0,
            heard: 0,
            troubles: Troubles::default(),
        })
    }

    /// How lines begin that are about this project.
    pub(super) fn spoken_of(&self) -> String {
        spoken_of(&self.name)
    }

    /// What another configuration means for it; `None` when that says the same as the one before.
    ///
    /// # Errors
    /// A folder of it cannot be opened.
    pub(super) fn compare(
        &self,
        next: &protocol::Project,
        threads: usize,
    ) -> anyhow::Result<Option<Change>> {
        let found = Found {
            routes: next.routes.clone(),
            rules: next.rules.clone(),
            files: Named::by(&next.rules),
            entrance: next.entrance.clone(),
            clients: tls::number(next.clients.as_ref()),
        };
        if next.settings == self.said && found == self.found {
            return Ok(None);
        }
        let files = &next.settings.listening.static_files;
        let other_files = *files != self.said.listening.static_files;
        // Without files here the app's config file may name some, which a new generation finds out.
        let restarts = needs_restart(&self.said, &next.settings) || other_files && files.is_empty();
        let serve = |settings: &Settings| -> anyhow::Result<Served> {
            let mut settings = settings.clone();
            if other_files && !restarts {
                settings.listening.static_files.clone_from(files);
            }
            let made = found.made(
                &self.policies,
                &self.closed,
                (&self.spoken_of(), false),
                threads,
            )?;
            let sites = sites(&settings, &found, made, &self.pool, &self.meters, threads)
                .with_context(|| {
                    format!("{}its new settings cannot be served", self.spoken_of())
                })?;
            Ok(Served { settings, sites })
        };
        let begun = self
            .next
            .as_ref()
            .map(|begun| serve(&begun.served.settings));
        Ok(Some(Change {
            said: next.settings.clone(),
            served: serve(&self.served.settings)?,
            begun: begun.transpose()?,
            found,
            restarts,
        }))
    }

    /// Takes a change, which may need [`Project::restart`].
    pub(super) fn change(&mut self, change: Change) {
        self.said = change.said;
        self.found = change.found;
        self.served = change.served;
        if let (Some(next), Some(begun)) = (&mut self.next, change.begun) {
            next.served = begun;
        }
    }

    /// Has another generation started; gives what there is to wait for.
    pub(super) fn restart(&mut self) -> Awaited {
        self.told += 1;
        self.handle.reload();
        admin::awaited(self, Since::Reload(self.told))
    }

    /// Ends it when its last request has been served: it is no longer in the configuration.
    pub(super) fn retire(&mut self, thread: &Handle) {
        self.retired = true;
        self.served.sites.clear();
        let (pool, handle) = (Arc::clone(&self.pool), self.handle.clone());
        let patience = self.served.settings.workers.graceful_timeout;
        if !self.has_app {
            return handle.stop(Some(patience));
        }
        thread.spawn(async move {
            // Nobody comes behind this one, and all who wait in line come before it.
            let last = pool.lease(0, Asks::default(), Session::None);
            if let Ok(Ok((lease, _))) = tokio::time::timeout(patience, last).await {
                lease.give_back();
            }
            handle.stop(Some(patience));
        });
    }

    /// The upstreams of its routes, each group once.
    pub(super) fn groups(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<Arc<Group>> = Vec::new();
        for (_, site) in &self.served.sites {
            if let Some(Behind::Upstreams(group)) = &site.behind
                && !groups.iter().any(|known| Arc::ptr_eq(known, group))
            {
                groups.push(Arc::clone(group));
            }
        }
        groups
    }

    /// The settings in force.
    pub(super) fn settings(&self) -> &Settings {
        &self.served.settings
    }

    /// Where the configuration itself has the maintenance page.
    pub(super) fn closed_by_file(&self) -> Vec<String> {
        let rules = &self.found.rules;
        let closed = |route: &&Route| {
            rules
                .get(route.rules)
                .is_some_and(|rules| rules.maintenance)
        };
        let routes = self.found.routes.iter().filter(closed);
        routes
            .map(|route| format!("{}{}", route.host, route.prefix))
            .collect()
    }

    /// Where it is found, and what requests are served by there.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Route, &Arc<Site>)> {
        self.served.sites.iter().map(|(route, site)| (route, site))
    }

    /// Has the supervisor start a generation, unless its settings cannot be served: then nothing
    /// changes at all. `machine`: what these settings mean for the rest of the server, if anything. A
    /// zygote that is not handed on ends with its control socket.
    pub(super) fn take_zygote(
        &mut self,
        zygote: Zygote,
        settings: Settings,
        python: String,
        machine: Option<Machine>,
        threads: usize,
    ) -> anyhow::Result<()> {
        // At most one generation is on its way, and it is this one.
        self.next = None;
        let made = self.found.made(
            &self.policies,
            &self.closed,
            (&self.spoken_of(), true),
            threads,
        )?;
        let sites = sites(
            &settings,
            &self.found,
            made,
            &self.pool,
            &self.meters,
            threads,
        )
        .context("the new settings cannot be served")?;
        let plan = parts::plan(&settings, threads);
        self.next = Some(Next {
            generation: zygote.generation,
            served: Served { settings, sites },
            python,
            machine,
        });
        self.handle.zygote_started(zygote, plan);
        Ok(())
    }

    /// Requests are served as the settings of the new generation say: gives what they mean for the rest of
    /// the server. `None` when there is nothing new.
    pub(super) fn apply(&mut self, generation: u64) -> Option<Option<Machine>> {
        let next = self.next.take_if(|next| next.generation == generation)?;
        self.pool
            .set_limits(parts::pool_limits(&next.served.settings));
        self.served = next.served;
        self.python = next.python;
        Some(next.machine)
    }
}

impl Found {
    /// One for each of the rules.
    fn made(
        &self,
        policies: &Policies,
        closed: &Arc<AtomicBool>,
        (about, again): (&str, bool),
        threads: usize,
    ) -> anyhow::Result<Vec<Made>> {
        let made = self.rules.iter().enumerate().map(|(number, rules)| {
            let mut policy = policies.policy(rules, number, about, again)?;
            policy.closed = Arc::clone(closed);
            Ok(Made {
                policy: Arc::new(policy),
                behind: policies.group(rules, about, threads)?,
            })
        });
        made.collect()
    }
}

/// What some rules mean.
#[derive(Clone, Default)]
struct Made {
    policy: Arc<Policy>,
    /// `None`: the app.
    behind: Option<Behind>,
}

fn spoken_of(name: &str) -> String {
    match name {
        "" => String::new(),
        name => format!("{name}: "),
    }
}

/// Whether workers must be replaced for what has changed.
fn needs_restart(before: &Settings, after: &Settings) -> bool {
    const FILES: &str = "static_files";
    let without_files = |settings: &Settings| {
        let mut settings = settings.clone();
        settings.listening.static_files.clear();
        settings.values.remove(FILES);
        settings.origins.remove(FILES);
        settings
    };
    without_files(before) != without_files(after)
}

/// One site for each route.
fn sites(
    settings: &Settings,
    found: &Found,
    made: Vec<Made>,
    pool: &Arc<Pool>,
    meters: &Arc<Meters>,
    threads: usize,
) -> anyhow::Result<Vec<(Route, Arc<Site>)>> {
    let app = Arc::new(parts::app(settings, pool));
    let everywhere = [Route::everywhere()];
    let routes = &found.routes;
    let routes = if routes.is_empty() {
        &everywhere[..]
    } else {
        routes
    };
    let mut sites: Vec<(Route, Arc<Site>)> = Vec::with_capacity(routes.len());
    // Hosts with the same path share a site, and the files that it has in memory.
    let mut known: HashMap<_, Arc<Site>> = HashMap::new();
    for route in routes {
        let site = match known.entry((&*route.prefix, route.strip, route.rules)) {
            Entry::Occupied(same) => Arc::clone(same.get()),
            Entry::Vacant(new) => {
                let Made { policy, behind } = made.get(route.rules).cloned().unwrap_or_default();
                let behind = behind.unwrap_or_else(|| Behind::App(Arc::clone(&app)));
                let (entrance, clients) = (&found.entrance, found.clients);
                let site =
                    parts::site(settings, route, entrance, clients, behind, policy, threads)?;
                let meters = Some(Arc::clone(meters));
                Arc::clone(new.insert(Arc::new(Site { meters, ..site })))
            }
        };
        sites.push((route.clone(), site));
    }
    Ok(sites)
}
