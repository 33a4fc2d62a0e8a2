//! From files to a `Serve` or to what a person reads, in tables.

mod problems;
mod rules;
mod upstreams;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use serde_json::json;

use super::schema::Section;
use super::*;

impl Rules {
    /// What holds where nothing is said.
    fn default_of_a_route() -> Self {
        let mut rules = Self::default();
        (rules.compress, rules.trace_context) = (true, true);
        rules.access.realm = super::rules::REALM.to_owned();
        rules
    }
}

/// A folder with files in it, removed at the end.
struct Folder(PathBuf);

impl Folder {
    /// `files` are paths and texts; a path with a `/` at its end is a folder.
    fn with(files: &[(&str, &str)]) -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ostler-serve-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&root).expect("create");
        let folder = Folder(root.canonicalize().expect("it is there"));
        for (path, text) in files {
            let path = folder.0.join(path);
            if path.as_os_str().to_string_lossy().ends_with('/') {
                std::fs::create_dir_all(&path).expect("create");
                continue;
            }
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("create");
            std::fs::write(&path, text).expect("write");
        }
        folder
    }

    /// Reads its `ostler.toml`.
    fn load(&self, variables: &[(&str, &str)]) -> Result<Checked, Problems> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        load(Path::new(FILE), &self.0, &variable)
    }

    /// What a person reads about the problems, with `DIR` for the folder.
    fn problems(&self, variables: &[(&str, &str)]) -> String {
        match self.load(variables) {
            Ok(checked) => panic!("no problem: {:#?}", checked.serve),
            Err(problems) => self.without_names(&problems.render(false)),
        }
    }

    fn good(&self, variables: &[(&str, &str)]) -> Checked {
        self.load(variables)
            .unwrap_or_else(|problems| panic!("{}", problems.render(false)))
    }

    fn without_names(&self, text: &str) -> String {
        text.replace(&self.0.display().to_string(), "DIR")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The smallest good file.
const SMALL: &str = "\
[projects.shop]
source = \"shop\"
hosts = [\"shop.example.com\"]
web.app = \"app:app\"
";

#[test]
fn a_small_file_is_complete() {
    let folder = Folder::with(&[("ostler.toml", SMALL), ("shop/", "")]);
    let serve = folder.good(&[]).serve;
    let binds: Vec<String> = serve
        .machine
        .listening
        .binds
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(binds, ["127.0.0.1:8000"]);
    assert!(serve.machine.listening.tls_binds.is_empty() && serve.machine.listening.tls.is_none());
    assert_eq!(
        serve.machine.http.keepalive.map(|time| time.as_secs()),
        Some(75)
    );
    assert_eq!(
        (serve.state, serve.trusted_hops, serve.default_host),
        ("/var/lib/ostler".into(), None, None)
    );
    let project = Project {
        name: "shop".to_owned(),
        has_app: true,
        source: folder.0.join("shop"),
        hosts: vec![Host::Name("shop.example.com".to_owned())],
        https_optional: false,
        canonical_host: None,
        hsts: None,
        pair: None,
        clients: None,
        routes: vec![Route {
            prefix: "/".to_owned(),
            strip: true,
            hosts: Vec::new(),
            rules: Rules::default_of_a_route(),
        }],
        web: json!({"wsgi_app": "app:app"})
            .as_object()
            .expect("an object")
            .clone(),
        statics: Vec::new(),
    };
    assert_eq!(serve.projects, [project]);
}

/// What a large file says arrives in the form that the rest of ostler takes.
#[test]
fn a_large_file() {
    let text = r#"
[server]
listen = ["127.0.0.1:80", "unix:run/o.sock"]
listen_tls = ["127.0.0.1:443"]
certfile = "tls/chain.pem"
keyfile = "/etc/hostname"
state = "state"
user = "ostler"
trusted_proxies = ["10.0.0.0/8", "::1"]
default_host = "SHOP.example.com"
access_log = "-"
error_log = "log/error.log"
log_level = "debug"
keep_alive = "2m"
header_timeout = 2.5
minimum_rate = "1KiB"
max_connections_per_address = 9
limit_request_line = 1000
edge_threads = 2

[projects.shop]
source = "shop"
hosts = ["Shop.Example.com.", "*.shop.example.com", "[2001:DB8::1]"]

[[projects.shop.routes]]
prefix = "/"

[[projects.shop.routes]]
prefix = "/api/v1"
strip = false
hosts = ["shop.example.com"]

[projects.shop.web]
app = "shop:create_app()"
workers = 4
preload = true
timeout = "1m"
limit_request_body = "16MiB"
umask = 0o022
env = { DSN = "sql://${USER}:$$@h", MODE = "x" }
pythonpath = ["lib", "more"]
internal_files = { "/private" = "files" }

[projects.shop.static]
"/static" = "files"

[projects.any]
source = "."
hosts = ["*"]
web.config = "python:any.conf"
"#;
    let files = [
        ("ostler.toml", text),
        ("tls/chain.pem", ""),
        ("shop/files/", ""),
    ];
    let folder = Folder::with(&files);
    let serve = folder.good(&[("USER", "me")]).serve;
    let machine = &serve.machine;
    let shown = |binds: &[crate::config::Bind]| {
        binds
            .iter()
            .map(|bind| folder.without_names(&bind.to_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        shown(&machine.listening.binds),
        ["127.0.0.1:80", "unix:DIR/run/o.sock"]
    );
    assert_eq!(shown(&machine.listening.tls_binds), ["127.0.0.1:443"]);
    let tls = machine.listening.tls.as_ref().expect("TLS");
    assert_eq!(
        (tls.certfile.clone(), tls.keyfile.clone()),
        (folder.0.join("tls/chain.pem"), "/etc/hostname".into())
    );
    assert_eq!(serve.state, folder.0.join("state"));
    assert_eq!(serve.default_host.as_deref(), Some("shop.example.com"));
    let peer = |text: &str| Some(text.parse().expect("an address"));
    let trust = &machine.listening.forwarded_allow_ips;
    assert!(
        trust.includes(peer("10.1.1.1"))
            && trust.includes(peer("::1"))
            && !trust.includes(peer("127.0.0.1"))
    );
    let settings = [
        ("accesslog", json!("-")),
        ("errorlog", json!(folder.0.join("log/error.log"))),
        ("loglevel", json!("debug")),
        ("keepalive", json!(120)),
        ("header_timeout", json!(2.5)),
        ("minimum_rate", json!(1024)),
        ("max_connections_per_address", json!(9)),
        ("limit_request_line", json!(1000)),
        ("edge_threads", json!(2)),
        ("user", json!("ostler")),
    ];
    for (name, value) in settings {
        assert_eq!(machine.values[name], value, "{name}");
    }
    let [any, shop] = serve.projects.as_slice() else {
        panic!("two projects: {:#?}", serve.projects)
    };
    assert_eq!(
        (any.name.as_str(), &any.source, &any.hosts[..]),
        ("any", &folder.0, &[Host::Any][..])
    );
    assert_eq!(
        shop.hosts,
        [
            Host::Name("shop.example.com".to_owned()),
            Host::Below("shop.example.com".to_owned()),
            Host::Name("[2001:db8::1]".to_owned()),
        ]
    );
    assert_eq!(
        shop.routes[1],
        Route {
            prefix: "/api/v1".to_owned(),
            strip: false,
            hosts: vec![Host::Name("shop.example.com".to_owned())],
            rules: Rules::default_of_a_route(),
        }
    );
    let web = json!({
        "wsgi_app": "shop:create_app()",
        "workers": 4,
        "preload_app": "on",
        "timeout": 60,
        "limit_request_body": 16 << 20,
        "umask": 0o022,
        "raw_env": ["DSN=sql://me:$@h", "MODE=x"],
        "pythonpath": ["lib", "more"],
        "internal_files": {"/private": "files"},
    });
    assert_eq!(serde_json::Value::Object(shop.web.clone()), web);
    let statics = [StaticFiles {
        prefix: "/static".to_owned(),
        directory: folder.0.join("shop/files"),
    }];
    assert_eq!(shop.statics, statics);
    let sent = serde_json::to_string(&serve).expect("it can be sent");
    assert_eq!(
        serde_json::from_str::<Serve>(&sent).expect("and received"),
        serve
    );
}

/// A reload compares what is meant, not how it is written.
#[test]
fn equal_however_it_is_written() {
    let one = Folder::with(&[
        (
            "ostler.toml",
            &format!("{SMALL}web.timeout = 60\n[server]\nkeep_alive = 75"),
        ),
        ("shop/", ""),
    ]);
    let before = one.good(&[]).serve;
    let other = format!("{SMALL}web.timeout = \"1m\"\n[server]\nlisten = [\"127.0.0.1:8000\"]");
    std::fs::write(one.0.join("ostler.toml"), other).expect("write");
    assert_eq!(one.good(&[]).serve, before);
    let changed = format!("{SMALL}web.timeout = \"2m\"");
    std::fs::write(one.0.join("ostler.toml"), changed).expect("write");
    assert_ne!(one.good(&[]).serve, before);
}

#[test]
fn a_number_of_proxies() {
    let text = format!("[server]\ntrusted_proxies = 2\n{SMALL}");
    let serve = Folder::with(&[("ostler.toml", &text), ("shop/", "")])
        .good(&[])
        .serve;
    assert_eq!(serve.trusted_hops, Some(2));
    assert_eq!(
        serve.machine.listening.forwarded_allow_ips,
        crate::config::Trust::Everyone
    );
}

#[test]
fn the_machine_wins_key_by_key() {
    let text =
        format!("{SMALL}web.workers = 2\nweb.env = {{ A = \"machine\" }}\nstatic.\"/a\" = \"a\"\n");
    let repository = "[web]\nworkers = 3\nthreads = 4\nenv = { A = \"repository\", B = \"$$\" }\n[static]\n\"/a\" = \"b\"\n\"/b\" = \"b\"\n[server]\nlog_level = 3\n";
    let folder = Folder::with(&[
        ("ostler.toml", &text),
        ("shop/ostler.toml", repository),
        ("shop/a/", ""),
        ("shop/b/", ""),
    ]);
    let checked = folder.good(&[]);
    let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "[server] in shop/ostler.toml is not read: it counts only for `ostler serve` in that folder"
        ]
    );
    let project = &checked.serve.projects[0];
    let web =
        json!({"wsgi_app": "app:app", "workers": 2, "threads": 4, "raw_env": ["A=machine", "B=$"]});
    assert_eq!(serde_json::Value::Object(project.web.clone()), web);
    let statics: Vec<_> = project
        .statics
        .iter()
        .map(|files| (files.prefix.as_str(), files.directory.clone()))
        .collect();
    assert_eq!(
        statics,
        [
            ("/a", folder.0.join("shop/a")),
            ("/b", folder.0.join("shop/b"))
        ]
    );
}

/// How certificates are had, with and without a section about it.
#[test]
fn a_certificate_authority() {
    let read = |server: &str, more: &str| {
        let text = format!("{SMALL}[server]\n{server}\n{more}");
        let folder = Folder::with(&[("ostler.toml", &text), ("shop/", ""), ("ca.pem", "")]);
        let checked = folder.good(&[("MAC", "c2VjcmV0")]);
        let printed = checked.print();
        (checked.serve.acme, folder, printed)
    };
    let (none, ..) = read("listen = \":80\"", "");
    assert_eq!(none, None, "nothing listens for HTTPS");
    let (usual, ..) = read("listen = \":80\"\nlisten_tls = \":443\"", "");
    assert_eq!(usual, Some(Acme::default()));
    let (alone, ..) = read("listen_tls = \":443\"", "");
    assert_eq!(alone.map(|acme| acme.challenge), Some(Challenge::TlsAlpn01));
    let (own, folder, printed) = read(
        "listen_tls = \":443\"",
        "[acme]\ndirectory = \"staging\"\nemail = \"a@b.test\"\nchallenge = \"http-01\"\nkey = \"p384\"\nresolver = \"9.9.9.9\"\n\
         ca_root = \"ca.pem\"\neab_id = \"kid\"\neab_key = \"${MAC}\"\nhttp_port = 5002\nprofile = \"shortlived\"\n",
    );
    let expected = Acme {
        directory: "https://acme-staging-v02.api.letsencrypt.org/directory".to_owned(),
        ca_root: Some(folder.0.join("ca.pem")),
        email: Some("a@b.test".to_owned()),
        key: KeyKind::P384,
        challenge: Challenge::Http01,
        resolver: "9.9.9.9:53".parse().ok(),
        http_port: 5002,
        eab: Some(Eab {
            id: "kid".to_owned(),
            key: "c2VjcmV0".to_owned(),
        }),
        profile: Some("shortlived".to_owned()),
        ..Acme::default()
    };
    assert_eq!(own, Some(expected));
    assert!(
        printed.contains("eab_key = \"${MAC}\"") && !printed.contains("c2VjcmV0"),
        "{printed}"
    );
}

/// A checkout in which ostler is started needs no `projects`.
#[test]
fn a_folder_serves_itself() {
    let text = "[server]\nlisten = [\"127.0.0.1:0\"]\n[web]\napp = \"app\"\nenv.A = \"${SET}\"\n";
    let folder = Folder::with(&[("My_App/ostler.toml", text), ("My_App/static/", "")]);
    let variable = |_: &str| Some("set".to_owned());
    let checked = load(Path::new(FILE), &folder.0.join("My_App"), &variable);
    let serve = checked
        .unwrap_or_else(|problems| panic!("{}", problems.render(false)))
        .serve;
    let project = &serve.projects[0];
    assert_eq!(
        (project.name.as_str(), &project.source, &project.hosts[..]),
        ("my-app", &folder.0.join("My_App"), &[Host::Any][..])
    );
    assert_eq!(project.web["raw_env"], json!(["A=set"]));
}

#[test]
fn the_print_names_the_source_of_each_value() {
    let text = format!(
        "include = [\"conf.d/*.toml\"]\n{SMALL}web.env = {{ A = \"secret\", B = \"${{SET}}\" }}\n[[projects.shop.routes]]\nprefix = \"/a\"\n[server]\nkeep_alive = \"30s\"\nlisten_tls = \":443\"\ncertfile = \"c.pem\"\n"
    );
    let files = [
        ("ostler.toml", text.as_str()),
        (
            "conf.d/one.toml",
            "[server]\nuser = \"${SET}\"\ntmp_upload_dir = \"../shop\"\n",
        ),
        (
            "shop/ostler.toml",
            "web.workers = 3\nstatic.\"/ä\" = \"s\"\n",
        ),
        ("c.pem", ""),
        ("shop/s/", ""),
    ];
    let folder = Folder::with(&files);
    let checked = folder.good(&[("SET", "set")]);
    let printed = checked.print();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: Vec<String> = folder.without_names(&printed).lines().map(words).collect();
    for line in [
        "listen = [] # none beside listen_tls",
        "listen_tls = [\":443\"] # ostler.toml:11",
        "keep_alive = \"30s\" # ostler.toml:10",
        "header_timeout = \"10s\" # default",
        "user = \"${SET}\" # conf.d/one.toml:2",
        "# group # not set",
        "tmp_upload_dir = \"DIR/conf.d/../shop\" # conf.d/one.toml:3",
        "source = \"DIR/shop\" # ostler.toml:3",
        "[[projects.shop.routes]]",
        "prefix = \"/a\" # ostler.toml:8",
        "strip = true # default",
        "[projects.shop.web]",
        "workers = 3 # shop/ostler.toml:1",
        "limit_request_body = \"100MiB\" # default",
        "env = { A = \"…\", B = \"${SET}\" } # ostler.toml:6",
        "\"/ä\" = \"s\" # shop/ostler.toml:2",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line}\n{printed}");
    }
    // It is a file that says the same, but for the secret.
    std::fs::write(folder.0.join("ostler.toml"), printed.replace('…', "secret")).expect("write");
    std::fs::remove_file(folder.0.join("shop/ostler.toml")).expect("remove");
    let mut again = folder.good(&[("SET", "set")]).serve;
    let written = |name: &str| checked.serve.projects[0].web.contains_key(name);
    again.projects[0].web.retain(|name, _| written(name));
    assert_eq!(again, checked.serve);
}

#[test]
fn kept_inputs_keep_the_invariants() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/config");
    let inputs = std::fs::read_dir(folder)
        .expect("a corpus")
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("an input"));
    let (mut all, mut accepted) = (0, 0);
    for input in inputs {
        all += 1;
        accepted += usize::from(invariants::check_config(&input));
    }
    assert!(
        accepted > 0 && accepted < all,
        "{accepted} of {all} accepted"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        invariants::check_config(&input);
    }

    /// Lines that people could write, in any order.
    #[test]
    fn no_lines_make_it_panic(lines in proptest::collection::vec(line(), 0..12)) {
        invariants::check_config(lines.join("\n").as_bytes());
    }
}

