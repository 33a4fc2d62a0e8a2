//! ostler's own lines: `[2026-11-21 01:23:45 +0000] [4711] [INFO] message`, as gunicorn prints them.
//!
//! Lines are made with `tracing`'s macros anywhere in the binary; this file only says how they look and where
//! they go. A field named `text` may have several lines (a traceback): they follow the line, indented, so that
//! none of them can pass for a line of ostler's.

use std::fmt::{self, Write as _};
use std::io;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use time::UtcOffset;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::clock;
use super::escape;
use super::output::Target;
use super::sink::{Losses, Sink};

/// The `target` that makes `tracing::error!` a line of level CRITICAL.
pub const CRITICAL: &str = "critical";

/// gunicorn's `loglevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl FromStr for Level {
    type Err = ();

    fn from_str(name: &str) -> Result<Level, ()> {
        match &name.to_ascii_lowercase()[..] {
            "debug" => Ok(Level::Debug),
            "info" => Ok(Level::Info),
            "warning" | "warn" => Ok(Level::Warning),
            "error" => Ok(Level::Error),
            "critical" => Ok(Level::Critical),
            _ => Err(()),
        }
    }
}

impl Level {
    fn shows(self, metadata: &Metadata<'_>) -> bool {
        let least = match self {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
            Level::Critical => return metadata.target() == CRITICAL,
        };
        *metadata.level() <= least
    }

    fn of(metadata: &Metadata<'_>) -> Level {
        match *metadata.level() {
            tracing::Level::ERROR if metadata.target() == CRITICAL => Level::Critical,
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        }
    }

    /// The SGR parameters of a terminal.
    fn colour(self) -> &'static str {
        match self {
            Level::Debug => "2",
            Level::Info => "32",
            Level::Warning => "33",
            Level::Error => "31",
            Level::Critical => "1;31",
        }
    }
}

/// A queued sink for ostler's own lines, which tells in the log itself what is missing from it.
///
/// Errors: the file's.
pub fn error_sink(target: &Target, offset: UtcOffset) -> io::Result<Sink> {
    let tell = move |losses: Losses| {
        let Losses { dropped, failed } = losses;
        let prefix = prefix(offset, Level::Warning, false);
        format!("{prefix}error log: lines are missing dropped={dropped} failed={failed}\n")
            .into_bytes()
    };
    Sink::queued(target, Duration::ZERO, Box::new(tell))
}

/// Sends ostler's own lines of at least this level to `sink`, from now on and for the whole process. `colours`
/// when the sink's end is a terminal: [`wants_colours`].
///
/// Later calls change nothing.
pub fn start(level: Level, sink: Sink, offset: UtcOffset, colours: bool) {
    // The first call wins: a second one can only come from a test.
    let _ = tracing::subscriber::set_global_default(subscriber(level, sink, offset, colours));
}

/// Whether lines for this target may be coloured: a terminal, and a user who has not said otherwise
/// (<https://no-color.org>). `no_color` is the environment's `NO_COLOR`.
pub fn wants_colours(target: &Target, no_color: Option<&std::ffi::OsStr>) -> bool {
    let terminal = match target {
        Target::Stdout => io::IsTerminal::is_terminal(&io::stdout()),
        Target::Stderr => io::IsTerminal::is_terminal(&io::stderr()),
        Target::Path(_) => false,
    };
    terminal && no_color.is_none_or(std::ffi::OsStr::is_empty)
}

fn subscriber(
    level: Level,
    sink: Sink,
    offset: UtcOffset,
    colours: bool,
) -> impl Subscriber + Send + Sync {
    let hint = match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warning => LevelFilter::WARN,
        Level::Error | Level::Critical => LevelFilter::ERROR,
    };
    let filter = FilterFn::new(move |metadata| level.shows(metadata)).with_max_level_hint(hint);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .event_format(Lines { offset, colours })
        .with_writer(Lent(sink))
        .with_filter(filter);
    tracing_subscriber::registry().with(lines)
}

/// Bytes of one line, its `text` not counted; longer ones are cut.
const MAX_LINE: usize = 8 * 1024;

/// Bytes of a `text` field; a deep recursion's traceback is longer, and its ends say enough.
const MAX_TEXT: usize = 64 * 1024;

#[derive(Clone, Copy, Debug)]
struct Lines {
    offset: UtcOffset,
    colours: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut seen = Seen::default();
        event.record(&mut seen);
        out.write_str(&prefix(
            self.offset,
            Level::of(event.metadata()),
            self.colours,
        ))?;
        let mut line = seen.message;
        line.push_str(&seen.fields);
        cut(&mut line, MAX_LINE);
        out.write_str(&line)?;
        out.write_char('\n')?;
        out.write_str(&seen.text)
    }
}

fn prefix(offset: UtcOffset, level: Level, colours: bool) -> String {
    let time = clock::gunicorn(SystemTime::now(), offset);
    let (pid, name) = (std::process::id(), level.name());
    if colours {
        return format!("{time} [{pid}] \x1b[{}m[{name}]\x1b[0m ", level.colour());
    }
    format!("{time} [{pid}] [{name}] ")
}

/// What an event says.
#[derive(Debug, Default)]
struct Seen {
    message: String,
    /// ` key=value ...`
    fields: String,
    /// Indented lines.
    text: String,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }
}

