//! What happens before there is a server, in view of the user who started it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::run::RunPlan;
use crate::cli::serve::ServePlan;
use crate::config::{self, Account, Bind, Settings};
use crate::sys::{self, User, process};

use super::Plan;
use super::admin;
use super::bind::{self, Left, Listening};
use super::certificates;
use super::heritage::Inheritance;
use super::protocol::Machine;
use super::signals::Signals;
use super::zygotes::{self, Configured, Trouble};

/// Everything a server needs that can fail.
pub struct Prepared {
    /// What holds for all projects.
    pub machine: Machine,
    /// The first one of `ostler run`.
    pub zygote: Option<Configured>,
    /// Who server and app run as, where that is not who the keeper is.
    pub user: Option<User>,
    pub listening: Vec<Listening>,
    pub admin: Option<Listening>,
    pub metrics: Vec<Listening>,
    /// The folder of the request log.
    pub requests: Option<PathBuf>,
}

/// Sockets that the program before us has bound.
#[derive(Default)]
pub struct Sockets {
    pub listening: Vec<Listening>,
    pub admin: Option<Listening>,
    pub metrics: Vec<Listening>,
}

impl Sockets {
    /// # Errors
    /// No descriptor is left.
    pub fn of(inheritance: &Inheritance) -> io::Result<Self> {
        let said = &inheritance.said;
        let all = |left: &[Left]| -> io::Result<Vec<Listening>> {
            left.iter().map(|left| inheritance.socket(left)).collect()
        };
        let admin = said.admin.as_ref().map(|left| inheritance.socket(left));
        Ok(Self {
            listening: all(&said.listening)?,
            admin: admin.transpose()?,
            metrics: all(&said.metrics)?,
        })
    }

    /// What systemd hands over to `ostler serve`. (Under `ostler run` the settings have it as `fd://N`.)
    ///
    /// # Errors
    /// It is no listening socket.
    pub fn handed_over(plan: &Plan) -> Result<Self, Trouble> {
        let Plan::Serve(plan) = plan else {
            return Ok(Self::default());
        };
        let listening = &plan.machine.settings.listening;
        let named = listening.binds.iter().chain(&listening.tls_binds);
        let named: Vec<&Bind> = named.chain(&plan.admin).collect();
        let sockets = bind::handed_over(plan.handed_over, &named);
        let listening = sockets.map_err(|error| Trouble {
            exit: 1,
            text: format!("error: what was handed over as LISTEN_FDS cannot be used: {error}; hint: ListenStream= alone makes sockets for ostler"),
        })?;
        Ok(Self {
            listening,
            ..Self::default()
        })
    }

    /// What nobody has taken.
    pub fn left_over(self) -> Vec<Listening> {
        let own = self.listening.into_iter().chain(self.admin);
        own.chain(self.metrics).collect()
    }
}

pub enum Outcome {
    Prepared(Box<Prepared>),
    /// Nothing is to be served; the exit code.
    Done(u8),
}

/// From a plan to bound addresses.
///
/// # Errors
/// What the user has to correct.
pub async fn prepare(plan: &Plan, inherited: &mut Sockets) -> Result<Outcome, Trouble> {
    process::become_subreaper()?;
    match plan {
        Plan::Run(plan) => prepare_run(plan, inherited).await,
        Plan::Serve(plan) => {
            for warning in &plan.warnings {
                process::say(format_args!("warning: {warning}"));
            }
            bind(plan.machine.clone(), Some(plan), None, inherited)
        }
    }
}

/// Starts a Python, has it evaluate the config file, checks the settings.
async fn prepare_run(plan: &Arc<RunPlan>, inherited: &mut Sockets) -> Result<Outcome, Trouble> {
    let mut signals = Signals::new()?;
    let Some(zygote) = signals.unless_stopped(zygotes::start(plan)).await else {
        return Ok(Outcome::Done(0));
    };
    let zygote = zygote?;
    let settings = zygote.settings.clone();
    for warning in &zygote.warnings {
        process::say(format_args!("warning: {warning}"));
    }
    if settings.process.print_config {
        print!("{}", config::print(&settings));
    }
    if settings.process.check_config || settings.process.print_config {
        user_of(&settings, false)?;
        let checked = signals.unless_stopped(zygote.check_app()).await;
        zygote.end().await;
        return checked.unwrap_or(Ok(())).map(|()| Outcome::Done(0));
    }
    bind(Machine::of(settings), None, Some(zygote), inherited)
}

