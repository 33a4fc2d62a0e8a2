//! What holds beside an app, of a project and of one of its routes: each value by itself, then those of a section
//! together.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Shaper;
use crate::config::error::Complaint;
use crate::config::serve::problem::{Problem, short};
use crate::config::serve::read::{Entry, Node, Table};
use crate::config::serve::rules::{self, By, Redirect};
use crate::config::serve::schema::{Form, Key, Section};
use crate::config::serve::source::At;
use crate::config::serve::upstreams;
use crate::config::table::Kind;

/// Values in checked form with their places, by section and key; keys of the project or route itself have the
/// section "".
#[derive(Clone, Debug, Default)]
pub struct DraftRules {
    values: BTreeMap<(&'static str, &'static str), (Json, At)>,
    redirects: Option<Vec<Redirect>>,
    /// Files that are named: by which key, as it is written, where.
    pub files: Vec<(String, String, At)>,
}

impl DraftRules {
    /// These, and what `other` says where these say nothing.
    pub fn over(&self, other: &Self) -> Self {
        let mut both = other.clone();
        both.values
            .extend(self.values.iter().map(|(key, value)| (*key, value.clone())));
        both.redirects = self.redirects.clone().or(both.redirects);
        both
    }

    pub fn get(&self, section: &'static str, key: &'static str) -> Option<&Json> {
        self.values.get(&(section, key)).map(|(value, _)| value)
    }

    /// Where the first value of `proxy` is.
    pub fn proxy(&self) -> Option<At> {
        let said = self
            .values
            .iter()
            .filter(|((section, _), _)| *section == "proxy");
        said.map(|(_, (_, at))| *at).min()
    }

    pub fn text(&self, section: &'static str, key: &'static str) -> Option<&str> {
        self.get(section, key).and_then(Json::as_str)
    }

    pub fn is(&self, section: &'static str, key: &'static str) -> bool {
        self.get(section, key).and_then(Json::as_bool) == Some(true)
    }

    /// The texts of a list; a text is a list of its parts between commas.
    pub fn list(&self, section: &'static str, key: &'static str) -> Vec<String> {
        let owned = |text: &str| text.trim().to_owned();
        match self.get(section, key) {
            Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).map(owned).collect(),
            Some(Json::String(text)) => text.split(',').map(owned).collect(),
            _ => Vec::new(),
        }
    }

    /// Names and texts.
    pub fn pairs(&self, section: &'static str, key: &'static str) -> Vec<(String, String)> {
        let pairs = self
            .get(section, key)
            .and_then(Json::as_object)
            .into_iter()
            .flatten();
        let pairs =
            pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        pairs.collect()
    }

    pub fn redirects(&self) -> Option<&[Redirect]> {
        self.redirects.as_deref()
    }
}

/// Most entries of a list or table of rules: each costs every request a look, and a repository may write them.
const MOST_ENTRIES: usize = 100;

/// Most redirects, for the same reason.
const MOST_REDIRECTS: usize = 1000;

type Check = fn(&str) -> Result<(), Complaint>;

fn anything(_: &str) -> Result<(), Complaint> {
    Ok(())
}

