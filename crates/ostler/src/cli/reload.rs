//! `ostler reload`: has a running server take what is written now, and says what came of it.

use std::io::Write;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::operator;
use crate::admin::api::{Outcome, Reloaded};
use crate::admin::client::Answer;
use crate::admin::screen;

const EXAMPLES: &str = "\
ostler reload         takes a changed ostler.toml, as HUP does; exit code 1 and every problem when it is wrong
ostler reload shop    starts the app of one project anew; no file is read but the app's own
It waits until new workers serve; --no-wait does not.";

/// The command `reload`.
pub fn command() -> Command {
    Command::new("reload")
        .display_name("ostler")
        .override_usage("ostler reload [OPTIONS] [NAME]")
        .about("Have a running server take its changed configuration, or start one app anew")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .args(operator::args())
        .args([
            Arg::new("no-wait")
                .long("no-wait")
                .action(ArgAction::SetTrue)
                .help("Do not wait for new workers"),
            Arg::new("name")
                .value_name("NAME")
                .help("A project whose workers are to be replaced"),
        ])
}

/// Exit code 0 when all of it is in force, 1 when it is not.
pub fn reload(matches: &ArgMatches) -> ExitCode {
    let wait = !matches.get_flag("no-wait");
    let mut target = format!("/v1/reload?wait={wait}");
    if let Some(name) = matches.get_one::<String>("name") {
        target.push_str("&project=");
        target.push_str(&operator::escaped(name));
    }
    let answer = match operator::ask(matches, "POST", &target, wait) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    show(&answer)
}

/// Says what came of it; the exit code.
pub fn show(answer: &Answer) -> ExitCode {
    let reloaded: Reloaded = match serde_json::from_slice(&answer.body) {
        Ok(reloaded) => reloaded,
        Err(error) => {
            eprintln!(
                "error: the server's answer is not understood: {error}; hint: restart it when the binary has changed"
            );
            return ExitCode::FAILURE;
        }
    };
    for warning in &reloaded.warnings {
        eprintln!("warning: {}", screen::visible(warning));
    }
    // Nobody can be told when standard output is closed.
    drop(std::io::stdout().write_all(screen::reloaded(&reloaded).as_bytes()));
    match reloaded.outcome {
        Outcome::Done | Outcome::Begun => ExitCode::SUCCESS,
        Outcome::Failed | Outcome::Unknown => {
            // Lines stay lines; what an app says in its traceback moves no cursor.
            for line in reloaded.problems.lines() {
                eprintln!("{}", screen::visible(line));
            }
            ExitCode::FAILURE
        }
    }
}