/// Reads what only the one who starts ostler may read, and binds the addresses.
///
/// Under `ostler serve` there is a state folder, and who wants TLS names an address for it.
fn bind(
    mut machine: Machine,
    serve: Option<&ServePlan>,
    zygote: Option<Configured>,
    inherited: &mut Sockets,
) -> Result<Outcome, Trouble> {
    // There they have been read as well.
    if let (None, Some(tls)) = (serve, &mut machine.settings.listening.tls) {
        tls.read().map_err(|text| Trouble { exit: 1, text })?;
    }
    let user = user_of(&machine.settings, serve.is_some())?;
    if user.is_none() && process::is_root() {
        let hint = match serve {
            None => "--user NAME gives server and app",
            Some(_) => {
                "an account named ostler (useradd --system ostler), or `user` under [server], gives server and apps"
            }
        };
        process::say(format_args!(
            "warning: running as root; hint: {hint} less power"
        ));
    }
    certificates::make_folder(&machine, user.as_ref()).map_err(|text| Trouble { exit: 1, text })?;
    let failed = |error| Trouble {
        exit: 1,
        text: format!("error: {error}"),
    };
    let listening = bind::all(
        &machine.settings,
        serve.is_some(),
        user.as_ref(),
        &mut inherited.listening,
    );
    let listening = listening.map_err(failed)?;
    let handed_over = inherited
        .listening
        .extract_if(.., |socket| socket.is_left_over());
    inherited.metrics.extend(handed_over);
    let metrics =
        serve.map(|serve| admin::metrics(&machine.settings, &serve.admin, &mut inherited.metrics));
    let metrics = metrics.transpose();
    let metrics = metrics.inspect_err(|_| listening.iter().for_each(Listening::undo));
    let metrics = metrics.map_err(failed)?.unwrap_or_default();
    for socket in inherited.metrics.extract_if(.., |it| it.is_left_over()) {
        let address = &socket.name.text;
        eprintln!(
            "warning: nobody serves {address}, which was handed over: no address of the file is this; hint: ListenStream= is to name what `listen` and `listen_tls` do"
        );
    }
    let state = machine.state.as_deref();
    let admin = state.and_then(|state| admin::open(state, &mut inherited.admin));
    // Without the socket another ostler may have this folder, and two must not write there.
    let wanted = state.filter(|_| machine.keep_requests.0 > 0 && admin.is_some());
    let requests = wanted.and_then(|state| admin::requests(state, user.as_ref()));
    Ok(Outcome::Prepared(Box::new(Prepared {
        machine,
        zygote,
        user,
        listening,
        admin,
        metrics,
        requests,
    })))
}

/// The user the settings name, with the group they name. Where they name none, `ostler serve` takes the account that
/// was made for it rather than root.
fn user_of(settings: &Settings, is_serve: bool) -> Result<Option<User>, Trouble> {
    let named = match is_serve {
        false => "--user and --group",
        true => "`user` and `group` under [server]",
    };
    let refuse = |error: std::io::Error| Trouble {
        exit: 2,
        text: format!("error: {error}; hint: correct {named}, or create them"),
    };
    let text = |account: &Account| match account {
        Account::Id(id) => id.to_string(),
        Account::Name(name) => name.clone(),
    };
    let own = sys::users::own();
    let mut user = match &settings.process.user {
        Some(account) => sys::users::find_user(&text(account)).map_err(refuse)?,
        None if is_serve => sys::users::usual().unwrap_or_else(|| own.clone()),
        None => own.clone(),
    };
    if let Some(group) = &settings.process.group {
        user.gid = sys::users::find_group(&text(group)).map_err(refuse)?;
    }
    if (user.uid, user.gid) == (own.uid, own.gid) {
        return Ok(None);
    }
    if !process::is_root() {
        return Err(Trouble {
            exit: 1,
            text: format!("error: {named} need root; hint: start ostler as root, or without them"),
        });
    }
    Ok(Some(user))
}
