//! Lays the sources over each other, in gunicorn's order, and checks every value of every source by its kind.
//! Knows nothing of how settings fit together.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::{Complaint, ConfigError};
use super::flags;
use super::table::{Kind, Level, Setting};
use super::value;
use super::written::{Layer, Origin, Written, in_file};

/// Every setting's value in checked form, and where those come from that are no defaults.
#[derive(Debug, Default)]
pub struct Merged {
    pub values: Map<String, Value>,
    pub origins: BTreeMap<String, Origin>,
}

/// Checks what is known before the config file is evaluated, so that a slip on the command line is reported at once.
pub fn check_early(written: &Written) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    merge(written, &Layer::new(), &mut errors);
    errors
}

/// The value of every setting. One that is wrong keeps its value from the source below, and is in `errors`.
pub fn merge(written: &Written, file: &Layer, errors: &mut Vec<ConfigError>) -> Merged {
    let layers = [
        (Origin::Environment, written.environment.clone()),
        (Origin::File, unalias(Origin::File, file, errors)),
        (
            Origin::Arguments,
            unalias(Origin::Arguments, &written.arguments, errors),
        ),
        (
            Origin::CommandLine,
            unalias(Origin::CommandLine, &written.command_line, errors),
        ),
        (Origin::Toml, written.toml.clone()),
    ];
    let mut merged = Merged::default();
    for row in flags::rows() {
        let mut value = value::preset(row.preset);
        for (origin, layer) in &layers {
            let Some(raw) = layer.get(row.name).filter(|raw| says_something(row, raw)) else {
                continue;
            };
            if *origin == Origin::File && !in_file(row) {
                continue;
            }
            match checked(row, raw) {
                Ok(good) => {
                    value = good;
                    merged.origins.insert(row.name.to_owned(), *origin);
                }
                Err(complaint) => errors.push(error(written, *origin, row, raw, complaint)),
            }
        }
        merged.values.insert(row.name.to_owned(), value);
    }
    merged
}

/// `None` in the file means the same as not writing the setting, but not where an empty list is a meaning of its own.
fn says_something(row: &Setting, raw: &Value) -> bool {
    !raw.is_null() || row.kind == Kind::Networks
}

fn checked(row: &Setting, raw: &Value) -> Result<Value, Complaint> {
    if raw.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    match (row.level, value::check(row.kind, raw)) {
        (Level::Refused(hint), Ok(good)) if good != value::preset(row.preset) => Err(
            Complaint::new(format!("cannot be used: {}", row.help), hint),
        ),
        // What has no meaning cannot be wrong.
        (Level::Moot, Err(_)) => Ok(raw.clone()),
        (_, outcome) => outcome,
    }
}

/// An error about one value of one source.
pub fn error(
    written: &Written,
    origin: Origin,
    row: &Setting,
    raw: &Value,
    complaint: Complaint,
) -> ConfigError {
    ConfigError {
        what: format!("{} {}", row.name, complaint.what),
        seen: written.seen(origin, row, raw),
        hint: complaint.hint,
    }
}

/// Rewrites the other ways of saying a thing (most of them uvicorn's) into the setting that it means.
fn unalias(origin: Origin, layer: &Layer, errors: &mut Vec<ConfigError>) -> Layer {
    let mut layer = layer.clone();
    if origin != Origin::File {
        match other_bind(&layer) {
            Ok(None) => {}
            Ok(Some(address)) => {
                layer.insert("bind".to_owned(), Value::from(vec![address]));
            }
            Err(flags) => errors.push(contradiction(origin, &flags)),
        }
        let file_named = layer.contains_key("accesslog");
        match (said(&layer, "access_log"), said(&layer, "no_access_log")) {
            (true, true) => {
                errors.push(contradiction(origin, &["--access-log", "--no-access-log"]))
            }
            (_, true) if file_named => errors.push(contradiction(
                origin,
                &["--access-logfile", "--no-access-log"],
            )),
            (_, true) => drop(layer.insert("accesslog".to_owned(), "".into())),
            (true, _) if !file_named => drop(layer.insert("accesslog".to_owned(), "-".into())),
            _ => {}
        }
        if said(&layer, "no_proxy_headers") {
            layer.insert("forwarded_allow_ips".to_owned(), Value::Array(Vec::new()));
        }
    }
    if said(&layer, "access_log_json") && !layer.contains_key("access_log_format") {
        layer.insert("access_log_format".to_owned(), "json".into());
    }
    layer
}

fn said(layer: &Layer, name: &str) -> bool {
    layer.get(name) == Some(&Value::Bool(true))
}

/// The address that `--host`, `--port`, `--uds` or `--fd` name, or the flags that contradict each other.
fn other_bind(layer: &Layer) -> Result<Option<String>, Vec<&'static str>> {
    let text = |name: &str| layer.get(name).and_then(Value::as_str);
    let mut ways = Vec::new();
    if layer.contains_key("bind") {
        ways.push(("--bind", None));
    }
    match (text("host"), text("port")) {
        (None, None) => {}
        (host, port) => {
            let host = host.unwrap_or("127.0.0.1");
            let bracketed = if host.contains(':') && !host.starts_with('[') {
                format!("[{host}]")
            } else {
                host.to_owned()
            };
            let flag = if text("host").is_some() {
                "--host"
            } else {
                "--port"
            };
            ways.push((
                flag,
                Some(format!("{bracketed}:{}", port.unwrap_or("8000"))),
            ));
        }
    }
    ways.extend(text("uds").map(|path| ("--uds", Some(format!("unix:{path}")))));
    ways.extend(text("fd").map(|fd| ("--fd", Some(format!("fd://{fd}")))));
    if ways.len() > 1 {
        return Err(ways.into_iter().map(|(flag, _)| flag).collect());
    }
    Ok(ways.pop().and_then(|(_, address)| address))
}

fn contradiction(origin: Origin, flags: &[&str]) -> ConfigError {
    let place = if origin == Origin::Arguments {
        "in GUNICORN_CMD_ARGS"
    } else {
        "on the command line"
    };
    ConfigError {
        what: format!("{} contradict each other", flags.join(" and ")),
        seen: format!("all of them {place}"),
        hint: "keep one of them".to_owned(),
    }
}
