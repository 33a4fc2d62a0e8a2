//! `ostler run`: from the command line, the environment and an env file to a plan that the keeper carries out.
//! Evaluates no Python and opens no socket.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use serde::{Deserialize, Serialize};

use super::options;
use super::python::{self, Places};
use crate::config::written::{self, Layer};
use crate::config::{self, CONFIG_FILE, ConfigError, Written, dotenv, words};

/// Everything the keeper needs to start, and to start anew on a reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunPlan {
    /// To be finished (`config::finish`) with what the config file says.
    pub written: Written,
    /// For the process that evaluates the config file.
    pub configure: Configure,
}

/// Where the config file is and where it is evaluated: the fields of the zygote's `configure` message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// An absolute path; it may be missing when nobody named it.
    pub file: Option<PathBuf>,
    /// Somebody named it.
    pub explicit: bool,
    /// From `python:module`, instead of a file.
    pub module: Option<String>,
    /// Absolute. gunicorn evaluates the file where it was started; `--chdir` comes into force after it.
    pub chdir: PathBuf,
    /// Absolute paths.
    pub pythonpath: Vec<PathBuf>,
}

/// The world outside of the command line.
pub struct Surroundings<'a> {
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Names of all environment variables.
    pub names: Vec<String>,
    /// The current directory; absolute.
    pub directory: PathBuf,
    pub pid: u32,
}

impl Surroundings<'_> {
    /// The same with other variables.
    pub fn with<'a>(&self, variable: &'a dyn Fn(&str) -> Option<String>) -> Surroundings<'a> {
        Surroundings {
            variable,
            names: self.names.clone(),
            directory: self.directory.clone(),
            pid: self.pid,
        }
    }
}

/// Makes the plan.
///
/// # Errors
/// All that is wrong with it and can be known before the config file is evaluated.
pub fn plan(matches: &ArgMatches, around: &Surroundings<'_>) -> Result<RunPlan, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let written = Written {
        app: matches.get_one::<String>(options::APP).cloned(),
        directory: around.directory.clone(),
        set: around.names.clone(),
        inherited: inherited(around),
        environment: written::environment(around.variable),
        arguments: arguments(around).unwrap_or_else(|error| {
            errors.push(error);
            Layer::new()
        }),
        command_line: options::layer(matches),
        ..Written::default()
    };
    complete(written, errors, around)
}

/// Looks up what `written` names, and checks it as far as that is possible now.
///
/// # Errors
/// `errors`, and all that is wrong besides.
pub fn complete(
    mut written: Written,
    mut errors: Vec<ConfigError>,
    around: &Surroundings<'_>,
) -> Result<RunPlan, Vec<ConfigError>> {
    match env_file(&written) {
        Ok(pairs) => written.env_file = pairs,
        Err(error) => errors.push(error),
    }
    match interpreter(&written, around) {
        Ok(path) => written.python = path,
        Err(error) => errors.push(error),
    }
    errors.extend(config::check_early(&written));
    match configure(&written) {
        Ok(configure) if errors.is_empty() => return Ok(RunPlan { written, configure }),
        Ok(_) => {}
        Err(error) => errors.push(error),
    }
    Err(errors)
}

/// What `GUNICORN_CMD_ARGS` says. As in gunicorn, an app named there does not count.
fn arguments(around: &Surroundings<'_>) -> Result<Layer, ConfigError> {
    let line = (around.variable)("GUNICORN_CMD_ARGS").unwrap_or_default();
    let wrong = |seen: String| ConfigError {
        what: "GUNICORN_CMD_ARGS cannot be read".to_owned(),
        seen,
        hint: "write it as on the command line: GUNICORN_CMD_ARGS=\"--workers 4 --bind :8000\""
            .to_owned(),
    };
    let words = words::split(&line).map_err(|what| wrong(what.to_owned()))?;
    let command = options::command().no_binary_name(true);
    let matches = command
        .try_get_matches_from(words)
        .map_err(|error| wrong(first_line(&error)))?;
    Ok(options::layer(&matches))
}

/// The sentence of a clap error, with its tip, without the usage below it.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    said.join("; ").trim_start_matches("error: ").to_owned()
}

/// How many sockets systemd hands to this very process (sd_listen_fds(3)).
pub(super) fn inherited(around: &Surroundings<'_>) -> u16 {
    let number = |name| (around.variable)(name).and_then(|text| text.parse::<u32>().ok());
    let count = if number("LISTEN_PID") == Some(around.pid) {
        number("LISTEN_FDS").unwrap_or(0)
    } else {
        0
    };
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn env_file(written: &Written) -> Result<Vec<(String, String)>, ConfigError> {
    let Some(name) = written.early("env_file") else {
        return Ok(Vec::new());
    };
    let path = written.directory.join(name);
    let wrong = |what: &str, seen: String, hint: &str| ConfigError {
        what: format!("env_file {what}"),
        seen: format!("{}: {seen}", path.display()),
        hint: hint.to_owned(),
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        wrong(
            "cannot be read",
            error.to_string(),
            "correct the path of --env-file",
        )
    })?;
    dotenv::parse(&text).map_err(|(line, what)| {
        wrong(
            "has a line that is not KEY=value",
            format!("line {line}: {what}"),
            "write KEY=value",
        )
    })
}

fn interpreter(written: &Written, around: &Surroundings<'_>) -> Result<PathBuf, ConfigError> {
    python::find(&Places {
        asked: written.early("python"),
        virtual_env: (around.variable)("VIRTUAL_ENV").map(PathBuf::from),
        path: (around.variable)("PATH").map(Into::into),
        directory: &written.directory,
        chdir: &written
            .directory
            .join(written.early("chdir").unwrap_or(".")),
    })
}

fn configure(written: &Written) -> Result<Configure, ConfigError> {
    let directory = &written.directory;
    let pythonpath = written.early("pythonpath").unwrap_or_default().split(',');
    let mut configure = Configure {
        file: None,
        explicit: true,
        module: None,
        chdir: directory.clone(),
        pythonpath: pythonpath
            .filter(|path| !path.is_empty())
            .map(|path| directory.join(path.trim()))
            .collect(),
    };
    let Some(named) = written.early("config").filter(|named| !named.is_empty()) else {
        configure.explicit = false;
        configure.file = Some(directory.join(CONFIG_FILE));
        return Ok(configure);
    };
    if let Some(module) = named.strip_prefix("python:") {
        configure.module = Some(module.to_owned());
        return Ok(configure);
    }
    let path = directory.join(named.strip_prefix("file:").unwrap_or(named));
    if !path.is_file() {
        return Err(ConfigError {
            what: "the config file is not there".to_owned(),
            seen: path.display().to_string(),
            hint: "correct the path of --config (python:package.module names a module)".to_owned(),
        });
    }
    configure.file = Some(path);
    Ok(configure)
}

/// The current directory as the shell names it: a link that points to each release in turn stays a link.
pub fn current_directory(pwd: Option<&str>) -> std::io::Result<PathBuf> {
    let here = std::env::current_dir()?;
    let same = |path: &Path| match (path.metadata(), here.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    };
    let named = pwd
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && same(path));
    Ok(named.unwrap_or(here))
}
