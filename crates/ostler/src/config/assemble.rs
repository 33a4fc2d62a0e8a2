//! Checked values → `Settings`: what single values cannot show, such as files that are not there and settings that
//! contradict each other. Looks at the file system and the resolver, changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::bind::{self, Bind, FIRST_INHERITED};
use super::error::{Complaint, ConfigError, Warning};
use super::layers::{self, Merged};
use super::network::{self, Trust};
use super::settings::{
    AccessLogFormat, Account, ClientCertificates, EventLoop, HeaderMap, Interface, Lifespan,
    LogLevel, LogTarget, MOST_FIELD_SIZE, MOST_REQUEST_FIELDS, MOST_REQUEST_LINE, Preload,
    Settings, StaticFiles, Tls,
};
use super::worker_class::{self, Mapped, WorkerClass};
use super::written::{Origin, Written};
use super::{dotenv, flags, unknown};

/// Makes the settings of one generation from what was written, what the config file sets (`file`: name → value as
/// JSON) and the names in it that its reader took for no settings (`unknown`).
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn finish(
    written: &Written,
    file: &Map<String, Value>,
    unknown: &[String],
) -> Result<(Settings, Vec<Warning>), Vec<ConfigError>> {
    let mut errors = Vec::new();
    let merged = layers::merge(written, file, &mut errors);
    let mut desk = Desk {
        written,
        merged: &merged,
        directory: PathBuf::new(),
        errors,
        warnings: Vec::new(),
    };
    desk.warnings.extend(unknown::names(written, file, unknown));
    desk.warnings.extend(unknown::moot(&merged));
    desk.directory = desk.chdir();
    let settings = desk.settings();
    if desk.errors.is_empty() {
        Ok((settings, desk.warnings))
    } else {
        Err(desk.errors)
    }
}

/// What one `finish` works on.
struct Desk<'a> {
    written: &'a Written,
    merged: &'a Merged,
    /// Where the app runs: other relative paths start here.
    directory: PathBuf,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl Desk<'_> {
    fn settings(&mut self) -> Settings {
        let mapped = self.worker_class();
        let app = self.app();
        let tls = self.tls();
        let (limit_request_line, limit_request_fields, limit_request_field_size) =
            self.head_limits();
        let (workers, single_process) = self.workers();
        let (memory_soft, memory_hard) = self.memory();
        self.warn_reload();
        Settings {
            interface: self.interface(&mapped),
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
            event_loop: self.event_loop(&mapped),
            binds: self.binds(),
            backlog: self.number("backlog"),
            tls,
            static_files: self.static_files(),
            max_connections_per_address: nonzero(self.number("max_connections_per_address")),
            edge_threads: nonzero(self.number("edge_threads")),
            forwarded_allow_ips: self.trust(),
            secure_scheme_headers: self.pairs("secure_scheme_headers").into_iter().collect(),
            forwarder_headers: self
                .texts("forwarder_headers")
                .iter()
                .map(|name| header_name(name))
                .collect(),
            header_map: self.header_map(),
            workers,
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
            limit_request_line,
            limit_request_fields,
            limit_request_field_size,
            limit_request_body: nonzero(self.count("limit_request_body")),
            keepalive: nonzero(self.duration("keepalive")),
            header_timeout: nonzero(self.duration("header_timeout")),
            body_timeout: nonzero(self.duration("body_timeout")),
            write_timeout: nonzero(self.duration("write_timeout")),
            minimum_rate: nonzero(self.count("minimum_rate")),
            request_buffering: self.flag("request_buffering"),
            response_buffering: self.flag("response_buffering"),
            websocket_max_message_size: nonzero(self.count("websocket_max_message_size")),
            sendfile: self.flag("sendfile"),
            tmp_upload_dir: self.existing_directory("tmp_upload_dir"),
            access_log: self.log_target("accesslog", LogTarget::Off),
            access_log_format: self.access_log_format(),
            error_log: self.log_target("errorlog", LogTarget::Standard),
            log_level: self.log_level(),
            capture_output: self.flag("capture_output"),
            user: self.account("user"),
            group: self.account("group"),
            umask: self.value("umask").as_u64().map(|bits| bits as u32),
            pidfile: self.path("pidfile"),
            daemon: self.flag("daemon"),
            proc_name: self.proc_name(&app),
            reload: self.flag("reload"),
            reload_extra_files: self.reload_extra_files(),
            check_config: self.flag("check_config"),
            print_config: self.flag("print_config"),
            values: self.merged.values.clone(),
            origins: self.merged.origins.clone(),
            app,
        }
    }
}

