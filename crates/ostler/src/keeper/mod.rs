//! The keeper process: it binds the addresses, starts every other process as the right user, reaps
//! them all, and passes signals on. It takes no network input, has one thread and never changes its
//! pid, which may be 1.

mod admin;
mod bind;
mod certificates;
mod configuring;
mod heritage;
mod hooks;
mod load;
mod log;
mod maintenance;
mod notify;
mod pidfile;
pub mod protocol;
mod reaping;
mod servers;
mod serving;
mod signals;
mod start;
mod succession;
mod upgrade;
mod zygotes;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cli::run::RunPlan;
use crate::cli::serve::ServePlan;
use crate::config::Settings;
use crate::logs::Sink;
use crate::sys::{self, Exit, User, anew, process};

use bind::Listening;
use certificates::Files;
use configuring::Told;
use maintenance::Maintenance;
use notify::Notify;
use pidfile::PidFile;
use protocol::{Machine, MarkKey, ProjectId};
use reaping::Zygotes;
use servers::{Server, Servers};
use signals::{Order, Signals};
use start::{Prepared, Sockets};
use succession::{go_on, succeed, succeed_with};
use upgrade::{Asking, WayBack};
use zygotes::{Configured, Trouble};

pub use certificates::certificates_folder;
pub use heritage::Inherited;
pub use load::load_message;
pub use log::{level, target};

/// A server that dies by itself is started again after this long, doubled each time up to the
/// last, from the start again once one has lived for a while.
const FIRST_RESTART: Duration = Duration::from_millis(100);
const LAST_RESTART: Duration = Duration::from_secs(60);

/// On top of what requests may take, before a server that should stop is killed: workers have 8 s
/// for their exit handlers and to be killed, hooks 30 s, last bytes and logs 6 s.
const STOP_SLACK: Duration = Duration::from_secs(45);

/// A server that should stop at once has this long.
const QUICK_STOP: Duration = Duration::from_secs(10);

/// What to keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Plan {
    /// `ostler run`: one app, and its config file decides everything.
    Run(Arc<RunPlan>),
    /// `ostler serve`: the apps of a configuration.
    Serve(Box<ServePlan>),
}

/// What the keeper holds, in the order it is made.
struct Keeper {
    plan: Plan,
    /// What holds for all projects, as the config says now.
    machine: Machine,
    /// What it said at the start.
    started: Settings,
    user: Option<User>,
    /// Empty once the server has been told to stop: a listener that stays open would let clients
    /// in that nobody serves.
    listening: Vec<Listening>,
    /// Where the admin API is; open until the end, which it can be asked about.
    admin: Option<Listening>,
    /// Where the metrics are read; as long.
    metrics: Vec<Listening>,
    /// The folder of the request log.
    requests: Option<PathBuf>,
    /// What cookies name upstreams with.
    marks: MarkKey,
    pidfile: Option<PidFile>,
    log: Sink,
    /// The files of certificates.
    files: Files,
    maintenance: Maintenance,
    zygotes: Zygotes,
    /// Configurations that the server has been told and has not answered for yet.
    told: VecDeque<Told>,
    /// The number of the last project there was.
    last_project: u64,
    /// Those whose app has served.
    serving: HashSet<ProjectId>,
    /// Where another program is looked for at an upgrade.
    program: PathBuf,
    asking: Option<Asking>,
    /// To the program that was here before, while our server has not taken over.
    way_back: Option<WayBack>,
    notify: Notify,
    /// A server said once that the app serves.
    ever_ready: bool,
    stop: Option<Stop>,
    restart: Duration,
}

/// The end has begun.
struct Stop {
    /// A second Ctrl-C means now.
    interrupted: bool,
    /// The server is killed then.
    deadline: Instant,
}

/// How the keeper ends.
type Ended = Result<u8, Trouble>;

/// Runs the keeper to its end.
pub fn run(plan: Plan, inherited: Inherited) -> ExitCode {
    match inherited {
        Inherited::Nothing => {
            sys::signal::unblock_all();
            ended(prepare_and_keep(plan))
        }
        Inherited::Question { understood, answer } => heritage::say_yes(understood, answer),
        Inherited::It(inheritance) => ended(succeed(
            |inheritance, signals| succeed_with(plan, inheritance, signals),
            *inheritance,
        )),
    }
}

/// Goes on as before when the program that was to take over has given this process back; the exit code.
pub fn resume(inherited: Inherited) -> Result<ExitCode, Inherited> {
    match inherited {
        Inherited::It(inheritance) if inheritance.said.failed.is_some() => {
            Ok(ended(succeed(go_on, *inheritance)))
        }
        other => Err(other),
    }
}

fn ended(ended: Ended) -> ExitCode {
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(trouble) => {
            process::say(trouble.text.trim_end());
            ExitCode::from(trouble.exit)
        }
    }
}

/// Everything the keeper does happens on one thread.
fn runtime() -> Result<Runtime, Trouble> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(Trouble::from)
}

