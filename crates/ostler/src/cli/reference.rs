//! `docs/reference/run.md`, from the table of settings. Only built for the test that compares the two.

use crate::config::flags;
use crate::config::table::{ACCESS_LOG_FORMAT, Group, Kind, Level, Preset, Setting, TABLE, Whose};
use crate::config::written::ENVIRONMENT;

const INTRODUCTION: &str = "\
# `ostler run`

<!-- Made from crates/ostler/src/config/table.rs by `OSTLER_BLESS=1 cargo test -p ostler reference`. Do not edit. -->

    ostler run [OPTIONS] [APP]
    ostler gunicorn [OPTIONS] [APP]

`APP` is `module:callable`, `module:factory()` or `module` (whose `application` is called). The two commands are the same.

**Sources**, each stronger than the one before it: the defaults below; environment variables; the config file
(`gunicorn.conf.py` in the directory where ostler is started, or what `--config` names: `path`, `file:path` or
`python:package.module`); `GUNICORN_CMD_ARGS`; the command line. A flag that is given twice counts once, the last
time, unless it is repeatable. A clear beginning of a long flag is enough.

**Values.** Sizes: `1048576`, `64K`, `100M`, `1G` (or `KiB`, `MiB`, `GiB`) count in 1,024s, `MB` and `GB` in 1,000s.
Durations: seconds, or `500ms`, `30s`, `1m`, `2h`. Relative paths start at `--chdir`; those of `--config`, `--env-file`
and `--python` where ostler is started.

**A reload** (`HUP`) takes the config file anew, but for the settings that are marked *at the start*: a change of those
is a warning and takes a new start.

**What is wrong** is reported all at once, with exit code 2, before anything listens. An unknown flag is an error; an
unknown name in the config file is a warning.

**Sockets handed over by systemd** (`LISTEN_FDS`) take the place of every `--bind`.

A name in *italics* is ostler's own; gunicorn does not know it. \"Command line\" in the place of a name means that the
config file cannot set it.
";

/// The page.
pub fn run() -> String {
    let mut page = INTRODUCTION.to_owned();
    for group in TABLE.iter().filter(|group| group.heading != "Hooks") {
        page.push_str(&format!(
            "\n## {}\n\n| in the file | flags | default | |\n|---|---|---|---|\n",
            group.heading
        ));
        let rows = group
            .rows
            .iter()
            .filter(|row| row.level == Level::Supported);
        rows.for_each(|row| page.push_str(&supported(row)));
    }
    page.push_str("\n## Environment\n\n| variable | setting |\n|---|---|\n");
    for (variable, setting) in ENVIRONMENT {
        page.push_str(&format!("| `{variable}` | `{setting}` |\n"));
    }
    page.push_str("| `GUNICORN_CMD_ARGS` | flags, as on the command line |\n");
    hooks(&mut page);
    rest(&mut page);
    page
}

fn supported(row: &Setting) -> String {
    let name = match row.whose {
        Whose::Gunicorn => format!("`{}`", row.name),
        Whose::Ostler => format!("*`{}`*", row.name),
        Whose::CommandLine => "command line".to_owned(),
    };
    let help = row.help.split(" [default: ").next().unwrap_or(row.help);
    let mark = if row.at_start {
        " *(at the start)*"
    } else {
        ""
    };
    format!(
        "| {name} | {} | {} | {}{mark} |\n",
        flag_list(row),
        default(row),
        escaped(help)
    )
}

fn flag_list(row: &Setting) -> String {
    let flags = flags::of(row);
    let short = flags.short.map(|short| format!("-{short}"));
    let mut all: Vec<String> = short
        .into_iter()
        .chain(flags.longs.iter().map(|long| (*long).to_owned()))
        .collect();
    if let Some(last) = all.last_mut().filter(|_| !flags.metavar.is_empty()) {
        let optional = matches!(row.kind, Kind::Choice(_, Some(_), _));
        *last = if optional {
            format!("{last}[={}]", flags.metavar)
        } else {
            format!("{last} {}", flags.metavar)
        };
    }
    all.iter()
        .map(|flag| format!("`{flag}`"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn default(row: &Setting) -> String {
    let special = row
        .help
        .split(" [default: ")
        .nth(1)
        .and_then(|rest| rest.strip_suffix(']'));
    match (special, row.kind, row.preset) {
        (Some(special), ..) => special.to_owned(),
        (_, Kind::Size, Preset::Int(bytes)) if bytes > 0 && bytes % (1 << 20) == 0 => {
            format!("`{}M`", bytes >> 20)
        }
        (.., Preset::Int(number)) => format!("`{number}`"),
        (.., Preset::Word("") | Preset::Unset | Preset::Words([]) | Preset::Texts([])) => {
            String::new()
        }
        (.., Preset::Word(ACCESS_LOG_FORMAT)) => "gunicorn's".to_owned(),
        (.., Preset::Word(word)) => format!("`{word}`"),
        (.., Preset::Words(words)) => format!("`{}`", words.join(",")),
        (.., Preset::Yes) => "on".to_owned(),
        (.., Preset::No) => "off".to_owned(),
        (.., Preset::Texts(pairs)) => pairs
            .iter()
            .map(|(key, value)| format!("`{key}: {value}`"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn hooks(page: &mut String) {
    page.push_str("\n## Hooks\n\nPython functions in the config file.\n\n| hook | |\n|---|---|\n");
    let rows = TABLE.iter().flat_map(|Group { rows, .. }| rows.iter());
    for row in rows.filter(|row| row.kind == Kind::Hook && row.level == Level::Supported) {
        page.push_str(&format!("| `{}` | {} |\n", row.name, escaped(row.help)));
    }
}

fn rest(page: &mut String) {
    page.push_str("\n## Settings of gunicorn without a meaning here\n\nThey are accepted; one warning names those that are set.\n\n");
    page.push_str("| in the file | flags | why |\n|---|---|---|\n");
    for row in flags::rows().filter(|row| row.level == Level::Moot) {
        page.push_str(&format!(
            "| `{}` | {} | {} |\n",
            row.name,
            flag_list(row),
            escaped(row.help)
        ));
    }
    page.push_str("\n## Settings of gunicorn that are refused\n\n| in the file | flags | why | instead |\n|---|---|---|---|\n");
    for row in flags::rows() {
        if let Level::Refused(hint) = row.level {
            page.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                row.name,
                flag_list(row),
                escaped(row.help),
                escaped(hint)
            ));
        }
    }
    page.push_str(
        "| `worker_class` | `-k gevent`, `eventlet`, `tornado`, classes of your own | they bring a server of their own | \
         threads (`--threads N`), an ASGI worker (`-k uvicorn.workers.UvicornWorker`), or gunicorn itself behind ostler |\n\
         | `header_map` | `--header-map dangerous` | a header `X_Y` would pass for the `X-Y` of a trusted proxy | `drop` or `refuse` |\n",
    );
}

/// Text that may stand in a cell of a Markdown table.
pub fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('*', "\\*")
        .replace('_', "\\_")
}
