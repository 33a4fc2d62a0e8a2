//! `ostler upgrade`: has a running server become the ostler that is installed now, without a connection being lost.

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use super::{operator, reload};

const EXAMPLES: &str = "\
pip install --upgrade ostler && ostler upgrade
The process keeps its pid. Connections that are open are served by the server before for `drain` of [server], 5 min.
Anything that goes wrong before the apps serve anew leaves everything as it was. USR2 does the same.";

/// The command `upgrade`.
pub fn command() -> Command {
    Command::new("upgrade")
        .display_name("ostler")
        .override_usage("ostler upgrade [OPTIONS]")
        .about("Have a running server become the ostler that is installed now")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .args(operator::args())
}

/// Exit code 0 when the new program serves, 1 when it does not.
pub fn upgrade(matches: &ArgMatches) -> ExitCode {
    match operator::ask(matches, "POST", "/v1/upgrade", true) {
        Ok(answer) => reload::show(&answer),
        Err(code) => code,
    }
}
