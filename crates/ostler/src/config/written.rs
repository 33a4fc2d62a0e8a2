//! Settings as they were written, each beside its source, before any is checked; and the order of the sources.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::table::{Kind, Place, Setting, Whose};
use super::{flags, settings};

/// What one source says: setting name → value as text, list of texts, or true/false.
pub type Layer = Map<String, Value>;

/// Everything that is known before the config file is evaluated. Stays the same over reloads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Written {
    /// The positional argument.
    pub app: Option<String>,
    /// Where ostler was started: an absolute path.
    pub directory: PathBuf,
    /// The interpreter that was found: an absolute path.
    pub python: PathBuf,
    /// The text of `--env-file`, as pairs.
    pub env_file: Vec<(String, String)>,
    /// How many listening sockets systemd handed over (`LISTEN_FDS`), from descriptor 3 on.
    pub inherited: u16,
    /// Names that the app's environment already has: an env file does not override them.
    pub set: Vec<String>,
    /// From environment variables, see [`ENVIRONMENT`].
    pub environment: Layer,
    /// From `GUNICORN_CMD_ARGS`.
    pub arguments: Layer,
    pub command_line: Layer,
    /// From `ostler.toml`: the `web` section of a project.
    pub toml: Layer,
}

/// Where a value comes from; a later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Default,
    Environment,
    File,
    Arguments,
    CommandLine,
    /// `ostler.toml`.
    Toml,
}

/// Environment variables and the settings they give. An empty variable counts as not set.
pub const ENVIRONMENT: [(&str, &str); 5] = [
    ("WEB_CONCURRENCY", "workers"),
    ("PORT", "bind"),
    ("FORWARDED_ALLOW_IPS", "forwarded_allow_ips"),
    ("SENDFILE", "sendfile"),
    ("SCRIPT_NAME", "root_path"),
];

/// The layer of environment variables.
pub fn environment(variable: impl Fn(&str) -> Option<String>) -> Layer {
    let mut layer = Layer::new();
    for (name, setting) in ENVIRONMENT {
        let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
            continue;
        };
        let value = match name {
            // gunicorn: every IPv4 address, which is what the platforms that set PORT expect.
            "PORT" => Value::from(vec![format!("0.0.0.0:{text}")]),
            "SENDFILE" => {
                Value::Bool(["y", "1", "yes", "true"].contains(&text.to_ascii_lowercase().as_str()))
            }
            _ => Value::String(text),
        };
        layer.insert(setting.to_owned(), value);
    }
    layer
}

impl Written {
    /// The value of a setting that is only needed before the config file is read, such as `config` or `chdir`.
    pub fn early(&self, name: &str) -> Option<&str> {
        [&self.toml, &self.command_line, &self.arguments]
            .into_iter()
            .find_map(|layer| layer.get(name))
            .and_then(Value::as_str)
    }

    /// What to call the config file in messages.
    pub fn config_name(&self) -> &str {
        self.early("config").unwrap_or(settings::CONFIG_FILE)
    }

    /// How `value` of `setting` was written, for messages: "`--workers 0` on the command line".
    pub fn seen(&self, origin: Origin, setting: &Setting, value: &Value) -> String {
        let name = setting.name;
        // An environment of the app holds secrets, also where it is written wrongly.
        let value = if name == "raw_env" {
            &Value::from("…")
        } else {
            value
        };
        match origin {
            Origin::Default => format!("`{name} = {}` by default", short(value)),
            Origin::Environment => {
                let variable = ENVIRONMENT
                    .iter()
                    .find(|(_, of)| *of == name)
                    .map_or(name, |(variable, _)| variable);
                format!(
                    "`{variable}={}` in the environment",
                    self.variable_text(variable, value)
                )
            }
            Origin::File => format!("`{name} = {}` in {}", short(value), self.config_name()),
            Origin::Arguments => format!("`{}` in GUNICORN_CMD_ARGS", typed(setting, value)),
            Origin::CommandLine => format!("`{}` on the command line", typed(setting, value)),
            Origin::Toml => {
                let named = match setting.place {
                    Place::Server(named) | Place::Web(named) => named,
                    Place::Nowhere => name,
                };
                format!("`{named} = {}` in ostler.toml", cut(&value.to_string()))
            }
        }
    }

    fn variable_text(&self, variable: &str, value: &Value) -> String {
        let text = plain(value);
        match variable {
            "PORT" => text.strip_prefix("0.0.0.0:").unwrap_or(&text).to_owned(),
            _ => text,
        }
    }
}

/// `--flag value` as a person would have typed it.
fn typed(setting: &Setting, value: &Value) -> String {
    let flag = flags::of(setting)
        .longs
        .first()
        .copied()
        .unwrap_or(setting.name);
    match (setting.kind, value) {
        (Kind::Switch | Kind::Unswitch, _) => flag.to_owned(),
        (_, Value::Array(items)) if !items.is_empty() => {
            let each: Vec<String> = items
                .iter()
                .map(|item| format!("{flag} {}", plain(item)))
                .collect();
            each.join(" ")
        }
        _ => format!("{flag} {}", plain(value)),
    }
}

/// Longest piece of a value that a message repeats, in characters.
const LONGEST_SEEN: usize = 80;

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => cut(text),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| format!("{key}={}", plain(value)));
            cut(&pairs.collect::<Vec<_>>().join(" "))
        }
        other => short(other),
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => cut(&other.to_string()),
    }
}

/// One line of at most [`LONGEST_SEEN`] characters, without control characters.
pub fn cut(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut out: String = clean.take(LONGEST_SEEN).collect();
    if text.chars().nth(LONGEST_SEEN).is_some() {
        out.push('…');
    }
    out
}

/// True when a config file may set this.
pub fn in_file(setting: &Setting) -> bool {
    setting.whose != Whose::CommandLine
}
