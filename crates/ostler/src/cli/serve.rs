//! `ostler serve`: from `ostler.toml` to a plan that the keeper carries out. Evaluates no Python and opens no
//! socket.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::check;
use super::run::{self, RunPlan, Surroundings};
use crate::config::serve::{self, Acme, Clients, Host, Pair, Problems, Rules, Serve};
use crate::config::table::Kind;
use crate::config::written::Layer;
use crate::config::{self, Bind, Complaint, ConfigError, Settings, Written, value};
use crate::keeper::protocol::{Machine, ProjectId, Route};

/// Everything the keeper needs to serve several projects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServePlan {
    pub machine: Machine,
    pub projects: Vec<ProjectPlan>,
    /// Where the metrics are read.
    pub admin: Vec<Bind>,
    pub warnings: Vec<String>,
    /// Variables of the environment that the operator's file speaks of.
    spoken_of: BTreeSet<String>,
    /// How many listening sockets systemd handed over.
    pub handed_over: u16,
    /// What it was made of.
    asked: Asked,
}

impl ServePlan {
    /// Variables that are no business of an app unless its own `env` has them: what the operator's file speaks of may
    /// be the secret of one project, and keys are known to the edge alone.
    pub fn hidden(&self) -> BTreeSet<String> {
        /// Of these the file may speak as it likes: programs do not start well without them.
        const EVERYBODYS: [&str; 8] = [
            "HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TMPDIR", "USER",
        ];
        let rules = self.projects.iter().flat_map(|project| &project.rules);
        let keys = rules.filter_map(|rules| rules.access.keys.as_ref());
        let names = keys.map(|keys| &keys.variable).chain(&self.spoken_of);
        let hidden = names.filter(|name| !EVERYBODYS.contains(&name.as_str()));
        hidden.cloned().collect()
    }
}

/// What the command line asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Asked {
    /// An app of the current directory.
    App {
        name: String,
        hosts: Vec<String>,
        listen: Vec<String>,
    },
    /// A file, or the one that is there.
    File(Option<PathBuf>),
}

/// One app, and where it is found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectPlan {
    /// [`ProjectId::RUN`] until it has a number.
    pub id: ProjectId,
    pub name: String,
    pub routes: Vec<Route>,
    /// What holds on them, each different one once.
    pub rules: Vec<Rules>,
    /// Requests without TLS are answered, and not redirected.
    pub https_optional: bool,
    pub canonical_host: Option<String>,
    /// Seconds.
    pub hsts: Option<u64>,
    /// Its own certificate.
    pub pair: Option<Pair>,
    pub clients: Option<Clients>,
    /// `None`: all of it goes to upstreams.
    pub run: Option<Arc<RunPlan>>,
    /// What is known of its settings before its config file is evaluated.
    pub settings: Settings,
    /// How long its requests may take to end, as its config file has it once that was evaluated.
    pub graceful: Duration,
}

/// Why there is no plan.
pub enum Refused {
    Errors(Vec<ConfigError>),
    Problems(Problems),
}

impl From<Vec<ConfigError>> for Refused {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self::Errors(errors)
    }
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Self {
        Self::Errors(vec![error])
    }
}

impl Refused {
    /// Says it to who has typed the command.
    pub fn tell(&self) -> ExitCode {
        match self {
            Self::Errors(errors) => super::refuse(errors),
            Self::Problems(problems) => check::tell(problems),
        }
    }

    /// As it is told, without colours.
    pub fn text(&self) -> String {
        match self {
            Self::Errors(errors) => {
                let lines = errors.iter().map(|error| format!("error: {error}\n"));
                lines.collect()
            }
            Self::Problems(problems) => problems.render(false),
        }
    }
}

/// The command `serve`.
pub fn command() -> Command {
    Command::new("serve")
        .display_name("ostler")
        .override_usage("ostler serve [OPTIONS]\n       ostler serve --host NAME [OPTIONS] APP")
        .about("Serve the projects of ostler.toml, or one app under its host")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .args([
            Arg::new("config")
                .short('c')
                .long("config")
                .value_name("FILE")
                .conflicts_with_all(["app", "host", "listen"])
                .help("The operator's file [default: ./ostler.toml, else /etc/ostler/ostler.toml]"),
            Arg::new("app")
                .value_name("APP")
                .requires("host")
                .help("Without a file: module:callable, module:factory() or module"),
            Arg::new("host")
                .long("host")
                .value_name("NAME")
                .action(ArgAction::Append)
                .requires("app")
                .help("A host of APP: example.com, *.example.com, * for any; repeatable"),
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS")
                .action(ArgAction::Append)
                .requires("app")
                .help(
                    "For HTTP alone: host:port, :port, [::1]:port, unix:PATH or fd://N; repeatable \
                     [default: :80, and :443 with certificates from Let's Encrypt, whose terms are agreed to]",
                ),
        ])
}

