//! A [`Draft`] → [`Serve`]: what only the file system and the resolver can tell. Changes nothing.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::problem::Problem;
use super::schema::Section;
use super::shape::{Draft, DraftAcme, DraftProject};
use super::source::{At, Sources, clean};
use super::{Acme, Challenge, Clients, DRAIN, Host, Pair, Project, Route, Rules, Serve};
use crate::config::assemble;
use crate::config::bind::{self, Bind};
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
    let admin = finisher.admin(&draft);
    let keep_requests = kept_requests(draft.keep_requests, draft.keep_requests_size);
    let machine = finisher.machine(&draft, warnings);
    let Draft {
        trusted_hops,
        drain,
        state,
        default_host,
        acme,
        projects,
        ..
    } = draft;
    let projects = projects
        .into_iter()
        .filter_map(|project| Some((project.hosts.clone(), finisher.project(project)?)))
        .collect::<Vec<_>>();
    let acme = finisher.acme(acme, machine.as_ref()?, &projects, warnings);
    Some(Serve {
        machine: machine?,
        trusted_hops,
        state: folder_of_state(state),
        admin,
        keep_requests,
        drain: drain.unwrap_or(DRAIN),
        default_host,
        acme,
        projects: projects.into_iter().map(|(_, project)| project).collect(),
    })
}

/// The hosts of a project, and where each is written.
type DraftHosts = Vec<(Host, At)>;

/// Seconds and bytes of the request log.
pub fn kept_requests(age: Option<u64>, size: Option<u64>) -> (u64, u64) {
    let preset = |name| match Section::Server.key(name).map(|key| key.preset) {
        Some(Preset::Int(number)) => number.cast_unsigned(),
        _ => 0,
    };
    let age = age.unwrap_or_else(|| preset("keep_requests"));
    (age, size.unwrap_or_else(|| preset("keep_requests_size")))
}

