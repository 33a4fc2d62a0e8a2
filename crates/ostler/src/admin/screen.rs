//! How a person sees what the admin API says: tables that line up, with or without colours. Asks nobody.

mod limits;
mod requests;
mod runs;
mod upstreams;

use time::OffsetDateTime;

pub use requests::{percentiles, reach, requests};
pub use runs::{about_run, compared_runs, list_of_runs, troubles};

use super::api::{Outcome, Project, Reloaded, State, Status, Worker};

/// What is shown where, and in which colour.
pub struct Screen {
    colours: bool,
    out: String,
}

/// The SGR parameters of a terminal.
const BOLD: &str = "1";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const NONE: &str = "";

/// Workers that are shown of one project: a screen has to be a screen. `--json` has all.
const WORKERS_SHOWN: usize = 32;

/// Characters of an error that are shown; the log has all of it.
const ERROR_SHOWN: usize = 160;

/// One cell: its text, its colour, and whether it stands on the right.
struct Cell(String, &'static str, bool);

fn text(text: impl ToString) -> Cell {
    Cell(visible(&text.to_string()), NONE, false)
}

fn number(number: impl ToString) -> Cell {
    Cell(number.to_string(), NONE, true)
}

/// The screen of `ostler status`.
pub fn status(status: &Status, colours: bool) -> String {
    let mut screen = Screen {
        colours,
        out: String::new(),
    };
    screen.machine(status);
    screen.projects(&status.projects);
    screen.workers(&status.projects);
    screen.upstreams(&status.projects);
    screen.routes(&status.projects);
    screen.limits(status);
    screen.certificates(status);
    screen.errors(&status.projects);
    for note in &status.notes {
        screen.out.push_str(&format!("\nnote: {}\n", visible(note)));
    }
    screen.out
}

/// The certificates alone: `ostler certs`.
pub fn certificates(status: &Status, colours: bool) -> String {
    let mut screen = Screen {
        colours,
        out: String::new(),
    };
    screen.certificates(status);
    match screen.out.strip_prefix('\n') {
        Some(table) => table.to_owned(),
        None => "no host has a certificate: nothing listens for HTTPS\n".to_owned(),
    }
}

/// What `ostler reload` says of what has changed; problems are another matter.
pub fn reloaded(reloaded: &Reloaded) -> String {
    let mut out = String::new();
    for change in &reloaded.changes {
        out.push_str(&match &change.project[..] {
            "" => format!("{}\n", visible(&change.what)),
            name => format!("{}: {}\n", visible(name), visible(&change.what)),
        });
    }
    out.push_str(match reloaded.outcome {
        Outcome::Done if reloaded.upgraded => "upgraded\n",
        Outcome::Done if reloaded.changes.is_empty() => "reloaded: nothing has changed\n",
        Outcome::Done => "reloaded\n",
        Outcome::Begun => "taken; what has to start is starting\n",
        Outcome::Failed | Outcome::Unknown => "",
    });
    out
}

/// µs since the epoch as "2026-11-21 14:05:09.120", in UTC.
fn moment(micros: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000);
    at.map_or_else(
        |_| micros.to_string(),
        |at| {
            let (date, time) = (at.date(), at.time());
            let (hour, minute, second) = (time.hour(), time.minute(), time.second());
            let milli = time.millisecond();
            format!("{date} {hour:02}:{minute:02}:{second:02}.{milli:03}")
        },
    )
}

