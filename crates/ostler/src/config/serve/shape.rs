//! One tree → a [`Draft`]: every key known, every value checked by itself and beside the others. Looks at no file.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use super::host::{self, Host};
use super::problem::{Problem, short};
use super::read::{Entry, Node, Table, Value};
use super::schema::{self, Form, Key, Section};
use super::source::{At, Source, Sources};
use crate::config::bind;
use crate::config::error::Complaint;
use crate::config::table::Kind;
use crate::config::written::Layer;
use crate::config::{callable, dotenv, value};

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
    pub default_host: Option<String>,
    pub projects: Vec<DraftProject>,
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
    pub routes: Vec<DraftRoute>,
    /// By setting name.
    pub web: Layer,
    /// By setting name.
    pub web_places: BTreeMap<&'static str, At>,
    /// Prefix, folder as it is written, where the folder is.
    pub statics: Vec<(String, String, At)>,
}

/// One route.
#[derive(Debug)]
pub struct DraftRoute {
    pub prefix: String,
    pub at: At,
    pub strip: bool,
    pub hosts: Vec<(Host, At)>,
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
                (Form::Host, None) => draft.default_host = value.as_str().map(str::to_owned),
                (Form::Plain(Kind::Binds), None) => draft.listen_tls = texts(&value),
                _ => draft.state = value.as_str().map(str::to_owned),
            }
        }
        self.listeners(table);
    }

    /// What `[server]` says about addresses, together.
    fn listeners(&mut self, table: &Table) {
        let place = |name: &str| table.get(name).map(|entry| entry.key);
        let tls = table.get("listen_tls").map(|entry| &entry.node);
        let tls = tls.filter(|node| !matches!(&node.value, Value::List(items) if items.is_empty()));
        match (tls, place("certfile")) {
            (Some(tls), None) => self.problems.push(Problem::new(
                tls.at,
                "`listen_tls` has no certificate",
                "add certfile = \"chain.pem\" and keyfile = \"key.pem\"",
            )),
            (None, Some(at)) => self.problems.push(Problem::new(
                at,
                "`certfile` is set and nothing listens for HTTPS",
                "add listen_tls = [\"0.0.0.0:443\"]",
            )),
            _ => {}
        }
        if let (Some(at), None) = (place("keyfile"), place("certfile")) {
            let what = "`keyfile` is set without `certfile`";
            self.problems.push(Problem::new(
                at,
                what,
                "add certfile = \"chain.pem\", or leave it out",
            ));
        }
        let mut seen: Vec<(bind::Address, At)> = Vec::new();
        for name in ["listen", "listen_tls"] {
            for item in table
                .get(name)
                .map_or(&[] as &[Node], |entry| entry.node.items())
            {
                let Some(address) = item.text().and_then(|text| bind::parse(text).ok()) else {
                    continue;
                };
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
            routes: Vec::new(),
            web: Layer::new(),
            web_places: BTreeMap::new(),
            statics: Vec::new(),
        };
        for (key, entry) in self.known(Section::Project, table) {
            match key.form {
                Form::Hosts => project.hosts = self.hosts(&key, &entry.node),
                Form::Sections => project.routes = self.routes(&key, &entry.node),
                Form::Folders => project.statics = self.statics(&key, entry),
                Form::Table => {
                    if let Some(table) = self.section(&key, entry) {
                        self.web(table, &mut project);
                    }
                }
                _ => {
                    let value = self.value(&key, &entry.node);
                    let text = value.as_ref().and_then(Json::as_str).map(str::to_owned);
                    match key.name {
                        "https" => project.https_optional = text.as_deref() == Some("optional"),
                        "hsts" => {
                            project.hsts =
                                value.as_ref().and_then(Json::as_f64).map(|age| age as u64)
                        }
                        "canonical_host" => {
                            project.canonical_host = text.map(|text| (text, entry.node.at));
                        }
                        _ => project.source = text.map(|text| (text, entry.node.at)),
                    }
                }
            }
        }
        let example = |key: &str| match key {
            "source" => "add source = \"./app\", the folder that the app is in",
            _ => "add hosts = [\"example.com\"], or [\"*\"] for any",
        };
        for key in ["source", "hosts"]
            .into_iter()
            .filter(|key| table.get(key).is_none())
        {
            let what = format!("project `{}` has no `{key}`", short(name));
            self.problems.push(Problem::new(at, what, example(key)));
        }
        self.hosts_of_routes(&project);
        project
    }

    fn web(&mut self, table: &Table, project: &mut DraftProject) {
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
            if self.contained(&key, entry) {
                project.web_places.insert(row.name, entry.node.at);
                project.web.insert(row.name.to_owned(), value);
            }
        }
    }

    fn routes(&mut self, key: &Key, node: &Node) -> Vec<DraftRoute> {
        let Value::List(list) = &node.value else {
            self.misfit(
                key,
                node,
                "needs sections",
                "write [[projects.NAME.routes]]",
            );
            return Vec::new();
        };
        let mut routes: Vec<DraftRoute> = Vec::new();
        for item in list {
            let Some(table) = item.table() else {
                self.misfit(
                    key,
                    item,
                    "needs sections",
                    "write [[projects.NAME.routes]]",
                );
                continue;
            };
            let route = self.route(item.at, table);
            let same = |other: &&DraftRoute| {
                other.prefix == route.prefix
                    && (other.hosts.is_empty()
                        || route.hosts.is_empty()
                        || other
                            .hosts
                            .iter()
                            .any(|(host, _)| route.hosts.iter().any(|(mine, _)| mine == host)))
            };
            if let Some(other) = routes.iter().find(same) {
                let what = format!("the prefix {} is routed twice", short(&route.prefix));
                self.problems.push(
                    Problem::new(route.at, what, "keep one of the two")
                        .beside(other.at, "here too"),
                );
            }
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, at: At, table: &Table) -> DraftRoute {
        let mut route = DraftRoute {
            prefix: "/".to_owned(),
            at,
            strip: true,
            hosts: Vec::new(),
        };
        for (key, entry) in self.known(Section::Route, table) {
            if key.form == Form::Hosts {
                route.hosts = self.hosts(&key, &entry.node);
                continue;
            }
            match self.value(&key, &entry.node) {
                Some(Json::Bool(strip)) => route.strip = strip,
                Some(Json::String(prefix)) => (route.prefix, route.at) = (prefix, entry.node.at),
                _ => {}
            }
        }
        route
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
                Value::Text { text, .. } if !text.trim().is_empty() => {
                    if self.contained(key, entry) {
                        statics.push((prefix.clone(), text.trim().to_owned(), entry.node.at));
                    }
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

    /// `env`: names and texts, as the list that `raw_env` is.
    fn variables(&mut self, key: &Key, entry: &Entry) -> Option<Json> {
        let hint = "write env = { NAME = \"value\" }";
        let Some(table) = entry.node.table() else {
            self.misfit(key, &entry.node, "needs names and values", hint);
            return None;
        };
        let mut pairs = Vec::new();
        for (name, entry) in &table.0 {
            if !dotenv::is_name(name) {
                let what = format!("`{}` is no name of a variable", short(name));
                self.problems
                    .push(Problem::new(entry.key, what, "use letters, digits and _"));
            }
            match &entry.node.value {
                Value::Text { text, .. } if !text.contains('\0') => {
                    pairs.push(format!("{name}={text}"))
                }
                _ => self.misfit(
                    key,
                    &entry.node,
                    "needs texts for values",
                    "write the value in quotes",
                ),
            }
        }
        Some(Json::from(pairs))
    }
}

/// Hosts.
impl Shaper<'_> {
    fn hosts(&mut self, key: &Key, node: &Node) -> Vec<(Host, At)> {
        let mut hosts: Vec<(Host, At)> = Vec::new();
        if node.items().is_empty() {
            self.misfit(
                key,
                node,
                "names no host",
                "write hosts = [\"example.com\"], or [\"*\"] for any",
            );
        }
        for item in node.items() {
            let Some(text) = item.text() else {
                self.misfit(
                    key,
                    item,
                    "needs names of hosts",
                    "write hosts = [\"example.com\"]",
                );
                continue;
            };
            match Host::parse(text) {
                Err(complaint) => self.problems.push(quoted(text, item.at, complaint)),
                Ok(host) => match hosts.iter().find(|(other, _)| *other == host) {
                    Some((_, before)) => self.problems.push(
                        Problem::new(
                            item.at,
                            format!("the host {host} is named twice"),
                            "keep one of the two",
                        )
                        .beside(*before, "here too"),
                    ),
                    None => hosts.push((host, item.at)),
                },
            }
        }
        hosts
    }

    /// A route is for hosts of its project.
    fn hosts_of_routes(&mut self, project: &DraftProject) {
        for (host, at) in project.routes.iter().flat_map(|route| &route.hosts) {
            if !project.hosts.iter().any(|(other, _)| other == host) {
                let what = format!("the host {host} is not one of the project's");
                let hint = format!("add \"{host}\" to the hosts of [projects.{}]", project.name);
                self.problems.push(Problem::new(*at, what, hint));
            }
        }
    }

    fn hosts_of_one_project(&mut self, projects: &[DraftProject]) {
        let mut taken: HashMap<&Host, (&str, At)> = HashMap::new();
        for project in projects {
            for (host, at) in &project.hosts {
                let Some((other, before)) = taken.insert(host, (&project.name, *at)) else {
                    continue;
                };
                let what = format!("the host {host} belongs to two projects");
                let hint = "a host belongs to one project: take it out of the other, or make it a route of one";
                let problem = Problem::new(*at, what, hint)
                    .labelled(format!("of `{}`", short(&project.name)));
                self.problems
                    .push(problem.beside(before, format!("of `{}`", short(other))));
            }
        }
    }
}

/// Keys and values.
impl Shaper<'_> {
    /// The keys of a section that exist. The others are told.
    fn known<'t>(&mut self, section: Section, table: &'t Table) -> Vec<(Key, &'t Entry)> {
        let mut known = Vec::new();
        for (name, entry) in &table.0 {
            match section.key(name) {
                Some(key) => known.push((key, entry)),
                None => self.unknown(section, name, entry),
            }
        }
        known
    }

    fn unknown(&mut self, section: Section, name: &str, entry: &Entry) {
        let hint = match schema::meant(section, name) {
            Some((other, key)) if other == section => {
                format!("did you mean `{}`? ({})", key.name, key.help)
            }
            Some((other, key)) => format!("`{}` belongs in {}", key.name, self.heading(other)),
            None => "docs/reference/ostler-toml.md has all keys".to_owned(),
        };
        let what = format!("unknown key `{}` in {}", short(name), self.heading(section));
        self.problems.push(Problem::new(entry.key, what, hint));
    }

    fn heading(&self, section: Section) -> String {
        match self.project.as_str() {
            "" => section.heading().to_owned(),
            name => section.heading().replace("NAME", name),
        }
    }

    /// The section behind a key.
    fn section<'t>(&mut self, key: &Key, entry: &'t Entry) -> Option<&'t Table> {
        let table = entry.node.table();
        if table.is_none() {
            self.misfit(
                key,
                &entry.node,
                "needs a section",
                "write it as a heading in [ ]",
            );
        }
        table
    }

    /// The value of a key in checked form.
    fn value(&mut self, key: &Key, node: &Node) -> Option<Json> {
        match key.form {
            Form::Plain(kind) => self.plain(key, kind, node),
            Form::Proxies => match &node.value {
                Value::Number(_) => self.plain(key, Kind::Whole(0, MOST_HOPS), node),
                _ => self.plain(key, Kind::Networks, node),
            },
            Form::Host => self.text(key, node, |text| match Host::parse(text)? {
                Host::Name(name) => Ok(name),
                _ => Err(Complaint::new("needs one name", "write it as example.com")),
            }),
            Form::Prefix => self.text(key, node, host::prefix),
            _ => None,
        }
    }

    fn text(
        &mut self,
        key: &Key,
        node: &Node,
        parse: impl Fn(&str) -> Result<String, Complaint>,
    ) -> Option<Json> {
        let Some(text) = node.text() else {
            self.misfit(key, node, "needs text", "write it in quotes");
            return None;
        };
        match parse(text) {
            Ok(good) => Some(Json::from(good)),
            Err(complaint) => {
                self.problems
                    .push(Problem::of(key.name, node.at, complaint));
                None
            }
        }
    }

    fn plain(&mut self, key: &Key, kind: Kind, node: &Node) -> Option<Json> {
        // Item by item, so that the caret is below the one that is wrong.
        let listed = matches!(
            kind,
            Kind::Binds | Kind::Networks | Kind::List | Kind::Commas
        );
        let before = self.problems.len();
        if let (true, Value::List(items)) = (listed, &node.value) {
            for item in items {
                self.checked(key, kind, item, Json::Array(vec![json(kind, item)]));
            }
        } else if let (Kind::Pairs, Value::Table(table)) = (kind, &node.value) {
            for entry in table.0.values().filter(|entry| entry.node.text().is_none()) {
                self.misfit(
                    key,
                    &entry.node,
                    "needs texts for values",
                    "write the value in quotes",
                );
            }
        } else {
            return self.checked(key, kind, node, json(kind, node));
        }
        let good = self.problems.len() == before;
        let empty = matches!(&node.value, Value::List(items) if items.is_empty());
        if empty {
            return Some(Json::Array(Vec::new()));
        }
        // What the items are together, such as the same address twice, is told by who knows their places.
        good.then(|| json(kind, node))
            .and_then(|whole| value::check(kind, &whole).ok())
    }

    fn checked(&mut self, key: &Key, kind: Kind, node: &Node, raw: Json) -> Option<Json> {
        if matches!(node.value, Value::Unknown) {
            return None;
        }
        match value::check(kind, &raw) {
            Ok(good) => Some(good),
            Err(complaint) => {
                let complaint = in_toml(kind, complaint);
                self.problems
                    .push(Problem::of(key.name, node.at, complaint));
                None
            }
        }
    }

    /// Whether the path is one that its file may give: a repository's must not lead out of its checkout.
    fn contained(&mut self, key: &Key, entry: &Entry) -> bool {
        let row = key.setting.map(|row| row.name);
        let is_path = key.form == Form::Folders
            || key.form == Form::Plain(Kind::Path)
            || row.is_some_and(|row| schema::PATHS.contains(&row));
        if !is_path || self.sources.of(entry.key).checkout.is_none() {
            return true;
        }
        let mut paths = Vec::new();
        paths_of(&entry.node, &mut paths);
        let out = paths.iter().filter(|(path, _)| leads_out(path));
        let out: Vec<At> = out.map(|(_, at)| *at).collect();
        for at in &out {
            let what = format!("`{}` leads out of the checkout", key.name);
            let hint = "a repository names paths below its own folder; others are set in the machine's file";
            self.problems.push(Problem::new(*at, what, hint));
        }
        out.is_empty()
    }

    fn misfit(&mut self, key: &Key, node: &Node, what: &str, hint: &str) {
        if !matches!(node.value, Value::Unknown) {
            self.problems
                .push(Problem::of(key.name, node.at, Complaint::new(what, hint)));
        }
    }
}