const EXAMPLES: &str = "\
ostler serve                                   what ./ostler.toml says
ostler serve --host example.com app:app        one app on ports 80 and 443, without a file
ostler serve --host example.com --listen :80 app:app     the same without HTTPS
ostler check                                   is the file good?
docs/reference/ostler-toml.md has all keys; HUP takes a changed file.";

/// Makes the plan.
///
/// # Errors
/// All that is wrong with it and can be known before config files are evaluated.
pub fn plan(matches: &ArgMatches, around: &Surroundings<'_>) -> Result<ServePlan, Refused> {
    let all = |name: &str| -> Vec<String> {
        let values = matches.get_many::<String>(name).into_iter().flatten();
        values.cloned().collect()
    };
    let asked = match matches.get_one::<String>("app") {
        Some(app) => Asked::App {
            name: app.clone(),
            hosts: all("host"),
            listen: all("listen"),
        },
        None => Asked::File(matches.get_one::<String>("config").map(PathBuf::from)),
    };
    make(asked, around)
}

const VIRTUAL_ENV: &str = "VIRTUAL_ENV";

/// Makes the plan anew, of what is there now.
///
/// # Errors
/// What is wrong, as `ostler check` tells it.
pub fn again(before: &ServePlan) -> Result<ServePlan, String> {
    let around = super::surroundings().map_err(Refused::from);
    let made = around.and_then(|around| make(before.asked.clone(), &around));
    made.map_err(|refused| refused.text())
}

fn make(asked: Asked, around: &Surroundings<'_>) -> Result<ServePlan, Refused> {
    let spoken_of = RefCell::new(BTreeSet::new());
    let (serve, warnings) = match &asked {
        Asked::App {
            name,
            hosts,
            listen,
        } => (without_file(name, hosts, listen, around)?, Vec::new()),
        Asked::File(file) => {
            // A venv that whoever starts ostler is in is not that of every project.
            spoken_of.borrow_mut().insert(VIRTUAL_ENV.to_owned());
            let variable = |name: &str| {
                spoken_of.borrow_mut().insert(name.to_owned());
                (around.variable)(name)
            };
            let around = around.with(&variable);
            let (_, outcome) = check::load(file.as_deref(), &around)?;
            let checked = outcome.map_err(Refused::Problems)?;
            (checked.serve, checked.warnings)
        }
    };
    let spoken_of = spoken_of.into_inner();
    let has_file = matches!(asked, Asked::File(_));
    let variable = |name: &str| {
        let own = (around.variable)(name);
        own.filter(|_| name != VIRTUAL_ENV || !has_file)
    };
    let around = &around.with(&variable);
    let mut errors = Vec::new();
    let mut projects = Vec::new();
    for project in &serve.projects {
        match ProjectPlan::new(project, around) {
            Ok(plan) => projects.push(plan),
            Err(wrong) => errors.extend(wrong),
        }
    }
    if !errors.is_empty() {
        return Err(errors.into());
    }
    Ok(ServePlan {
        machine: Machine {
            settings: serve.machine,
            trusted_hops: serve.trusted_hops,
            default_host: serve.default_host,
            state: Some(serve.state),
            acme: serve.acme,
            keep_requests: serve.keep_requests,
            drain: serve.drain,
        },
        projects,
        admin: serve.admin,
        warnings: warnings.iter().map(ToString::to_string).collect(),
        spoken_of,
        handed_over: run::inherited(around),
        asked,
    })
}

