//! Plain readings of checked values, by name and type, and the noting of errors. Knows no rule about any setting.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{Desk, Fault};
use crate::config::error::{Complaint, ConfigError};
use crate::config::flags;
use crate::config::settings::Account;
use crate::config::written::Origin;

/// Plain readings: the kind of each value was checked when the layers were merged.
impl Desk<'_> {
    pub(super) fn value(&self, name: &str) -> &Value {
        self.merged
            .values
            .get(name)
            .expect("every name read here has a row in the table")
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(name) == &Value::Bool(true)
    }

    /// Text that is there and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).as_str().filter(|text| !text.is_empty())
    }

    pub(super) fn word(&self, name: &str) -> &str {
        self.value(name).as_str().unwrap_or_default()
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        self.value(name).as_u64().unwrap_or(0)
    }

    pub(super) fn number(&self, name: &str) -> u32 {
        u32::try_from(self.count(name)).unwrap_or(u32::MAX)
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        Duration::from_secs_f64(self.value(name).as_f64().unwrap_or(0.0))
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let items = self
            .value(name)
            .as_array()
            .map_or(&[] as &[Value], Vec::as_slice);
        items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let pairs = self.value(name).as_object().into_iter().flatten();
        pairs
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect()
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| self.directory.join(path))
    }

    pub(super) fn account(&self, name: &str) -> Option<Account> {
        match self.value(name) {
            Value::Number(id) => id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .map(Account::Id),
            Value::String(name) => Some(Account::Name(name.clone())),
            _ => None,
        }
    }

    pub(super) fn origin(&self, name: &str) -> Origin {
        self.merged
            .origins
            .get(name)
            .copied()
            .unwrap_or(Origin::Default)
    }

    pub(super) fn seen(&self, name: &str) -> String {
        let row = flags::row(name).expect("every name read here has a row in the table");
        self.written.seen(self.origin(name), row, self.value(name))
    }

    /// Notes an error about the value of `name`.
    pub(super) fn fail(&mut self, name: &str, what: impl Into<String>, hint: impl Into<String>) {
        self.complain(name, Complaint::new(what, hint));
    }

    pub(super) fn complain(&mut self, name: &str, complaint: Complaint) {
        self.faults.push(Fault::Setting(name.to_owned(), complaint));
    }

    /// What to tell the operator of `ostler run`.
    pub(super) fn told(&self, fault: Fault) -> ConfigError {
        match fault {
            Fault::Other(error) => error,
            Fault::Setting(name, complaint) => ConfigError {
                what: format!("{name} {}", complaint.what),
                seen: self.seen(&name),
                hint: complaint.hint,
            },
        }
    }
}