/// More proxies in a row than this are a slip of the keyboard.
const MOST_HOPS: i64 = 100;

/// The texts in a value that are paths.
fn paths_of<'t>(node: &'t Node, paths: &mut Vec<(&'t str, At)>) {
    match &node.value {
        // `pythonpath` has commas, `config` may name a module.
        Value::Text { text, .. } if text.starts_with("python:") => {}
        Value::Text { text, .. } => {
            let text = text.strip_prefix("file:").unwrap_or(text);
            paths.extend(text.split(',').map(|part| (part.trim(), node.at)));
        }
        Value::List(items) => items.iter().for_each(|item| paths_of(item, paths)),
        Value::Table(table) => table
            .0
            .values()
            .for_each(|entry| paths_of(&entry.node, paths)),
        _ => {}
    }
}

fn leads_out(path: &str) -> bool {
    path.starts_with('/') || path.split('/').any(|part| part == "..")
}

/// A value as `value::check` takes it; null for what the kind is never written as.
fn json(kind: Kind, node: &Node) -> Json {
    match &node.value {
        // To Python these are numbers.
        Value::Bool(_) if matches!(kind, Kind::Whole(..) | Kind::Seconds) => Json::Null,
        _ => node.json(),
    }
}

/// What `value::check` says, in the words of TOML.
fn in_toml(kind: Kind, complaint: Complaint) -> Complaint {
    let (what, hint) = match kind {
        Kind::Switch | Kind::Unswitch => {
            ("needs true or false", "write true or false, without quotes")
        }
        Kind::Octal => ("needs octal permission bits", "write \"022\" or 0o022"),
        Kind::Text | Kind::Path => ("needs text", "write it in quotes"),
        Kind::Pairs => ("needs names and values", "write { \"NAME\" = \"value\" }"),
        Kind::Binds if complaint.what.contains("several addresses") => (
            "has several addresses in one text",
            "write [\"0.0.0.0:80\", \"[::]:80\"]",
        ),
        Kind::Binds if complaint.what.contains("needs a list") => {
            ("needs addresses", "write [\"0.0.0.0:80\", \"[::]:80\"]")
        }
        _ => return complaint,
    };
    Complaint::new(what, hint)
}

/// The paths of a machine's key, from where they are written.
pub fn absolute(key: &Key, value: Json, source: &Source) -> Json {
    let path = |text: &str| source.folder.join(text).to_string_lossy().into_owned();
    match (key.form, &value) {
        // "-" is a log's standard output.
        (Form::Plain(Kind::Path), Json::String(text)) if text != "-" && !text.is_empty() => {
            path(text).into()
        }
        (Form::Plain(Kind::Binds), _) => {
            let address = |text: String| match text.strip_prefix("unix:") {
                Some(rest) => format!("unix:{}", path(rest.strip_prefix("//").unwrap_or(rest))),
                None => text,
            };
            texts(&value)
                .into_iter()
                .map(address)
                .map(Json::from)
                .collect()
        }
        _ => value,
    }
}

fn texts(value: &Json) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Json::as_str).map(str::to_owned).collect()
}

/// A complaint about a host.
fn quoted(text: &str, at: At, complaint: Complaint) -> Problem {
    Problem::new(
        at,
        format!("\"{}\" {}", short(text), complaint.what),
        complaint.hint,
    )
}

fn is_project_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
