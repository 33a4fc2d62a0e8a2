//! Keys that exist, and the values of one kind each.

use serde_json::Value as Json;

use super::Shaper;
use crate::config::error::Complaint;
use crate::config::serve::acme;
use crate::config::serve::host::{self, Host};
use crate::config::serve::problem::{MOST_TOLD, Problem, short};
use crate::config::serve::read::{Entry, Node, Table, Value};
use crate::config::serve::rules;
use crate::config::serve::schema::{self, Form, Key, Section};
use crate::config::serve::source::{At, Source};
use crate::config::table::Kind;
use crate::config::{dotenv, value};

/// Keys and values.
impl Shaper<'_> {
    /// The keys of a section that exist. The others are told.
    pub(super) fn known<'t>(
        &mut self,
        section: Section,
        table: &'t Table,
    ) -> Vec<(Key, &'t Entry)> {
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
        // Who has more problems than are told may have very many.
        let meant = match self.problems.len() < MOST_TOLD {
            true => schema::meant(section, name),
            false => None,
        };
        let hint = match meant {
            Some((other, key)) if other == section => {
                format!("did you mean `{}`? ({})", key.name, key.help)
            }
            Some((other, key)) => format!("`{}` belongs in {}", key.name, self.heading(other)),
            None => {
                let names: Vec<&str> = section.keys().map(|key| key.name).collect();
                match names.len() <= MOST_LISTED {
                    true => format!("there are {}", names.join(", ")),
                    false => "docs/reference/ostler-toml.md has all keys".to_owned(),
                }
            }
        };
        let place = match section {
            Section::Top => section.heading().to_owned(),
            _ => format!("in {}", self.heading(section)),
        };
        let what = format!("unknown key `{}` {place}", short(name));
        self.problems.push(Problem::new(entry.key, what, hint));
    }

    fn heading(&self, section: Section) -> String {
        match self.project.as_str() {
            "" => section.heading().to_owned(),
            name => section.heading().replace("NAME", name),
        }
    }

    /// The section behind a key.
    pub(super) fn section<'t>(&mut self, key: &Key, entry: &'t Entry) -> Option<&'t Table> {
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
    pub(super) fn value(&mut self, key: &Key, node: &Node) -> Option<Json> {
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
            Form::Ca => self.text(key, node, acme::directory),
            Form::Resolver => self.text(key, node, acme::resolver),
            Form::Secret => self.text(key, node, |text| Ok(text.to_owned())),
            Form::Authority => self.text(key, node, rules::authority),
            Form::KeySet => self.text(key, node, rules::key_set),
            Form::FieldName => self.text(key, node, |text| {
                rules::request_field(text).map(|()| text.to_owned())
            }),
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
        if is_empty(node) {
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

    /// `env`: names and texts, as the list that `raw_env` is.
    pub(super) fn variables(&mut self, key: &Key, entry: &Entry) -> Option<Json> {
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

    /// The paths in a value; `None` when a repository names one that leads out of its checkout.
    pub(super) fn paths(&mut self, key: &Key, node: &Node) -> Option<Vec<(String, At)>> {
        let mut paths = Vec::new();
        paths_of(key, node, &mut paths);
        let mut good = true;
        for (path, at) in &paths {
            if self.sources.of(*at).checkout.is_some() && leads_out(path) {
                let what = format!("`{}` leads out of the checkout", key.name);
                let hint = "a repository names paths below its own folder; others are set in the machine's file";
                self.problems.push(Problem::new(*at, what, hint));
                good = false;
            }
        }
        good.then_some(paths)
    }

    pub(super) fn misfit(&mut self, key: &Key, node: &Node, what: &str, hint: &str) {
        if !matches!(node.value, Value::Unknown) {
            self.problems
                .push(Problem::of(key.name, node.at, Complaint::new(what, hint)));
        }
    }
}

/// Most keys that a hint lists.
const MOST_LISTED: usize = 12;

/// More proxies in a row than this are a slip of the keyboard.
const MOST_HOPS: i64 = 100;

pub(super) fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::List(items) if items.is_empty())
}

/// The texts in a value that are paths; none where the key has none.
fn paths_of(key: &Key, node: &Node, paths: &mut Vec<(String, At)>) {
    let named = key
        .setting
        .is_some_and(|row| schema::PATHS.contains(&row.name));
    if !named
        && !matches!(
            key.form,
            Form::Folders | Form::Pages | Form::KeySet | Form::Plain(Kind::Path)
        )
    {
        return;
    }
    match &node.value {
        // At a server, and no path.
        Value::Text { text, .. } if key.form == Form::KeySet && rules::is_url(text) => {}
        Value::Text { text, .. } => {
            let several = key.form == Form::Plain(Kind::Commas);
            let parts = text.split(|c| several && c == ',').map(str::trim);
            // gunicorn's config may be a module.
            let files = parts.filter(|part| !part.starts_with("python:"));
            let files = files.map(|part| part.strip_prefix("file:").unwrap_or(part));
            paths.extend(files.map(|file| (file.to_owned(), node.at)));
        }
        Value::List(items) => items.iter().for_each(|item| paths_of(key, item, paths)),
        Value::Table(table) => {
            let entries = table.0.values();
            entries.for_each(|entry| paths_of(key, &entry.node, paths));
        }
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

/// The texts of a list; a text is its own list.
pub(super) fn texts(value: &Json) -> Vec<String> {
    let items = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    let texts = items.iter().filter_map(Json::as_str);
    texts.map(str::to_owned).collect()
}
