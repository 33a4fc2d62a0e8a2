//! `docs/reference/ostler-toml.md`, from the list of its keys. Only built for the test that compares the two.

use super::reference::escaped;
use crate::config::flags;
use crate::config::serve::schema::{Form, Key, Owner, Section};
use crate::config::table::{ACCESS_LOG_FORMAT, Kind, Preset};

const INTRODUCTION: &str = "\
# `ostler.toml`

<!-- Made from crates/ostler/src/config/{table,serve/schema}.rs by `OSTLER_BLESS=1 cargo test -p ostler reference`. Do not edit. -->

    ostler check [--config FILE] [--print]

reads it, says what is wrong, and starts nothing; `--print` shows every value in force and where it comes from.
Without `--config` it is `./ostler.toml`, else `/etc/ostler/ostler.toml`.

```toml
[server]
listen = [\"0.0.0.0:80\", \"[::]:80\"]

[projects.shop]
source = \"./shop\"
hosts = [\"shop.example.com\", \"*.shop.example.com\"]

[projects.shop.web]
app = \"app:app\"
workers = 4
env = { DSN = \"${SHOP_DSN}\" }

[projects.shop.static]
\"/static\" = \"static\"

[projects.blog]
source = \"./blog\"
hosts = [\"example.com\"]
web.app = \"blog:create_app()\"

[[projects.blog.routes]]
prefix = \"/blog\"

[projects.api]                     # other HTTP servers answer: no source, no app
hosts = [\"api.example.com\"]
upstreams = [\"http://127.0.0.1:9000\", \"unix:/run/api.sock\"]
proxy = { sticky = true, health_path = \"/health\" }
```

**Problems** are reported all at once, each with its file, line and column, and with exit code 2. A key that is not
listed here is an error.

**Values.** A duration is a number of seconds, or `\"500ms\"`, `\"30s\"`, `\"1m\"`, `\"2h\"`, `\"365d\"`. A size is a number of bytes, or
`\"64K\"`, `\"16MiB\"`, `\"1G\"` (in 1,024s; `\"MB\"` and `\"GB\"` in 1,000s). `${NAME}` in a text is the variable of that name in
the environment that ostler starts in, which must be set; `$$` is a dollar. It stands in values, not in keys. Apps have the environment
that ostler starts in without these variables and without that of `key_variable`: what one of them is to see, its `env` says.

**Paths** in `[server]` and `[acme]`, `source`, `certfile`, `keyfile` and `client_ca` are relative to the file they stand in; those in `static`, `access` and `errors`, and `chdir`, `env_file`,
`config` and `python` in `web`, to the project's source; other paths in `web` to `chdir`.

**A reload** (`ostler reload`, `HUP`) takes all of it anew, but for keys that are marked *at the start*: a change of those
is a warning, and takes effect with `ostler upgrade`, which loses no request, or a restart; that of `state` with a restart.

**Sockets handed over by systemd** (`LISTEN_FDS`) are known by the address they are bound to: one that `listen`, `listen_tls`
or `admin` names is used in the place of a new one. What the file does not name is a warning and is not served; what nobody has
handed over is bound. A socket of `[::]` that takes IPv4 too counts for `0.0.0.0` with its port. `ostler systemd --socket`
prints the unit that fits. `fd://N` names one by its number instead.

**Several files.** `include` names more files, relative to the one it stands in and in the order of their names; no file is
read twice. What two files say is put together, section by section; a key that both set is an error.

**Owners.** Keys of the *operator* come from the machine's file and those it includes. Keys of the *repository* may also stand
in `ostler.toml` in the project's source, there without `projects.NAME`; where both set a key, the machine's file wins.
A repository's file has no `include` and no `${NAME}`, and its paths stay below its source. Its `[server]` is passed over: it
counts when that folder is where `ostler check` or `ostler serve` is started without `--config`. The file that is read then
is the operator's, and its `[web]` and `[static]` are the project of that folder, for any host.

**Names.** A project's name has a–z, 0–9 and `-`, at most 63 of them. A host is a name or an address without a port;
`*.example.com` is every name with one label more, `*` any host that no other project has; a name with other letters
than ASCII is written as `xn--…`. A host belongs to one project. A prefix starts with `/` and does not end with one.
";

/// The page.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let sections = [
        Section::Top,
        Section::Server,
        Section::Acme,
        Section::Project,
        Section::Route,
        Section::Access,
        Section::Limits,
        Section::Cors,
        Section::Headers,
        Section::Errors,
        Section::Redirect,
        Section::Upstream,
        Section::Proxy,
        Section::Web,
    ];
    for section in sections {
        let heading = match section {
            Section::Top => "The top of the file".to_owned(),
            _ => format!("`{}`", section.heading()),
        };
        page.push_str(&format!(
            "\n## {heading}\n\n| key | type | default | owner | |\n|---|---|---|---|---|\n"
        ));
        section
            .keys()
            .for_each(|key| page.push_str(&row(section, &key)));
    }
    page
}

