//! `ostler status`: one screen of a running server.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::operator;
use crate::admin::screen;

const EXAMPLES: &str = "\
ostler status                        of the server whose file is ./ostler.toml
ostler status --json | jq .projects  for programs
ostler status --on root@example.com  of another machine
Colours only on a terminal, and not with NO_COLOR.";

/// The command `status`.
pub fn command() -> Command {
    Command::new("status")
        .display_name("ostler")
        .override_usage("ostler status [OPTIONS]")
        .about("Show what runs: projects, workers, the line, limits, last errors")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .args(operator::args())
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("As JSON"),
        )
}

/// Exit code 0 when the server has answered.
pub fn status(matches: &ArgMatches) -> ExitCode {
    operator::show_status(matches, serde_json::to_string_pretty, screen::status)
}
