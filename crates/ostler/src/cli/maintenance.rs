//! `ostler maintenance`: shows a project's maintenance page in its place, and takes it away.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::operator;
use crate::admin::api::Maintained;
use crate::admin::screen::visible;

const EXAMPLES: &str = "\
ostler maintenance on shop    everyone gets 503 and the page of [projects.shop.errors], from the next request on
ostler maintenance off shop   its app answers again; it was running all the time
It stays so over reloads and restarts, and no worker is touched. Open WebSockets stay open.";

/// The command `maintenance`.
pub fn command() -> Command {
    Command::new("maintenance")
        .display_name("ostler")
        .override_usage("ostler maintenance [OPTIONS] on|off NAME")
        .about("Show a project's maintenance page in its place, or take it away")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .args(operator::args())
        .args([
            Arg::new("switch")
                .value_name("on|off")
                .value_parser(["on", "off"])
                .required(true)
                .help("Show it or not"),
            Arg::new("name")
                .value_name("NAME")
                .required(true)
                .help("The project"),
        ])
}

/// Exit code 0 when the project is as was asked, else 1.
pub fn maintenance(matches: &ArgMatches) -> ExitCode {
    let text = |id| matches.get_one::<String>(id).map_or("", String::as_str);
    let (name, on) = (text("name"), text("switch") == "on");
    let target = format!(
        "/v1/maintenance?on={on}&project={}",
        operator::escaped(name)
    );
    let answer = match operator::ask(matches, "POST", &target, false) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    let Ok(told) = operator::understood::<Maintained>(&answer.body) else {
        return ExitCode::FAILURE;
    };
    if !told.problem.is_empty() {
        eprintln!("{}", visible(told.problem.trim_end()));
        return ExitCode::FAILURE;
    }
    let how = match (on, told.changed) {
        (true, true) => "shows its maintenance page",
        (true, false) => "shows its maintenance page already",
        (false, true) => "was switched back",
        (false, false) => "was not switched to its maintenance page",
    };
    println!("{}: {how}", visible(name));
    if on || told.now.file.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "error: {} still shows it on {}: the configuration file has `maintenance = true`; hint: take that out, then `ostler reload`",
        visible(name),
        visible(&told.now.file.join(", "))
    );
    ExitCode::FAILURE
}
