//! A [`Draft`] → [`Serve`]: what only the file system and the resolver can tell. Changes nothing.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::problem::Problem;
use super::schema::Section;
use super::shape::{Draft, DraftProject};
use super::source::{At, Sources, clean};
use super::{Project, Route, Rules, Serve};
use crate::config::assemble;
use crate::config::error::{Complaint, Warning};
use crate::config::settings::{CONFIG_FILE, Settings, StaticFiles};
use crate::config::table::Preset;

/// Completes `draft`. What is wrong is put into `problems`.
///
/// # Errors
/// `None` when the part of the machine cannot be made.
pub fn finish(
    draft: Draft,
    sources: &Sources,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Option<Serve> {
    let mut finisher = Finisher { sources, problems };
    finisher.default_host(&draft);
    let machine = finisher.machine(&draft, warnings);
    let Draft {
        trusted_hops,
        state,
        default_host,
        projects,
        ..
    } = draft;
    let projects = projects
        .into_iter()
        .filter_map(|project| finisher.project(project))
        .collect();
    let state = state.or_else(|| match Section::Server.key("state")?.preset {
        Preset::Word(word) => Some(word.to_owned()),
        _ => None,
    });
    Some(Serve {
        machine: machine?,
        trusted_hops,
        state: state.map(PathBuf::from).unwrap_or_default(),
        default_host,
        projects,
    })
}

struct Finisher<'a> {
    sources: &'a Sources,
    problems: &'a mut Vec<Problem>,
}

impl Finisher<'_> {
    fn machine(&mut self, draft: &Draft, warnings: &mut Vec<Warning>) -> Option<Settings> {
        let mut given = draft.server.clone();
        // Who names an address for HTTPS alone wants no other.
        if !draft.listen_tls.is_empty() && !given.contains_key("bind") {
            given.insert("bind".to_owned(), Vec::<String>::new().into());
        }
        match assemble::machine(
            &given,
            &draft.listen_tls,
            &self.sources.file(0).folder,
            warnings,
        ) {
            Ok(settings) => Some(settings),
            Err(complaints) => {
                for (setting, complaint) in complaints {
                    let named = |key: &super::schema::Key| {
                        key.setting.is_some_and(|row| row.name == setting)
                    };
                    let name = Section::Server
                        .keys()
                        .find(named)
                        .map_or("listen_tls", |key| key.name);
                    let problem = match draft.places.get(name) {
                        Some(at) => Problem::of(name, *at, complaint),
                        None => {
                            Problem::nowhere(format!("`{name}` {}", complaint.what), complaint.hint)
                        }
                    };
                    self.problems.push(problem);
                }
                None
            }
        }
    }

    fn default_host(&mut self, draft: &Draft) {
        let (Some(name), Some(at)) = (&draft.default_host, draft.places.get("default_host")) else {
            return;
        };
        let host = super::Host::Name(name.clone());
        let mut hosts = draft.projects.iter().flat_map(|project| &project.hosts);
        if !hosts.any(|(other, _)| other.covers(&host)) {
            let complaint = Complaint::new(
                "names a host of no project",
                "write one of the hosts of a project",
            );
            self.problems
                .push(Problem::of("default_host", *at, complaint));
        }
    }

    fn project(&mut self, draft: DraftProject) -> Option<Project> {
        let (text, at) = draft.source.as_ref()?;
        let (_, source) = self.sources.path(*at, Path::new(text));
        if !source.is_dir() {
            let complaint = Complaint::new(
                format!("names no directory ({})", source.display()),
                "correct the path, or create it",
            );
            self.problems.push(Problem::of("source", *at, complaint));
            return None;
        }
        self.app(&draft, &source);
        self.canonical_host(&draft);
        self.paths(&draft, &source);
        let mut statics = Vec::new();
        for (prefix, folder, at) in &draft.statics {
            let directory = clean(&source.join(folder));
            self.there(prefix, *at, &directory, Path::is_dir, "directory");
            statics.push(StaticFiles {
                prefix: prefix.clone(),
                directory,
            });
        }
        let named = draft.routes.iter().flat_map(|route| &route.rules.files);
        for (name, path, at) in draft.rules.files.iter().chain(named) {
            self.there(name, *at, &clean(&source.join(path)), Path::is_file, "file");
        }
        let mut routes: Vec<Route> = draft
            .routes
            .into_iter()
            .map(|route| Route {
                prefix: route.prefix,
                strip: route.strip,
                hosts: route.hosts.into_iter().map(|(host, _)| host).collect(),
                rules: Rules::of(&route.rules.over(&draft.rules), &source),
            })
            .collect();
        if routes.is_empty() {
            routes.push(Route {
                prefix: "/".to_owned(),
                strip: true,
                hosts: Vec::new(),
                rules: Rules::of(&draft.rules, &source),
            });
        }
        Some(Project {
            name: draft.name,
            source,
            hosts: draft.hosts.into_iter().map(|(host, _)| host).collect(),
            https_optional: draft.https_optional,
            canonical_host: draft.canonical_host.map(|(name, _)| name),
            hsts: draft.hsts,
            routes,
            web: draft.web,
            statics,
        })
    }

    fn canonical_host(&mut self, draft: &DraftProject) {
        if let Some((name, at)) = &draft.canonical_host {
            let host = super::Host::Name(name.clone());
            if !draft.hosts.iter().any(|(own, _)| own.covers(&host)) {
                let complaint = Complaint::new("names a host of nobody here", "add it to `hosts`");
                self.problems
                    .push(Problem::of("canonical_host", *at, complaint));
            }
        }
    }

    /// An app is named, or gunicorn's config may name it.
    fn app(&mut self, draft: &DraftProject, source: &Path) {
        if !draft.app_named && !source.join(CONFIG_FILE).is_file() {
            let what = format!("project `{}` names no app", draft.name);
            let hint = format!(
                "add [projects.{}.web] with app = \"module:callable\"",
                draft.name
            );
            self.problems.push(Problem::new(draft.at, what, hint));
        }
    }

    /// The files and folders that `web` names.
    fn paths(&mut self, draft: &DraftProject, source: &Path) {
        let chdir = draft.web.get("chdir").and_then(Value::as_str);
        let chdir = source.join(chdir.unwrap_or(""));
        for (name, path, at) in &draft.paths {
            match *name {
                "chdir" => self.there(name, *at, &source.join(path), Path::is_dir, "directory"),
                "env_file" | "config" => {
                    self.there(name, *at, &source.join(path), Path::is_file, "file")
                }
                "sendfile_root" | "internal_files" => {
                    self.there(name, *at, &chdir.join(path), Path::is_dir, "directory");
                }
                // Python says by itself which module it does not find.
                _ => {}
            }
        }
    }

    /// `path` is there, and within the checkout when a repository names it.
    fn there(&mut self, name: &str, at: At, path: &Path, is: fn(&Path) -> bool, what: &str) {
        let real = path.canonicalize();
        let checkout = &self.sources.of(at).checkout;
        let complaint = match (real, checkout) {
            (Ok(real), Some(checkout)) if !real.starts_with(checkout) => Complaint::new(
                format!("leads out of the checkout (to {})", real.display()),
                "keep the files in the repository, or set the key in the machine's file",
            ),
            _ if is(path) => return,
            _ => Complaint::new(
                format!("names no {what} ({})", path.display()),
                "correct the path, or create it",
            ),
        };
        self.problems.push(Problem::of(name, at, complaint));
    }
}
