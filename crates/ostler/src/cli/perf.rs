//! `ostler perf`: reads what workers have written about the time of their calls. Asks no server.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::output::{colours, written};
use super::{check, operator, refuse};
use crate::admin::screen;
use crate::config::ConfigError;
use crate::config::serve::Project;
use crate::runs::{self, Glance, Run, Runs, Summary};

const EXAMPLES: &str = "\
ostler perf                 the runs: one for each start of a server with --perf (perf = true)
ostler perf last            how long the calls of the most recent one took
ostler perf 3 last          what became slower since run 3
Files are ./perf/logs/RUN/PID.log: start in µs since the epoch, duration in µs, call, status.
Percentiles are within 0.8 %. Slower means more than chance and more than 5 %; why is not known.";

/// Where runs are when nobody says otherwise: as `perf_dir`.
const FOLDER: &str = "perf/logs";

/// Calls that are shown.
const SHOWN: usize = 50;

/// The command `perf`.
pub fn command() -> Command {
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let there = operator::args();
    Command::new("perf")
        .display_name("ostler")
        .override_usage("ostler perf [OPTIONS] [RUN] [LATER RUN]")
        .about("How long calls took: list runs, show one, compare two")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .arg(
            Arg::new("run")
                .value_name("RUN")
                .help("Its number, or `last`"),
        )
        .arg(
            Arg::new("later")
                .value_name("LATER RUN")
                .help("What to compare it with"),
        )
        .args(there.into_iter().filter(|arg| arg.get_id() != "state"))
        .args([
            value(
                "project",
                "NAME",
                "The runs of this project of the operator's file",
            ),
            value(
                "folder",
                "FOLDER",
                "The folder of the runs [default: ./perf/logs]",
            )
            .conflicts_with("project"),
            value("limit", "N", "So many runs or calls [default: 50]"),
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("One JSON object on each line"),
        ])
}

/// Exit code 0 when there was something to read.
pub fn perf(matches: &ArgMatches) -> ExitCode {
    let told = Desk::new(matches).and_then(|desk| match desk.asked {
        (None, _) => desk.list(),
        (Some(run), None) => desk.show(run),
        (Some(first), Some(second)) => desk.compare(first, second),
    });
    told.err().unwrap_or(ExitCode::SUCCESS)
}

/// What one call of the command works on.
struct Desk {
    folder: PathBuf,
    runs: Runs,
    asked: (Option<u64>, Option<u64>),
    limit: usize,
    json: bool,
}

impl Desk {
    fn new(matches: &ArgMatches) -> Result<Self, ExitCode> {
        let folder = folder(matches)?;
        let runs = Runs::open(&folder).map_err(|error| {
            wrong(
                "there are no runs to read",
                format!("{}: {error}", folder.display()),
                "start a server with --perf (perf = true), or name the folder with --folder",
            )
        })?;
        let last = runs.numbers.last().copied();
        let run = |name: &str| match matches.get_one::<String>(name) {
            None => Ok(None),
            Some(text) => match (text.as_str(), text.parse()) {
                ("last", _) if last.is_some() => Ok(last),
                (_, Ok(number)) => Ok(Some(number)),
                _ => Err(wrong(
                    "a run is a number",
                    format!("`{text}`"),
                    "ostler perf lists them",
                )),
            },
        };
        let limit = match matches
            .get_one::<String>("limit")
            .map(|limit| limit.parse())
        {
            None => SHOWN,
            Some(Ok(limit)) => limit,
            Some(Err(_)) => {
                return Err(wrong(
                    "--limit is not understood",
                    String::new(),
                    "write a number",
                ));
            }
        };
        Ok(Self {
            asked: (run("run")?, run("later")?),
            folder,
            runs,
            limit,
            json: matches.get_flag("json"),
        })
    }

    fn list(&self) -> Result<(), ExitCode> {
        let from = self.runs.numbers.len().saturating_sub(self.limit);
        let mut opened = Vec::new();
        for number in &self.runs.numbers[from..] {
            match self.runs.run(*number) {
                Ok(Some(run)) => opened.push(run),
                // A start has just removed it, or it is no folder.
                Ok(None) => {}
                Err(error) => eprintln!("warning: run {number} is left out: {error}"),
            }
        }
        let mut bar = Bar::new(opened.iter().map(runs::size).sum());
        let rows: Vec<(u64, Glance, usize, bool)> = opened
            .iter()
            .map(|run| {
                let seen = runs::glance(run, &mut |bytes| bar.add(bytes));
                (run.number, seen, run.workers.len(), run.is_open())
            })
            .collect();
        bar.clear();
        if !self.json {
            let text = screen::list_of_runs(&rows, colours(&std::io::stdout()));
            return written(match text.is_empty() {
                true => "there are no runs yet\n",
                false => &text,
            });
        }
        let lines = rows.iter().map(|(number, seen, workers, open)| {
            json!({
                "run": number, "start": seen.first, "length": seen.length(), "calls": seen.calls,
                "workers": workers, "bytes": seen.bytes, "app": seen.app, "open": open,
            })
        });
        written(&text_of(lines))
    }

