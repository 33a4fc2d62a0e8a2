//! The section `[acme]`.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::{DraftAcme, Shaper, absolute};
use crate::config::serve::acme::{Acme, Challenge, Eab, KeyKind};
use crate::config::serve::problem::Problem;
use crate::config::serve::read::Table;
use crate::config::serve::schema::Section;
use crate::config::serve::source::At;

impl Shaper<'_> {
    pub(super) fn acme(&mut self, table: &Table, at: At) -> DraftAcme {
        let mut draft = DraftAcme {
            acme: Acme::default(),
            challenge_said: false,
            at,
            files: Vec::new(),
        };
        let acme = &mut draft.acme;
        let mut eab = (None, None);
        for (key, entry) in self.known(Section::Acme, table) {
            let Some(value) = self.value(&key, &entry.node) else {
                continue;
            };
            let value = absolute(&key, value, self.sources.of(entry.node.at));
            let text = value.as_str().map(str::to_owned);
            let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
            match key.name {
                "directory" => acme.directory = text.unwrap_or_default(),
                "email" => acme.email = text,
                "challenge" => {
                    draft.challenge_said = true;
                    acme.challenge = challenge(&value);
                }
                "key" if value == "p384" => acme.key = KeyKind::P384,
                "profile" => acme.profile = text,
                "eab_id" => eab.0 = text,
                "eab_key" => eab.1 = text,
                "resolver" => acme.resolver = text.and_then(|text| text.parse().ok()),
                "http_port" => acme.http_port = port.unwrap_or(acme.http_port),
                "tls_port" => acme.tls_port = port.unwrap_or(acme.tls_port),
                "hook" | "ca_root" => {
                    let path = text.unwrap_or_default();
                    draft.files.push((key.name, path.clone(), entry.node.at));
                    match key.name {
                        "hook" => acme.hook = Some(PathBuf::from(path)),
                        _ => acme.ca_root = Some(PathBuf::from(path)),
                    }
                }
                _ => {}
            }
        }
        match eab {
            (Some(id), Some(key)) => acme.eab = Some(Eab { id, key }),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                let place = ["eab_id", "eab_key"]
                    .into_iter()
                    .find_map(|name| table.get(name));
                let at = place.map_or(at, |entry| entry.key);
                let what = "`eab_id` and `eab_key` belong together";
                self.problems
                    .push(Problem::new(at, what, "set both, as the CA shows them"));
            }
        }
        if acme.challenge == Challenge::Dns01 && acme.hook.is_none() {
            let at = table.get("challenge").map_or(at, |entry| entry.node.at);
            self.problems.push(Problem::new(
                at,
                "the challenge dns-01 needs a program that sets TXT records",
                "add hook = \"./dns-hook\", called as dns-hook present|cleanup NAME VALUE",
            ));
        }
        draft
    }
}

fn challenge(value: &Json) -> Challenge {
    match value.as_str() {
        Some("tls-alpn-01") => Challenge::TlsAlpn01,
        Some("dns-01") => Challenge::Dns01,
        _ => Challenge::Http01,
    }
}
