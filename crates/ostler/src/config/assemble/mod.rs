//! Checked values → `Settings`: what single values cannot show, such as files that are not there and settings that
//! contradict each other. Looks at the file system and the resolver, changes nothing.

mod app;
mod listening;
mod readings;

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::error::{ConfigError, Warning};
use super::layers::{self, Merged};
use super::settings::{
    AccessLogFormat, Http, LogLevel, LogTarget, Logs, MOST_FIELD_SIZE, MOST_REQUEST_FIELDS,
    MOST_REQUEST_LINE, Settings,
};
use super::unknown;
use super::written::Written;

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
        let class = self.worker_class();
        let app = self.app(&class);
        Settings {
            listening: self.listening(),
            workers: self.workers(&class),
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
