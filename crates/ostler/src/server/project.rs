//! One app of the server: its supervisor, its pool, and what requests for it are served by.

use std::sync::Arc;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::edge::Site;
use crate::keeper::protocol::{self, Route};
use crate::pool::Pool;
use crate::supervise::{Hooks, Request, Supervisor, SupervisorHandle, Zygote};

use super::parts::{self, Machine};

/// A running app.
pub(super) struct Project {
    pub(super) name: String,
    pub(super) settings: Settings,
    routes: Vec<Route>,
    pub(super) pool: Arc<Pool>,
    pub(super) handle: SupervisorHandle,
    sites: Vec<(Route, Arc<Site>)>,
    pub(super) next: Option<Next>,
    /// The version of Python.
    pub(super) python: String,
    /// Everything of it has ended, with this exit code.
    pub(super) ended: Option<u8>,
}

/// What is to be in force when a generation that is starting begins to serve.
pub(super) struct Next {
    pub(super) generation: u64,
    settings: Settings,
    sites: Vec<(Route, Arc<Site>)>,
    python: String,
    /// `ostler run`: the one app's settings are the machine's.
    pub(super) machine: Option<Machine>,
}

impl Project {
    /// Starts a supervisor and a pool. What the supervisor asks for goes to `requests`, with the
    /// project's name.
    pub(super) fn start(
        project: protocol::Project,
        hooks: Hooks,
        threads: Vec<Handle>,
        requests: mpsc::UnboundedSender<(String, Request)>,
    ) -> anyhow::Result<Self> {
        let protocol::Project {
            name,
            routes,
            settings,
            patient,
        } = project;
        let count = threads.len();
        let plan = parts::plan(&settings, count);
        let (asks, mut asked) = mpsc::unbounded_channel();
        let (supervisor, handle, slots) = Supervisor::new(plan, hooks, asks, patient);
        let pool = Pool::new(parts::pool_limits(&settings), handle.clone(), threads);
        let sites = sites(&settings, &routes, &pool, count)?;
        tokio::spawn(Arc::clone(&pool).run(slots));
        tokio::spawn(supervisor.run());
        let own = name.clone();
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                // Closed when the server ends, and then nobody needs to know.
                let _ = requests.send((own.clone(), request));
            }
        });
        Ok(Self {
            name,
            settings,
            routes,
            pool,
            handle,
            sites,
            next: None,
            python: String::new(),
            ended: None,
        })
    }

    /// Where it is found, and what requests are served by there.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Route, &Arc<Site>)> {
        self.sites.iter().map(|(route, site)| (route, site))
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
        let sites = sites(&settings, &self.routes, &self.pool, threads)
            .context("the new settings cannot be served")?;
        let plan = parts::plan(&settings, threads);
        self.next = Some(Next {
            generation: zygote.generation,
            settings,
            sites,
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
        self.pool.set_limits(parts::pool_limits(&next.settings));
        self.settings = next.settings;
        self.sites = next.sites;
        self.python = next.python;
        Some(next.machine)
    }
}

/// One site for each route.
fn sites(
    settings: &Settings,
    routes: &[Route],
    pool: &Arc<Pool>,
    threads: usize,
) -> anyhow::Result<Vec<(Route, Arc<Site>)>> {
    let app = Arc::new(parts::app(settings, pool));
    let everywhere = [Route::everywhere()];
    let routes = if routes.is_empty() {
        &everywhere[..]
    } else {
        routes
    };
    let mut sites: Vec<(Route, Arc<Site>)> = Vec::with_capacity(routes.len());
    for route in routes {
        // Hosts with the same path share a site, and the files that it has in memory.
        let same = |known: &&(Route, Arc<Site>)| {
            known.0.prefix == route.prefix && known.0.strip == route.strip
        };
        let site = match sites.iter().find(same) {
            Some((_, site)) => Arc::clone(site),
            None => Arc::new(parts::site(settings, route, &app, threads)?),
        };
        sites.push((route.clone(), site));
    }
    Ok(sites)
}
