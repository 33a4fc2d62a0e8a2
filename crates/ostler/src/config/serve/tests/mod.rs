//! From files to a `Serve` or to what a person reads, in tables.

mod problems;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::*;

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
        source: folder.0.join("shop"),
        hosts: vec![Host::Name("shop.example.com".to_owned())],
        https_optional: false,
        canonical_host: None,
        hsts: None,
        routes: vec![Route {
            prefix: "/".to_owned(),
            strip: true,
            hosts: Vec::new(),
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
            hosts: vec![Host::Name("shop.example.com".to_owned())]
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
