//! `ostler requests`: questions to the request log of a running server.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::output::{colours, written};
use super::{operator, refuse};
use crate::admin::screen;
use crate::config::{ConfigError, units};
use crate::store::find::{Found, Reach, Spread};

const EXAMPLES: &str = "\
ostler requests --status 5xx --since 1h     what failed in the last hour
ostler requests --slower 500ms --follow     what is slow, as it happens
ostler requests --percentiles --project shop
ostler requests --user ada --client 192.0.2.7  who did what, and from where
The newest million rows are looked at; a note says when older ones are there too (in JSON: `searched_since`).
Queries (behind `?`) are not kept.";

/// Between two questions of `--follow`.
const FOLLOW: Duration = Duration::from_millis(500);

/// Rows of one answer of `--follow`.
const FOLLOWED: u32 = 1_000;

/// The command `requests`.
pub fn command() -> Command {
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new("requests")
        .display_name("ostler")
        .override_usage("ostler requests [OPTIONS]")
        .about("Ask the request log: filters, percentiles, --follow")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .args(operator::args())
        .args([
            value("project", "NAME", "Only of this project"),
            value("method", "METHOD", "Only with this method"),
            value("path", "PREFIX", "Only paths that begin so"),
            value("client", "ADDR", "Only from this address"),
            value(
                "user",
                "NAME",
                "Only of this user: whose key, password or token came with it",
            ),
            value(
                "status",
                "STATUS",
                "Only with this status: 404, or 5xx for all from 500",
            ),
            value("slower", "TIME", "Only those that took so long: 500ms, 2s"),
            value("since", "TIME", "Only those of the last 10m, 2h, 1d"),
            value(
                "limit",
                "N",
                "So many rows or routes, at most 1000 [default: 50]",
            ),
            flag(
                "percentiles",
                "How long requests took, by route: /item/1 and /item/2 are /item/{}",
            )
            .conflicts_with("follow"),
            flag("follow", "Go on with those to come").conflicts_with("limit"),
            flag("json", "One JSON object on each line"),
        ])
}

/// Exit code 0 when the server has answered.
pub fn requests(matches: &ArgMatches) -> ExitCode {
    let query = match query(matches) {
        Ok(query) => query,
        Err(error) => return refuse(&[error]),
    };
    let told = match (matches.get_flag("percentiles"), matches.get_flag("follow")) {
        (true, _) => percentiles(matches, &query),
        (false, false) => asked(matches, &query).and_then(|found: Found| show(matches, &found)),
        (false, true) => follow(matches, &query),
    };
    told.err().unwrap_or(ExitCode::SUCCESS)
}

/// The filters, as the server takes them.
fn query(matches: &ArgMatches) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let mut query = Vec::new();
    let given = |name: &str| matches.get_one::<String>(name);
    for name in ["project", "path", "client", "user"] {
        query.extend(given(name).map(|value| (name, value.clone())));
    }
    query.extend(given("method").map(|method| ("method", method.to_ascii_uppercase())));
    let wrong = |flag: &str, value: &str, hint: &str| ConfigError {
        what: format!("--{flag} is not understood"),
        seen: format!("`{value}`"),
        hint: hint.to_owned(),
    };
    if let Some(status) = given("status") {
        let (from, to) =
            statuses(status).ok_or_else(|| wrong("status", status, "write 404 or 5xx"))?;
        query.extend([("status", from.to_string()), ("status_to", to.to_string())]);
    }
    let micros = |flag: &str| -> Result<Option<u64>, ConfigError> {
        let Some(text) = given(flag) else {
            return Ok(None);
        };
        let seconds = units::seconds(text)
            .ok_or_else(|| wrong(flag, text, "write 500ms, 2s, 10m, 2h or 1d"))?;
        Ok(Some((seconds * 1e6) as u64))
    };
    query.extend(micros("slower")?.map(|micros| ("slower", micros.to_string())));
    if let Some(ago) = micros("since")? {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let since = (now.as_micros() as u64).saturating_sub(ago);
        query.push(("since", since.to_string()));
    }
    if let Some(limit) = given("limit") {
        let number: u32 = limit
            .parse()
            .map_err(|_| wrong("limit", limit, "write a number"))?;
        query.push(("limit", number.to_string()));
    }
    Ok(query)
}