fn prepare_and_keep(mut plan: Plan) -> Ended {
    let files = read_files(&mut plan)?;
    let first = runtime()?;
    let prepared = match first.block_on(prepare(&plan))? {
        Some(start::Outcome::Prepared(prepared)) => *prepared,
        Some(start::Outcome::Done(code)) => return Ok(code),
        None => return Ok(0),
    };
    if !prepared.machine.settings.process.daemon {
        return first.block_on(start_and_keep(plan, files, prepared));
    }
    // A process forks safely only without a runtime, and a zygote dies with its parent: what could
    // go wrong has been seen by the user's terminal, and everything starts again behind it.
    if let Some(zygote) = prepared.zygote {
        first.block_on(zygote.end());
    }
    drop(first);
    process::daemonize()?;
    let again = Prepared {
        zygote: None,
        ..prepared
    };
    runtime()?.block_on(start_and_keep(plan, files, again))
}

fn read_files(plan: &mut Plan) -> Result<Files, Trouble> {
    match plan {
        Plan::Run(_) => Ok(Files::default()),
        Plan::Serve(plan) => certificates::read(plan).map_err(|text| Trouble { exit: 1, text }),
    }
}

/// Prepares the start; `None` when somebody stopped that. TERM ends any other process that has no handler for it yet,
/// but nothing reaches the first of a container without one (pid_namespaces(7)).
async fn prepare(plan: &Plan) -> Result<Option<start::Outcome>, Trouble> {
    let mut sockets = Sockets::handed_over(plan)?;
    if std::process::id() != 1 {
        return start::prepare(plan, &mut sockets).await.map(Some);
    }
    let mut signals = Signals::new()?;
    let prepared = signals
        .unless_stopped(start::prepare(plan, &mut sockets))
        .await;
    prepared.transpose()
}

async fn start_and_keep(plan: Plan, files: Files, prepared: Prepared) -> Ended {
    // Again: a daemon is a grandchild of the process that checked its settings.
    process::become_subreaper()?;
    let signals = Signals::new()?;
    let (mut keeper, zygote) = Keeper::new(plan, files, prepared)?;
    keeper.program = anew::own_program()?;
    keeper.number_projects();
    keeper
        .keep_and_end(Servers::default(), zygote, signals)
        .await
}

impl Keeper {
    fn new(
        plan: Plan,
        files: Files,
        prepared: Prepared,
    ) -> Result<(Self, Option<Configured>), Trouble> {
        let Prepared {
            machine,
            zygote,
            user,
            listening,
            admin,
            metrics,
            requests,
        } = prepared;
        let log = log::start(&machine.settings, user.as_ref())?;
        let pidfile = PidFile::write(machine.settings.process.pidfile.as_deref())?;
        let keeper = Self {
            plan,
            maintenance: Maintenance::open(machine.state.as_deref()),
            started: machine.settings.clone(),
            machine,
            user,
            listening,
            admin,
            metrics,
            requests,
            marks: MarkKey::random()?,
            pidfile,
            log,
            files,
            zygotes: Zygotes::default(),
            told: VecDeque::new(),
            last_project: 0,
            serving: HashSet::new(),
            program: PathBuf::new(),
            asking: None,
            way_back: None,
            notify: Notify::from_env(),
            ever_ready: false,
            stop: None,
            restart: FIRST_RESTART,
        };
        Ok((keeper, zygote))
    }

    /// To the end of everything.
    async fn keep_and_end(
        mut self,
        mut servers: Servers,
        zygote: Option<Configured>,
        mut signals: Signals,
    ) -> Ended {
        let code = self.keep(&mut servers, zygote, &mut signals).await;
        let well = code.as_ref().is_ok_and(|code| *code == 0);
        self.end(&mut servers, &mut signals, well).await;
        code
    }

    /// One server after the other, until one ends on purpose.
    async fn keep(
        &mut self,
        servers: &mut Servers,
        mut first: Option<Configured>,
        signals: &mut Signals,
    ) -> Ended {
        loop {
            if servers.current.is_none() {
                match self.next_server(first.take(), signals).await {
                    Ok(Some(server)) => servers.current = Some(server),
                    Ok(None) => return Ok(0),
                    Err(trouble) if !self.ever_ready => return Err(trouble),
                    Err(trouble) => {
                        tracing::error!(text = %trouble.text, "the server cannot be started");
                        match self.wait_for_restart(signals).await {
                            true => continue,
                            false => return Ok(0),
                        }
                    }
                }
            }
            let (pid, exit, lived) = self.watch(servers, signals).await?;
            self.zygotes.kill_of(pid);
            self.told.clear();
            if let Some(code) = self.meant_to_end(exit) {
                return Ok(code);
            }
            if self.way_back.is_some() {
                // The program before starts another one; ours has not shown that it can serve.
                let why = format!("error: the server that served ended meanwhile: {exit}\n");
                self.go_back(why, servers).await;
            }
            if lived > LAST_RESTART {
                self.restart = FIRST_RESTART;
            }
            let wait = self.restart.as_secs_f64();
            tracing::error!("the server ended unexpectedly: {exit}; it starts again in {wait} s");
            if !self.wait_for_restart(signals).await {
                return Ok(0);
            }
        }
    }

