//! The configuration in force as TOML, each value with the place it comes from. Checks nothing.

use serde_json::Value as Json;

use super::problem::{is_unseen, plain};
use super::read::{Entry, Node, Table, Value};
use super::schema::{Form, Key, Section};
use super::shape::absolute;
use super::source::Sources;
use crate::config::table::{Kind, Preset};
use crate::config::value;

/// Lines are filled up to at most this column, so that the places stand below each other.
const WIDEST: usize = 60;

/// The text of `ostler check --print`: `tree` is what the files say, with the repositories' keys in it. Variables stay
/// as they are written, and values of environment variables for apps are left out: they may be secrets.
pub fn print(tree: &Table, sources: &Sources) -> String {
    let mut printer = Printer {
        sources,
        out: String::new(),
    };
    let none = Table::default();
    printer.section(
        "[server]",
        Section::Server,
        tree.table("server").unwrap_or(&none),
    );
    if let Some(acme) = tree.table("acme") {
        printer.section("[acme]", Section::Acme, acme);
    }
    let projects = tree
        .table("projects")
        .into_iter()
        .flat_map(|table| &table.0);
    for (name, entry) in projects {
        let Some(project) = entry.node.table() else {
            continue;
        };
        let heading = format!("projects.{}", quoted_key(name));
        printer.section(&format!("[{heading}]"), Section::Project, project);
        printer.rules(&heading, project);
        if let Some(entry) = project.get("routes") {
            for route in entry.node.items() {
                let route = route.table().unwrap_or(&none);
                printer.section(&format!("[[{heading}.routes]]"), Section::Route, route);
                printer.rules(&format!("{heading}.routes"), route);
            }
        }
        printer
            .out
            .push_str("\n# The app's gunicorn.conf.py may set what is a default here.");
        printer.section(
            &format!("[{heading}.web]"),
            Section::Web,
            project.table("web").unwrap_or(&none),
        );
        if let Some(table) = project.table("static") {
            printer.out.push_str(&format!("\n[{heading}.static]\n"));
            let lines = table.0.iter().map(|(prefix, entry)| {
                let said = format!("{} = {}", quoted_key(prefix), shown(&entry.node));
                (said, printer.place(entry))
            });
            let lines = lines.collect();
            printer.lines(lines);
        }
    }
    printer.out.trim_start().to_owned()
}

struct Printer<'a> {
    sources: &'a Sources,
    out: String,
}

impl Printer<'_> {
    /// Every key of a section that is no section itself.
    fn section(&mut self, heading: &str, section: Section, table: &Table) {
        self.out.push_str(&format!("\n{heading}\n"));
        let keys = section.keys().filter(|key| {
            !matches!(
                key.form,
                Form::Table | Form::Tables | Form::Sections | Form::Folders | Form::Patterns
            )
        });
        let lines = keys.map(|key| match table.get(key.name) {
            Some(entry) => (
                format!("{} = {}", key.name, self.value(section, &key, entry)),
                self.place(entry),
            ),
            // Who names an address for HTTPS alone wants no other.
            None if key.name == "listen" && table.get("listen_tls").is_some() => (
                "listen = []".to_owned(),
                "none beside listen_tls".to_owned(),
            ),
            None => match preset(&key) {
                Some(text) => (format!("{} = {text}", key.name), "default".to_owned()),
                None => (format!("# {}", key.name), "not set".to_owned()),
            },
        });
        let lines = lines.collect();
        self.lines(lines);
    }

    /// The sections of rules that are there, of a project or a route.
    fn rules(&mut self, heading: &str, table: &Table) {
        for (name, section) in Section::RULES {
            if let Some(own) = table.table(name) {
                self.section(&format!("[{heading}.{name}]"), section, own);
            }
        }
        let redirects = table.get("redirects").map(|entry| entry.node.items());
        for redirect in redirects.into_iter().flatten().filter_map(Node::table) {
            self.section(
                &format!("[[{heading}.redirects]]"),
                Section::Redirect,
                redirect,
            );
        }
    }

    fn lines(&mut self, lines: Vec<(String, String)>) {
        let widths = lines.iter().map(|(said, _)| said.chars().count());
        let width = widths.filter(|width| *width <= WIDEST).max().unwrap_or(0);
        for (said, place) in lines {
            self.out.push_str(&format!("{said:width$}  # {place}\n"));
        }
    }

    fn place(&self, entry: &Entry) -> String {
        let source = self.sources.of(entry.key);
        format!("{}:{}", plain(&source.name), self.sources.line(entry.key))
    }

    fn value(&self, section: Section, key: &Key, entry: &Entry) -> String {
        match (key.form, entry.node.table()) {
            (Form::Variables | Form::Users, Some(table)) => {
                let pairs = table.0.iter().map(|(name, entry)| {
                    let shown = match &entry.node.value {
                        Value::Text { written, .. } if written.contains("${") => written,
                        _ => "…",
                    };
                    format!("{} = {}", quoted_key(name), quoted(shown))
                });
                inline(pairs)
            }
            (Form::Secret, _) => match &entry.node.value {
                Value::Text { written, text } if written != text => quoted(written),
                _ => quoted("…"),
            },
            // Others start at the project's source.
            (Form::Plain(Kind::Path | Kind::Binds), _)
                if matches!(section, Section::Server | Section::Acme | Section::Project) =>
            {
                toml(&self.absolute(key, &entry.node))
            }
            _ => shown(&entry.node),
        }
    }

    /// Paths from where they are written; what begins with a variable may be one already.
    fn absolute(&self, key: &Key, node: &Node) -> Json {
        if let Value::List(items) = &node.value {
            let items = items.iter().map(|item| self.absolute(key, item));
            let one_by_one = items.flat_map(|item| match item {
                Json::Array(some) => some,
                one => vec![one],
            });
            return one_by_one.collect();
        }
        match node.text() == node.written() {
            true => absolute(key, node.json(), self.sources.of(node.at)),
            false => node.written_json(),
        }
    }
}

fn shown(node: &Node) -> String {
    toml(&node.written_json())
}

/// A default as a person would write it; `None` where there is none.
fn preset(key: &Key) -> Option<String> {
    Some(match (key.form, key.preset) {
        (_, Preset::Unset) => return None,
        (Form::Plain(Kind::Seconds), Preset::Int(seconds)) if seconds > 0 => {
            quoted(&format!("{seconds}s"))
        }
        (Form::Plain(Kind::Size), Preset::Int(bytes)) if bytes > 0 && bytes % (1 << 20) == 0 => {
            quoted(&format!("{}MiB", bytes >> 20))
        }
        (Form::Variables, _) => "{}".to_owned(),
        (_, preset) => toml(&value::preset(preset)),
    })
}

fn toml(value: &Json) -> String {
    match value {
        Json::String(text) => quoted(text),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(toml).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(pairs) => inline(
            pairs
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted_key(name), toml(value))),
        ),
        other => other.to_string(),
    }
}

fn inline(pairs: impl Iterator<Item = String>) -> String {
    let pairs: Vec<String> = pairs.collect();
    match pairs.is_empty() {
        true => "{}".to_owned(),
        false => format!("{{ {} }}", pairs.join(", ")),
    }
}

/// A TOML string. JSON escapes as TOML does, but fewer characters.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for c in Json::from(text).to_string().chars() {
        match is_unseen(c) {
            true => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

fn quoted_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_owned(),
        false => quoted(name),
    }
}
