//! `ostler serve`: from a configuration to a plan that the keeper carries out. Evaluates no Python and opens no
//! socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

use super::run::{self, RunPlan, Surroundings};
use crate::config::written::Layer;
use crate::config::{self, ConfigError, Settings, Written};
use crate::keeper::protocol::{Machine, ProjectId, Route};
use crate::routes::Host;

/// Everything the keeper needs to serve several projects.
#[derive(Debug)]
pub struct ServePlan {
    pub machine: Machine,
    pub projects: Vec<ProjectPlan>,
    pub warnings: Vec<String>,
    /// What it was made of.
    asked: Asked,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
struct Asked {
    app: Option<String>,
    hosts: Vec<String>,
    listen: Vec<String>,
}

/// One app, and where it is found.
#[derive(Debug)]
pub struct ProjectPlan {
    /// [`ProjectId::RUN`] until it has a number.
    pub id: ProjectId,
    pub name: String,
    pub routes: Vec<Route>,
    pub run: Arc<RunPlan>,
    /// What is known of its settings before its config file is evaluated.
    pub settings: Settings,
}

/// The command `serve`.
pub fn command() -> Command {
    Command::new("serve")
        .about("Serve the projects of a machine, each under its own hosts")
        .args([
            Arg::new("app")
                .value_name("APP")
                .requires("host")
                .help("Serve this app of the current directory, without a configuration"),
            Arg::new("host")
                .long("host")
                .value_name("NAME")
                .action(ArgAction::Append)
                .requires("app")
                .help("A host of APP: example.com, *.example.com; repeatable"),
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS")
                .action(ArgAction::Append)
                .requires("app")
                .help(
                    "host:port, :port, [::1]:port, unix:PATH or fd://N; repeatable [default: :80]",
                ),
        ])
}

/// Makes the plan.
///
/// # Errors
/// All that is wrong with it and can be known before config files are evaluated.
pub fn plan(
    matches: &ArgMatches,
    around: &Surroundings<'_>,
) -> Result<ServePlan, Vec<ConfigError>> {
    let all = |name: &str| -> Vec<String> {
        let values = matches.get_many::<String>(name).into_iter().flatten();
        values.cloned().collect()
    };
    let asked = Asked {
        app: matches.get_one::<String>("app").cloned(),
        hosts: all("host"),
        listen: all("listen"),
    };
    make(asked, around)
}

/// Makes the plan anew, of what is there now.
///
/// # Errors
/// Each a line, or several about one thing.
pub fn again(before: &ServePlan) -> Result<ServePlan, Vec<String>> {
    let made = super::surroundings().and_then(|around| make(before.asked.clone(), &around));
    made.map_err(|errors| {
        errors
            .iter()
            .map(|error| format!("error: {error}"))
            .collect()
    })
}

fn make(asked: Asked, around: &Surroundings<'_>) -> Result<ServePlan, Vec<ConfigError>> {
    let mut listen = asked.listen.clone();
    if listen.is_empty() {
        listen.push(":80".to_owned());
    }
    let app = Value::from(asked.app.clone());
    let web = Layer::from_iter([("wsgi_app".to_owned(), app)]);
    let mut machine = web.clone();
    machine.insert("bind".to_owned(), Value::from(listen));
    let routes = asked
        .hosts
        .iter()
        .map(|host| host_of(host))
        .collect::<Result<Vec<_>, _>>();
    let routes = routes.map_err(|error| vec![error])?;
    let project = ProjectPlan::new("app", &around.directory, routes, web, around)?;
    let machine = settings(&written(&around.directory, machine, around))?;
    Ok(ServePlan {
        machine: Machine::of(machine),
        projects: vec![project],
        warnings: Vec::new(),
        asked,
    })
}

impl ProjectPlan {
    fn new(
        name: &str,
        source: &Path,
        routes: Vec<Route>,
        web: Layer,
        around: &Surroundings<'_>,
    ) -> Result<Self, Vec<ConfigError>> {
        let run = run::complete(written(source, web, around), Vec::new(), around)?;
        Ok(Self {
            id: ProjectId::RUN,
            name: name.to_owned(),
            routes,
            settings: settings(&run.written)?,
            run: Arc::new(run),
        })
    }
}

/// What is written for one part of the configuration; the environment and `GUNICORN_CMD_ARGS` speak to `ostler
/// run` alone.
fn written(directory: &Path, layer: Layer, around: &Surroundings<'_>) -> Written {
    Written {
        directory: PathBuf::from(directory),
        set: around.names.clone(),
        command_line: layer,
        ..Written::default()
    }
}

/// The settings before a config file is evaluated.
fn settings(written: &Written) -> Result<Settings, Vec<ConfigError>> {
    config::finish(written, &Map::new(), &[]).map(|(settings, _)| settings)
}

fn host_of(text: &str) -> Result<Route, ConfigError> {
    let name = text.to_ascii_lowercase();
    let host = match name.strip_prefix("*.") {
        _ if name == "*" => Host::Any,
        Some(below) => Host::Below(below.to_owned()),
        None => Host::Name(name),
    };
    Ok(Route {
        host,
        ..Route::everywhere()
    })
}