impl Shaper<'_> {
    /// One key of a project or a route that is about rules.
    pub(super) fn rule(&mut self, key: &Key, entry: &Entry, rules: &mut DraftRules) {
        if key.name == "redirects" {
            rules.redirects = Some(self.redirects(key, &entry.node));
            return;
        }
        let mut sections = Section::RULES.into_iter();
        let Some((_, section)) = sections.find(|(name, _)| *name == key.name) else {
            self.rule_value("", key, entry, rules);
            return;
        };
        let Some(table) = self.section(key, entry) else {
            return;
        };
        for (own, entry) in self.known(section, table) {
            self.rule_value(key.name, &own, entry, rules);
        }
        self.together(section, table, rules);
    }

    fn rule_value(
        &mut self,
        section: &'static str,
        key: &Key,
        entry: &Entry,
        rules: &mut DraftRules,
    ) {
        let node = &entry.node;
        let value = match key.form {
            Form::Fields if key.name == "request_set" => {
                self.pairs(key, node, rules::request_field, rules::field)
            }
            Form::Fields => self.pairs(key, node, rules::field_name, rules::field),
            Form::FieldNames if matches!(key.name, "request_remove" | "forward_auth_copy") => {
                self.list(key, node, rules::request_field)
            }
            Form::FieldNames => self.list(key, node, rules::field_name),
            Form::Origins => self.list(key, node, rules::origin),
            Form::Methods => self.list(key, node, rules::method),
            Form::Rates => self.list(key, node, |text| rules::rate(text).map(drop)),
            Form::Texts => self.list(key, node, anything),
            Form::Algorithms => self.list(key, node, rules::algorithm),
            Form::Claims => self.list(key, node, rules::claim),
            Form::Upstreams => self.upstreams(key, node),
            Form::Plain(Kind::Text) if section == "proxy" => {
                let check = match key.name {
                    "health_path" => upstreams::health_path,
                    "sticky_cookie" => upstreams::cookie,
                    _ => upstreams::tls_name,
                };
                let text = self.list(key, node, check);
                text.and_then(|list| list.get(0).cloned())
            }
            Form::Users => self.pairs(key, node, user, rules::password),
            Form::Pages => {
                let pages = self.pairs(key, node, rules::page, anything);
                self.pages(key, node, rules);
                pages
            }
            _ => self.value(key, node),
        };
        let Some(value) = value else {
            return;
        };
        if matches!(key.form, Form::KeySet | Form::Plain(Kind::Path)) {
            let files = self.paths(key, node).unwrap_or_default().into_iter();
            let named = files.map(|(path, at)| (key.name.to_owned(), path, at));
            rules.files.extend(named.filter(|_| key.name != "key_file"));
        }
        if value.as_str() == Some("") {
            self.misfit(key, node, "is empty", "write something, or leave it out");
            return;
        }
        rules.values.insert((section, key.name), (value, node.at));
    }

    /// The files of pages, to be looked for.
    fn pages(&mut self, key: &Key, node: &Node, rules: &mut DraftRules) {
        for (status, entry) in node.table().into_iter().flat_map(|table| &table.0) {
            let paths = self.paths(key, &entry.node).unwrap_or_default().into_iter();
            rules
                .files
                .extend(paths.map(|(path, at)| (status.clone(), path, at)));
        }
    }

    /// A table of texts, each name and each text checked.
    fn pairs(&mut self, key: &Key, node: &Node, name: Check, text: Check) -> Option<Json> {
        let Some(table) = node.table() else {
            self.misfit(
                key,
                node,
                "needs names and texts",
                "write { \"NAME\" = \"value\" }",
            );
            return None;
        };
        self.not_more(key, node, table.0.len(), MOST_ENTRIES);
        let mut pairs = serde_json::Map::new();
        for (said, entry) in &table.0 {
            if let Err(complaint) = name(said) {
                let what = format!("\"{}\" {}", short(said), complaint.what);
                self.problems
                    .push(Problem::new(entry.key, what, complaint.hint));
            }
            match entry.node.text() {
                Some(value) => match text(value) {
                    Ok(()) => drop(pairs.insert(said.clone(), Json::from(value))),
                    Err(complaint) => {
                        self.problems
                            .push(Problem::of(key.name, entry.node.at, complaint))
                    }
                },
                None => self.misfit(
                    key,
                    &entry.node,
                    "needs texts for values",
                    "write the value in quotes",
                ),
            }
        }
        Some(Json::Object(pairs))
    }

    /// A list of texts, each checked; one text is its own list.
    fn list(&mut self, key: &Key, node: &Node, check: Check) -> Option<Json> {
        self.not_more(key, node, node.items().len(), MOST_ENTRIES);
        let mut texts = Vec::new();
        for item in node.items() {
            let Some(text) = item.text() else {
                self.misfit(key, item, "needs texts", "write [\"one\", \"another\"]");
                continue;
            };
            match check(text) {
                Ok(()) => texts.push(Json::from(text)),
                Err(complaint) => self
                    .problems
                    .push(Problem::of(key.name, item.at, complaint)),
            }
        }
        Some(Json::Array(texts))
    }

    fn not_more(&mut self, key: &Key, node: &Node, count: usize, most: usize) {
        if count > most {
            let what = format!("has {count} entries");
            let complaint = Complaint::new(
                what,
                format!("at most {most} are taken: let the app do the rest"),
            );
            self.problems
                .push(Problem::of(key.name, node.at, complaint));
        }
    }

    fn redirects(&mut self, key: &Key, node: &Node) -> Vec<Redirect> {
        self.not_more(key, node, node.items().len(), MOST_REDIRECTS);
        let mut redirects = Vec::new();
        for item in node.items() {
            match item.table() {
                Some(table) => redirects.extend(self.redirect(item.at, table)),
                None => self.misfit(
                    key,
                    item,
                    "needs sections",
                    "write [[projects.NAME.redirects]] with from and to",
                ),
            }
        }
        redirects
    }

    fn redirect(&mut self, at: At, table: &Table) -> Option<Redirect> {
        let (mut status, mut status_at) = (308, at);
        let (mut from, mut to) = (None, None);
        for (key, entry) in self.known(Section::Redirect, table) {
            let value = self.value(&key, &entry.node)?;
            match (key.name, value.as_str()) {
                ("status", _) => {
                    status = value.as_u64().and_then(|code| u16::try_from(code).ok())?;
                    status_at = entry.node.at;
                }
                ("from", Some(text)) => from = Some((text.to_owned(), entry.node.at)),
                (_, text) => to = text.map(|text| (text.to_owned(), entry.node.at)),
            }
        }
        let (Some((from, from_at)), Some((to, to_at))) = (from, to) else {
            let hint = "write { from = \"/old\", to = \"/new\" }";
            self.problems
                .push(Problem::new(at, "a redirect needs `from` and `to`", hint));
            return None;
        };
        match Redirect::parse(&from, &to, status) {
            Ok(redirect) => Some(redirect),
            Err((key, complaint)) => {
                let at = match key {
                    "from" => from_at,
                    "to" => to_at,
                    _ => status_at,
                };
                self.problems.push(Problem::of(key, at, complaint));
                None
            }
        }
    }

    /// What keys of one section mean beside each other.
    fn together(&mut self, section: Section, table: &Table, rules: &DraftRules) {
        let place = |name: &str| table.get(name).map(|entry| entry.key);
        let any = rules
            .list("cors", "origins")
            .iter()
            .any(|origin| origin == "*");
        if let (Section::Cors, Some(at), true) = (section, place("credentials"), any)
            && rules.is("cors", "credentials")
        {
            let hint = "name the origins: with \"*\" every page of the web could act as your users";
            self.problems
                .push(Problem::new(at, "`credentials` for every origin", hint));
        }
        if let (Section::Cors, None, Some(at)) = (
            section,
            place("origins"),
            table.0.values().map(|entry| entry.key).min(),
        ) {
            let hint = "add origins = [\"https://example.com\"]";
            self.problems
                .push(Problem::new(at, "[cors] has no `origins`", hint));
        }
        if let (Section::Access, Some(at)) = (section, place("jwt_keys"))
            && ["jwt_issuer", "jwt_audience"]
                .iter()
                .any(|name| rules.list("access", name).is_empty())
        {
            let hint = "add both: a token that was made for another service must not open this one";
            self.problems.push(Problem::new(
                at,
                "`jwt_keys` without `jwt_issuer` and `jwt_audience`",
                hint,
            ));
        }
        let none = rules.get("access", "jwt_algorithms").is_some()
            && rules.list("access", "jwt_algorithms").is_empty();
        if let (Section::Access, Some(at), true) = (section, place("jwt_algorithms"), none) {
            self.problems.push(Problem::new(
                at,
                "`jwt_algorithms` is empty",
                "leave it out for RS256, ES256 and EdDSA",
            ));
        }
        let timeout = rules.get("access", "forward_auth_timeout");
        let timeout = timeout
            .and_then(Json::as_f64)
            .filter(|seconds| *seconds <= 0.0 || *seconds > rules::LONGEST_TIMEOUT);
        if let (Section::Access, Some(at), Some(_)) =
            (section, place("forward_auth_timeout"), timeout)
        {
            let hint = "write 500ms, 5s or what it takes: everybody waits for it";
            self.problems.push(Problem::new(
                at,
                "`forward_auth_timeout` is not between 0 and 60 s",
                hint,
            ));
        }
        let everyone = |name| rules.list("access", name).iter().any(|text| text == "*");
        if let (Section::Access, Some(at), true) = (section, place("deny"), everyone("deny")) {
            let hint =
                "write allow = [...] with the addresses that may come; all others are denied then";
            self.problems
                .push(Problem::new(at, "`deny` is for everyone", hint));
        }
    }

    /// Certificates where the handshake asks for none.
    pub(super) fn certified(&mut self, rules: &DraftRules, has_authorities: bool) {
        if let Some((_, at)) = rules.values.get(&("access", "client_certificate"))
            && rules.is("access", "client_certificate")
            && !has_authorities
        {
            let hint = "add client_ca = \"ca.pem\" to the project, and client_certificates = \"optional\" if other routes are for everyone";
            let what = "`client_certificate` without `client_ca`";
            self.problems.push(Problem::new(*at, what, hint));
        }
    }

    /// Rates per key where nobody is asked for one.
    pub(super) fn counted_keys(&mut self, rules: &DraftRules) {
        let asked = rules.is("access", "keys")
            || rules.get("access", "jwt_keys").is_some()
            || rules.get("access", "forward_auth_user").is_some()
            || !rules.pairs("access", "users").is_empty();
        let per_key = |text: &String| rules::rate(text).is_ok_and(|rate| rate.by == By::Key);
        if let Some((_, at)) = rules.values.get(&("limits", "rate"))
            && rules.list("limits", "rate").iter().any(per_key)
            && !asked
        {
            let hint = "set keys = true or users in [projects.NAME.access], or count per address";
            self.problems.push(Problem::new(
                *at,
                "`rate` counts per key, and nobody needs one",
                hint,
            ));
        }
    }
}

/// A name before a password.
fn user(text: &str) -> Result<(), Complaint> {
    let good = (1..=64).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b':');
    good.then_some(()).ok_or_else(|| {
        Complaint::new(
            "is no name of a user",
            "use printable ASCII without a colon, 64 bytes at most",
        )
    })
}