    /// Starts a server, under `ostler run` with a zygote; `None` when somebody stopped that.
    async fn next_server(
        &mut self,
        zygote: Option<Configured>,
        signals: &mut Signals,
    ) -> Result<Option<Server>, Trouble> {
        let plan = match &self.plan {
            Plan::Run(plan) => Arc::clone(plan),
            Plan::Serve(_) => return Ok(Some(self.start_server(None, None)?)),
        };
        let zygote = match zygote {
            Some(zygote) => zygote,
            None => {
                let Some(zygote) = signals.unless_stopped(zygotes::start(&plan)).await else {
                    return Ok(None);
                };
                let zygote = zygote?;
                self.machine = Machine::of(zygote.settings.clone());
                zygote
            }
        };
        let hooks = hooks::start(&zygote, &self.machine.settings);
        match signals.unless_stopped(hooks).await {
            Some(hooks) => Ok(Some(self.start_server(Some(zygote), hooks?)?)),
            None => Ok(None),
        }
    }

    /// Waits before the next start; false when somebody stopped that.
    async fn wait_for_restart(&mut self, signals: &mut Signals) -> bool {
        let wait = self.restart;
        self.restart = (wait * 2).min(LAST_RESTART);
        signals
            .unless_stopped(tokio::time::sleep(wait))
            .await
            .is_some()
    }

    /// Passes signals on and reaps until the server that accepts connections has ended.
    async fn watch(
        &mut self,
        servers: &mut Servers,
        signals: &mut Signals,
    ) -> Result<(u32, Exit, Duration), Trouble> {
        loop {
            if let Some(end) = self.reap(servers).await? {
                return Ok(end);
            }
            if self.may_become_successor()
                && let Some(order) = self.become_successor(servers, signals).await
            {
                self.take(order, servers).await;
                continue;
            }
            let killed = self.stop.as_ref().map(|stop| stop.deadline);
            let unanswered = self.asking.as_ref().map(Asking::deadline);
            let late = self.way_back.as_ref().map(WayBack::deadline);
            tokio::select! {
                order = signals.next() => self.take(order, servers).await,
                (from, said) = servers.hear() => self.obey(from, said, servers).await,
                started = self.zygotes.started() => self.hand_over(started, servers).await,
                // A server that is ending takes no plan that was made for the next one.
                () = self.files.changed(), if self.way_back.is_none() => {
                    self.read_certificates(servers).await;
                }
                () = until(unanswered) => self.asked_in_vain(servers).await,
                () = until(late) => {
                    let why = "error: the apps of the new server did not come up in time\n";
                    self.go_back(why.to_owned(), servers).await;
                }
                () = until(killed) => {
                    tracing::error!("the server does not stop and is killed");
                    servers.current.iter().for_each(Server::kill);
                    self.stop = self.stop.take().map(|stop| stop.later(QUICK_STOP));
                }
            }
        }
    }

    /// The exit code, when the server ended because it was to.
    fn meant_to_end(&self, exit: Exit) -> Option<u8> {
        /// What a Rust program exits with after a panic.
        const PANIC: i32 = 101;
        match exit {
            Exit::Code(code) if code != PANIC => Some(u8::try_from(code).unwrap_or(1)),
            Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown if self.stop.is_some() => Some(1),
            Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown => None,
        }
    }

    /// Takes away what would outlive us, and waits for what is ours.
    async fn end(&mut self, servers: &mut Servers, signals: &mut Signals, well: bool) {
        let patience = self
            .stop
            .as_ref()
            .filter(|_| well)
            .map(|stop| stop.deadline);
        self.wait_for_leaving(servers, patience, signals).await;
        self.zygotes.wait_for_all(signals, well).await;
        for listening in self
            .listening
            .iter()
            .chain(&self.admin)
            .chain(&self.metrics)
        {
            listening.remove();
        }
        if let Some(pidfile) = &self.pidfile {
            pidfile.remove();
        }
    }
}

impl Keeper {
    /// Waits for the servers whose place another one has taken, which were told to stop as well; kills them when they
    /// are late.
    async fn wait_for_leaving(
        &mut self,
        servers: &mut Servers,
        deadline: Option<Instant>,
        signals: &mut Signals,
    ) {
        let mut deadline = deadline.unwrap_or_else(Instant::now);
        loop {
            // What cannot be reaped cannot be waited for.
            let reaped = self.reap(servers).await;
            if reaped.is_err() || servers.leaving.is_empty() && servers.coming.is_none() {
                return;
            }
            match in_time(deadline, signals.next()).await {
                Some(Order::Interrupt | Order::Quit) => deadline = Instant::now(),
                Some(_) => {}
                None => {
                    servers.all().for_each(Server::kill);
                    deadline = Instant::now() + QUICK_STOP;
                }
            }
        }
    }
}

impl Stop {
    fn later(self, more: Duration) -> Self {
        Self {
            deadline: Instant::now() + more,
            ..self
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits for `done` at most until `deadline`.
async fn in_time<T>(deadline: Instant, done: impl Future<Output = T>) -> Option<T> {
    timeout_at(deadline, done).await.ok()
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self {
            exit: 1,
            text: format!("error: {error}"),
        }
    }
}
