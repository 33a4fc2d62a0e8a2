//! One tree → a [`Draft`]: every key known, every value checked by itself and beside the others. Looks at no file.

mod acme;
mod routes;
mod rules;
mod upstreams;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use self::values::{is_empty, texts};
use super::acme::Acme;
use super::host::{self, Host};
use super::problem::{Problem, short};
use super::read::{Entry, Node, Table, Value};
use super::schema::{Form, Key, Section};
use super::source::{At, Sources};
use crate::config::bind;
use crate::config::callable;
use crate::config::table::Kind;
use crate::config::written::Layer;

pub use rules::DraftRules;
pub use values::absolute;

/// What the files say, each value in checked form.
#[derive(Debug, Default)]
pub struct Draft {
    /// By setting name.
    pub server: Layer,
    /// By the names of `[server]`: where each value is, for what is found out later.
    pub places: BTreeMap<&'static str, At>,
    pub listen_tls: Vec<String>,
    pub trusted_hops: Option<u32>,
    pub state: Option<String>,
    pub admin: Vec<String>,
    /// Seconds and bytes.
    pub drain: Option<Duration>,
    pub keep_requests: Option<u64>,
    pub keep_requests_size: Option<u64>,
    pub default_host: Option<String>,
    pub acme: Option<DraftAcme>,
    pub projects: Vec<DraftProject>,
}

/// The section `[acme]`.
#[derive(Debug)]
pub struct DraftAcme {
    pub acme: Acme,
    /// It says how names are proved.
    pub challenge_said: bool,
    pub at: At,
    /// The files it names: key, path, place.
    pub files: Vec<(&'static str, String, At)>,
}

/// One project.
#[derive(Debug)]
pub struct DraftProject {
    pub name: String,
    pub at: At,
    /// As it is written, and where.
    pub source: Option<(String, At)>,
    pub hosts: Vec<(Host, At)>,
    /// Requests without TLS are answered.
    pub https_optional: bool,
    pub canonical_host: Option<(String, At)>,
    /// Seconds.
    pub hsts: Option<u64>,
    /// Its own certificate: path and place.
    pub certfile: Option<(String, At)>,
    pub keyfile: Option<(String, At)>,
    /// Authorities of client certificates: path and place.
    pub client_ca: Option<(String, At)>,
    pub clients_optional: bool,
    pub routes: Vec<DraftRoute>,
    /// By setting name.
    pub web: Layer,
    /// `web` says which app it is, or where that is said.
    pub app_named: bool,
    /// The paths in `web`, each with the name of its setting.
    pub paths: Vec<(&'static str, String, At)>,
    /// Prefix, folder as it is written, where the folder is.
    pub statics: Vec<(String, String, At)>,
    /// For all its routes.
    pub rules: DraftRules,
}

impl DraftProject {
    /// Some of its routes do not go to upstreams.
    pub fn has_app(&self) -> bool {
        let forwards = |rules: &DraftRules| rules.get("", "upstreams").is_some();
        match self.routes.is_empty() {
            true => !forwards(&self.rules),
            false => {
                let mut routes = self.routes.iter();
                !routes.all(|route| forwards(&route.rules.over(&self.rules)))
            }
        }
    }
}

/// One route.
#[derive(Debug)]
pub struct DraftRoute {
    pub prefix: String,
    pub at: At,
    pub strip: bool,
    pub hosts: Vec<(Host, At)>,
    /// What differs here from those of the project.
    pub rules: DraftRules,
}

/// Checks `tree`. What is wrong is put into `problems`.
pub fn shape(tree: &Table, sources: &Sources, problems: &mut Vec<Problem>) -> Draft {
    let mut shaper = Shaper {
        sources,
        problems,
        project: String::new(),
    };
    let mut draft = Draft::default();
    for (key, entry) in shaper.known(Section::Top, tree) {
        let Some(table) = shaper.section(&key, entry) else {
            continue;
        };
        match key.name {
            "server" => shaper.server(table, &mut draft),
            "acme" => draft.acme = Some(shaper.acme(table, entry.key)),
            "projects" => draft.projects = shaper.projects(table),
            _ => {}
        }
    }
    shaper.hosts_of_one_project(&draft.projects);
    draft
}

struct Shaper<'a> {
    sources: &'a Sources,
    problems: &'a mut Vec<Problem>,
    /// The name of the project that is looked at.
    project: String,
}

/// Sections.
impl Shaper<'_> {
    fn server(&mut self, table: &Table, draft: &mut Draft) {
        for (key, entry) in self.known(Section::Server, table) {
            let Some(value) = self.value(&key, &entry.node) else {
                continue;
            };
            draft.places.insert(key.name, entry.node.at);
            let value = absolute(&key, value, self.sources.of(entry.node.at));
            match (key.form, key.setting) {
                (Form::Proxies, Some(row)) if value.is_number() => {
                    draft.trusted_hops = value.as_u64().and_then(|hops| u32::try_from(hops).ok());
                    draft
                        .server
                        .insert(row.name.to_owned(), Json::from(vec!["*"]));
                }
                (_, Some(row)) => drop(draft.server.insert(row.name.to_owned(), value)),
                (Form::Plain(Kind::Seconds), None) if key.name == "drain" => {
                    draft.drain = value.as_f64().map(Duration::from_secs_f64);
                }
                (Form::Plain(Kind::Seconds), None) => {
                    draft.keep_requests = value.as_f64().map(|seconds| seconds.ceil() as u64);
                }
                (Form::Plain(Kind::Size), None) => draft.keep_requests_size = value.as_u64(),
                (Form::Host, None) => draft.default_host = value.as_str().map(str::to_owned),
                (Form::Plain(Kind::Binds), None) if key.name == "admin" => {
                    draft.admin = texts(&value);
                }
                (Form::Plain(Kind::Binds), None) => draft.listen_tls = texts(&value),
                _ => draft.state = value.as_str().map(str::to_owned),
            }
        }
        if !draft.server.contains_key("certfile") {
            draft.server.remove("keyfile");
        }
        self.listeners(table);
    }