/// The state folder, which nobody has to name.
pub fn folder_of_state(named: Option<String>) -> PathBuf {
    let preset = || match Section::Server.key("state")?.preset {
        Preset::Word(word) => Some(word.to_owned()),
        _ => None,
    };
    named.or_else(preset).map(PathBuf::from).unwrap_or_default()
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

    /// The addresses where metrics are read, their names looked up.
    fn admin(&mut self, draft: &Draft) -> Vec<Bind> {
        let mut binds = Vec::new();
        for text in &draft.admin {
            let folder = &self.sources.file(0).folder;
            match bind::parse(text).and_then(|address| address.resolve(folder)) {
                Ok(bind) => binds.push(bind),
                Err(complaint) => {
                    let at = draft.places.get("admin");
                    let problem = at.map(|at| Problem::of("admin", *at, complaint));
                    self.problems.extend(problem);
                }
            }
        }
        binds
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
        let has_app = draft.has_app();
        let source = match &draft.source {
            Some((text, at)) => self.sources.path(*at, Path::new(text)).1,
            // Where all goes to upstreams, paths start at the file.
            None if !has_app => self.sources.of(draft.at).folder.clone(),
            None => return None,
        };
        if let (false, Some((_, at))) = (source.is_dir(), &draft.source) {
            let complaint = Complaint::new(
                format!("names no directory ({})", source.display()),
                "correct the path, or create it",
            );
            self.problems.push(Problem::of("source", *at, complaint));
            return None;
        }
        match has_app {
            true => self.app(&draft, &source),
            false if draft.app_named => {
                let what = format!(
                    "project `{}` has an app, and all of it goes to upstreams",
                    draft.name
                );
                let hint = "give the upstreams to a route, as [[projects.NAME.routes]] with prefix = \"/api\"";
                self.problems.push(Problem::new(draft.at, what, hint));
            }
            false => {}
        }
        self.canonical_host(&draft);
        self.paths(&draft, &source);
        let pair = self.pair(&draft);
        let clients = self.clients(&draft);
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
            has_app,
            source,
            hosts: draft.hosts.into_iter().map(|(host, _)| host).collect(),
            https_optional: draft.https_optional,
            canonical_host: draft.canonical_host.map(|(name, _)| name),
            hsts: draft.hsts,
            pair,
            clients,
            routes,
            web: draft.web,
            statics,
        })
    }

    /// The project's own certificate.
    fn pair(&mut self, draft: &DraftProject) -> Option<Pair> {
        let mut file = |name: &str, file: &Option<(String, At)>| {
            let (path, at) = file.as_ref()?;
            let path = PathBuf::from(path);
            self.there(name, *at, &path, Path::is_file, "file");
            Some(path)
        };
        let keyfile = file("keyfile", &draft.keyfile);
        let certfile = file("certfile", &draft.certfile)?;
        Some(Pair {
            keyfile: keyfile.unwrap_or_else(|| certfile.clone()),
            certfile,
            certificate: String::new(),
            key: String::new(),
        })
    }

    /// Which certificates its clients show.
    fn clients(&mut self, draft: &DraftProject) -> Option<Clients> {
        let (path, at) = draft.client_ca.as_ref()?;
        self.there("client_ca", *at, Path::new(path), Path::is_file, "file");
        if draft.https_optional {
            let what = "`client_ca` is set and requests without TLS are answered";
            self.problems
                .push(Problem::new(*at, what, "leave out https = \"optional\""));
        }
        Some(Clients {
            ca: path.into(),
            authorities: String::new(),
            required: !draft.clients_optional,
        })
    }

    /// Who certificates are had from, when some host needs one.
    fn acme(
        &mut self,
        draft: Option<DraftAcme>,
        machine: &Settings,
        projects: &[(DraftHosts, Project)],
        warnings: &mut Vec<Warning>,
    ) -> Option<Acme> {
        let said = draft.as_ref().map(|draft| draft.at);
        let mut acme = draft
            .as_ref()
            .map(|draft| draft.acme.clone())
            .unwrap_or_default();
        for (name, path, at) in draft.iter().flat_map(|draft| &draft.files) {
            self.there(name, *at, Path::new(path), Path::is_file, "file");
        }
        let listening = &machine.listening;
        if let (Some(at), true) = (said, listening.tls_binds.is_empty()) {
            let what = "[acme] is there and nothing listens for HTTPS";
            self.problems
                .push(Problem::new(at, what, "add listen_tls = [\"0.0.0.0:443\"]"));
        }
        if listening.tls_binds.is_empty() || listening.tls.is_some() {
            return None;
        }
        if !draft.is_some_and(|draft| draft.challenge_said) {
            acme.challenge = usual_challenge(&acme, machine);
        }
        let mut needed = false;
        let without = projects
            .iter()
            .filter(|(_, project)| project.pair.is_none());
        for (host, at, project) in without
            .flat_map(|(hosts, project)| hosts.iter().map(move |(host, at)| (host, *at, project)))
        {
            match (host, host.certificate_name()) {
                (Host::Below(_), Some(name)) if acme.challenge != Challenge::Dns01 => {
                    let what = format!("no certificate can be had for `{name}`: a CA proves wildcards through DNS only");
                    let hint = format!("set challenge = \"dns-01\" and hook in [acme], or certfile in [projects.{}]", project.name);
                    self.problems.push(Problem::new(at, what, hint));
                }
                (_, Some(_)) => needed = true,
                (Host::Any, None) => warnings.push(Warning(format!(
                    "no certificate can be had for any host (`*` of project `{}`): other hosts than those named are not served over HTTPS; hint: name them, or set certfile",
                    project.name
                ))),
                (_, None) => warnings.push(Warning(format!(
                    "no CA certifies `{host}` (project `{}`): it gets a certificate that nobody trusts",
                    project.name
                ))),
            }
        }
        needed.then_some(acme)
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
                "perf_dir" => self.inside(name, *at, path),
                // Python says by itself which module it does not find.
                _ => {}
            }
        }
    }

    /// `path`, which need not be there, leads nowhere else when a repository names it.
    fn inside(&mut self, name: &str, at: At, path: &str) {
        let out = |part: Component<'_>| !matches!(part, Component::Normal(_) | Component::CurDir);
        if self.sources.of(at).checkout.is_some() && Path::new(path).components().any(out) {
            let complaint = Complaint::new(
                "leads out of the checkout",
                "name a folder in the repository, or set the key in the machine's file",
            );
            self.problems.push(Problem::of(name, at, complaint));
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

/// A file over HTTP where the CA comes to one of our addresses, else a handshake.
fn usual_challenge(acme: &Acme, machine: &Settings) -> Challenge {
    let on = |binds: &[Bind], wanted: u16| {
        let mut ports = binds.iter().filter_map(Bind::port);
        ports.any(|port| port == wanted)
    };
    let listening = &machine.listening;
    let over_tls = on(&listening.tls_binds, acme.tls_port) && !on(&listening.binds, acme.http_port);
    if over_tls {
        Challenge::TlsAlpn01
    } else {
        Challenge::Http01
    }
}
