//! The keeper process: it binds the addresses, starts every other process as the right user, reaps
//! them all, and passes signals on. It takes no network input, has one thread and never changes its
//! pid, which may be 1.

mod bind;
pub mod protocol;
mod zygotes;

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use crate::cli::run::RunPlan;
use crate::config::{self, Account, Settings};
use crate::supervise::Hooks;
use crate::sys::{
    self, Channel, Child, Exit, Pidfd, Signal, Spawn, User, fds, process, process::Children,
};

use bind::Listening;
use protocol::{FromKeeper, HANDOVER_FD, Handover, ToKeeper};
use zygotes::{Configured, ZygoteError};

/// A server that dies by itself is started again after this long, doubled each time up to a minute.
const RESTART: Duration = Duration::from_millis(100);

/// What the keeper holds, in the order it is made.
struct Keeper {
    plan: RunPlan,
    settings: Settings,
    user: Option<User>,
    listening: Vec<Listening>,
    pidfile: Option<PathBuf>,
    /// Handles on zygotes by pid, with their generation.
    zygotes: HashMap<u32, (u64, Pidfd)>,
    server: Option<Server>,
    stopping: bool,
    interrupted: bool,
    restart_delay: Duration,
}

struct Server {
    child: Child,
    channel: Channel,
    started: Instant,
}

/// Runs the keeper to its end.
pub fn run(plan: RunPlan) -> ExitCode {
    sys::signal::unblock_all();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(start_and_keep(plan)),
        Err(error) => Err(ZygoteError {
            exit: 1,
            text: format!("cannot start: {error}"),
        }),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}", error.text.trim_end());
            ExitCode::from(error.exit)
        }
    }
}

async fn start_and_keep(plan: RunPlan) -> Result<u8, ZygoteError> {
    let internal = |error: io::Error| ZygoteError {
        exit: 1,
        text: error.to_string(),
    };
    process::become_subreaper().map_err(internal)?;
    let mut signals = Signals::new().map_err(internal)?;
    let first = zygotes::start(&plan, None).await?;
    let settings = first.settings.clone();
    for warning in &first.warnings {
        eprintln!("warning: {warning}");
    }
    if settings.print_config {
        print!("{}", config::print(&settings));
    }
    if settings.check_config || settings.print_config {
        let _ = first.child.pidfd.send(Signal::Kill);
        return Ok(0);
    }
    let user = user_of(&settings)?;
    if user.is_none() && process::is_root() {
        eprintln!("warning: running as root; hint: --user NAME gives server and app less power");
    }
    let listening = bind::all(&settings).map_err(|error| ZygoteError {
        exit: 1,
        text: format!("error: {error}"),
    })?;
    if settings.daemon {
        process::daemonize().map_err(internal)?;
    }
    let pidfile = write_pidfile(&settings)?;
    let mut keeper = Keeper {
        plan,
        settings,
        user,
        listening,
        pidfile,
        zygotes: HashMap::new(),
        server: None,
        stopping: false,
        interrupted: false,
        restart_delay: RESTART,
    };
    let code = match keeper.start_server(first).await {
        Ok(()) => keeper.keep(&mut signals).await,
        Err(error) => Err(error),
    };
    keeper.clean_up();
    code
}

/// The user the settings name, with the group they name.
fn user_of(settings: &Settings) -> Result<Option<User>, ZygoteError> {
    let refuse = |error: io::Error| ZygoteError {
        exit: 2,
        text: format!("error: {error}"),
    };
    let text = |account: &Account| match account {
        Account::Id(id) => id.to_string(),
        Account::Name(name) => name.clone(),
    };
    let mut user = match &settings.user {
        Some(account) => Some(sys::users::find_user(&text(account)).map_err(refuse)?),
        None => None,
    };
    if let Some(group) = &settings.group {
        let gid = sys::users::find_group(&text(group)).map_err(refuse)?;
        user.get_or_insert_with(sys::users::own).gid = gid;
    }
    Ok(user.filter(|user| user != &sys::users::own()))
}