fn row(section: Section, key: &Key) -> String {
    let owner = match section.owner(key) {
        Owner::Operator => "operator",
        Owner::Repository => "repository",
    };
    let (help, special) = match key.help.split_once(" [default: ") {
        Some((help, special)) => (help, special.strip_suffix(']')),
        None => (key.help, None),
    };
    let default = special.map_or_else(|| default(key), escaped);
    let mark = if at_start(key) {
        " *(at the start)*"
    } else {
        ""
    };
    format!(
        "| `{}` | {} | {default} | {owner} | {}{mark} |\n",
        key.name,
        form(key),
        escaped(help)
    )
}

/// A reload does not take it.
fn at_start(key: &Key) -> bool {
    const OWN: [&str; 3] = ["listen_tls", "state", "admin"];
    key.setting
        .map_or_else(|| OWN.contains(&key.name), |row| row.at_start)
}

/// What a value is, with its unit.
fn form(key: &Key) -> String {
    match key.form {
        Form::Plain(Kind::Whole(least, most)) => {
            let unit = key.setting.map(|row| flags::of(row).metavar);
            let unit = if unit == Some("BYTES") { " bytes" } else { "" };
            format!("{least} to {most}{unit}")
        }
        Form::Plain(kind) => plain(kind),
        Form::Variables => "names and texts".to_owned(),
        Form::Proxies => "list of networks, or 0 to 100".to_owned(),
        Form::Host => "host".to_owned(),
        Form::Ca => "`\"letsencrypt\"` `\"staging\"` or a URL".to_owned(),
        Form::Resolver => "address".to_owned(),
        Form::Secret => "text".to_owned(),
        Form::Hosts => "list of hosts".to_owned(),
        Form::Prefix => "path".to_owned(),
        Form::Patterns => "list of files".to_owned(),
        Form::Folders => "prefixes and folders".to_owned(),
        Form::Fields => "names and values".to_owned(),
        Form::FieldNames => "list of names".to_owned(),
        Form::FieldName => "name".to_owned(),
        Form::Authority => "URL or `\"off\"`".to_owned(),
        Form::KeySet => "path or URL".to_owned(),
        Form::Origins => "list of origins".to_owned(),
        Form::Methods => "list of methods".to_owned(),
        Form::Rates => "list of rates".to_owned(),
        Form::Texts => "list of texts".to_owned(),
        Form::Algorithms => "list of algorithms".to_owned(),
        Form::Claims => "list of claims".to_owned(),
        Form::Users => "names and hashes".to_owned(),
        Form::Upstreams => "list of addresses, or of sections".to_owned(),
        Form::Pages => "statuses and files".to_owned(),
        Form::Table => "section".to_owned(),
        Form::Tables => "sections by name".to_owned(),
        Form::Sections => "list of sections".to_owned(),
    }
}

fn plain(kind: Kind) -> String {
    match kind {
        Kind::Switch | Kind::Unswitch => "true or false".to_owned(),
        Kind::Whole(..) => "whole number".to_owned(),
        Kind::Seconds => "duration".to_owned(),
        Kind::Size => "size".to_owned(),
        Kind::Octal => "octal number".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::List | Kind::Commas => "list of texts".to_owned(),
        Kind::Pairs => "names and texts".to_owned(),
        Kind::Binds => "list of addresses".to_owned(),
        Kind::Networks => "list of networks".to_owned(),
        Kind::Account => "name or number".to_owned(),
        Kind::Choice(words, ..) => {
            let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            words.join(" ")
        }
        Kind::Text | Kind::WorkerClass | Kind::Hook | Kind::Opaque => "text".to_owned(),
    }
}

/// The default as it would be written.
fn default(key: &Key) -> String {
    match (key.form, key.preset) {
        (Form::Plain(Kind::Seconds), Preset::Int(seconds)) if seconds > 0 => {
            format!("`\"{seconds}s\"`")
        }
        (Form::Plain(Kind::Size), Preset::Int(bytes)) if bytes > 0 && bytes % (1 << 20) == 0 => {
            format!("`\"{}MiB\"`", bytes >> 20)
        }
        (_, Preset::Int(number)) => format!("`{number}`"),
        (_, Preset::Unset | Preset::Words([]) | Preset::Texts([]) | Preset::Word("")) => {
            String::new()
        }
        (_, Preset::Word(ACCESS_LOG_FORMAT)) => "gunicorn's".to_owned(),
        (_, Preset::Word(word)) => format!("`\"{word}\"`"),
        (_, Preset::Words(words)) => format!("`{words:?}`"),
        (_, Preset::Yes) => "`true`".to_owned(),
        (_, Preset::No) => "`false`".to_owned(),
        (_, Preset::Texts(pairs)) => {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(name, value)| format!("`{name} = \"{value}\"`"))
                .collect();
            pairs.join(" ")
        }
    }
}