/// `404` is one, `4xx` a hundred.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let lower = text.to_ascii_lowercase();
    if let Some(class) = lower.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    let status: u16 = lower
        .parse()
        .ok()
        .filter(|status| (0..1000).contains(status))?;
    Some((status, status))
}

fn asked<T: DeserializeOwned>(
    matches: &ArgMatches,
    query: &[(&str, String)],
) -> Result<T, ExitCode> {
    ask(matches, "/v1/requests", query)
}

fn ask<T: DeserializeOwned>(
    matches: &ArgMatches,
    path: &str,
    query: &[(&str, String)],
) -> Result<T, ExitCode> {
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", operator::escaped(value)))
        .collect();
    let answer = operator::ask(
        matches,
        "GET",
        &format!("{path}?{}", pairs.join("&")),
        false,
    )?;
    if answer.status != 200 {
        eprintln!(
            "error: {}",
            screen::visible(String::from_utf8_lossy(&answer.body).trim())
        );
        return Err(ExitCode::FAILURE);
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        eprintln!("error: the server's answer is not understood: {error}; hint: restart it when the binary has changed");
        ExitCode::FAILURE
    })
}

/// Goes on until it is interrupted, or nobody reads any more.
fn follow(matches: &ArgMatches, query: &[(&'static str, String)]) -> Result<(), ExitCode> {
    let first: Found = asked(matches, query)?;
    show(matches, &first)?;
    let (mut after, mut behind) = (first.last, false);
    let mut lost = first.reach.lost;
    loop {
        if !behind {
            std::thread::sleep(FOLLOW);
        }
        let mut query = query.to_vec();
        query.extend([
            ("after", after.to_string()),
            ("limit", FOLLOWED.to_string()),
        ]);
        let mut found: Found = asked(matches, &query)?;
        let told = std::mem::replace(&mut lost, found.reach.lost);
        // Once is enough.
        if lost == told {
            found.reach.lost = 0;
        }
        show(matches, &found)?;
        behind = found.rows.len() == FOLLOWED as usize;
        let shown = found.rows.last().map_or(0, |row| row.number);
        // Rows that came while the server looked are shown, and are above its last one.
        after = match behind {
            true => shown,
            false => shown.max(found.last),
        };
    }
}

fn percentiles(matches: &ArgMatches, query: &[(&str, String)]) -> Result<(), ExitCode> {
    let spread: Spread = ask(matches, "/v1/requests/percentiles", query)?;
    match matches.get_flag("json") {
        true => written(&lines(&spread.routes, &spread.reach))?,
        false => written(&screen::percentiles(
            &spread.routes,
            colours(&std::io::stdout()),
        ))?,
    }
    note(&spread.reach);
    Ok(())
}

fn show(matches: &ArgMatches, found: &Found) -> Result<(), ExitCode> {
    match matches.get_flag("json") {
        true => written(&lines(&found.rows, &found.reach))?,
        false => written(&screen::requests(&found.rows, colours(&std::io::stdout())))?,
    }
    note(&found.reach);
    Ok(())
}

/// For who looks, beside what a program may read.
fn note(reach: &Reach) {
    eprint!("{}", screen::reach(reach));
}

/// One object on a line, with what a program has to know of all of them.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(flatten)]
    one: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    searched_since: Option<i64>,
}

fn lines(all: &[impl Serialize], reach: &Reach) -> String {
    let line = |one| Line {
        one,
        searched_since: reach.searched_since,
    };
    // What we have just read can be written.
    let lines = all
        .iter()
        .filter_map(|one| serde_json::to_string(&line(one)).ok());
    lines.map(|line| screen::escaped(&line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_or_a_class() {
        for (text, expected) in [
            ("404", Some((404, 404))),
            ("5xx", Some((500, 599))),
            ("2XX", Some((200, 299))),
            ("0", Some((0, 0))),
            ("6xx", None),
            ("xx", None),
            ("4x", None),
            ("65535", None),
        ] {
            assert_eq!(statuses(text), expected, "{text}");
        }
    }
}