fn write_pidfile(settings: &Settings) -> Result<Option<PathBuf>, ZygoteError> {
    let Some(path) = &settings.pidfile else {
        return Ok(None);
    };
    let refuse = |text: String| ZygoteError {
        exit: 1,
        text: format!("error: {text}"),
    };
    if let Ok(text) = std::fs::read_to_string(path)
        && let Ok(pid) = text.trim().parse::<u32>()
        && pid != process::own_pid()
        && process::exists(pid)
    {
        return Err(refuse(format!(
            "{} names process {pid}, which is running; hint: stop it first",
            path.display()
        )));
    }
    std::fs::write(path, format!("{}\n", process::own_pid()))
        .map_err(|error| refuse(format!("cannot write {}: {error}", path.display())))?;
    Ok(Some(path.clone()))
}

impl Keeper {
    /// Starts the server with a configured zygote.
    async fn start_server(&mut self, zygote: Configured) -> Result<(), ZygoteError> {
        let internal = |error: io::Error| ZygoteError {
            exit: 1,
            text: error.to_string(),
        };
        let hooks = self.start_hooks(&zygote).await?;
        let (ours, theirs) = fds::seqpacket_pair().map_err(internal)?;
        let zygote_control = zygote.control.into_fd();
        let hooks_fd = hooks.map(Channel::into_fd);
        let first = HANDOVER_FD + 1 + self.listening.len() as i32;
        let handover = Handover {
            settings: self.settings.clone(),
            listeners: self
                .listening
                .iter()
                .map(|listening| listening.name.clone())
                .collect(),
            zygote: (zygote.child.pid, first, first + 1),
            hooks: hooks_fd.as_ref().map(|_| first + 2),
            python: zygote.python.clone(),
            keeper: process::own_pid(),
        };
        let text = serde_json::to_vec(&handover).map_err(|error| internal(error.into()))?;
        let text = fds::sealed("ostler-handover", &text).map_err(internal)?;
        let mut passed = vec![theirs.as_fd(), text.as_fd()];
        passed.extend(
            self.listening
                .iter()
                .filter_map(|listening| listening.fd.as_ref())
                .map(AsFd::as_fd),
        );
        passed.push(zygote_control.as_fd());
        passed.push(zygote.child.pidfd.as_fd());
        passed.extend(hooks_fd.as_ref().map(AsFd::as_fd));
        let child = Spawn {
            name: "the server",
            program: std::path::Path::new("/proc/self/exe"),
            args: vec!["ostler".into(), "__server".into()],
            env: sys::spawn::own_env(),
            fds: passed,
            user: self.user.as_ref(),
            raise_open_files: true,
        }
        .start()
        .map_err(internal)?;
        self.zygotes
            .insert(zygote.child.pid, (1, zygote.child.pidfd));
        let channel = Channel::new(ours).map_err(internal)?;
        self.server = Some(Server {
            child,
            channel,
            started: Instant::now(),
        });
        Ok(())
    }

