//! The sections that say what holds beside an app, of a project and of one of its routes.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Shaper;
use crate::config::serve::problem::Problem;
use crate::config::serve::read::Entry;
use crate::config::serve::schema::{Form, Key, Section};
use crate::config::serve::source::At;
use crate::config::table::Kind;

/// Values in checked form with their places, by section and key.
#[derive(Clone, Debug, Default)]
pub struct DraftRules(BTreeMap<(&'static str, &'static str), (Json, At)>);

impl DraftRules {
    /// These, and what `other` says where these say nothing.
    pub fn over(&self, other: &Self) -> Self {
        let mut both = other.clone();
        both.0
            .extend(self.0.iter().map(|(key, value)| (*key, value.clone())));
        both
    }

    pub fn get(&self, section: &'static str, key: &'static str) -> Option<&Json> {
        self.0.get(&(section, key)).map(|(value, _)| value)
    }

    pub fn text(&self, section: &'static str, key: &'static str) -> Option<&str> {
        self.get(section, key).and_then(Json::as_str)
    }

    pub fn is(&self, section: &'static str, key: &'static str) -> bool {
        self.get(section, key).and_then(Json::as_bool) == Some(true)
    }
}

impl Shaper<'_> {
    /// One section, which stands behind `key` of a project or a route.
    pub(super) fn rule(&mut self, key: &Key, entry: &Entry, rules: &mut DraftRules) {
        let mut sections = Section::RULES.into_iter();
        let Some((_, section)) = sections.find(|(name, _)| *name == key.name) else {
            return;
        };
        let Some(table) = self.section(key, entry) else {
            return;
        };
        for (own, entry) in self.known(section, table) {
            let Some(value) = self.value(&own, &entry.node) else {
                continue;
            };
            if own.form == Form::Plain(Kind::Path) && value.as_str() == Some("") {
                let (what, hint) = (
                    format!("`{}` is empty", own.name),
                    "write a path, or leave it out",
                );
                self.problems.push(Problem::new(entry.node.at, what, hint));
                continue;
            }
            rules.0.insert((key.name, own.name), (value, entry.node.at));
        }
    }
}
