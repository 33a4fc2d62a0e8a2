//! `ostler doctor`: says what keeps this machine from serving as its configuration says.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::runtime::Builder;

use super::run::Surroundings;
use super::{check, operator, output, refuse, serve};
use crate::admin::api::{NameLook, Status};
use crate::admin::client;
use crate::admin::screen::visible;
use crate::config::ConfigError;
use crate::config::serve::Serve;
use crate::doctor::{Case, Finding, Grade, examine};
use crate::keeper;

const EXAMPLES: &str = "\
ostler doctor          what ./ostler.toml says, else /etc/ostler/ostler.toml, whether it runs or not
ostler doctor --json   the same for programs
It changes nothing and asks a CA only for its directory. As root it sees who has a port.";

/// The command `doctor`.
pub fn command() -> Command {
    let [config, _state, on] = operator::args();
    Command::new("doctor")
        .display_name("ostler")
        .override_usage("ostler doctor [OPTIONS]")
        .about("Say what is wrong with this machine, its ports, names and certificates")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .args([config, on])
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("As JSON"),
        )
}

/// Exit code 0 when there is no problem, 1 when there is one, 2 for a wrong `ostler.toml`.
pub fn doctor(matches: &ArgMatches) -> ExitCode {
    let around = match super::surroundings() {
        Ok(around) => around,
        Err(errors) => return refuse(&errors),
    };
    let serve = match check::good(matches, &around) {
        Ok((_, checked)) => checked.serve,
        Err(code) => return code,
    };
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let found = runtime.block_on(examine(&case(serve, &around)));
    let told = match matches.get_flag("json") {
        true => serde_json::to_string_pretty(&found)
            .map(|text| text + "\n")
            .unwrap_or_default(),
        false => text(&found),
    };
    let written = std::io::stdout().lock().write_all(told.as_bytes());
    let well = found.iter().all(|finding| finding.grade < Grade::Problem);
    match (written, well) {
        (Ok(()), true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn case(serve: Serve, around: &Surroundings<'_>) -> Case {
    let projects = serve.projects.iter().map(|project| {
        let settings = serve::settings(project, around);
        let wrong = |errors: Vec<ConfigError>| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        };
        (project.name.clone(), settings.map_err(wrong))
    });
    let projects = projects.collect();
    let running = asked::<Status>(&serve, "/v1/status", false);
    let looks = match (&running, &serve.acme) {
        (Ok(_), Some(_)) => asked::<Vec<NameLook>>(&serve, "/v1/names", true).ok(),
        _ => None,
    };
    Case {
        certificates: keeper::certificates_folder(&serve.state),
        serve,
        running,
        looks,
        projects,
    }
}

/// What the running server says, or why it does not.
fn asked<T: serde::de::DeserializeOwned>(
    serve: &Serve,
    target: &str,
    long: bool,
) -> Result<T, String> {
    let answer =
        client::ask(&serve.state, "GET", target, long).map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer.body).map_err(|error| {
        format!("the server's answer is not understood: {error}; hint: restart it when the binary has changed")
    })
}

fn text(found: &[Finding]) -> String {
    let colours = output::colours(&std::io::stdout());
    let mut out = String::new();
    for finding in found {
        let (word, colour) = match finding.grade {
            Grade::Ok => ("ok", "32"),
            Grade::Warning => ("warning", "33"),
            Grade::Problem => ("problem", "31"),
        };
        let word = match colours {
            true => format!("\x1b[{colour}m{word:8}\x1b[0m"),
            false => format!("{word:8}"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{word} {:12} {}",
            finding.about,
            visible(&finding.text)
        );
    }
    out
}