impl Seen {
    fn record(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => escape::message(&mut self.message, value),
            "text" => self.block(value),
            name => {
                let _ = write!(self.fields, " {name}=");
                if value.is_empty() || value.contains([' ', '"', '=']) {
                    let _ = write!(self.fields, "{value:?}");
                } else {
                    escape::message(&mut self.fields, value);
                }
            }
        }
    }

    fn block(&mut self, text: &str) {
        let mut text = text.trim_end().to_owned();
        cut(&mut text, MAX_TEXT);
        for line in text.lines() {
            self.text.push_str("    ");
            escape::message(&mut self.text, line);
            self.text.push('\n');
        }
    }
}

fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

/// Gives the sink to `tracing`, which writes each line with one call.
struct Lent(Sink);

impl<'a> MakeWriter<'a> for Lent {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

struct Line<'a>(&'a Sink);

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A line that finds no room is counted there; there is nowhere to complain to.
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    /// The lines that `say` makes at a level, without their times.
    fn said(level: Level, colours: bool, say: impl FnOnce()) -> Vec<String> {
        let scratch = Scratch::new("error");
        let sink = Sink::direct(&Target::Path(scratch.path("log"))).unwrap();
        tracing::subscriber::with_default(subscriber(level, sink, UtcOffset::UTC, colours), say);
        let log = std::fs::read_to_string(scratch.path("log")).unwrap();
        let pid = format!(" [{}] ", std::process::id());
        log.lines()
            .map(|line| {
                line.split_once(&pid)
                    .map_or(line, |(_, rest)| rest)
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn a_line_looks_like_gunicorns() {
        let scratch = Scratch::new("error-line");
        let sink = Sink::direct(&Target::Path(scratch.path("log"))).unwrap();
        let subscriber = subscriber(Level::Info, sink, UtcOffset::UTC, false);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("Listening at: {}", "http://[::1]:8000")
        });
        let line = std::fs::read_to_string(scratch.path("log")).unwrap();
        let (time, rest) = line.split_at("[2026-11-21 01:23:45 +0000]".len());
        assert!(
            time.starts_with("[2") && time.ends_with(" +0000]"),
            "{line}"
        );
        assert_eq!(
            rest,
            format!(
                " [{}] [INFO] Listening at: http://[::1]:8000\n",
                std::process::id()
            )
        );
    }

    #[test]
    fn levels_let_through_what_is_as_grave() {
        let say = || {
            tracing::debug!("d");
            tracing::info!("i");
            tracing::warn!("w");
            tracing::error!("e");
            tracing::error!(target: CRITICAL, "c");
        };
        let all = [
            "[DEBUG] d",
            "[INFO] i",
            "[WARNING] w",
            "[ERROR] e",
            "[CRITICAL] c",
        ];
        for (name, from) in [
            ("debug", 0),
            ("INFO", 1),
            ("warning", 2),
            ("Error", 3),
            ("critical", 4),
        ] {
            assert_eq!(
                said(name.parse().unwrap(), false, say),
                all[from..],
                "{name}"
            );
        }
        assert_eq!("verbose".parse::<Level>(), Err(()));
    }

    #[test]
    fn fields_follow_the_message() {
        let seen = said(Level::Info, false, || {
            let error = io::Error::from_raw_os_error(2);
            tracing::info!(worker = 3, pid = 77u32, %error, empty = "", quiet = true, "worker is gone");
        });
        let expected = "[INFO] worker is gone worker=3 pid=77 \
                        error=\"No such file or directory (os error 2)\" empty=\"\" quiet=true";
        assert_eq!(seen, [expected]);
    }

    #[test]
    fn nothing_outside_can_forge_a_line() {
        let seen = said(Level::Info, false, || {
            tracing::info!(
                name = "a\nb",
                other = "x y\n\x1b[31m",
                "one\n[2026-11-21] [1] [INFO] two\x1b[2J"
            );
        });
        let expected =
            r#"[INFO] one\n[2026-11-21] [1] [INFO] two\x1b[2J name=a\nb other="x y\n\u{1b}[31m""#;
        assert_eq!(seen, [expected]);
    }

    #[test]
    fn a_traceback_follows_its_line_indented() {
        let seen = said(Level::Info, false, || {
            tracing::error!(
                text = "Traceback:\n  File \"app.py\"\nKeyError\x07\n",
                worker = 1,
                "import failed"
            );
        });
        let expected = [
            "[ERROR] import failed worker=1",
            "    Traceback:",
            "      File \"app.py\"",
            "    KeyError\\x07",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn long_lines_are_cut() {
        let seen = said(Level::Info, false, || {
            tracing::info!("{}", "ä".repeat(MAX_LINE))
        });
        assert!(seen[0].len() < MAX_LINE + 100 && seen[0].ends_with("ä..."));
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        assert_eq!(
            said(Level::Info, true, || tracing::info!("i")),
            ["\x1b[32m[INFO]\x1b[0m i"]
        );
        assert!(!wants_colours(&Target::Path("/dev/tty".into()), None));
        assert!(!wants_colours(
            &Target::Stderr,
            Some(std::ffi::OsStr::new("1"))
        ));
    }

    #[test]
    fn a_full_log_says_so_itself() {
        let sink = error_sink(&Target::Path("/dev/null".into()), UtcOffset::UTC).unwrap();
        assert!(sink.push(b"line\n"));
        assert!(sink.close(Duration::from_secs(20)));
        assert_eq!(sink.losses(), Losses::default());
    }
}
