//! Hosts and routes: what belongs to whom, once. Looks no name up.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::{DraftProject, DraftRoute, DraftRules, Shaper};
use crate::config::error::Complaint;
use crate::config::serve::host::Host;
use crate::config::serve::problem::{Problem, short};
use crate::config::serve::read::{Node, Table, Value};
use crate::config::serve::schema::{Form, Key, Section};
use crate::config::serve::source::At;

/// Hosts and routes.
impl Shaper<'_> {
    pub(super) fn routes(&mut self, key: &Key, node: &Node) -> Vec<DraftRoute> {
        let Value::List(list) = &node.value else {
            self.misfit(
                key,
                node,
                "needs sections",
                "write [[projects.NAME.routes]]",
            );
            return Vec::new();
        };
        let mut routes = Vec::new();
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
            routes.extend(self.route(item.at, table));
        }
        self.routed_once(&routes);
        routes
    }

    fn routed_once(&mut self, routes: &[DraftRoute]) {
        // A route without hosts is for all of them.
        let mut all: HashMap<&str, At> = HashMap::new();
        let mut some: HashMap<&str, HashMap<&Host, At>> = HashMap::new();
        for route in routes {
            let prefix = route.prefix.as_str();
            let here = some.entry(prefix).or_default();
            let before = match route.hosts.is_empty() {
                true => here.values().min().or(all.get(prefix)).copied(),
                false => {
                    let same = route.hosts.iter().find_map(|(host, _)| here.get(host));
                    same.or(all.get(prefix)).copied()
                }
            };
            if let Some(before) = before {
                let what = format!("the prefix {} is routed twice", short(prefix));
                let problem = Problem::new(route.at, what, "keep one of the two");
                self.problems.push(problem.beside(before, "here too"));
            }
            here.extend(route.hosts.iter().map(|(host, _)| (host, route.at)));
            if route.hosts.is_empty() {
                all.insert(prefix, route.at);
            }
        }
    }

    /// One route; `None` when its prefix is wrong.
    fn route(&mut self, at: At, table: &Table) -> Option<DraftRoute> {
        let mut route = DraftRoute {
            prefix: "/".to_owned(),
            at,
            strip: true,
            hosts: Vec::new(),
            rules: DraftRules::default(),
        };
        let mut good = true;
        for (key, entry) in self.known(Section::Route, table) {
            if key.form == Form::Hosts {
                route.hosts = self.hosts(&key, &entry.node);
                continue;
            }
            if Section::is_rule(&key) {
                self.rule(&key, entry, &mut route.rules);
                continue;
            }
            match self.value(&key, &entry.node) {
                Some(Json::Bool(strip)) => route.strip = strip,
                Some(Json::String(prefix)) => (route.prefix, route.at) = (prefix, entry.node.at),
                _ => good &= key.form != Form::Prefix,
            }
        }
        good.then_some(route)
    }
}

/// Hosts.
impl Shaper<'_> {
    pub(super) fn hosts(&mut self, key: &Key, node: &Node) -> Vec<(Host, At)> {
        let mut hosts = Vec::new();
        let mut seen: HashMap<Host, At> = HashMap::new();
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
                Ok(host) => match seen.get(&host) {
                    Some(before) => {
                        let what = format!("the host {host} is named twice");
                        let problem = Problem::new(item.at, what, "keep one of the two");
                        self.problems.push(problem.beside(*before, "here too"));
                    }
                    None => {
                        seen.insert(host.clone(), item.at);
                        hosts.push((host, item.at));
                    }
                },
            }
        }
        hosts
    }

    /// A route is for hosts of its project.
    pub(super) fn hosts_of_routes(&mut self, project: &DraftProject) {
        let hosts: HashSet<&Host> = project.hosts.iter().map(|(host, _)| host).collect();
        for (host, at) in project.routes.iter().flat_map(|route| &route.hosts) {
            if !hosts.contains(host) {
                let what = format!("the host {host} is not one of the project's");
                let hint = format!("add \"{host}\" to the hosts of [projects.{}]", project.name);
                self.problems.push(Problem::new(*at, what, hint));
            }
        }
    }

    pub(super) fn hosts_of_one_project(&mut self, projects: &[DraftProject]) {
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

/// A complaint about a host.
fn quoted(text: &str, at: At, complaint: Complaint) -> Problem {
    Problem::new(
        at,
        format!("\"{}\" {}", short(text), complaint.what),
        complaint.hint,
    )
}