    /// What `[server]` says about addresses, together.
    fn listeners(&mut self, table: &Table) {
        let place = |name: &str| table.get(name).map(|entry| entry.key);
        let tls = table.get("listen_tls").map(|entry| &entry.node);
        let tls = tls.filter(|node| !is_empty(node));
        if let (None, Some(at)) = (tls, place("certfile")) {
            self.problems.push(Problem::new(
                at,
                "`certfile` is set and nothing listens for HTTPS",
                "add listen_tls = [\"0.0.0.0:443\"]",
            ));
        }
        if let (Some(at), None) = (place("keyfile"), place("certfile")) {
            let what = "`keyfile` is set without `certfile`";
            let hint = "add certfile = \"chain.pem\", or leave it out";
            self.problems.push(Problem::new(at, what, hint));
        }
        let listen = table.get("listen").map(|entry| &entry.node);
        if let (Some(listen), None) = (listen, tls)
            && is_empty(listen)
        {
            let hint =
                "add an address, as in listen = [\"0.0.0.0:80\"], or leave it out for the default";
            self.problems
                .push(Problem::new(listen.at, "nothing is listened on", hint));
        }
        let mut seen: Vec<(bind::Address, At)> = Vec::new();
        for name in ["listen", "listen_tls", "admin"] {
            for item in table
                .get(name)
                .map_or(&[] as &[Node], |entry| entry.node.items())
            {
                let Some(address) = item.text().and_then(|text| bind::parse(text).ok()) else {
                    continue;
                };
                if let ("listen_tls", bind::Address::Unix(_)) = (name, &address) {
                    let what = "`listen_tls` has a UNIX socket, and TLS is spoken over TCP only";
                    let hint = "give an address, as in \"127.0.0.1:443\", or write the socket into `listen`, for plain HTTP";
                    self.problems.push(Problem::new(item.at, what, hint));
                }
                if matches!(address, bind::Address::Tcp { port: 0, .. }) {
                    continue;
                }
                match seen.iter().find(|(other, _)| *other == address) {
                    None => seen.push((address, item.at)),
                    Some((_, before)) => self.problems.push(
                        Problem::new(
                            item.at,
                            "one address is listened on twice",
                            "keep one of the two",
                        )
                        .beside(*before, "here too"),
                    ),
                }
            }
        }
    }

    fn projects(&mut self, table: &Table) -> Vec<DraftProject> {
        let mut projects = Vec::new();
        for (name, entry) in &table.0 {
            if !is_project_name(name) {
                let what = format!("`{}` is no name of a project", short(name));
                let hint = "use a-z, 0-9 and -, at most 63 of them, none of them - at the start";
                self.problems.push(Problem::new(entry.key, what, hint));
            }
            let Some(table) = entry.node.table() else {
                self.problems.push(Problem::new(
                    entry.node.at,
                    format!("project `{}` needs a section", short(name)),
                    format!("write [projects.{}]", short(name)),
                ));
                continue;
            };
            self.project = short(name);
            projects.push(self.project(name, entry.key, table));
        }
        self.project.clear();
        projects
    }

