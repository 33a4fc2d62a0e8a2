//! Checked values → `Settings`: what single values cannot show, such as files that are not there and settings that
//! contradict each other. Looks at the file system and the resolver, changes nothing.

mod app;
mod listening;
mod readings;

pub use app::callable;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{Complaint, ConfigError, Warning};
use super::layers::{self, Merged};
use super::settings::{
    AccessLogFormat, App, Http, LogLevel, LogTarget, Logs, MOST_FIELD_SIZE, MOST_REQUEST_FIELDS,
    MOST_REQUEST_LINE, Settings,
};
use super::table::Setting;
use super::unknown;
use super::worker_class::Mapped;
use super::written::{Layer, Written};
use super::{flags, value};

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
        faults: errors.into_iter().map(Fault::Other).collect(),
        warnings: Vec::new(),
    };
    desk.warnings.extend(unknown::names(written, file, unknown));
    desk.warnings.extend(unknown::moot(&merged));
    desk.directory = desk.chdir();
    let class = desk.worker_class();
    let app = desk.app(&class);
    let settings = desk.settings(&class, app);
    if desk.faults.is_empty() {
        return Ok((settings, desk.warnings));
    }
    let faults = std::mem::take(&mut desk.faults);
    Err(faults.into_iter().map(|fault| desk.told(fault)).collect())
}

/// Makes the settings that a machine has without any app: what is listened on, limits of connections, logs, process.
/// The rest of them means nothing. `given` is by setting name and in checked form, `tls` are addresses as they are
/// written, paths start at `directory`.
///
/// # Errors
/// Everything that is wrong, by setting; addresses of `tls` as `listen_tls`.
pub fn machine(
    given: &Layer,
    tls: &[String],
    directory: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Settings, Vec<(String, Complaint)>> {
    let value = |row: &'static Setting| match given.get(row.name) {
        Some(value) => (row.name.to_owned(), value.clone()),
        None => (row.name.to_owned(), value::preset(row.preset)),
    };
    let merged = Merged {
        values: flags::rows().map(value).collect(),
        ..Merged::default()
    };
    let written = Written::default();
    let mut desk = Desk {
        written: &written,
        merged: &merged,
        directory: directory.to_owned(),
        faults: Vec::new(),
        warnings: Vec::new(),
    };
    let class = desk.worker_class();
    let app = desk.no_app();
    let mut settings = desk.settings(&class, app);
    settings.listening.tls_binds = desk.resolved("listen_tls", tls);
    let complaint = |fault| match fault {
        Fault::Setting(name, complaint) => Some((name, complaint)),
        Fault::Other(_) => None,
    };
    warnings.extend(desk.warnings);
    let complaints: Vec<_> = desk.faults.into_iter().filter_map(complaint).collect();
    if complaints.is_empty() {
        Ok(settings)
    } else {
        Err(complaints)
    }
}

/// What one `finish` works on.
struct Desk<'a> {
    written: &'a Written,
    merged: &'a Merged,
    /// Where the app runs: other relative paths start here.
    directory: PathBuf,
    faults: Vec<Fault>,
    warnings: Vec<Warning>,
}

/// Something wrong.
enum Fault {
    /// The value of the setting of this name.
    Setting(String, Complaint),
    Other(ConfigError),
}

impl Desk<'_> {
    fn settings(&mut self, class: &Mapped, app: App) -> Settings {
        Settings {
            listening: self.listening(),
            workers: self.workers(class),
            http: self.http(),
            logs: self.logs(),
            process: self.process(&app),
            app,
            values: self.merged.values.clone(),
            origins: self.merged.origins.clone(),
        }
    }
}

/// Limits and logs.
impl Desk<'_> {
    fn http(&mut self) -> Http {
        Http {
            limit_request_line: self.clamped("limit_request_line", MOST_REQUEST_LINE),
            limit_request_fields: self.clamped("limit_request_fields", MOST_REQUEST_FIELDS),
            limit_request_field_size: self.clamped("limit_request_field_size", MOST_FIELD_SIZE),
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
        }
    }

    fn logs(&self) -> Logs {
        Logs {
            access_log: self.log_target("accesslog", LogTarget::Off),
            access_log_format: self.access_log_format(),
            error_log: self.log_target("errorlog", LogTarget::Standard),
            log_level: self.log_level(),
            capture_output: self.flag("capture_output"),
        }
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