    fn show(&self, number: u64) -> Result<(), ExitCode> {
        let run = self.run(number)?;
        let mut bar = Bar::new(runs::size(&run));
        let summary = self.read(&run, &mut bar);
        bar.clear();
        told(&run, &summary);
        let mut calls = summary.by_time();
        if self.json {
            return written(&text_of(calls.iter().map(|call| json!(call))));
        }
        let left = calls.len().saturating_sub(self.limit);
        calls.truncate(self.limit);
        written(&screen::about_run(
            number,
            &summary,
            &calls,
            left,
            colours(&std::io::stdout()),
        ))
    }

    fn compare(&self, first: u64, second: u64) -> Result<(), ExitCode> {
        let opened = [self.run(first)?, self.run(second)?];
        let mut bar = Bar::new(opened.iter().map(runs::size).sum());
        let [before, after] = [&opened[0], &opened[1]].map(|run| self.read(run, &mut bar));
        bar.clear();
        told(&opened[0], &before);
        told(&opened[1], &after);
        let mut all = runs::compare(&before, &after);
        if self.json {
            return written(&text_of(all.iter().map(|one| json!(one))));
        }
        let left = all.len().saturating_sub(self.limit);
        all.truncate(self.limit);
        written(&screen::compared_runs(
            (first, second),
            &all,
            left,
            colours(&std::io::stdout()),
        ))
    }

    fn run(&self, number: u64) -> Result<Run, ExitCode> {
        match self.runs.run(number) {
            Ok(Some(run)) => Ok(run),
            Ok(None) => Err(wrong(
                "there is no such run",
                format!("{number} in {}", self.folder.display()),
                "ostler perf lists them",
            )),
            Err(error) => Err(wrong(
                "the run cannot be read",
                format!("{}/{number}: {error}", self.folder.display()),
                "ask as the user that the workers run as, or as root",
            )),
        }
    }

    fn read(&self, run: &Run, bar: &mut Bar) -> Summary {
        runs::read(run, &mut |bytes| bar.add(bytes))
    }
}

/// The folder of the runs: what is named, that of a project, that of this folder, that of the only project.
fn folder(matches: &ArgMatches) -> Result<PathBuf, ExitCode> {
    if let Some(folder) = matches.get_one::<String>("folder") {
        return Ok(PathBuf::from(folder));
    }
    let around = super::surroundings().map_err(|errors| refuse(&errors))?;
    let project = matches.get_one::<String>("project");
    let here = around.directory.join(FOLDER);
    let plain = project.is_none() && !matches.contains_id("config");
    if plain && (here.is_dir() || check::found(&around.directory).is_none()) {
        return Ok(here);
    }
    let (path, checked) = check::good(matches, &around)?;
    let all = &checked.serve.projects;
    let found = match (project, &all[..]) {
        (Some(name), _) => all.iter().find(|project| project.name == *name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let names: Vec<&str> = all.iter().map(|project| &project.name[..]).collect();
    found.map(folder_of).ok_or_else(|| {
        wrong(
            "--project names whose runs",
            format!("{} in {}", names.join(", "), path.display()),
            "name one of them",
        )
    })
}

fn folder_of(project: &Project) -> PathBuf {
    let text = |name: &str| project.web.get(name).and_then(Value::as_str);
    let folder = project.source.join(text("chdir").unwrap_or(""));
    folder.join(text("perf_dir").unwrap_or(FOLDER))
}

fn wrong(what: &str, seen: String, hint: &str) -> ExitCode {
    refuse(&[ConfigError {
        what: what.to_owned(),
        seen: screen::visible(&seen),
        hint: hint.to_owned(),
    }])
}

/// Says what of a run was left out.
fn told(run: &Run, summary: &Summary) {
    eprint!("{}", screen::troubles(run.number, summary));
    if run.foreign > 0 {
        eprintln!(
            "note: run {}: {} other files are not read",
            run.number, run.foreign
        );
    }
    if summary.cut > 0 {
        eprintln!(
            "note: run {}: {} files end within a line, which is left out",
            run.number, summary.cut
        );
    }
}

fn text_of(lines: impl Iterator<Item = Value>) -> String {
    lines
        .map(|line| screen::escaped(&line.to_string()) + "\n")
        .collect()
}

/// How far reading is, for a person who waits.
struct Bar {
    whole: u64,
    read: u64,
    next: Instant,
    shown: bool,
    terminal: bool,
}

/// Nothing is shown before, nor more often.
const BAR_EVERY: Duration = Duration::from_millis(200);

impl Bar {
    fn new(whole: u64) -> Self {
        Self {
            whole,
            read: 0,
            next: Instant::now() + BAR_EVERY,
            shown: false,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn add(&mut self, bytes: u64) {
        self.read += bytes;
        if !self.terminal || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + BAR_EVERY;
        self.shown = true;
        const WIDTH: u64 = 40;
        let done = (self.read * WIDTH / self.whole.max(1)).min(WIDTH) as usize;
        let (done, left) = ("#".repeat(done), ".".repeat(WIDTH as usize - done));
        eprint!("\rreading [{done}{left}] {} MiB", self.read >> 20);
    }

    /// Takes the line away.
    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
