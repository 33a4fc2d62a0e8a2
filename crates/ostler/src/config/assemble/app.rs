//! The app and how it runs: module and callable, workers, environment, reload.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Desk, Fault, nonzero, pick};
use crate::config::dotenv;
use crate::config::error::{Complaint, ConfigError, Warning};
use crate::config::settings::{
    App, EventLoop, Interface, Lifespan, Perf, Preload, Process, Workers,
};
use crate::config::worker_class::{self, Mapped, WorkerClass};

/// The app and how it runs.
impl Desk<'_> {
    pub(super) fn app(&mut self, class: &Mapped) -> App {
        App {
            name: self.name(),
            interface: self.interface(class),
            python: self.written.python.clone(),
            chdir: self.directory.clone(),
            pythonpath: self
                .texts("pythonpath")
                .iter()
                .map(|path| self.directory.join(path))
                .collect(),
            env: self.env(),
            root_path: self.root_path(),
            preload: pick(
                self.word("preload_app"),
                &[("on", Preload::On), ("off", Preload::Off)],
                Preload::Auto,
            ),
            lifespan: pick(
                self.word("asgi_lifespan"),
                &[("on", Lifespan::On), ("off", Lifespan::Off)],
                Lifespan::Auto,
            ),
            event_loop: self.event_loop(class),
            perf: self.perf(),
        }
    }

    fn perf(&self) -> Option<Perf> {
        self.flag("perf").then(|| Perf {
            folder: self.directory.join(self.word("perf_dir")),
            keep: self.count("perf_keep"),
            size: self.count("perf_size"),
        })
    }

    /// What stands in the place of an app where there is none.
    pub(super) fn no_app(&self) -> App {
        App {
            name: String::new(),
            interface: Interface::Auto,
            python: PathBuf::new(),
            chdir: self.directory.clone(),
            pythonpath: Vec::new(),
            env: Vec::new(),
            root_path: String::new(),
            preload: Preload::Auto,
            lifespan: Lifespan::Auto,
            event_loop: EventLoop::Auto,
            perf: None,
        }
    }

    pub(super) fn workers(&mut self, mapped: &Mapped) -> Workers {
        let (count, single_process) = self.worker_count();
        let (memory_soft, memory_hard) = self.memory();
        Workers {
            count,
            threads: self.number("threads"),
            worker_class: mapped.class,
            worker_connections: self.number("worker_connections"),
            websocket_threads: self.number("websocket_threads"),
            single_process,
            timeout: nonzero(self.duration("timeout")),
            graceful_timeout: self.duration("graceful_timeout"),
            max_requests: nonzero(self.count("max_requests")),
            max_requests_jitter: self.count("max_requests_jitter"),
            memory_soft,
            memory_hard,
            line_length: self.number("line_length"),
            line_timeout: self.duration("line_timeout"),
        }
    }

    pub(super) fn process(&mut self, app: &App) -> Process {
        self.warn_reload();
        Process {
            user: self.account("user"),
            group: self.account("group"),
            umask: self.value("umask").as_u64().map(|bits| bits as u32),
            pidfile: self.path("pidfile"),
            daemon: self.flag("daemon"),
            proc_name: self.proc_name(&app.name),
            reload: self.flag("reload"),
            reload_extra_files: self.reload_extra_files(),
            check_config: self.flag("check_config"),
            print_config: self.flag("print_config"),
        }
    }

    pub(super) fn chdir(&mut self) -> PathBuf {
        let start = self.written.directory.clone();
        let Some(path) = self.text("chdir") else {
            return start;
        };
        let path = start.join(path);
        if !path.is_dir() {
            self.fail(
                "chdir",
                "names no directory",
                "create it, or correct the path",
            );
        }
        path
    }

    fn name(&mut self) -> String {
        let Some(app) = self
            .written
            .app
            .clone()
            .or_else(|| self.text("wsgi_app").map(str::to_owned))
        else {
            self.faults.push(Fault::Other(ConfigError {
                what: "no app is named".to_owned(),
                seen: format!(
                    "neither an argument nor wsgi_app in {}",
                    self.written.config_name()
                ),
                hint: "ostler run module:callable, as in: ostler run app:app".to_owned(),
            }));
            return String::new();
        };
        if let Err(complaint) = callable(&app) {
            self.faults.push(Fault::Other(ConfigError {
                what: format!("the app {}", complaint.what),
                seen: format!("`{app}`"),
                hint: complaint.hint,
            }));
        }
        let factory = [&self.written.arguments, &self.written.command_line]
            .iter()
            .any(|layer| layer.get("factory") == Some(&Value::Bool(true)));
        if factory && !app.contains(':') {
            self.faults.push(Fault::Other(ConfigError {
                what: "--factory needs the name of the callable".to_owned(),
                seen: format!("`{app}`"),
                hint: format!("write {app}:create_app"),
            }));
        }
        if factory && !app.ends_with(')') {
            return format!("{app}()");
        }
        app
    }

    pub(super) fn worker_class(&mut self) -> Mapped {
        let name = self.word("worker_class");
        let mapped = worker_class::map(name).expect("checked when the layers were merged");
        if mapped.derived {
            let text = format!(
                "worker_class {name}: what this class sets for uvicorn is not read; say it as settings"
            );
            self.warnings.push(Warning(text));
        }
        match mapped.class {
            // gunicorn does the same: sync with threads is gthread.
            WorkerClass::Sync if self.number("threads") > 1 => Mapped {
                class: WorkerClass::Gthread,
                ..mapped
            },
            _ => mapped,
        }
    }

    fn interface(&mut self, mapped: &Mapped) -> Interface {
        match (self.word("app_interface"), mapped.class) {
            ("wsgi", WorkerClass::Asgi) => {
                let class = self.seen("worker_class");
                let hint = format!("leave out one of the two: {class} is for ASGI apps");
                self.fail("app_interface", "contradicts worker_class", hint);
                Interface::Wsgi
            }
            ("wsgi", _) => Interface::Wsgi,
            ("asgi", _) | (_, WorkerClass::Asgi) => Interface::Asgi,
            _ => Interface::Auto,
        }
    }

    fn event_loop(&self, mapped: &Mapped) -> EventLoop {
        let asked = self.word("asgi_loop");
        let asked = if asked == "auto" {
            mapped.event_loop.unwrap_or("auto")
        } else {
            asked
        };
        pick(
            asked,
            &[
                ("asyncio", EventLoop::Asyncio),
                ("uvloop", EventLoop::Uvloop),
            ],
            EventLoop::Auto,
        )
    }

    fn env(&mut self) -> Vec<(String, String)> {
        let taken = &self.written.set;
        let from_file = self
            .written
            .env_file
            .iter()
            .filter(|(key, _)| !taken.contains(key));
        let mut env: Vec<(String, String)> = from_file.cloned().collect();
        let mut bad = Vec::new();
        for entry in self.texts("raw_env") {
            match entry
                .split_once('=')
                .filter(|(key, _)| dotenv::is_name(key))
            {
                Some((key, value)) => env.push((key.to_owned(), value.to_owned())),
                // The value may be a secret, even in an entry that is wrong.
                None => bad.push(entry.split('=').next().unwrap_or_default().to_owned()),
            }
        }
        for key in bad {
            self.faults.push(Fault::Other(ConfigError {
                what: "raw_env needs KEY=VALUE".to_owned(),
                seen: format!("an entry that begins with `{key}`"),
                hint: "write --env KEY=VALUE, in Python raw_env = [\"KEY=VALUE\"]".to_owned(),
            }));
        }
        env
    }

    fn root_path(&mut self) -> String {
        let path = self.word("root_path").trim_end_matches('/').to_owned();
        if !path.is_empty() && !path.starts_with('/') {
            self.fail(
                "root_path",
                "does not begin with \"/\"",
                format!("write /{path}"),
            );
        }
        path
    }

    fn worker_count(&mut self) -> (u32, bool) {
        let (workers, single) = (self.number("workers"), self.flag("single_process"));
        if single && workers > 1 {
            self.fail(
                "workers",
                "is above one, and --single-process allows one",
                "use --threads N for more requests at once, or leave out --single-process",
            );
        }
        (workers, single)
    }

    fn memory(&mut self) -> (Option<u64>, Option<u64>) {
        let (soft, hard) = (
            nonzero(self.count("memory_soft")),
            nonzero(self.count("memory_hard")),
        );
        if let (Some(soft), Some(hard)) = (soft, hard)
            && soft > hard
        {
            let hint = format!("choose memory_soft below {hard} bytes, or raise memory_hard");
            self.fail("memory_soft", "is above memory_hard", hint);
        }
        (soft, hard)
    }

    fn proc_name(&self, app: &str) -> String {
        let name = self
            .text("proc_name")
            .or_else(|| self.text("default_proc_name"));
        name.unwrap_or(app).to_owned()
    }

    fn warn_reload(&mut self) {
        if self.flag("reload") {
            self.warnings.push(Warning(
                "--reload is for development only: it watches files and restarts workers"
                    .to_owned(),
            ));
        }
    }

    fn reload_extra_files(&mut self) -> Vec<String> {
        let files: Vec<PathBuf> = self
            .texts("reload_extra_files")
            .iter()
            .map(|file| self.directory.join(file))
            .collect();
        let missing = files
            .iter()
            .find(|file| !is_pattern(file) && !file.exists())
            .cloned();
        if let Some(file) = missing {
            let what = format!("names a file that is not there ({})", file.display());
            self.fail(
                "reload_extra_files",
                what,
                "correct the path, or take it out",
            );
        }
        files
            .into_iter()
            .map(|file| file.to_string_lossy().into_owned())
            .collect()
    }
}

/// Whether `app` has the form `module:callable`, `module:factory()` or `module`.
///
/// # Errors
/// What is wrong with it.
pub fn callable(app: &str) -> Result<(), Complaint> {
    let module = app.split(':').next().unwrap_or_default();
    if app.ends_with(':') {
        return Err(Complaint::new(
            "has no name behind the \":\"",
            format!("write {app}app, or {module} alone for its `application`"),
        ));
    }
    if !module.is_empty() && !module.contains('/') && !module.ends_with(".py") {
        return Ok(());
    }
    let stem = module
        .trim_end_matches(".py")
        .trim_start_matches("./")
        .replace('/', ".");
    let stem = if stem.is_empty() { "app" } else { &stem };
    Err(Complaint::new(
        "is no module:callable",
        format!(
            "give the module as Python imports it, as in {stem}:app (with chdir for another directory)"
        ),
    ))
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}