    /// Starts the hook process when the config file has hooks for it.
    async fn start_hooks(&self, zygote: &Configured) -> Result<Option<Channel>, ZygoteError> {
        if !zygote.master_hooks {
            return Ok(None);
        }
        let internal = |error: io::Error| ZygoteError {
            exit: 1,
            text: error.to_string(),
        };
        let (ours, theirs) = fds::seqpacket_pair().map_err(internal)?;
        let user = self.user.as_ref();
        let message = json!({
            "type": "hooks",
            "cfg": config::effective(&self.settings),
            "app": self.settings.app,
            "env": self.settings.env.iter().cloned().collect::<HashMap<_, _>>(),
            "chdir": self.settings.chdir,
            "pythonpath": self.settings.pythonpath,
            "address": self.listening.iter().map(|listening| &listening.name).collect::<Vec<_>>(),
            "workers": self.settings.workers,
            "user": user.map(|user| user.uid),
            "group": user.map(|user| user.gid),
            "groups": user.map(|user| user.groups.clone()).unwrap_or_default(),
            "error_log": error_log_path(&self.settings),
            "capture_output": self.settings.capture_output,
        });
        zygote
            .control
            .send_json(&message, &[theirs.as_fd()])
            .await
            .map_err(internal)?;
        let mut hooks = Hooks::new(Some(Channel::new(ours).map_err(internal)?));
        match hooks
            .call("on_starting", serde_json::Value::Null, json!({}))
            .await
        {
            Ok(()) => Ok(hooks.into_channel()),
            Err(error) => Err(ZygoteError {
                exit: 1,
                text: format!("on_starting failed:\n{error}"),
            }),
        }
    }

    /// Passes signals on and reaps until the server has ended for good; gives the exit code.
    async fn keep(&mut self, signals: &mut Signals) -> Result<u8, ZygoteError> {
        loop {
            let Some(server) = &self.server else {
                return Ok(1);
            };
            tokio::select! {
                signal = signals.next() => self.on_signal(signal).await,
                message = server.channel.recv() => {
                    if let Ok(Some(message)) = message
                        && let Ok(message) = serde_json::from_slice(&message.bytes)
                    {
                        self.obey(message).await;
                    } else {
                        // Its end follows by SIGCHLD; the socket has nothing more to say.
                        signals.child.recv().await;
                    }
                }
            }
            if let Some(exit) = self.reap().await?
                && let Some(code) = self.server_ended(exit).await?
            {
                return Ok(code);
            }
        }
    }

