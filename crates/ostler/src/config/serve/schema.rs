//! Every key of `ostler.toml`: reading, errors, "did you mean", `ostler check --print` and
//! `docs/reference/ostler-toml.md` derive from this list. The settings that `ostler run` has too are rows of
//! [`TABLE`](crate::config::table::TABLE), which says where they belong. No logic but the search for a name.

use crate::config::flags;
use crate::config::table::Kind::{self, Binds, Path, Seconds, Switch, Text};
use crate::config::table::Preset::{self, Int, Unset, Word, Words, Yes};
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
    Acme,
    Project,
    Route,
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
    /// A CA: its name or the URL of its directory.
    Ca,
    /// Address of a DNS server.
    Resolver,
    /// A text that is not shown.
    Secret,
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
    /// As it stands in the file.
    pub fn heading(self) -> &'static str {
        match self {
            Section::Top => "at the top of the file",
            Section::Server => "[server]",
            Section::Acme => "[acme]",
            Section::Project => "[projects.NAME]",
            Section::Route => "[[projects.NAME.routes]]",
            Section::Web => "[projects.NAME.web]",
        }
    }

    /// Its keys: its own first, then those that are settings of `ostler run`.
    pub fn keys(self) -> impl Iterator<Item = Key> {
        let own = match self {
            Section::Top => TOP,
            Section::Server => SERVER,
            Section::Acme => ACME,
            Section::Project => PROJECT,
            Section::Route => ROUTE,
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
    key("acme", Form::Table, Unset, "How certificates are had from a CA"),
    key("projects", Form::Tables, Unset, "What is served, by name"),
    key("web", Form::Table, Unset, "The app of the folder that this file is in"),
    key("static", Form::Folders, Unset, "The static files of the folder that this file is in"),
];

#[rustfmt::skip]
const SERVER: &[Key] = &[
    key("listen_tls", Form::Plain(Binds), Words(&[]), "Addresses for HTTPS, in the same forms"),
    key("state", Form::Plain(Path), Word(STATE), "Folder for what ostler has to remember"),
    key("keep_requests", Form::Plain(Seconds), Preset::Int(14 * 86_400), "How long rows of `ostler requests` are kept; 0: no request log"),
    key("keep_requests_size", Form::Plain(Kind::Size), Preset::Int(1 << 30), "How large its file may become: the oldest rows make room"),
    key("admin", Form::Plain(Binds), Unset, "Addresses where metrics are read (GET /metrics): host:port or unix:PATH; without a password, so for this machine alone"),
    key("default_host", Form::Host, Unset, "The host of a project that requests for unknown hosts go to"),
];

#[rustfmt::skip]
const ACME: &[Key] = &[
    key("directory", Form::Ca, Word("letsencrypt"), "The CA: letsencrypt, staging (Let's Encrypt's, for trying out) or the URL of its directory. Its terms of service are agreed to"),
    key("email", Form::Plain(Text), Unset, "Where the CA may write to"),
    key("challenge", Form::Plain(CHALLENGE), Unset, "How names are proved: http-01, tls-alpn-01, or dns-01, which wildcards need [default: http-01 where something listens on http_port, else tls-alpn-01]"),
    key("hook", Form::Plain(Path), Unset, "The program of dns-01, called as PROGRAM present|cleanup NAME VALUE; it returns when the TXT record can be seen"),
    key("key", Form::Plain(KEY), Word("p256"), "The kind of private keys: ECDSA on P-256 or P-384"),
    key("profile", Form::Plain(Text), Unset, "A profile of the CA, as shortlived"),
    key("eab_id", Form::Plain(Text), Unset, "Your account at the CA (external account binding): its key identifier"),
    key("eab_key", Form::Secret, Unset, "Its MAC key, in base64url, as the CA shows it"),
    key("ca_root", Form::Plain(Path), Unset, "Roots (PEM) that the CA's own server is checked with [default: the system's]"),
    key("resolver", Form::Resolver, Unset, "DNS server that is asked where a name leads, before the CA is asked [default: the system's]"),
    key("http_port", Form::Plain(PORT), Int(80), "The port that the CA comes to for http-01, as the Internet sees it"),
    key("tls_port", Form::Plain(PORT), Int(443), "The port that the CA comes to for tls-alpn-01, as the Internet sees it"),
];

const CHALLENGE: Kind = Kind::Choice(&["http-01", "tls-alpn-01", "dns-01"], None, None);
const KEY: Kind = Kind::Choice(&["p256", "p384"], None, None);
const PORT: Kind = Kind::Whole(1, 65_535);

/// The state folder when none is named.
const STATE: &str = "/var/lib/ostler";

const CLIENTS: Kind = Kind::Choice(&["required", "optional"], None, None);

const HTTPS: Kind = Kind::Choice(&["redirect", "optional"], None, None);

#[rustfmt::skip]
const PROJECT: &[Key] = &[
    key("source", Form::Plain(Path), Unset, "The folder with the app, relative to this file"),
    key("hosts", Form::Hosts, Unset, "The hosts it answers for: names, *.example.com for one more label, * for any other"),
    key("https", Form::Plain(HTTPS), Word("redirect"), "What a request without TLS gets where there is an address for HTTPS: a redirect there, or its answer"),
    key("canonical_host", Form::Host, Unset, "One of the hosts, to which requests for the others are redirected"),
    key("hsts", Form::Plain(Seconds), Unset, "Browsers keep to HTTPS for this long (Strict-Transport-Security)"),
    key("certfile", Form::Plain(Path), Unset, "Its own certificate chain (PEM); read again when it changes [default: that of the machine, else one from the CA]"),
    key("keyfile", Form::Plain(Path), Unset, "The private key of certfile (PEM) [default: in the certificate's file]"),
    key("client_ca", Form::Plain(Path), Unset, "Clients show a certificate of these authorities (PEM)"),
    key("client_certificates", Form::Plain(CLIENTS), Word("required"), "With client_ca: required, or optional (one that is shown must be good)"),
    key("routes", Form::Sections, Unset, "Where below these hosts it lies [default: all of it]"),
    key("web", Form::Table, Unset, "The app and its workers"),
    key("static", Form::Folders, Unset, "Folders whose files are served, by the prefix of their paths; relative to the source"),
];

#[rustfmt::skip]
const ROUTE: &[Key] = &[
    key("prefix", Form::Prefix, Word("/"), "Requests for this path and those below it"),
    key("strip", Form::Plain(Switch), Yes, "Take the prefix off the path and give it as SCRIPT_NAME (WSGI), root_path (ASGI)"),
    key("hosts", Form::Hosts, Unset, "Only at these of the project's hosts [default: all of them]"),
];

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
        Section::Acme,
        Section::Project,
        Section::Route,
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