fn line() -> impl Strategy<Value = String> {
    let keys: Vec<String> = [
        Section::Top,
        Section::Server,
        Section::Project,
        Section::Route,
        Section::Acme,
        Section::Web,
    ]
    .into_iter()
    .flat_map(|section| {
        section
            .keys()
            .map(|key| key.name.to_owned())
            .collect::<Vec<_>>()
    })
    .collect();
    const VALUES: &[&str] = &[
        "1",
        "true",
        "\"30s\"",
        "\"a\"",
        "[\"a\", \"*\"]",
        "{}",
        "\"${A}\"",
        "\"ä${UNSET}\"",
        "[]",
        "\"/a\"",
        "{ \"/a\" = \"b\" }",
        "0.5",
        "[[1]]",
        "'\u{202e}'",
    ];
    const HEADINGS: &[&str] = &[
        "[server]",
        "[projects.a]",
        "[projects.a.web]",
        "[[projects.a.routes]]",
        "[projects.a.static]",
        "[projects.b]",
        "[web]",
        "[x",
    ];
    let pair = (
        proptest::sample::select(keys),
        proptest::sample::select(VALUES),
    );
    prop_oneof![
        pair.prop_map(|(key, value)| format!("{key} = {value}")),
        proptest::sample::select(HEADINGS).prop_map(str::to_owned),
        any::<String>(),
    ]
}
