//! The command line: one file per subcommand; no logic of its own.

mod certs;
mod check;
mod doctor;
mod maintenance;
mod operator;
mod options;
mod output;
mod perf;
mod python;
mod reload;
mod requests;
pub mod run;
pub mod serve;
mod status;
mod systemd;
mod upgrade;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod reference_toml;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Command;

use crate::config::ConfigError;
use crate::keeper::{self, Inherited};
use crate::server;
use run::Surroundings;
use serve::Refused;

/// The exit code for a command line or settings that cannot be served.
const USAGE: u8 = 2;

const SHORT_HELP: &str = "\
{name} {version}
{about}

Usage: {usage}

Commands:
{subcommands}

ostler run app:app      serves the callable `app` of app.py on 127.0.0.1:8000
ostler run --help       has all the options
";

/// The hidden command that the keeper starts the server with: it takes everything else from a socket.
const SERVER: &str = "__server";

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    // The server is never started by a person, so it does not pay for the parser.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == SERVER)
    {
        return server::run();
    }
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(trouble) => {
            eprintln!("{}", trouble.text);
            return ExitCode::from(trouble.exit);
        }
    };
    let inherited = match keeper::resume(inherited) {
        Ok(code) => return code,
        Err(inherited) => inherited,
    };
    let mut command = command();
    let matches = match command.try_get_matches_from_mut(std::env::args_os()) {
        Ok(matches) => matches,
        Err(answer) if !inherited.is_nothing() => return inherited.refuse(&answer.to_string()),
        Err(answer) => {
            // Help and versions are "errors" of clap as well, with exit code 0. A closed pipe changes nothing.
            drop(answer.print());
            return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(USAGE));
        }
    };
    if let Some(code) = operator::elsewhere(&command, &matches) {
        return code;
    }
    match matches.subcommand() {
        Some(("run", matches)) => {
            let plan = surroundings().and_then(|around| run::plan(matches, &around));
            let plan = plan.map(|plan| keeper::Plan::Run(Arc::new(plan)));
            keep(plan.map_err(Refused::from), inherited)
        }
        Some(("serve", matches)) => {
            let around = surroundings().map_err(Refused::from);
            let plan = around.and_then(|around| serve::plan(matches, &around));
            keep(
                plan.map(|plan| keeper::Plan::Serve(Box::new(plan))),
                inherited,
            )
        }
        Some(("check", matches)) => check::check(matches),
        Some(("certs", matches)) => certs::certs(matches),
        Some(("systemd", matches)) => systemd::systemd(matches),
        Some(("status", matches)) => status::status(matches),
        Some(("requests", matches)) => requests::requests(matches),
        Some(("perf", matches)) => perf::perf(matches),
        Some(("reload", matches)) => reload::reload(matches),
        Some(("upgrade", matches)) => upgrade::upgrade(matches),
        Some(("doctor", matches)) => doctor::doctor(matches),
        Some(("maintenance", matches)) => maintenance::maintenance(matches),
        _ => {
            drop(command.print_help());
            ExitCode::SUCCESS
        }
    }
}

/// Carries a plan out, or says why there is none.
fn keep(plan: Result<keeper::Plan, Refused>, inherited: Inherited) -> ExitCode {
    match plan {
        Ok(plan) => keeper::run(plan, inherited),
        Err(refused) if inherited.is_nothing() => refused.tell(),
        Err(refused) => inherited.refuse(&refused.text()),
    }
}

/// All commands.
fn command() -> Command {
    Command::new("ostler")
        .about("Puts a Python web app in production and keeps it there")
        .version(env!("CARGO_PKG_VERSION"))
        .help_template(SHORT_HELP)
        .disable_help_subcommand(true)
        .subcommand(options::command())
        .subcommand(serve::command())
        .subcommand(check::command())
        .subcommand(certs::command())
        .subcommand(systemd::command())
        .subcommand(status::command())
        .subcommand(reload::command())
        .subcommand(upgrade::command())
        .subcommand(maintenance::command())
        .subcommand(doctor::command())
        .subcommand(requests::command())
        .subcommand(perf::command())
}

fn surroundings() -> Result<Surroundings<'static>, Vec<ConfigError>> {
    let directory = run::current_directory(variable("PWD").as_deref()).map_err(|error| {
        vec![ConfigError {
            what: "the current directory cannot be used".to_owned(),
            seen: error.to_string(),
            hint: "start ostler in a directory that exists".to_owned(),
        }]
    })?;
    Ok(Surroundings {
        variable: &variable,
        names: std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .collect(),
        directory,
        pid: std::process::id(),
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Says all that is wrong, each on a line of its own.
pub fn refuse(errors: &[ConfigError]) -> ExitCode {
    let mut out = std::io::stderr().lock();
    for error in errors {
        // Nobody can be told when standard error is closed.
        drop(writeln!(out, "error: {error}"));
    }
    ExitCode::from(USAGE)
}
