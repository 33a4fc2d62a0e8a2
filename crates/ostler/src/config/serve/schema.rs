//! Every key of `ostler.toml`: reading, errors, "did you mean", `ostler check --print` and
//! `docs/reference/ostler-toml.md` derive from this list. The settings that `ostler run` has too are rows of
//! [`TABLE`](crate::config::table::TABLE), which says where they belong. No logic but the search for a name.

use crate::config::flags;
use crate::config::table::Kind::{self, Binds, Path, Seconds, Switch, Text};
use crate::config::table::Preset::{self, No, Unset, Word, Words, Yes};
use crate::config::table::{Place, Setting};

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub form: Form,
    /// The value when nobody gives one.
    pub preset: Preset,
    /// One line: what it does.
    pub help: &'static str,
    /// The setting of `ostler run` that it is.
    pub setting: Option<&'static Setting>,
}

/// A part of the file that has keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Top,
    Server,
    Project,
    Route,
    Access,
    Web,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As `ostler run` checks it.
    Plain(Kind),
    /// Names and values.
    Variables,
    /// Networks, or how many proxies there are.
    Proxies,
    Host,
    Hosts,
    Prefix,
    /// Files, with `*` and `?`.
    Patterns,
    /// Prefixes and folders.
    Folders,
    /// A section.
    Table,
    /// A section for each name.
    Tables,
    /// A list of sections.
    Sections,
}

/// Who may set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Only the machine's file.
    Operator,
    /// The repository's own file too; the machine's wins.
    Repository,
}