    async fn tell(&self, message: &FromKeeper, fds: &[std::os::fd::BorrowedFd<'_>]) {
        if let Some(server) = &self.server {
            let _ = server.channel.send_json(message, fds).await;
        }
    }

    async fn on_signal(&mut self, kind: SignalKind) {
        let message = match kind {
            kind if kind == SignalKind::terminate() => {
                self.stopping = true;
                FromKeeper::Stop { graceful: true }
            }
            kind if kind == SignalKind::interrupt() => {
                self.stopping = true;
                // A second Ctrl-C means now.
                let graceful = !std::mem::replace(&mut self.interrupted, true);
                FromKeeper::Stop { graceful }
            }
            kind if kind == SignalKind::quit() => {
                self.stopping = true;
                FromKeeper::Stop { graceful: false }
            }
            kind if kind == SignalKind::hangup() => FromKeeper::Reload,
            kind if kind == SignalKind::user_defined1() => FromKeeper::ReopenLogs,
            kind if kind == SignalKind::from_raw(libc::SIGTTIN) => FromKeeper::Workers { by: 1 },
            kind if kind == SignalKind::from_raw(libc::SIGTTOU) => FromKeeper::Workers { by: -1 },
            _ => return,
        };
        self.tell(&message, &[]).await;
        if self.stopping {
            self.listening
                .iter_mut()
                .for_each(|listening| listening.fd = None);
        }
    }

    async fn obey(&mut self, message: ToKeeper) {
        let ToKeeper::StartZygote { generation } = message;
        match zygotes::start(&self.plan, None).await {
            Ok(started) => {
                for warning in &started.warnings {
                    eprintln!("warning: {warning}");
                }
                let message = FromKeeper::Zygote {
                    generation,
                    pid: started.child.pid,
                    settings: Box::new(started.settings),
                };
                let control = started.control.into_fd();
                let fds = [control.as_fd(), started.child.pidfd.as_fd()];
                self.tell(&message, &fds).await;
                self.zygotes
                    .insert(started.child.pid, (generation, started.child.pidfd));
            }
            Err(ZygoteError { exit, text }) => {
                self.tell(
                    &FromKeeper::ZygoteFailed {
                        generation,
                        exit,
                        text,
                    },
                    &[],
                )
                .await;
            }
        }
    }

    /// Reaps every child that has ended, adopted ones too; gives the server's end.
    async fn reap(&mut self) -> Result<Option<Exit>, ZygoteError> {
        let internal = |error: io::Error| ZygoteError {
            exit: 1,
            text: error.to_string(),
        };
        let mut server = None;
        while let Children::Ended(pid) = process::next_child().map_err(internal)? {
            if self.zygotes.contains_key(&pid) {
                // Whatever it left in its group (a worker's own children) must not outlive it.
                let _ = process::kill_group(pid);
            }
            let exit = process::reap(pid).map_err(internal)?;
            if self
                .server
                .as_ref()
                .is_some_and(|server| server.child.pid == pid)
            {
                server = Some(exit);
            } else if let Some((generation, _)) = self.zygotes.remove(&pid) {
                self.tell(&FromKeeper::ZygoteExited { generation, exit }, &[])
                    .await;
            }
        }
        Ok(server)
    }

    /// The server has ended: on purpose (its code is ours), or by a crash, after which it starts
    /// anew on the same sockets.
    async fn server_ended(&mut self, exit: Exit) -> Result<Option<u8>, ZygoteError> {
        let lived = self
            .server
            .take()
            .map_or(Duration::ZERO, |server| server.started.elapsed());
        for (_, pidfd) in self.zygotes.values() {
            let _ = pidfd.send(Signal::Kill);
        }
        match exit {
            Exit::Code(code) if code != CRASHED => {
                return Ok(Some(u8::try_from(code).unwrap_or(1)));
            }
            _ if self.stopping => return Ok(Some(1)),
            _ => {}
        }
        if lived > Duration::from_secs(60) {
            self.restart_delay = RESTART;
        }
        eprintln!(
            "error: the server ended unexpectedly: {exit}; it starts again in {} ms",
            self.restart_delay.as_millis()
        );
        tokio::time::sleep(self.restart_delay).await;
        self.restart_delay = (self.restart_delay * 2).min(Duration::from_secs(60));
        let zygote = zygotes::start(&self.plan, None).await?;
        self.settings = zygote.settings.clone();
        self.start_server(zygote).await?;
        Ok(None)
    }

    /// Takes away what would outlive us: socket files, the pid file.
    fn clean_up(&self) {
        for path in self
            .listening
            .iter()
            .filter_map(|listening| listening.path.as_ref())
        {
            let _ = std::fs::remove_file(path);
        }
        if let Some(path) = &self.pidfile {
            let _ = std::fs::remove_file(path);
        }
        for (_, pidfd) in self.zygotes.values() {
            let _ = pidfd.send(Signal::Kill);
        }
    }
}

/// Exit code of a Rust program that panicked.
const CRASHED: i32 = 101;

/// The error log as a path, when it is a file.
pub fn error_log_path(settings: &Settings) -> Option<&PathBuf> {
    match &settings.error_log {
        config::LogTarget::File(path) => Some(path),
        config::LogTarget::Off | config::LogTarget::Standard => None,
    }
}

/// The signals the keeper listens to.
struct Signals {
    child: SignalStream,
    others: Vec<(SignalKind, SignalStream)>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::hangup(),
            SignalKind::user_defined1(),
            SignalKind::from_raw(libc::SIGTTIN),
            SignalKind::from_raw(libc::SIGTTOU),
        ];
        let others = kinds.into_iter().map(|kind| Ok((kind, signal(kind)?)));
        Ok(Self {
            child: signal(SignalKind::child())?,
            others: others.collect::<io::Result<_>>()?,
        })
    }

    /// The next signal; SIGCHLD too.
    async fn next(&mut self) -> SignalKind {
        std::future::poll_fn(|cx| {
            if self.child.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(SignalKind::child());
            }
            for (kind, stream) in &mut self.others {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*kind);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
