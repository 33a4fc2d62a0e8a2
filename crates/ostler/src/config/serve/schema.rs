//! Every key of `ostler.toml`: reading, errors, "did you mean", `ostler check --print` and
//! `docs/reference/ostler-toml.md` derive from this list. The settings that `ostler run` has too are rows of
//! [`TABLE`](crate::config::table::TABLE), which says where they belong. No logic but the search for a name.

use super::DRAIN;
use crate::config::flags;
use crate::config::table::Kind::{self, Binds, Networks, Path, Seconds, Size, Switch, Text, Whole};
use crate::config::table::Preset::{self, Int, No, Unset, Word, Words, Yes};
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
    Access,
    Limits,
    Cors,
    Headers,
    Errors,
    Proxy,
    Redirect,
    Upstream,
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
    /// Names and values of header fields.
    Fields,
    FieldNames,
    /// One of them.
    FieldName,
    /// A server to be asked, by its URL, or `off`.
    Authority,
    /// A file, or a URL.
    KeySet,
    Origins,
    Methods,
    Rates,
    Texts,
    Algorithms,
    Claims,
    /// Names and password hashes.
    Users,
    /// Statuses and files.
    Pages,
    /// Addresses of other servers, or sections with one each.
    Upstreams,
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
    pub const RULES: [(&'static str, Section); 6] = [
        ("access", Section::Access),
        ("limits", Section::Limits),
        ("cors", Section::Cors),
        ("headers", Section::Headers),
        ("errors", Section::Errors),
        ("proxy", Section::Proxy),
    ];

    /// As it stands in the file.
    pub fn heading(self) -> &'static str {
        match self {
            Section::Top => "at the top of the file",
            Section::Server => "[server]",
            Section::Acme => "[acme]",
            Section::Project => "[projects.NAME]",
            Section::Route => "[[projects.NAME.routes]]",
            Section::Access => "[projects.NAME.access]",
            Section::Limits => "[projects.NAME.limits]",
            Section::Cors => "[projects.NAME.cors]",
            Section::Headers => "[projects.NAME.headers]",
            Section::Errors => "[projects.NAME.errors]",
            Section::Proxy => "[projects.NAME.proxy]",
            Section::Redirect => "[[projects.NAME.redirects]]",
            Section::Upstream => "[[projects.NAME.upstreams]]",
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
            Section::Access => ACCESS,
            Section::Limits => LIMITS,
            Section::Cors => CORS,
            Section::Headers => HEADERS,
            Section::Errors => ERRORS,
            Section::Proxy => PROXY,
            Section::Redirect => REDIRECT,
            Section::Upstream => UPSTREAM,
            Section::Web => &[],
        };
        let shared = flags::rows().filter_map(move |row| shared(self, row));
        own.iter().copied().chain(shared)
    }

    /// Whether a key of a project or a route says what holds beside its app.
    pub fn is_rule(key: &Key) -> bool {
        let others = [
            "redirects",
            "maintenance",
            "fallback",
            "compress",
            "trace_context",
            "upstreams",
        ];
        others.contains(&key.name) || Self::RULES.iter().any(|(name, _)| *name == key.name)
    }

    pub fn key(self, name: &str) -> Option<Key> {
        self.keys().find(|key| key.name == name)
    }

    /// Who may set a key of this section.
    pub fn owner(self, key: &Key) -> Owner {
        match self {
            Section::Web
            | Section::Cors
            | Section::Headers
            | Section::Errors
            | Section::Redirect => Owner::Repository,
            Section::Project | Section::Top if REPOSITORY.contains(&key.name) => Owner::Repository,
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

/// The keys of a project that its repository may set.
pub const REPOSITORY: [&str; 8] = [
    "web",
    "static",
    "fallback",
    "compress",
    "redirects",
    "headers",
    "errors",
    "cors",
];

#[rustfmt::skip]
const TOP: &[Key] = &[
    key("include", Form::Patterns, Words(&[]), "More files of the operator; * and ? stand for any characters of a name"),
    key("server", Form::Table, Unset, "What is the machine's"),
    key("acme", Form::Table, Unset, "How certificates are had from a CA"),
    key("projects", Form::Tables, Unset, "What is served, by name"),
    key("web", Form::Table, Unset, "The app of the folder that this file is in"),
    key("static", Form::Folders, Unset, "The static files of the folder that this file is in"),
    key("fallback", Form::Plain(Text), Unset, "As [projects.NAME] has it, for the folder that this file is in"),
    key("compress", Form::Plain(Switch), Yes, "The same"),
    key("redirects", Form::Sections, Unset, "The same"),
    key("headers", Form::Table, Unset, "The same"),
    key("errors", Form::Table, Unset, "The same"),
    key("cors", Form::Table, Unset, "The same"),
];

#[rustfmt::skip]
const SERVER: &[Key] = &[
    key("listen_tls", Form::Plain(Binds), Words(&[]), "Addresses for HTTPS, in the same forms but unix:PATH"),
    key("state", Form::Plain(Path), Word(STATE), "Folder for what ostler has to remember"),
    key("keep_requests", Form::Plain(Seconds), Preset::Int(14 * 86_400), "How long rows of `ostler requests` are kept; 0: no request log"),
    key("keep_requests_size", Form::Plain(Kind::Size), Preset::Int(1 << 30), "How large its file may become: the oldest rows make room"),
    key("drain", Form::Plain(Seconds), Preset::Int(DRAIN.as_secs().cast_signed()), "How long open connections may last when `ostler upgrade` puts another server in the place of theirs"),
    key("admin", Form::Plain(Binds), Unset, "Addresses where metrics are read (GET /metrics): host:port or unix:PATH; without a password, so for this machine alone"),
    key("default_host", Form::Host, Unset, "The host of a project that requests for unknown hosts go to"),
];

#[rustfmt::skip]
const ACME: &[Key] = &[
    key("directory", Form::Ca, Word("letsencrypt"), "The CA: letsencrypt, staging (Let's Encrypt's, for trying out) or the URL of its directory. Its terms of service are agreed to"),
    key("email", Form::Plain(Text), Unset, "Where the CA may write to"),
    key("challenge", Form::Plain(CHALLENGE), Unset, "How names are proved: http-01, tls-alpn-01, or dns-01, which wildcards need [default: http-01 where something listens on http_port, else tls-alpn-01]"),
    key("hook", Form::Plain(Path), Unset, "The program of dns-01, called as PROGRAM present|cleanup NAME VALUE, with the environment that apps have; it returns when the TXT record can be seen"),
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
    key("source", Form::Plain(Path), Unset, "The folder with the app, relative to this file; not needed where everything goes to upstreams"),
    key("hosts", Form::Hosts, Unset, "The hosts it answers for: names, *.example.com for one more label, * for any other"),
    key("https", Form::Plain(HTTPS), Word("redirect"), "What a request without TLS gets where there is an address for HTTPS: a redirect there, or its answer"),
    key("canonical_host", Form::Host, Unset, "One of the hosts, to which requests for the others are redirected"),
    key("hsts", Form::Plain(Seconds), Unset, "Browsers keep to HTTPS for this long (Strict-Transport-Security)"),
    key("certfile", Form::Plain(Path), Unset, "Its own certificate chain (PEM); read again when it changes [default: that of the machine, else one from the CA]"),
    key("keyfile", Form::Plain(Path), Unset, "The private key of certfile (PEM) [default: in the certificate's file]"),
    key("client_ca", Form::Plain(Path), Unset, "Clients show a certificate of these authorities (PEM)"),
    key("client_certificates", Form::Plain(CLIENTS), Word("required"), "With client_ca: required, or optional: one that is shown must be good, and routes ask for it by client_certificate in their access"),
    key("routes", Form::Sections, Unset, "Where below these hosts it lies [default: all of it]"),
    key("web", Form::Table, Unset, "The app and its workers"),
    key("static", Form::Folders, Unset, "Folders whose files are served, by the prefix of their paths; relative to the source"),
    key("fallback", Form::Plain(Text), Unset, FALLBACK),
    key("compress", Form::Plain(Switch), Yes, COMPRESS),
    key("redirects", Form::Sections, Unset, "Requests that are sent somewhere else, the first that fits"),
    key("headers", Form::Table, Unset, "Fields of responses, and of requests on their way to the app"),
    key("errors", Form::Table, Unset, "Own pages in the place of errors"),
    key("cors", Form::Table, Unset, "Pages of other origins that may use it"),
    key("access", Form::Table, Unset, "Who is let in"),
    key("limits", Form::Table, Unset, "How much is let in"),
    key("upstreams", Form::Upstreams, Unset, UPSTREAMS),
    key("proxy", Form::Table, Unset, "How requests go on to the upstreams"),
    key("maintenance", Form::Plain(Switch), No, MAINTENANCE),
    key("trace_context", Form::Plain(Switch), Yes, TRACE),
];

const TRACE: &str = "The app is told the W3C trace of each request (traceparent, tracestate): the client's with a parent id of ours, or a new one that is marked as sampled. Off: what the client says passes as it is";
const FALLBACK: &str = "A file of the static folder, as index.html, for pages that it does not have: who asks for text/html gets it, other requests go to the app";
const COMPRESS: &str = "Text in answers and files goes out as zstd, gzip or br to clients that take it. Switch it off where a page shows a secret beside what a stranger sent: its size then tells of the secret (BREACH)";
const MAINTENANCE: &str = "Everyone gets 503 and the page of `errors`; the app is asked nothing";
const UPSTREAMS: &str = "Other HTTP servers that requests go on to, in the place of an app: http://host:port, https://host:port or unix:/path, or sections with address and weight";

#[rustfmt::skip]
const ROUTE: &[Key] = &[
    key("prefix", Form::Prefix, Word("/"), "Requests for this path and those below it"),
    key("strip", Form::Plain(Switch), Yes, "Take the prefix off the path and give it as SCRIPT_NAME (WSGI), root_path (ASGI)"),
    key("hosts", Form::Hosts, Unset, "Only at these of the project's hosts [default: all of them]"),
    key("fallback", Form::Plain(Text), Unset, "For this route; so are the next ones, and what they do not set is the project's"),
    key("compress", Form::Plain(Switch), Unset, "For this route"),
    key("redirects", Form::Sections, Unset, "All of them: the project's do not count here then"),
    key("headers", Form::Table, Unset, "Key by key"),
    key("errors", Form::Table, Unset, "Key by key"),
    key("cors", Form::Table, Unset, "Key by key"),
    key("access", Form::Table, Unset, "Key by key"),
    key("limits", Form::Table, Unset, "Key by key"),
    key("upstreams", Form::Upstreams, Unset, "All of them: the project's do not count here then"),
    key("proxy", Form::Table, Unset, "Key by key"),
    key("maintenance", Form::Plain(Switch), No, MAINTENANCE),
];

#[rustfmt::skip]
const UPSTREAM: &[Key] = &[
    key("address", Form::Plain(Text), Unset, "http://host:port, https://host:port or unix:/path; each address of a name is one upstream, looked up again every 10 s"),
    key("weight", Form::Plain(Whole(1, 1000)), Int(1), "One with 2 gets twice as many requests at a time as one with 1"),
];

const SPOKEN: Kind = Kind::Choice(&["client", "upstream"], None, None);
const COUNT: Kind = Whole(1, 1_000_000);

#[rustfmt::skip]
const PROXY: &[Key] = &[
    key("host", Form::Plain(SPOKEN), Word("client"), "The Host that upstreams get: the client's, or their own name. X-Forwarded-Host is the client's in any case"),
    key("tls_name", Form::Plain(Text), Unset, "The name in the certificate of https:// upstreams [default: the host of the address]"),
    key("ca", Form::Plain(Path), Unset, "Authorities (PEM) of https:// upstreams, relative to the source; read at the start and by a reload [default: the system's]"),
    key("sticky", Form::Plain(Switch), No, "A client stays with its upstream, by a cookie that does not tell which one it is"),
    key("sticky_cookie", Form::Plain(Text), Word("ostler_upstream"), "The name of that cookie"),
    key("retries", Form::Plain(Whole(0, 10)), Int(2), "How often a request that failed is sent again: when no connection was had always, else only when its method is idempotent, nothing of an answer has come, and no more than a tenth of all requests are repeated"),
    key("connect_timeout", Form::Plain(Seconds), Int(5), "For a connection, with its TLS handshake"),
    key("timeout", Form::Plain(Seconds), Int(60), "From the whole request to the head of the answer; 0: no limit"),
    key("silence_timeout", Form::Plain(Seconds), Int(300), "An upstream neither sends more of an answer nor takes more of a request for this long; 0: no limit. Upgraded connections have an hour"),
    key("keepalive", Form::Plain(Whole(0, 10_000)), Int(64), "Idle connections that are kept for each upstream and edge thread; 0: none"),
    key("keepalive_timeout", Form::Plain(Seconds), Int(4), "How long they are kept; less than the 5 s after which Node and uvicorn close theirs"),
    key("max_connections", Form::Plain(COUNT), Int(1000), "Requests that one upstream gets at a time; more wait in line"),
    key("line_length", Form::Plain(Whole(0, 1_000_000)), Int(1000), "Requests that wait for an upstream; more get 503"),
    key("line_timeout", Form::Plain(Seconds), Int(30), "How long they wait; then they get 503"),
    key("max_fails", Form::Plain(Whole(0, 1000)), Int(3), "So many failures within fail_timeout put an upstream out; 0: it stays in"),
    key("fail_timeout", Form::Plain(Seconds), Int(10), "How long it is out; then one request tries it, and it is out for twice as long, one minute at most, when that fails"),
    key("health_path", Form::Plain(Text), Unset, "Upstreams are asked for this path from time to time, and are out when two answers in a row are not good; the next good one lets them in"),
    key("health_interval", Form::Plain(Seconds), Int(10), "How often"),
    key("health_timeout", Form::Plain(Seconds), Int(5), "How long an answer may take"),
    key("health_status", Form::Plain(Whole(100, 599)), Unset, "The status of a good answer [default: any of 200 to 399]"),
    key("request_buffering", Form::Plain(Switch), Yes, "The whole body of a request is here before an upstream is asked, so that a slow client holds none"),
    key("response_buffering", Form::Plain(Switch), Yes, "An answer is taken as fast as it comes, whatever the client does; not for server-sent events or X-Accel-Buffering: no"),
];

const HASH: Kind = Kind::Choice(&["sha256", "sha512", "argon2id"], None, None);

#[rustfmt::skip]
const ACCESS: &[Key] = &[
    key("allow", Form::Plain(Networks), Unset, "Only these addresses and networks; others get 403"),
    key("deny", Form::Plain(Networks), Words(&[]), "Not these, whatever `allow` says"),
    key("client_certificate", Form::Plain(Switch), No, "Only clients that have shown a certificate of the project's client_ca; others get 403. For routes, where client_certificates is optional"),
    key("users", Form::Users, Unset, "Names and password hashes (Argon2, as PHC strings) for HTTP basic authentication; others get 401. Where keys are asked for too, one of both is enough"),
    key("realm", Form::Plain(Text), Word(super::rules::REALM), "What browsers say that the password is for"),
    key("keys", Form::Plain(Switch), No, "Requests need an API key: Authorization: KEY, Authorization: Bearer KEY or X-API-Key: KEY; others get 403"),
    key("key_file", Form::Plain(Path), Word(KEY_FILE), "File with a line `username,apikey` for each key, relative to the source; a change counts within 2 s"),
    key("key_variable", Form::Plain(Text), Word("API_KEYS"), "Variable with more keys, `key1,key2`, in the environment that ostler starts in; `ada-KEY` is ada's"),
    key("jwt_keys", Form::KeySet, Unset, "Public keys of who signs tokens (a JWK set): a file, relative to the source, a change of which counts within 2 s; or an https URL, also that of an OpenID configuration, asked again as it says (5 min to 24 h) and for keys that are not known. Requests need Authorization: Bearer TOKEN, others get 401"),
    key("jwt_issuer", Form::Texts, Unset, "Who signs: `iss`. Needed beside jwt_keys"),
    key("jwt_audience", Form::Texts, Unset, "Whom the token is for: `aud`. Needed beside jwt_keys"),
    key("jwt_algorithms", Form::Algorithms, Words(super::rules::ALGORITHMS), "Nothing else is taken"),
    key("jwt_user", Form::Plain(Text), Word(super::rules::USER), "The claim that names the user"),
    key("jwt_claims", Form::Claims, Words(&[]), "Claims that the app is told as X-Ostler-Claim-NAME, `_` as `-`"),
    key("forward_auth", Form::Authority, Unset, "URL that is asked about each request (GET, with the client's fields and X-Forwarded-Method, -Proto, -Host, -Uri, -For): with 2xx it is let in, any other answer is the client's; \"off\" on a route: nobody is asked there. Where keys, users or tokens are asked for too, one of them is enough"),
    key("forward_auth_copy", Form::FieldNames, Words(&[]), "Fields of its answer that the app gets; what clients say under these names does not arrive"),
    key("forward_auth_user", Form::FieldName, Unset, "The field of its answer that names the user, for REMOTE_USER, X-Ostler-User and the log"),
    key("forward_auth_timeout", Form::Plain(Seconds), Int(super::rules::TIMEOUT), "For its answer, 60 s at most; later it is 504"),
    key("key_hash", Form::Plain(HASH), Word("sha256"), "What is kept of keys in memory; argon2id takes 500 keys at most"),
];

#[rustfmt::skip]
const LIMITS: &[Key] = &[
    key("body", Form::Plain(Size), Unset, "Most bytes of a request body; a smaller limit of the app stays"),
    key("rate", Form::Rates, Words(&[]), "Requests in a second, minute, hour or day: 10/s, 100/m per key, 1000/h per route burst 50; per address when nothing is said, IPv6 by /64; others get 429"),
];

#[rustfmt::skip]
const CORS: &[Key] = &[
    key("origins", Form::Origins, Unset, "The origins whose pages may read answers: https://example.com, or * for all"),
    key("methods", Form::Methods, Words(super::rules::METHODS), "What they may send"),
    key("headers", Form::FieldNames, Unset, "Request fields that they may set [default: any]"),
    key("expose", Form::FieldNames, Words(&[]), "Response fields that they may read, beside the usual ones"),
    key("credentials", Form::Plain(Switch), No, "With cookies and passwords; not for *"),
    key("max_age", Form::Plain(Seconds), Int(super::rules::MAX_AGE as i64), "Browsers remember for this long what is allowed"),
];

#[rustfmt::skip]
const HEADERS: &[Key] = &[
    key("set", Form::Fields, Unset, "In every response, in the place of what the app says"),
    key("add", Form::Fields, Unset, "In every response, beside what the app says"),
    key("remove", Form::FieldNames, Words(&[]), "In no response"),
    key("request_set", Form::Fields, Unset, "In every request to the app, in the place of what the client says"),
    key("request_remove", Form::FieldNames, Words(&[]), "In no request to the app"),
];

#[rustfmt::skip]
const ERRORS: &[Key] = &[
    key("pages", Form::Pages, Unset, "Files by status, `404`, `50x` or `4xx`, relative to the source; who asks for JSON still gets JSON"),
    key("app", Form::Plain(Switch), No, "Also for errors of the app that come without a body"),
    key("maintenance", Form::Plain(Path), Unset, "The page during maintenance"),
];

#[rustfmt::skip]
const REDIRECT: &[Key] = &[
    key("from", Form::Plain(Text), Unset, "A path below the route, /old, or /old/* for all below it"),
    key("to", Form::Plain(Text), Unset, "A path or an address, with /* at the end for what `from` has there; the query goes along"),
    key("status", Form::Plain(Whole(301, 308)), Int(308), "301 or 302, which let a POST become a GET, 307 or 308, which do not; 302 and 307 are for now"),
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
        Section::Acme,
        Section::Project,
        Section::Route,
        Section::Access,
        Section::Limits,
        Section::Cors,
        Section::Headers,
        Section::Errors,
        Section::Proxy,
        Section::Redirect,
        Section::Upstream,
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