    fn project(&mut self, name: &str, at: At, table: &Table) -> DraftProject {
        let mut project = DraftProject {
            name: name.to_owned(),
            at,
            source: None,
            hosts: Vec::new(),
            https_optional: false,
            canonical_host: None,
            hsts: None,
            certfile: None,
            keyfile: None,
            client_ca: None,
            clients_optional: false,
            routes: Vec::new(),
            web: Layer::new(),
            app_named: false,
            paths: Vec::new(),
            statics: Vec::new(),
            rules: DraftRules::default(),
        };
        for (key, entry) in self.known(Section::Project, table) {
            match key.form {
                Form::Hosts => project.hosts = self.hosts(&key, &entry.node),
                _ if Section::is_rule(&key) => self.rule(&key, entry, &mut project.rules),
                Form::Sections => project.routes = self.routes(&key, &entry.node),
                Form::Folders => project.statics = self.statics(&key, entry),
                Form::Table => {
                    if let Some(table) = self.section(&key, entry) {
                        self.web(table, &mut project);
                    }
                }
                _ => {
                    let value = self.value(&key, &entry.node);
                    let source = self.sources.of(entry.node.at);
                    let value = value.map(|value| match key.name {
                        "source" => value,
                        _ => absolute(&key, value, source),
                    });
                    let text = value.as_ref().and_then(Json::as_str).map(str::to_owned);
                    let text = text.map(|text| (text, entry.node.at));
                    match key.name {
                        "https" => {
                            project.https_optional = value.is_some_and(|word| word == "optional");
                        }
                        "hsts" => project.hsts = value.and_then(|age| Some(age.as_f64()? as u64)),
                        "canonical_host" => project.canonical_host = text,
                        "certfile" => project.certfile = text,
                        "keyfile" => project.keyfile = text,
                        "client_ca" => project.client_ca = text,
                        "client_certificates" => {
                            project.clients_optional = value.is_some_and(|word| word == "optional");
                        }
                        _ => project.source = text,
                    }
                }
            }
        }
        let example = |key: &str| match key {
            "source" => "add source = \"./app\", the folder that the app is in",
            _ => "add hosts = [\"example.com\"], or [\"*\"] for any",
        };
        let needed = match project.has_app() {
            true => &["source", "hosts"][..],
            false => &["hosts"],
        };
        for key in needed
            .iter()
            .copied()
            .filter(|key| table.get(key).is_none())
        {
            let what = format!("project `{}` has no `{key}`", short(name));
            self.problems.push(Problem::new(at, what, example(key)));
        }
        if let (None, Some((_, at))) = (&project.certfile, &project.keyfile) {
            let what = "`keyfile` is set without `certfile`";
            let hint = "add certfile = \"chain.pem\", or leave it out";
            self.problems.push(Problem::new(*at, what, hint));
        }
        self.hosts_of_routes(&project);
        self.proxied(&project);
        let mut check = |rules: &DraftRules| {
            self.counted_keys(rules);
            self.certified(rules, project.client_ca.is_some());
        };
        match project.routes.is_empty() {
            true => check(&project.rules),
            false => project
                .routes
                .iter()
                .for_each(|route| check(&route.rules.over(&project.rules))),
        }
        project
    }

    fn web(&mut self, table: &Table, project: &mut DraftProject) {
        project.app_named = ["app", "config"]
            .iter()
            .any(|name| table.get(name).is_some());
        for (key, entry) in self.known(Section::Web, table) {
            let value = match key.form {
                Form::Variables => self.variables(&key, entry),
                _ => self.value(&key, &entry.node),
            };
            let (Some(value), Some(row)) = (value, key.setting) else {
                continue;
            };
            if row.name == "wsgi_app"
                && let Err(complaint) = callable(value.as_str().unwrap_or_default())
            {
                self.problems
                    .push(Problem::of(key.name, entry.node.at, complaint));
            }
            if let Some(paths) = self.paths(&key, &entry.node) {
                let paths = paths.into_iter().map(|(path, at)| (row.name, path, at));
                project.paths.extend(paths);
                project.web.insert(row.name.to_owned(), value);
            }
        }
    }

    /// Prefixes and folders.
    fn statics(&mut self, key: &Key, entry: &Entry) -> Vec<(String, String, At)> {
        let Some(table) = self.section(key, entry) else {
            return Vec::new();
        };
        let mut statics = Vec::new();
        for (prefix, entry) in &table.0 {
            if let Err(complaint) = host::prefix(prefix) {
                self.problems
                    .push(Problem::of(prefix, entry.key, complaint));
            }
            match &entry.node.value {
                Value::Text { text, .. } if !text.contains('\0') => {
                    let paths = self.paths(key, &entry.node).into_iter().flatten();
                    statics.extend(paths.map(|(path, at)| (prefix.clone(), path, at)));
                }
                _ => self.misfit(
                    key,
                    &entry.node,
                    "needs folders",
                    "write \"/static\" = \"static\"",
                ),
            }
        }
        statics
    }
}

fn is_project_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