/// Plain readings: the kind of each value was checked when the layers were merged.
impl Desk<'_> {
    fn value(&self, name: &str) -> &Value {
        self.merged
            .values
            .get(name)
            .expect("every name read here has a row in the table")
    }

    fn flag(&self, name: &str) -> bool {
        self.value(name) == &Value::Bool(true)
    }

    /// Text that is there and not empty.
    fn text(&self, name: &str) -> Option<&str> {
        self.value(name).as_str().filter(|text| !text.is_empty())
    }

    fn word(&self, name: &str) -> &str {
        self.value(name).as_str().unwrap_or_default()
    }

    fn count(&self, name: &str) -> u64 {
        self.value(name).as_u64().unwrap_or(0)
    }

    fn number(&self, name: &str) -> u32 {
        u32::try_from(self.count(name)).unwrap_or(u32::MAX)
    }

    fn duration(&self, name: &str) -> Duration {
        Duration::from_secs_f64(self.value(name).as_f64().unwrap_or(0.0))
    }

    fn texts(&self, name: &str) -> Vec<String> {
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

    fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let pairs = self.value(name).as_object().into_iter().flatten();
        pairs
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| self.directory.join(path))
    }

    fn account(&self, name: &str) -> Option<Account> {
        match self.value(name) {
            Value::Number(id) => id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .map(Account::Id),
            Value::String(name) => Some(Account::Name(name.clone())),
            _ => None,
        }
    }

    fn origin(&self, name: &str) -> Origin {
        self.merged
            .origins
            .get(name)
            .copied()
            .unwrap_or(Origin::Default)
    }

    fn seen(&self, name: &str) -> String {
        let row = flags::row(name).expect("every name read here has a row in the table");
        self.written.seen(self.origin(name), row, self.value(name))
    }

    /// Notes an error about the value of `name`.
    fn fail(&mut self, name: &str, what: impl Into<String>, hint: impl Into<String>) {
        let error = ConfigError {
            what: format!("{name} {}", what.into()),
            seen: self.seen(name),
            hint: hint.into(),
        };
        self.errors.push(error);
    }

    fn complain(&mut self, name: &str, complaint: Complaint) {
        self.fail(name, complaint.what, complaint.hint);
    }
}

