//! What the commands have in common that speak to a running server: where it is, and `--on user@server`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::{USAGE, check, output, refuse};
use crate::admin::api::Status;
use crate::admin::client::{self, Answer};
use crate::config::ConfigError;
use crate::config::serve;
use crate::sys::spawn;

/// Where the server is.
pub fn args() -> [Arg; 3] {
    [
        Arg::new("config")
            .short('c')
            .long("config")
            .value_name("FILE")
            .help("The operator's file, which names the state folder [default: as `ostler serve`]"),
        Arg::new("state")
            .long("state")
            .value_name("FOLDER")
            .conflicts_with("config")
            .help("The state folder itself, without a file"),
        on(),
    ]
}

/// Every command has it that comes to an end by itself. A server that hung on an ssh connection would end with it, so
/// `serve` and `run` do not.
pub fn on() -> Arg {
    Arg::new("on")
        .long("on")
        .value_name("USER@SERVER")
        .help("Do it there, over ssh")
}

/// Does what is asked on another machine, when that is asked: becomes `ssh`, so that what it says, asks and ends
/// with is what a person sees. `command` is all of ostler; asked once, before anything is done here.
pub fn elsewhere(command: &Command, matches: &ArgMatches) -> Option<ExitCode> {
    let (mut command, mut matches) = (command, matches);
    let mut line = command.get_name().to_owned();
    while let Some((name, below)) = matches.subcommand() {
        (command, matches) = (command.find_subcommand(name)?, below);
        line.push(' ');
        line.push_str(name);
    }
    // Not every command has it.
    let there = matches.try_get_one::<String>("on").ok().flatten()?;
    // ssh would take it for one of its options, some of which start programs.
    if there.is_empty() || there.starts_with('-') {
        return Some(refuse(&[ConfigError {
            what: "--on needs a machine".to_owned(),
            seen: format!("`{there}`"),
            hint: "write --on user@server, or a name of ~/.ssh/config".to_owned(),
        }]));
    }
    for word in words(command, matches) {
        line.push(' ');
        line.push_str(&quoted(&word));
    }
    let args = ["--".to_owned(), there.clone(), line];
    let error = spawn::become_program("ssh", &args);
    Some(refuse(&[ConfigError {
        what: "ssh cannot be started".to_owned(),
        seen: error.to_string(),
        hint: "install an ssh client, or run the command on that machine".to_owned(),
    }]))
}

/// What was typed, but `--on`.
fn words(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let (mut flags, mut places) = (Vec::new(), Vec::new());
    for arg in command.get_arguments().filter(|arg| arg.get_id() != "on") {
        let id = arg.get_id().as_str();
        let typed = matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        match (arg.get_long(), matches.try_get_raw(id)) {
            (Some(long), Ok(Some(values))) if typed => match arg.get_action().takes_values() {
                // One word, so that a value which begins with a dash stays one.
                true => flags
                    .extend(values.map(|value| format!("--{long}={}", value.to_string_lossy()))),
                false => flags.push(format!("--{long}")),
            },
            (None, Ok(Some(values))) if typed => {
                places.extend(values.map(|value| value.to_string_lossy().into_owned()));
            }
            _ => {}
        }
    }
    if !places.is_empty() {
        flags.push("--".to_owned());
    }
    flags.append(&mut places);
    flags
}

/// A word for a POSIX shell (XCU 2.2.2): ssh hands one line to the shell of the other machine.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:@%+,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Asks the server; what keeps it from answering has been said.
pub fn ask(
    matches: &ArgMatches,
    method: &str,
    target: &str,
    long: bool,
) -> Result<Answer, ExitCode> {
    let state = state(matches)?;
    client::ask(&state, method, target, long).map_err(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// What the server has said; what nobody understands has been told.
pub fn understood<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ()> {
    serde_json::from_slice(body).map_err(|error| {
        eprintln!(
            "error: the server's answer is not understood: {error}; hint: restart it when the binary has changed"
        );
    })
}

/// Asks a server how it is, and shows it to a program (`--json`) or to a person. Exit code 0 when
/// it has answered.
pub fn show_status(
    matches: &ArgMatches,
    as_json: impl Fn(&Status) -> serde_json::Result<String>,
    as_text: impl Fn(&Status, bool) -> String,
) -> ExitCode {
    let answer = match ask(matches, "GET", "/v1/status", false) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    let json = matches.get_flag("json");
    let mut out = std::io::stdout().lock();
    let text = serde_json::from_slice(&answer.body).and_then(|status| match json {
        true => as_json(&status).map(|text| text + "\n"),
        false => Ok(as_text(&status, output::colours(&out))),
    });
    let written = text
        .map_err(|error| {
            eprintln!(
                "error: the server's answer is not understood: {error}; hint: restart it when the binary has changed"
            );
        })
        .and_then(|text| out.write_all(text.as_bytes()).map_err(drop));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

/// A value in a query (RFC 3986 section 2.1).
pub fn escaped(value: &str) -> String {
    let byte = |byte: u8| match byte.is_ascii_alphanumeric() || byte == b'-' {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}

/// The state folder of the server that is meant.
fn state(matches: &ArgMatches) -> Result<PathBuf, ExitCode> {
    if let Some(state) = matches.get_one::<String>("state") {
        return Ok(PathBuf::from(state));
    }
    let around = super::surroundings().map_err(|errors| refuse(&errors))?;
    let asked = matches.get_one::<String>("config").map(PathBuf::from);
    let Some(path) = asked.or_else(|| check::found(&around.directory)) else {
        // As `ostler serve --host` has it, which needs no file.
        return Ok(serve::state_without_file());
    };
    let path: &Path = &path;
    match serve::state(path, &around.directory, around.variable) {
        Some(state) => Ok(state),
        None => Err(
            match serve::load(path, &around.directory, around.variable) {
                Err(problems) => check::tell(&problems),
                // It has become good in between.
                Ok(_) => ExitCode::from(USAGE),
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &[&str]) -> Vec<String> {
        let command = super::super::reload::command();
        let matches = command.clone().try_get_matches_from(line).expect("good");
        words(&command, &matches)
            .iter()
            .map(|word| quoted(word))
            .collect()
    }

    #[test]
    fn another_machine_gets_the_same_words() {
        assert_eq!(typed(&["reload", "--on", "a@b"]), [""; 0]);
        assert_eq!(
            typed(&[
                "reload",
                "--no-wait",
                "--on=a@b",
                "-c",
                "/etc/a b.toml",
                "shop"
            ]),
            ["'--config=/etc/a b.toml'", "--no-wait", "--", "shop"]
        );
    }

    #[test]
    fn no_word_ends_its_quotes() {
        for (word, expected) in [
            ("", "''"),
            ("--config=/a/b.toml", "--config=/a/b.toml"),
            ("$(touch x)", "'$(touch x)'"),
            ("a'b", "'a'\\''b'"),
            ("a\nb", "'a\nb'"),
            ("é", "'é'"),
            ("~", "'~'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