/// One app of the current directory, as a file would have it.
fn without_file(
    app: &str,
    hosts: &[String],
    listen: &[String],
    around: &Surroundings<'_>,
) -> Result<Serve, Refused> {
    let usual = [":80".to_owned()];
    let named = !listen.is_empty();
    let listen = if named { listen } else { &usual[..] };
    let wrong = |flag: &str, text: &str, complaint: Complaint| ConfigError {
        what: format!("{flag} {}", complaint.what),
        seen: format!("`{flag} {text}` on the command line"),
        hint: complaint.hint,
    };
    let hosts = hosts
        .iter()
        .map(|text| Host::parse(text).map_err(|complaint| wrong("--host", text, complaint)));
    let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
    let binds = value::check(Kind::Binds, &Value::from(listen))
        .map_err(|complaint| wrong("--listen", &listen.join(" "), complaint))?;
    let given = Layer::from_iter([("bind".to_owned(), binds)]);
    // Who names no address wants what browsers ask for, where a CA can give a certificate.
    let https = !named && hosts.iter().all(can_be_proved);
    let tls: &[String] = if https { &[":443".to_owned()] } else { &[] };
    let machine = config::machine(&given, tls, &around.directory, &mut Vec::new());
    let machine = machine.map_err(|complaints| -> Vec<ConfigError> {
        let complaints = complaints.into_iter();
        complaints
            .map(|(_, complaint)| wrong("--listen", &listen.join(" "), complaint))
            .collect()
    })?;
    Ok(Serve {
        machine,
        trusted_hops: None,
        state: serve::state_without_file(),
        admin: Vec::new(),
        keep_requests: serve::requests_without_file(),
        drain: serve::DRAIN,
        default_host: None,
        acme: https.then(Acme::default),
        projects: vec![serve::Project {
            name: "app".to_owned(),
            has_app: true,
            source: around.directory.clone(),
            hosts,
            https_optional: false,
            canonical_host: None,
            hsts: None,
            pair: None,
            clients: None,
            routes: vec![serve::Route {
                prefix: "/".to_owned(),
                strip: true,
                hosts: Vec::new(),
                rules: Rules {
                    compress: true,
                    trace_context: true,
                    ..Rules::default()
                },
            }],
            web: Layer::from_iter([("wsgi_app".to_owned(), Value::from(app))]),
            statics: Vec::new(),
        }],
    })
}

/// A CA that comes to our port 80 gives a certificate for it.
fn can_be_proved(host: &Host) -> bool {
    matches!(host, Host::Name(_)) && host.certificate_name().is_some()
}

impl ProjectPlan {
    fn new(project: &serve::Project, around: &Surroundings<'_>) -> Result<Self, Vec<ConfigError>> {
        let (run, settings) = complete(project, around)?;
        let (routes, rules) = routes(project);
        Ok(Self {
            id: ProjectId::RUN,
            name: project.name.clone(),
            routes,
            rules,
            https_optional: project.https_optional,
            canonical_host: project.canonical_host.clone(),
            hsts: project.hsts,
            pair: project.pair.clone(),
            clients: project.clients.clone(),
            graceful: settings.workers.graceful_timeout,
            settings,
            run: run.map(Arc::new),
        })
    }
}

/// What is known of a project's settings before its config file is evaluated.
pub(super) fn settings(
    project: &serve::Project,
    around: &Surroundings<'_>,
) -> Result<Settings, Vec<ConfigError>> {
    let variable = |name: &str| (around.variable)(name).filter(|_| name != VIRTUAL_ENV);
    let around = &around.with(&variable);
    complete(project, around).map(|(_, settings)| settings)
}

/// How its app is started, if it has one, and what is known of its settings before a config file is evaluated.
fn complete(
    project: &serve::Project,
    around: &Surroundings<'_>,
) -> Result<(Option<RunPlan>, Settings), Vec<ConfigError>> {
    let mut written = written(project, around);
    if project.has_app {
        let run = run::complete(written, Vec::new(), around)?;
        let (settings, _) = config::finish(&run.written, &Map::new(), &[])?;
        return Ok((Some(run), settings));
    }
    // What remains are limits and files; a name must stand there, and nothing is called by it.
    written.app = Some("none:none".to_owned());
    let (mut settings, _) = config::finish(&written, &Map::new(), &[])?;
    settings.app.name.clear();
    Ok((None, settings))
}

/// What is written for one project. The environment and `GUNICORN_CMD_ARGS` speak to `ostler run` alone; who
/// the apps run as is the machine's affair.
fn written(project: &serve::Project, around: &Surroundings<'_>) -> Written {
    let mut toml = project.web.clone();
    if !project.statics.is_empty() {
        let statics = project.statics.iter().map(|files| {
            let directory = files.directory.to_string_lossy().into_owned();
            (files.prefix.clone(), Value::from(directory))
        });
        toml.insert("static_files".to_owned(), statics.collect());
    }
    Written {
        directory: project.source.clone(),
        set: around.names.clone(),
        toml,
        ..Written::default()
    }
}

/// One for each host and prefix, and the rules that hold there.
fn routes(project: &serve::Project) -> (Vec<Route>, Vec<Rules>) {
    let mut routes = Vec::new();
    let mut rules: Vec<Rules> = Vec::new();
    for route in &project.routes {
        let same = rules.iter().position(|known| *known == route.rules);
        let number = same.unwrap_or_else(|| {
            rules.push(route.rules.clone());
            rules.len() - 1
        });
        let hosts = match route.hosts.is_empty() {
            true => &project.hosts,
            false => &route.hosts,
        };
        routes.extend(hosts.iter().map(|host| Route {
            host: host.clone(),
            prefix: route.prefix.clone(),
            strip: route.strip,
            rules: number,
        }));
    }
    (routes, rules)
}
