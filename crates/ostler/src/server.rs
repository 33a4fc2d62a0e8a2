//! The server process: what it holds, built in order, stopped in reverse.

mod admin;
mod certificates;
mod configure;
mod maintenance;
mod metrics;
mod named;
mod parts;
mod policies;
mod project;
mod reloads;
mod stopping;
mod takeover;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::{Ask, Places};
use crate::certs::Certs;
use crate::edge::{self, Listener, Live, Phase, Site};
use crate::keeper::protocol::{
    self, Configuration, FirstZygote, FromKeeper, ProjectId, ServerHandover, ToKeeper, ZygoteId,
};
use crate::routes::Table;
use crate::store;
use crate::supervise::{Hooks, Interface, Request, Zygote};
use crate::sys::{Channel, Pidfd, process};

use maintenance::Switching;
use parts::{EdgeThread, Logs, Machine, Shared};
use policies::Policies;
use project::Project;
use reloads::Reloads;
use takeover::{Arrival, Doors};

/// Runs the server that a keeper started.
pub fn run() -> ExitCode {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2 + crate::upstream::LOOK_UPS)
        .build();
    let served = match (ServerHandover::from_inherited(), runtime) {
        (Ok(handover), Ok(runtime)) => runtime.block_on(serve(handover)),
        (Err(error), _) | (_, Err(error)) => {
            Err(anyhow::anyhow!("the server cannot start: {error}"))
        }
    };
    match served {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            process::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(handover: ServerHandover) -> anyhow::Result<u8> {
    let Configuration {
        again,
        machine,
        projects,
    } = handover.configuration;
    let mut certs = Certs::default();
    let machine = Machine::new(machine, &projects, certs.served(), None)?;
    let certificates = certificates::prepare(&certs, &machine.said, &projects)?;
    let logs = Logs::open(&machine.said.settings)?;
    let requests = handover
        .requests
        .map(|folder| (folder, parts::bounds(&machine.said)));
    let workers = projects.iter().any(|project| project.has_app);
    let (threads, log) = parts::edge_threads(
        &machine.said.settings,
        workers,
        logs.access.as_ref(),
        requests,
    )?;
    let (phase, phases) = watch::channel(Phase::Serving);
    let shared = Shared::new(&machine.said.settings, phases)?;
    let (requests, mut asked) = mpsc::unbounded_channel();
    let (desk, mut asks) = crate::admin::desk();
    let handles = || threads.iter().map(|thread| thread.handle.clone()).collect();
    let mut first = handover.first;
    let folder = parts::spool_folder(&machine.said.settings);
    let policies = Policies::new(folder, handover.hidden, &handover.marks);
    let policies = Arc::new(policies);
    let mut started = Vec::new();
    for project in projects {
        let hooks = first.as_mut().and_then(|first| first.hooks.take());
        let hooks = Hooks::new(hooks.map(Channel::new).transpose()?);
        let policies = (Arc::clone(&policies), again);
        started.push(Project::start(
            project,
            hooks,
            handles(),
            requests.clone(),
            policies,
        )?);
    }
    let routes = routes(&machine, &started, threads.len())?;
    let edge = Live::new(parts::edge(&machine, routes, &shared));
    let keeper = Channel::new(handover.keeper)?;
    let mut listeners = Vec::new();
    for (name, fd) in handover.listeners {
        let listener = Listener::from_fd(fd, name.tls)?;
        listeners.push((name.text, listener));
    }
    certs.take(certificates);
    let mut server = Server {
        machine,
        certs,
        shared,
        policies,
        projects: started,
        requests,
        edge,
        stopping: false,
        threads,
        keeper,
        phase,
        arrival: None,
        drain: None,
        listeners,
        logs,
        keeper_pid: handover.keeper_pid,
        operator: handover.operator,
        started: Instant::now(),
        desk,
        doors: Vec::new(),
        places: Places::default(),
        log,
        reloads: Reloads::default(),
        switching: Switching::default(),
    };
    let doors = Doors {
        admin: handover.admin,
        metrics: handover.metrics,
    };
    match handover.beside {
        Some(awaited) => server.arrive(&awaited, doors),
        None => {
            server.certs.begin();
            server.open(doors)?;
        }
    }
    let code = server.run(first, &mut asked, &mut asks).await;
    // What nobody attends to any more is told so.
    drop(asks);
    server.end().await;
    Ok(code)
}

/// What is served where.
fn routes(
    machine: &Machine,
    projects: &[Project],
    threads: usize,
) -> anyhow::Result<Table<Arc<Site>>> {
    let mut all = projects
        .iter()
        .filter(|project| project.id == ProjectId::RUN);
    if let Some((_, site)) = all.next().and_then(|run| run.places().next()) {
        // `ostler run` serves everything there is, and also what has no path (`OPTIONS *`).
        return Ok(Table::new(Arc::clone(site)));
    }
    let mut table = Table::new(Arc::new(parts::nowhere(threads)?));
    for (route, site) in projects.iter().flat_map(Project::places) {
        let added = table.add(route.host.clone(), &route.prefix, Arc::clone(site));
        added.map_err(|taken| anyhow::anyhow!("{taken:?} goes to two projects"))?;
    }
    if let Some(host) = &machine.said.default_host {
        table.set_default(host);
    }
    Ok(table)
}

/// The running server, for the loop that listens to keeper and supervisors.
struct Server {
    machine: Machine,
    certs: Certs,
    shared: Shared,
    policies: Arc<Policies>,
    projects: Vec<Project>,
    /// What supervisors ask for; for those of projects to come.
    requests: mpsc::UnboundedSender<(ProjectId, Request)>,
    edge: Arc<Live>,
    stopping: bool,
    threads: Vec<EdgeThread>,
    keeper: Channel,
    keeper_pid: u32,
    phase: watch::Sender<Phase>,
    /// Before connections are accepted.
    arrival: Option<Arrival>,
    /// Ends when the last connection has.
    drain: Option<JoinHandle<()>>,
    listeners: Vec<(String, Listener)>,
    logs: Logs,
    /// Who started the keeper.
    operator: u32,
    started: Instant,
    /// Where the admin API puts its questions.
    desk: mpsc::Sender<Ask>,
    /// Where they come in.
    doors: Vec<JoinHandle<()>>,
    /// Who is being answered on the admin socket.
    places: Places,
    /// The request log.
    log: Option<Arc<store::Log>>,
    reloads: Reloads,
    switching: Switching,
}

impl Server {
    async fn run(
        &mut self,
        first: Option<FirstZygote>,
        asked: &mut mpsc::UnboundedReceiver<(ProjectId, Request)>,
        asks: &mut mpsc::Receiver<Ask>,
    ) -> u8 {
        if self.arrival.is_none()
            && let Err(error) = self.listen()
        {
            tracing::error!(%error, "cannot accept connections");
            return 1;
        }
        self.start_apps(first).await;
        loop {
            tokio::select! {
                outcome = takeover::outcome(&mut self.arrival) => {
                    if let Err(error) = self.arrived(outcome).await {
                        tracing::error!("error: {error:#}");
                        return 1;
                    }
                }
                () = takeover::ended(&mut self.drain) => self.begin_stop(true),
                request = asked.recv() => match request {
                    Some((project, request)) => {
                        if let Some(code) = self.answer(project, request).await {
                            return code;
                        }
                    }
                    None => return 1,
                },
                Some(ask) = asks.recv() => self.attend(ask).await,
                message = self.keeper.recv() => match message {
                    Ok(Some(message)) => match serde_json::from_slice(&message.bytes) {
                        Ok(said) => self.obey(said, message.fds).await,
                        Err(error) => tracing::error!(%error, "the keeper said what nobody understands"),
                    },
                    // The keeper is gone, and with it everything: the kernel ends us as well.
                    _ => return 1,
                },
            }
        }
    }

    /// Under `ostler run` the first zygote is there; others are asked for.
    async fn start_apps(&mut self, first: Option<FirstZygote>) {
        let threads = self.threads.len();
        match (first, &mut self.projects[..]) {
            (Some(first), [project]) => {
                project.python = first.python;
                let zygote = Zygote {
                    generation: 1,
                    control: first.control,
                    pidfd: first.pidfd,
                };
                let plan = parts::plan(project.settings(), threads);
                project.handle.zygote_started(zygote, plan);
            }
            _ => {
                if self.arrival.is_none() {
                    self.announce_listeners();
                    self.tell_keeper(ToKeeper::Ready).await;
                }
                for project in &self.projects {
                    self.begin(project).await;
                }
            }
        }
    }

    /// Has a new project's app started, if it has one.
    async fn begin(&self, project: &Project) {
        if project.has_app {
            return self.ask_for_zygote(project.id, 1).await;
        }
        let about = project.spoken_of();
        tracing::info!("{about}requests go on to upstreams: ready");
    }

    async fn ask_for_zygote(&self, project: ProjectId, generation: u64) {
        let zygote = ZygoteId {
            project,
            generation,
        };
        self.tell_keeper(ToKeeper::StartZygote { zygote }).await;
    }

    async fn tell_keeper(&self, message: ToKeeper) {
        // A keeper that is gone takes us along.
        let _ = self.keeper.send_json(&message, &[]).await;
    }

    /// Does what a supervisor asks for; the exit code when that was the last thing.
    async fn answer(&mut self, project: ProjectId, request: Request) -> Option<u8> {
        match request {
            Request::StartZygote { generation } => {
                self.ask_for_zygote(project, generation).await;
            }
            Request::Ready { interface } => {
                if project == ProjectId::RUN && self.arrival.is_none() {
                    self.announce_listeners();
                    self.tell_keeper(ToKeeper::Ready).await;
                }
                self.announce(project, interface);
            }
            Request::Switched {
                generation,
                applied,
            } => {
                self.apply_settings(project, generation);
                let _ = applied.send(());
            }
            Request::Reloads { generation } => {
                if let Some(known) = self.project(project) {
                    known.heard += 1;
                    let heard = known.heard;
                    self.reloads.named(project, heard, generation);
                }
            }
            Request::Serves { generation } => {
                self.reloads.serves(project, generation);
                self.tell_keeper(ToKeeper::Serves { project }).await;
            }
            Request::GaveUp { generation, why } => {
                self.reloads.gave_up(project, generation, &why);
            }
            Request::Trouble { text } => {
                self.reloads.trouble(project, &text);
                if let Some(project) = self.project(project) {
                    project.troubles.keep(&text);
                }
            }
            Request::Finish { code } => {
                self.reloads.ended(project);
                if let Some(project) = self.project(project) {
                    project.ended = Some(code);
                }
                self.projects.retain(|project| {
                    let gone = project.retired && project.ended.is_some();
                    if gone {
                        tracing::info!("{}all of it has ended", project.spoken_of());
                    }
                    !gone
                });
                return self.exit_code();
            }
        }
        None
    }

    /// That of the whole server, when everything that was to end has ended.
    fn exit_code(&self) -> Option<u8> {
        if !self.stopping
            && self
                .projects
                .iter()
                .all(|project| project.id != ProjectId::RUN)
        {
            return None;
        }
        let codes: Option<Vec<u8>> = self.projects.iter().map(|known| known.ended).collect();
        codes.map(|codes| codes.into_iter().max().unwrap_or(0))
    }

    fn project(&mut self, id: ProjectId) -> Option<&mut Project> {
        self.projects.iter_mut().find(|known| known.id == id)
    }

    /// Starts accepting on every edge thread.
    fn listen(&self) -> std::io::Result<()> {
        for (_, listener) in &self.listeners {
            for thread in &self.threads {
                let (edge, own) = (Arc::clone(&self.edge), Arc::clone(&thread.thread));
                let listener = listener.try_clone()?;
                let door = self.shared.peers.open_door();
                thread.handle.spawn(async move {
                    if let Err(error) = edge::accept(listener, door, edge, own).await {
                        tracing::error!(%error, "a listener failed");
                    }
                });
            }
        }
        Ok(())
    }

    fn announce_listeners(&self) {
        for (name, _) in &self.listeners {
            tracing::info!("Listening at: {name} ({})", self.keeper_pid);
        }
    }

    /// The lines people wait for.
    fn announce(&mut self, id: ProjectId, interface: Interface) {
        let Some(project) = self.project(id) else {
            return;
        };
        let (settings, python) = (project.settings(), &project.python);
        let (kind, threads) = match interface {
            Interface::Wsgi => ("WSGI", settings.workers.threads),
            Interface::Asgi => ("ASGI", 1),
        };
        let hint = match (settings.workers.count, interface) {
            (1, _) if settings.workers.threads == 1 && id == ProjectId::RUN => {
                "; more: --workers N, --threads N"
            }
            _ => "",
        };
        let about = project.spoken_of();
        tracing::info!(
            "{about}{kind} app {} on Python {python} ({}): {} × {}{hint}",
            settings.app.name,
            settings.app.python.display(),
            plural(settings.workers.count, "worker"),
            plural(threads, "thread"),
        );
        tracing::info!("{about}ready");
    }

    async fn obey(&mut self, said: FromKeeper, fds: Vec<OwnedFd>) {
        match said {
            FromKeeper::Stop { graceful } => self.begin_stop(graceful),
            FromKeeper::Drain { within } => self.begin_drain(within).await,
            FromKeeper::Upgraded { ticket, what } => self.upgraded(ticket, what),
            FromKeeper::InCharge => self.certs.begin(),
            FromKeeper::Reload { ticket } => self.reload_all(ticket),
            FromKeeper::Workers { by } => {
                self.projects
                    .iter()
                    .for_each(|project| project.handle.adjust(by));
            }
            FromKeeper::Configure { ticket, warnings } => {
                self.configure(fds, ticket, warnings).await;
            }
            FromKeeper::Refused { ticket, problems } => self.refused(ticket, problems),
            FromKeeper::Maintained { ticket, kept } => self.maintained(ticket, kept),
            FromKeeper::ReopenLogs => self.logs.reopen(),
            FromKeeper::ZygoteFailed { zygote, exit, text } => {
                if let Some(project) = self.project(zygote.project) {
                    project.handle.zygote_failed(zygote.generation, exit, text);
                }
            }
            FromKeeper::ZygoteExited { zygote, exit } => {
                if let Some(project) = self.project(zygote.project) {
                    project.handle.zygote_gone(zygote.generation, exit);
                }
            }
            FromKeeper::Zygote {
                zygote,
                pid,
                python,
            } => {
                if let Err(error) = self.take_zygote(&zygote, pid, python, fds)
                    && let Some(project) = self.project(zygote.project)
                {
                    let text = format!("error: {error:#}");
                    project.handle.zygote_failed(zygote.generation, 1, text);
                }
            }
        }
    }

    /// Hands a zygote to the supervisor of its project.
    fn take_zygote(
        &mut self,
        id: &ZygoteId,
        pid: u32,
        python: String,
        fds: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let threads = self.threads.len();
        let certs = Arc::clone(self.certs.served());
        let project = self.project(id.project).context("its project is gone")?;
        let [control, pidfd, settings] = fds
            .try_into()
            .map_err(|_| anyhow::anyhow!("a zygote came without its descriptors"))?;
        let zygote = Zygote {
            generation: id.generation,
            control,
            pidfd: Pidfd::from_fd(pidfd, pid).context("no handle on a zygote")?,
        };
        let settings = protocol::settings_from(settings).context("no settings of a zygote")?;
        let machine = match project.id {
            ProjectId::RUN => Some(
                Machine::new(protocol::Machine::of(settings.clone()), &[], &certs, None)
                    .context("the new settings cannot be served")?,
            ),
            _ => None,
        };
        project.take_zygote(zygote, settings, python, machine, threads)
    }

    /// Requests that come from now on are served as the settings of the new generation say: limits,
    /// times, files, certificates. What the old ones share stays: the pool and who is connected, with
    /// the new limits, and the disk for bodies.
    fn apply_settings(&mut self, project: ProjectId, generation: u64) {
        let Some(news) = self
            .project(project)
            .and_then(|project| project.apply(generation))
        else {
            return;
        };
        if let Some(machine) = news {
            self.take_machine(machine);
        }
        self.replace_edge();
    }

    fn take_machine(&mut self, machine: Machine) {
        let cap = parts::connections_per_address(&machine.said.settings);
        self.shared.peers.set_cap(cap);
        if let Some(log) = &self.log {
            log.set_bounds(parts::bounds(&machine.said));
        }
        self.machine = machine;
    }

    fn replace_edge(&self) {
        match routes(&self.machine, &self.projects, self.threads.len()) {
            Ok(routes) => self
                .edge
                .replace(parts::edge(&self.machine, routes, &self.shared)),
            Err(error) => tracing::error!(%error, "the routes stay as they were"),
        }
    }
}

fn plural(count: u32, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