/// "90 µs", "1.5 ms", "2.31 s".
fn brief(micros: u64) -> String {
    match micros {
        ..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

impl Screen {
    fn machine(&mut self, status: &Status) {
        let title = self.painted(&format!("ostler {}", status.version), BOLD);
        self.out.push_str(&format!(
            "{title}  keeper {}  server {}  up {}  user {}\n",
            status.keeper,
            status.server,
            span(status.uptime as f64),
            visible(&status.user)
        ));
        for listener in &status.listeners {
            self.out
                .push_str(&format!("listening on {}\n", visible(listener)));
        }
        let seen = &status.connections;
        self.out.push_str(&format!(
            "{} connections, {} of them WebSockets\n",
            seen.open, seen.sockets
        ));
    }

    fn projects(&mut self, projects: &[Project]) {
        let rows = projects.iter().map(|project| {
            let ready = project
                .workers
                .iter()
                .filter(|worker| worker.state == "ready");
            let sum = |of: fn(&Worker) -> u64| project.workers.iter().map(of).sum::<u64>();
            let generation = match project.next {
                Some(next) => format!("{} → {next}", project.generation),
                None => project.generation.to_string(),
            };
            vec![
                text(named(&project.name)),
                state(project.state, project.maintenance.anywhere()),
                text(&project.app),
                text(project.interface.as_deref().unwrap_or("-")),
                number(generation),
                number(format!("{}/{}", ready.count(), project.workers.len())),
                number(format!(
                    "{}/{}",
                    sum(|w| w.busy.into()),
                    sum(|w| w.slots.into())
                )),
                number(project.line.length),
                number(project.line.oldest.map_or("-".to_owned(), span)),
                number(sum(|worker| worker.requests)),
                number(project.crashes),
            ]
        });
        let rows = rows.collect();
        self.table(
            &[
                "PROJECT",
                "STATE",
                "APP",
                "KIND",
                "GENERATION",
                "READY",
                "BUSY",
                "LINE",
                "OLDEST",
                "REQUESTS",
                "CRASHES",
            ],
            rows,
        );
    }

    fn workers(&mut self, projects: &[Project]) {
        let mut rows = Vec::new();
        for project in projects {
            for worker in project.workers.iter().take(WORKERS_SHOWN) {
                let colour = match &worker.state[..] {
                    "ready" => NONE,
                    _ => YELLOW,
                };
                rows.push(vec![
                    text(named(&project.name)),
                    number(worker.worker),
                    number(worker.pid),
                    Cell(visible(&worker.state), colour, false),
                    number(worker.generation),
                    number(format!("{}/{}", worker.busy, worker.slots)),
                    number(worker.requests),
                    number(span(worker.age as f64)),
                    number(worker.memory.map_or("-".to_owned(), size)),
                ]);
            }
            let more = project.workers.len().saturating_sub(WORKERS_SHOWN);
            if more > 0 {
                rows.push(vec![text(named(&project.name)), text(format!("+{more}"))]);
            }
        }
        self.table(
            &[
                "WORKERS OF",
                "NUMBER",
                "PID",
                "STATE",
                "GENERATION",
                "BUSY",
                "REQUESTS",
                "AGE",
                "MEMORY",
            ],
            rows,
        );
    }

    fn routes(&mut self, projects: &[Project]) {
        let mut rows = Vec::new();
        for project in projects {
            let all = project.routes.iter();
            rows.extend(all.map(|route| vec![text(route), text(named(&project.name))]));
        }
        self.table(&["ROUTE", "PROJECT"], rows);
    }

    fn certificates(&mut self, status: &Status) {
        let rows = status.certificates.iter().map(|certificate| {
            let colour = match (certificate.days_left, &certificate.error) {
                (None | Some(..0), _) => RED,
                (_, Some(_)) => YELLOW,
                (_, None) => GREEN,
            };
            let days = certificate.days_left.map(|days| days.to_string());
            let error = certificate.error.as_deref().unwrap_or("");
            vec![
                text(certificate.names.join(" ")),
                Cell(visible(&certificate.state), colour, false),
                number(days.as_deref().unwrap_or("-")),
                text(certificate.expires.as_deref().unwrap_or("-")),
                text(certificate.next_attempt.as_deref().unwrap_or("-")),
                text(error.chars().take(ERROR_SHOWN).collect::<String>()),
            ]
        });
        let rows = rows.collect();
        let heads = [
            "CERTIFICATE",
            "STATE",
            "DAYS LEFT",
            "EXPIRES",
            "NEXT ATTEMPT",
            "TROUBLE",
        ];
        self.table(&heads, rows);
    }

    fn errors(&mut self, projects: &[Project]) {
        let mut rows = Vec::new();
        for project in projects {
            rows.extend(project.errors.iter().map(|error| {
                // The last line of a traceback says what it was.
                let mut lines = error
                    .text
                    .lines()
                    .rev()
                    .filter(|line| !line.trim().is_empty());
                let line: String = lines
                    .next()
                    .unwrap_or("")
                    .chars()
                    .take(ERROR_SHOWN)
                    .collect();
                vec![
                    text(&error.at),
                    text(named(&project.name)),
                    Cell(visible(&line), RED, false),
                ]
            }));
        }
        self.table(&["LAST ERRORS", "PROJECT", "TEXT"], rows);
    }

    /// Columns are as wide as their widest cell; nothing for no rows.
    fn table(&mut self, heads: &[&str], rows: Vec<Vec<Cell>>) {
        if rows.is_empty() {
            return;
        }
        let mut widths: Vec<usize> = heads.iter().map(|head| head.len()).collect();
        for row in &rows {
            for (width, Cell(text, ..)) in widths.iter_mut().zip(row) {
                *width = (*width).max(text.chars().count());
            }
        }
        let right = |column: usize| {
            let mut cells = rows.iter().filter_map(|row| row.get(column));
            cells.next().is_some_and(|Cell(.., right)| *right)
        };
        let heads: Vec<Cell> = heads
            .iter()
            .enumerate()
            .map(|(column, head)| Cell((*head).to_owned(), BOLD, right(column)))
            .collect();
        self.out.push('\n');
        for row in std::iter::once(&heads).chain(&rows) {
            let mut line = String::new();
            for (Cell(text, colour, right), width) in row.iter().zip(&widths) {
                let space = " ".repeat(width - text.chars().count());
                let text = self.painted(text, colour);
                line.push_str(&match right {
                    true => format!("{space}{text}  "),
                    false => format!("{text}{space}  "),
                });
            }
            self.out.push_str(line.trim_end());
            self.out.push('\n');
        }
    }

    fn painted(&self, text: &str, colour: &str) -> String {
        match self.colours && !colour.is_empty() {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

fn named(name: &str) -> &str {
    if name.is_empty() { "-" } else { name }
}

fn state(state: State, maintenance: bool) -> Cell {
    let (text, colour) = match state {
        State::Starting => ("starting", YELLOW),
        State::Serving => ("serving", GREEN),
        State::CrashLooping => ("crash loop", RED),
        State::Stopping => ("stopping", YELLOW),
        State::Leaving => ("leaving", YELLOW),
    };
    match maintenance {
        true => Cell(format!("{text}, maintenance"), YELLOW, false),
        false => Cell(text.to_owned(), colour, false),
    }
}

/// "90 ms", "12 s", "3 m 20 s", "5 h 3 m", "12 d 4 h".
fn span(seconds: f64) -> String {
    if seconds < 1.0 && seconds > 0.0 {
        return format!("{:.0} ms", (seconds * 1000.0).ceil());
    }
    let whole = seconds as u64;
    let two = |(a, x): (u64, &str), (b, y): (u64, &str)| match b {
        0 => format!("{a} {x}"),
        _ => format!("{a} {x} {b} {y}"),
    };
    match whole {
        ..100 => format!("{whole} s"),
        100..3600 => two((whole / 60, "m"), (whole % 60, "s")),
        3600..86_400 => two((whole / 3600, "h"), (whole % 3600 / 60, "m")),
        _ => two((whole / 86_400, "d"), (whole % 86_400 / 3600, "h")),
    }
}

/// "512 B", "14.2 MiB".
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// What apps and files say, without what would move a terminal's cursor or turn text round.
pub fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if unseen(c) { '\u{FFFD}' } else { c })
        .collect()
}

/// What a terminal takes for a command, or shows elsewhere than where it stands.
fn unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// JSON with the same characters as escapes, which it leaves as they are from DEL on.
pub fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match unseen(c) {
            // All of them are below U+10000.
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(colours: bool) -> Screen {
        let out = String::new();
        Screen { colours, out }
    }

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let rows = || {
            vec![
                vec![text("shop"), state(State::Serving, false), number(7)],
                vec![
                    text("a-long-name\x1b[2J"),
                    state(State::CrashLooping, false),
                    number(1234),
                ],
            ]
        };
        let mut plain = screen(false);
        plain.table(&["PROJECT", "STATE", "LINE"], rows());
        let expected = [
            "",
            "PROJECT          STATE       LINE",
            "shop             serving        7",
            "a-long-name\u{FFFD}[2J  crash loop  1234",
            "",
        ];
        assert_eq!(plain.out, expected.join("\n"));
        let mut coloured = screen(true);
        coloured.table(&["PROJECT", "STATE", "LINE"], rows());
        assert!(coloured.out.contains("\x1b[32mserving\x1b[0m"));
        let mut stripped = coloured.out;
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, plain.out);
        assert!(!plain.out.contains('\x1b'));
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (0.0001, "1 ms"),
            (0.25, "250 ms"),
            (99.9, "99 s"),
            (180.0, "3 m"),
            (200.0, "3 m 20 s"),
            (18_180.0, "5 h 3 m"),
            (1_051_200.0, "12 d 4 h"),
        ] {
            assert_eq!(span(seconds), expected);
        }
        for (bytes, expected) in [
            (0, "0 B"),
            (1024, "1.0 KiB"),
            (14_889_779, "14.2 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