impl Section {
    /// Those that say what holds beside an app, by the key they stand behind.
    pub const RULES: [(&'static str, Section); 1] = [("access", Section::Access)];

    /// As it stands in the file.
    pub fn heading(self) -> &'static str {
        match self {
            Section::Top => "at the top of the file",
            Section::Server => "[server]",
            Section::Project => "[projects.NAME]",
            Section::Route => "[[projects.NAME.routes]]",
            Section::Access => "[projects.NAME.access]",
            Section::Web => "[projects.NAME.web]",
        }
    }

    /// Its keys: its own first, then those that are settings of `ostler run`.
    pub fn keys(self) -> impl Iterator<Item = Key> {
        let own = match self {
            Section::Top => TOP,
            Section::Server => SERVER,
            Section::Project => PROJECT,
            Section::Route => ROUTE,
            Section::Access => ACCESS,
            Section::Web => &[],
        };
        let shared = flags::rows().filter_map(move |row| shared(self, row));
        own.iter().copied().chain(shared)
    }

    pub fn key(self, name: &str) -> Option<Key> {
        self.keys().find(|key| key.name == name)
    }

    /// Who may set a key of this section.
    pub fn owner(self, key: &Key) -> Owner {
        match (self, key.form) {
            (Section::Project, _) if key.name == "access" => Owner::Operator,
            (Section::Web, _) | (Section::Project, Form::Table | Form::Folders) => {
                Owner::Repository
            }
            _ => Owner::Operator,
        }
    }
}

fn shared(section: Section, row: &'static Setting) -> Option<Key> {
    let name = match (section, row.place) {
        (Section::Server, Place::Server(name)) | (Section::Web, Place::Web(name)) => name,
        _ => return None,
    };
    let form = match row.name {
        "raw_env" => Form::Variables,
        "forwarded_allow_ips" => Form::Proxies,
        _ => Form::Plain(row.kind),
    };
    let help = if row.said.is_empty() {
        row.help
    } else {
        row.said
    };
    Some(Key {
        name,
        form,
        preset: row.preset,
        help,
        setting: Some(row),
    })
}

const fn key(name: &'static str, form: Form, preset: Preset, help: &'static str) -> Key {
    Key {
        name,
        form,
        preset,
        help,
        setting: None,
    }
}

#[rustfmt::skip]
const TOP: &[Key] = &[
    key("include", Form::Patterns, Words(&[]), "More files of the operator; * and ? stand for any characters of a name"),
    key("server", Form::Table, Unset, "What is the machine's"),
    key("projects", Form::Tables, Unset, "What is served, by name"),
    key("web", Form::Table, Unset, "The app of the folder that this file is in"),
    key("static", Form::Folders, Unset, "The static files of the folder that this file is in"),
];

#[rustfmt::skip]
const SERVER: &[Key] = &[
    key("listen_tls", Form::Plain(Binds), Words(&[]), "Addresses for HTTPS, in the same forms"),
    key("state", Form::Plain(Path), Word(STATE), "Folder for what ostler has to remember"),
    key("default_host", Form::Host, Unset, "The host of a project that requests for unknown hosts go to"),
];

/// The state folder when none is named.
const STATE: &str = "/var/lib/ostler";

const HTTPS: Kind = Kind::Choice(&["redirect", "optional"], None, None);

#[rustfmt::skip]
const PROJECT: &[Key] = &[
    key("source", Form::Plain(Path), Unset, "The folder with the app, relative to this file"),
    key("hosts", Form::Hosts, Unset, "The hosts it answers for: names, *.example.com for one more label, * for any other"),
    key("https", Form::Plain(HTTPS), Word("redirect"), "What a request without TLS gets where there is an address for HTTPS: a redirect there, or its answer"),
    key("canonical_host", Form::Host, Unset, "One of the hosts, to which requests for the others are redirected"),
    key("hsts", Form::Plain(Seconds), Unset, "Browsers keep to HTTPS for this long (Strict-Transport-Security)"),
    key("routes", Form::Sections, Unset, "Where below these hosts it lies [default: all of it]"),
    key("web", Form::Table, Unset, "The app and its workers"),
    key("static", Form::Folders, Unset, "Folders whose files are served, by the prefix of their paths; relative to the source"),
    key("access", Form::Table, Unset, "Who is let in"),
];

#[rustfmt::skip]
const ROUTE: &[Key] = &[
    key("prefix", Form::Prefix, Word("/"), "Requests for this path and those below it"),
    key("strip", Form::Plain(Switch), Yes, "Take the prefix off the path and give it as SCRIPT_NAME (WSGI), root_path (ASGI)"),
    key("hosts", Form::Hosts, Unset, "Only at these of the project's hosts [default: all of them]"),
    key("access", Form::Table, Unset, "Who is let in here; a key that is not set is the project's"),
];

const HASH: Kind = Kind::Choice(&["sha256", "sha512", "argon2id"], None, None);

#[rustfmt::skip]
const ACCESS: &[Key] = &[
    key("keys", Form::Plain(Switch), No, "Requests need an API key: Authorization: KEY, Authorization: Bearer KEY or X-API-Key: KEY; others get 403"),
    key("key_file", Form::Plain(Path), Word(KEY_FILE), "File with a line `username,apikey` for each key, relative to the source; a change counts within 2 s"),
    key("key_variable", Form::Plain(Text), Word("API_KEYS"), "Variable with more keys, `key1,key2`, in the environment that ostler starts in; `ada-KEY` is ada's"),
    key("key_hash", Form::Plain(HASH), Word("sha256"), "What is kept of keys in memory; argon2id takes 500 keys at most"),
];

/// The file with API keys when none is named.
pub const KEY_FILE: &str = "auth-keys.csv";

/// Settings whose values are paths, beside those of the kind [`Kind::Path`].
pub const PATHS: [&str; 4] = ["config", "pythonpath", "sendfile_root", "internal_files"];

/// Longest name that is compared with the keys, in bytes: twice the longest key. Comparing takes its length times theirs.
const LONGEST_MEANT: usize = 64;

/// The key that a name was probably meant to be: of this section, or of another one.
pub fn meant(section: Section, name: &str) -> Option<(Section, Key)> {
    if name.len() > LONGEST_MEANT {
        return None;
    }
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let others = [
        Section::Server,
        Section::Project,
        Section::Route,
        Section::Access,
        Section::Web,
    ];
    let others = others.into_iter().filter(|other| *other != section);
    let mut sections = std::iter::once(section).chain(others);
    let mut near = sections.clone();
    // Exactly a key, also of another section, or a name that `ostler run` and gunicorn have for it.
    let exact = sections.find_map(|other| {
        let found = other
            .keys()
            .find(|key| key.name == lower || is_called(key, &lower));
        found.map(|key| (other, key))
    });
    exact.or_else(|| near.find_map(|other| Some((other, alike(other, &lower)?))))
}

fn is_called(key: &Key, name: &str) -> bool {
    let said = |flag: &str| {
        let flag = flag.trim_start_matches('-').bytes();
        flag.map(|byte| if byte == b'-' { b'_' } else { byte })
            .eq(name.bytes())
    };
    key.setting
        .is_some_and(|row| row.name == name || flags::of(row).longs.into_iter().any(said))
}

/// The key of a section within few letters of `name`.
fn alike(section: Section, name: &str) -> Option<Key> {
    let few = |key: &Key| 1 + key.name.len() / 5;
    let near = section.keys().filter_map(|key| {
        if key.name.len().abs_diff(name.len()) > few(&key) {
            return None;
        }
        let far = strsim::damerau_levenshtein(name, key.name);
        (far <= few(&key)).then_some((far, key))
    });
    near.min_by_key(|(far, _)| *far).map(|(_, key)| key)
}
