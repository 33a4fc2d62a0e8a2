//! The options of `ostler run`, made from the table of settings: clap's command, and what it read as a layer.
//! Knows no setting by name but those that gunicorn's parser treats specially.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use crate::config::flags;
use crate::config::table::{Group, Kind, Level, Preset, Setting, TABLE};
use crate::config::written::Layer;

/// The name of the positional argument.
pub const APP: &str = "app";

/// Widest help text, in columns: longer lines are hard to read, also on wide terminals.
const WIDEST: usize = 110;

/// The heading that `--help` and `--version` stand below.
const LAST_HEADING: &str = "Python and gunicorn";

const ABOUT: &str = "Serve a Python app (WSGI or ASGI), with the command line of gunicorn";

const EXAMPLES: &str = "\
Examples:
  ostler run app:app                               one worker on 127.0.0.1:8000
  ostler run 'shop:create_app()' -w 4 --threads 8  four workers with eight threads each
  ostler run main:app -b :8443 --certfile chain.pem --keyfile key.pem
  ostler run app:app -b unix:/run/app.sock --static /static=./static
  ostler run -c gunicorn.conf.py --print-config    what is in force, and why

Settings come from the command line, else GUNICORN_CMD_ARGS, else gunicorn.conf.py,
else WEB_CONCURRENCY, PORT, FORWARDED_ALLOW_IPS, SENDFILE and SCRIPT_NAME.
Sizes: 64K, 100M, 1G. Durations: 30, 500ms, 1m. Every other flag of gunicorn is
taken too; one warning at the start names those that do nothing here.";

/// The command `run`.
pub fn command() -> Command {
    let app = Arg::new(APP)
        .value_name("APP")
        .help("module:callable, module:factory() or module");
    let command = Command::new("run")
        .visible_alias("gunicorn")
        .display_name("ostler")
        .override_usage("ostler run [OPTIONS] [APP]")
        .about(ABOUT)
        .after_help(EXAMPLES)
        .max_term_width(WIDEST)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .version(env!("CARGO_PKG_VERSION"))
        // As argparse, which gunicorn's command line is made of: the last one wins, and a clear beginning is enough.
        .args_override_self(true)
        .infer_long_args(true)
        .arg(app);
    let groups = TABLE
        .iter()
        .flat_map(|group| group.rows.iter().map(move |row| (group, row)));
    let options = groups.filter_map(|(group, row)| option(group, row));
    let ends = [
        Arg::new("help")
            .short('h')
            .long("help")
            .action(ArgAction::Help)
            .help("Print this help"),
        Arg::new("version")
            .short('v')
            .long("version")
            .action(ArgAction::Version)
            .help("Print the version"),
    ];
    command
        .args(options)
        .args(ends.map(|arg| arg.help_heading(LAST_HEADING)))
}

/// A setting's flags for clap; `None` when it has none.
fn option(group: &'static Group, row: &'static Setting) -> Option<Arg> {
    let flags = flags::of(row);
    let mut longs = flags.longs.iter().map(|long| long.trim_start_matches('-'));
    let mut arg = Arg::new(row.name)
        .long(longs.next()?)
        .aliases(longs.collect::<Vec<_>>())
        .help_heading(group.heading)
        .help(help(row))
        .hide(row.level != Level::Supported);
    if let Some(short) = flags.short {
        arg = arg.short(short);
    }
    if !flags.metavar.is_empty() {
        arg = arg.value_name(flags.metavar);
    }
    Some(match row.kind {
        Kind::Switch | Kind::Unswitch => arg.action(ArgAction::SetTrue),
        Kind::List | Kind::Pairs | Kind::Binds => arg.action(ArgAction::Append),
        Kind::Choice(_, Some(bare), _) => {
            // gunicorn's --preload takes no value: what follows it is the app. Its --proxy-protocol does.
            let alone = row.name == "preload_app";
            arg.num_args(0..=1)
                .require_equals(alone)
                .default_missing_value(bare)
        }
        // So that `--workers -1` is told what is wrong with -1.
        _ => arg.allow_negative_numbers(true),
    })
}

/// The help line with the default, where there is one to tell.
fn help(row: &Setting) -> String {
    let default = match (row.kind, row.preset) {
        (Kind::Size, Preset::Int(bytes)) if bytes > 0 && bytes % (1 << 20) == 0 => {
            format!("{}M", bytes >> 20)
        }
        (_, Preset::Int(number)) => number.to_string(),
        (_, Preset::Word(word)) if word.contains('%') => "gunicorn's".to_owned(),
        (_, Preset::Word(word)) => word.to_owned(),
        (_, Preset::Words(words)) => words.join(","),
        (_, Preset::Unset | Preset::Yes | Preset::No | Preset::Texts(_)) => String::new(),
    };
    if default.is_empty() {
        row.help.to_owned()
    } else {
        format!("{} [default: {default}]", row.help)
    }
}

/// What was typed, by setting name, unchecked.
pub fn layer(matches: &ArgMatches) -> Layer {
    let mut layer = Layer::new();
    for row in flags::rows().filter(|row| !row.flags.is_empty()) {
        let value = match row.kind {
            Kind::Switch => matches.get_flag(row.name).then_some(Value::Bool(true)),
            Kind::Unswitch => matches.get_flag(row.name).then_some(Value::Bool(false)),
            Kind::List | Kind::Pairs | Kind::Binds => {
                let given = matches.get_many::<String>(row.name);
                given.map(|texts| texts.map(|text| Value::from(text.as_str())).collect())
            }
            _ => matches
                .get_one::<String>(row.name)
                .map(|text| Value::from(text.as_str())),
        };
        if let Some(value) = value {
            layer.insert(row.name.to_owned(), value);
        }
    }
    layer
}
