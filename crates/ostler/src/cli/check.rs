//! `ostler check`: reads `ostler.toml` and all that belongs to it, and says what is wrong. Starts nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::run::Surroundings;
use super::{USAGE, operator, output, refuse};
use crate::config::ConfigError;
use crate::config::serve::{self, Checked, Host, Problems, Serve};

/// The file of the machine, where the current directory has none.
const MACHINE: &str = "/etc/ostler/ostler.toml";

const EXAMPLES: &str = "\
Without --config it is ./ostler.toml, else /etc/ostler/ostler.toml.
docs/reference/ostler-toml.md has all keys.";

/// The command `check`.
pub fn command() -> Command {
    Command::new("check")
        .display_name("ostler")
        .override_usage("ostler check [OPTIONS]")
        .about("Check ostler.toml, and start nothing")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .arg(
            Arg::new("config")
                .short('c')
                .long("config")
                .value_name("FILE")
                .help("The operator's file"),
        )
        .arg(operator::on())
        .arg(
            Arg::new("print")
                .long("print")
                .action(ArgAction::SetTrue)
                .help("Print every value in force and where it comes from"),
        )
}

/// Exit code 0 when all is good, else 2 with every problem on standard error.
pub fn check(matches: &ArgMatches) -> ExitCode {
    let around = match super::surroundings() {
        Ok(around) => around,
        Err(errors) => return refuse(&errors),
    };
    let (path, checked) = match good(matches, &around) {
        Ok(checked) => checked,
        Err(code) => return code,
    };
    let mut told = std::io::stderr().lock();
    for warning in &checked.warnings {
        // Nobody can be told when standard error is closed.
        drop(writeln!(told, "warning: {warning}"));
    }
    let text = if matches.get_flag("print") {
        checked.print()
    } else {
        format!("{} is good: {}\n", path.display(), sum(&checked.serve))
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Reads the file of `--config`, or the one that is there, for a command that needs a good one; what is wrong with it
/// has been said.
pub fn good(
    matches: &ArgMatches,
    around: &Surroundings<'_>,
) -> Result<(PathBuf, Checked), ExitCode> {
    let asked = matches.get_one::<String>("config").map(PathBuf::from);
    let loaded = load(asked.as_deref(), around).map_err(|error| refuse(&[error]))?;
    let (path, outcome) = loaded;
    Ok((path, outcome.map_err(|problems| tell(&problems))?))
}

/// Reads the file that was asked for, or the one that is there.
pub fn load(
    asked: Option<&Path>,
    around: &Surroundings<'_>,
) -> Result<(PathBuf, Result<Checked, Problems>), ConfigError> {
    let directory = &around.directory;
    let Some(path) = asked.map(Path::to_owned).or_else(|| found(directory)) else {
        return Err(ConfigError {
            what: "no ostler.toml was found".to_owned(),
            seen: format!(
                "neither {} nor {MACHINE}",
                directory.join(serve::FILE).display()
            ),
            hint: "name one with --config FILE".to_owned(),
        });
    };
    let outcome = serve::load(&path, directory, around.variable);
    Ok((path, outcome))
}

/// The file that is there when none was asked for.
pub fn found(directory: &Path) -> Option<PathBuf> {
    let mut places = [serve::FILE, MACHINE].into_iter().map(PathBuf::from);
    places.find(|path| directory.join(path).exists())
}

/// Says all that is wrong.
pub fn tell(problems: &Problems) -> ExitCode {
    let mut out = std::io::stderr().lock();
    let text = problems.render(output::colours(&out));
    // Nobody can be told when standard error is closed.
    drop(out.write_all(text.as_bytes()));
    ExitCode::from(USAGE)
}

/// "2 projects, 3 hosts, 1 address".
fn sum(serve: &Serve) -> String {
    let counted = |count: usize, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {more}"),
    };
    let hosts: Vec<&Host> = serve
        .projects
        .iter()
        .flat_map(|project| &project.hosts)
        .collect();
    let listening = &serve.machine.listening;
    [
        counted(serve.projects.len(), "project", "projects"),
        counted(hosts.len(), "host", "hosts"),
        counted(
            listening.binds.len() + listening.tls_binds.len(),
            "address",
            "addresses",
        ),
    ]
    .join(", ")
}
