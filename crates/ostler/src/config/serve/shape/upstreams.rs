//! Upstreams as they are written: a list of addresses, or of sections with an address each.

use serde_json::{Value as Json, json};

use super::{DraftProject, DraftRules, Shaper};
use crate::config::serve::problem::{Problem, short};
use crate::config::serve::read::{Node, Value};
use crate::config::serve::schema::{Key, Section};
use crate::config::serve::source::At;
use crate::config::serve::upstreams::Address;

/// Most upstreams of a route, with room for a large one: each choice looks at all of them.
const MOST: usize = 100;

impl Shaper<'_> {
    /// Addresses and weights: `[["http://a:1", 1]]`.
    pub(super) fn upstreams(&mut self, key: &Key, node: &Node) -> Option<Json> {
        let items = node.items();
        if items.is_empty() {
            let hint = "write upstreams = [\"http://127.0.0.1:9000\"], or leave it out";
            self.misfit(key, node, "names no upstream", hint);
            return None;
        }
        if items.len() > MOST {
            let what = format!("has {} entries", items.len());
            self.misfit(key, node, &what, "at most 100 are taken");
            return None;
        }
        let mut seen: Vec<(Address, At)> = Vec::new();
        let mut list = Vec::new();
        for item in items {
            let Some((node, weight)) = self.upstream(key, item) else {
                continue;
            };
            let (at, address) = (node.at, node.text().unwrap_or_default());
            match Address::parse(address) {
                Err(complaint) => {
                    let shown = short(node.written().unwrap_or_default());
                    let what = format!("\"{shown}\" {}", complaint.what);
                    self.problems.push(Problem::new(at, what, complaint.hint));
                }
                Ok(parsed) => {
                    if let Some((_, before)) = seen.iter().find(|(other, _)| *other == parsed) {
                        let what = "one upstream is named twice";
                        let problem = Problem::new(at, what, "keep one of the two, with a weight");
                        self.problems.push(problem.beside(*before, "here too"));
                    }
                    seen.push((parsed, at));
                    list.push(json!([address, weight]));
                }
            }
        }
        Some(Json::Array(list))
    }

    /// What is said about upstreams is about some.
    pub(super) fn proxied(&mut self, project: &DraftProject) {
        let whole = project.routes.is_empty().then(|| project.rules.clone());
        let routes = project
            .routes
            .iter()
            .map(|route| route.rules.over(&project.rules));
        let all: Vec<DraftRules> = whole.into_iter().chain(routes).collect();
        let said = all.iter().filter_map(DraftRules::proxy).min();
        let forwards = |rules: &DraftRules| rules.get("", "upstreams").is_some();
        if let Some(at) = said.filter(|_| !all.iter().any(forwards)) {
            let what = "`proxy` is set and there are no `upstreams`";
            let hint = "add upstreams = [\"http://127.0.0.1:9000\"]";
            self.problems.push(Problem::new(at, what, hint));
        }
    }

    /// The text that is its address, and its weight.
    fn upstream<'t>(&mut self, key: &Key, item: &'t Node) -> Option<(&'t Node, u64)> {
        if item.text().is_some() {
            return Some((item, 1));
        }
        let Some(table) = item.table() else {
            let hint = "write [\"http://127.0.0.1:9000\"], or { address = \"…\", weight = 2 }";
            if !matches!(item.value, Value::Unknown) {
                self.misfit(key, item, "needs addresses", hint);
            }
            return None;
        };
        let (mut address, mut weight) = (None, 1);
        for (own, entry) in self.known(Section::Upstream, table) {
            let value = self.value(&own, &entry.node)?;
            match (own.name, value.as_str()) {
                ("weight", _) => weight = value.as_u64().unwrap_or(1),
                (_, text) => address = text.map(|_| &entry.node),
            }
        }
        let Some(address) = address else {
            let hint = "write { address = \"http://127.0.0.1:9000\" }";
            self.problems.push(Problem::new(
                item.at,
                "an upstream needs an `address`",
                hint,
            ));
            return None;
        };
        Some((address, weight))
    }
}
