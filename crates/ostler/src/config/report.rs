//! The settings in force, by gunicorn's names: for `server.cfg` in hooks and for `--print-config`.
//! Checks nothing and changes nothing.

use serde_json::{Map, Value};

use super::flags;
use super::settings::Settings;
use super::table::{Kind, Whose};
use super::worker_class::WorkerClass;
use super::written::Origin;

/// Every setting of gunicorn and ours by name, with the Python types that gunicorn's `cfg` has. Hooks are null.
pub fn effective(settings: &Settings) -> Map<String, Value> {
    let rows = flags::rows().filter(|row| row.whose != Whose::CommandLine || row.name == "config");
    let mut all: Map<String, Value> = rows
        .map(|row| {
            (
                row.name.to_owned(),
                settings
                    .values
                    .get(row.name)
                    .cloned()
                    .unwrap_or(Value::Null),
            )
        })
        .collect();
    let mut set = |name: &str, value: Value| drop(all.insert(name.to_owned(), value));
    match settings.values.get("preload_app").and_then(Value::as_str) {
        Some("on") => set("preload_app", true.into()),
        Some("off") => set("preload_app", false.into()),
        _ => {}
    }
    if settings.workers.worker_class == WorkerClass::Gthread {
        set("worker_class", "gthread".into());
    }
    set(
        "bind",
        settings
            .listening
            .binds
            .iter()
            .map(ToString::to_string)
            .collect(),
    );
    set("chdir", settings.app.chdir.to_string_lossy().into());
    set("wsgi_app", settings.app.name.as_str().into());
    set("proc_name", settings.process.proc_name.as_str().into());
    set("default_proc_name", settings.app.name.as_str().into());
    let path: Vec<_> = settings
        .app
        .pythonpath
        .iter()
        .map(|path| path.to_string_lossy())
        .collect();
    set(
        "pythonpath",
        if path.is_empty() {
            Value::Null
        } else {
            path.join(",").into()
        },
    );
    all
}

/// The text of `--print-config`: one `name = value` a line, sorted, values as Python shows them, with the source of
/// each that is no default. Values in `raw_env` are left out: they may be secrets.
pub fn print(settings: &Settings) -> String {
    let all = effective(settings);
    let hooks: Vec<&str> = flags::rows()
        .filter(|row| row.kind == Kind::Hook)
        .map(|row| row.name)
        .collect();
    let mut names: Vec<&String> = all
        .keys()
        .filter(|name| !hooks.contains(&name.as_str()))
        .collect();
    names.sort_unstable();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for name in names {
        let shown = if name == "raw_env" {
            without_values(&all[name])
        } else {
            python(&all[name])
        };
        let source = match settings.origin(name) {
            Origin::Default => "",
            Origin::Environment => "  # environment",
            Origin::File => "  # config file",
            Origin::Arguments => "  # GUNICORN_CMD_ARGS",
            Origin::CommandLine => "  # command line",
            Origin::Toml => "  # ostler.toml",
        };
        out.push_str(&format!("{name:width$} = {shown}{source}\n"));
    }
    out
}

fn without_values(entries: &Value) -> String {
    let entries = entries
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let hidden = entries
        .map(|entry| Value::from(format!("{}=…", entry.split('=').next().unwrap_or_default())));
    python(&Value::Array(hidden.collect()))
}

/// A value as Python's `repr` shows it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(python).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(pairs) => {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(key, value)| format!("{}: {}", quoted(key), python(value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_as_python_shows_them() {
        let check = |value: Value, expected: &str| assert_eq!(python(&value), expected);
        check(json!(null), "None");
        check(json!(true), "True");
        check(json!(30), "30");
        check(json!("it's"), "\"it's\"");
        check(json!("a\\\n"), "'a\\\\\\n'");
        check(json!(["a", 1]), "['a', 1]");
        check(json!({"K": "v"}), "{'K': 'v'}");
        assert_eq!(
            without_values(&json!(["KEY=secret", "B=1"])),
            "['KEY=…', 'B=…']"
        );
    }
}