/// The app and how it runs.
impl Desk<'_> {
    fn chdir(&mut self) -> PathBuf {
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

    fn app(&mut self) -> String {
        let Some(app) = self
            .written
            .app
            .clone()
            .or_else(|| self.text("wsgi_app").map(str::to_owned))
        else {
            self.errors.push(ConfigError {
                what: "no app is named".to_owned(),
                seen: format!(
                    "neither an argument nor wsgi_app in {}",
                    self.written.config_name()
                ),
                hint: "ostler run module:callable, as in: ostler run app:app".to_owned(),
            });
            return String::new();
        };
        let module = app.split(':').next().unwrap_or_default();
        if module.is_empty() || module.contains('/') || module.ends_with(".py") {
            let stem = module
                .trim_end_matches(".py")
                .trim_start_matches("./")
                .replace('/', ".");
            let stem = if stem.is_empty() {
                "app".to_owned()
            } else {
                stem
            };
            self.errors.push(ConfigError {
                what: "the app is no module:callable".to_owned(),
                seen: format!("`{app}`"),
                hint: format!("give the module as Python imports it, as in {stem}:app (with --chdir for another directory)"),
            });
        }
        let factory = [&self.written.arguments, &self.written.command_line]
            .iter()
            .any(|layer| layer.get("factory") == Some(&Value::Bool(true)));
        match (factory, app.ends_with(')'), app.contains(':')) {
            (true, false, true) => format!("{app}()"),
            _ => app,
        }
    }

    fn worker_class(&mut self) -> Mapped {
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
            self.errors.push(ConfigError {
                what: "raw_env needs KEY=VALUE".to_owned(),
                seen: format!("an entry that begins with `{key}`"),
                hint: "write --env KEY=VALUE, in Python raw_env = [\"KEY=VALUE\"]".to_owned(),
            });
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

    fn workers(&mut self) -> (u32, bool) {
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

/// What is listened on, and who is believed.
impl Desk<'_> {
    fn binds(&mut self) -> Vec<Bind> {
        if self.written.inherited > 0 {
            // As gunicorn: sockets handed over by systemd are all there is.
            return (0..self.written.inherited)
                .map(|n| Bind::Fd(FIRST_INHERITED + i32::from(n)))
                .collect();
        }
        let mut binds = Vec::new();
        for text in self.texts("bind") {
            let address = bind::parse(&text).expect("checked when the layers were merged");
            match address.resolve(&self.directory) {
                Ok(bind) => binds.push(bind),
                Err(complaint) => self.complain("bind", complaint),
            }
        }
        binds
    }

    fn trust(&self) -> Trust {
        let items = self.texts("forwarded_allow_ips");
        if items.iter().any(|item| item == "*") {
            return Trust::Everyone;
        }
        let networks = items
            .iter()
            .map(|item| network::parse(item).expect("checked when the layers were merged"));
        Trust::Networks(networks.collect())
    }

    fn header_map(&mut self) -> HeaderMap {
        match self.word("header_map") {
            "dangerous" => {
                self.fail(
                    "header_map",
                    "cannot be dangerous: a header X_Y would pass for the X-Y of a trusted proxy",
                    "use drop, and let clients send the header with - instead of _",
                );
                HeaderMap::Drop
            }
            "refuse" => HeaderMap::Refuse,
            _ => HeaderMap::Drop,
        }
    }

    fn tls(&mut self) -> Option<Tls> {
        let certfile = self.existing_file("certfile");
        let keyfile = self.existing_file("keyfile");
        let authorities = self.existing_file("ca_certs");
        let level = self.count("cert_reqs");
        let Some(certfile) = certfile else {
            for name in ["keyfile", "ca_certs"] {
                if self.text(name).is_some() && self.text("certfile").is_none() {
                    self.fail(
                        name,
                        "is set without a certfile",
                        "add --certfile FILE, or leave it out",
                    );
                }
            }
            return None;
        };
        let clients = match (level, authorities) {
            (1, Some(file)) => ClientCertificates::Optional(file),
            (2, Some(file)) => ClientCertificates::Required(file),
            (0, _) => ClientCertificates::NotAsked,
            (_, None) => {
                if self.text("ca_certs").is_none() {
                    self.fail(
                        "cert_reqs",
                        "asks for client certificates without ca_certs",
                        "add --ca-certs FILE",
                    );
                }
                ClientCertificates::NotAsked
            }
            (3.., Some(_)) => unreachable!("cert_reqs is at most 2"),
        };
        Some(Tls {
            keyfile: keyfile.unwrap_or_else(|| certfile.clone()),
            certfile,
            clients,
        })
    }

    fn existing_file(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        if !path.is_file() {
            self.fail(
                name,
                format!("names no file ({})", path.display()),
                "correct the path, or create the file",
            );
        }
        Some(path)
    }

    fn existing_directory(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        if !path.is_dir() {
            self.fail(
                name,
                format!("names no directory ({})", path.display()),
                "correct the path, or create it",
            );
        }
        Some(path)
    }

    fn static_files(&mut self) -> Vec<StaticFiles> {
        let mut all: Vec<StaticFiles> = Vec::new();
        for (prefix, directory) in self.pairs("static_files") {
            let trimmed = prefix.trim_end_matches('/');
            let trimmed = if trimmed.is_empty() { "/" } else { trimmed };
            let directory = self.directory.join(&directory);
            if !prefix.starts_with('/') || prefix.contains("//") || prefix.contains(['?', '#', '%'])
            {
                let what = format!("has a prefix that is no path (\"{prefix}\")");
                self.fail("static_files", what, "write --static /static=./static");
            } else if all.iter().any(|other| other.prefix == trimmed) {
                self.fail(
                    "static_files",
                    format!("names \"{trimmed}\" twice"),
                    "keep one of the two",
                );
            } else if !directory.is_dir() {
                let what = format!("names no directory ({})", directory.display());
                self.fail("static_files", what, "correct the path, or create it");
            } else {
                all.push(StaticFiles {
                    prefix: trimmed.to_owned(),
                    directory,
                });
            }
        }
        all
    }
}

/// Limits and logs.
impl Desk<'_> {
    fn head_limits(&mut self) -> (u32, u32, u32) {
        (
            self.clamped("limit_request_line", MOST_REQUEST_LINE),
            self.clamped("limit_request_fields", MOST_REQUEST_FIELDS),
            self.clamped("limit_request_field_size", MOST_FIELD_SIZE),
        )
    }

    /// 0 is gunicorn's "no limit"; here there always is one.
    fn clamped(&mut self, name: &str, most: u32) -> u32 {
        match self.number(name) {
            0 => most,
            asked if asked > most => {
                self.warnings.push(Warning(format!(
                    "{name} is lowered from {asked} to {most}, the most there is"
                )));
                most
            }
            asked => asked,
        }
    }

    fn log_target(&self, name: &str, without: LogTarget) -> LogTarget {
        match self.text(name) {
            None => without,
            Some("-") => LogTarget::Standard,
            Some(path) => LogTarget::File(self.directory.join(path)),
        }
    }

    fn access_log_format(&self) -> AccessLogFormat {
        match self.word("access_log_format") {
            "json" => AccessLogFormat::Json,
            atoms => AccessLogFormat::Atoms(atoms.to_owned()),
        }
    }

    fn log_level(&self) -> LogLevel {
        let levels = [
            ("debug", LogLevel::Debug),
            ("warning", LogLevel::Warning),
            ("error", LogLevel::Error),
            ("critical", LogLevel::Critical),
        ];
        pick(self.word("loglevel"), &levels, LogLevel::Info)
    }
}

/// The meaning of a word; `otherwise` for those that are not listed.
fn pick<T: Copy>(word: &str, meanings: &[(&str, T)], otherwise: T) -> T {
    meanings
        .iter()
        .find(|(known, _)| *known == word)
        .map_or(otherwise, |(_, meaning)| *meaning)
}

/// 0 is "off" or "no limit".
fn nonzero<T: Default + PartialEq>(number: T) -> Option<T> {
    (number != T::default()).then_some(number)
}

/// As gunicorn compares them: `Script-Name` and `SCRIPT_NAME` are one.
fn header_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}
