//! From a command line, an environment and a config file to settings or errors, in tables.

mod refusals;

use serde_json::{Map, Value, json};

use super::run::{self, RunPlan, Surroundings};
use super::{command, options};
use crate::config::{
    self, AccessLogFormat, Bind, ConfigError, Interface, LogTarget, Origin, Preload, Settings,
    Trust, WorkerClass,
};

/// What a person brings: each piece may be left empty.
#[derive(Clone, Copy, Default)]
struct Case<'a> {
    /// Words behind `ostler run`, split at blanks.
    line: &'a str,
    environment: &'a [(&'a str, &'a str)],
}

/// Any program does: only its being there is looked at.
const PYTHON: &str = "/bin/sh";

fn plan(case: Case<'_>) -> Result<RunPlan, Vec<ConfigError>> {
    // The last --python wins, so a case may name another.
    let words = ["ostler", "run", "--python", PYTHON]
        .into_iter()
        .chain(case.line.split_whitespace());
    let matches = command()
        .try_get_matches_from(words)
        .unwrap_or_else(|error| panic!("{}: {error}", case.line));
    let (_, matches) = matches.subcommand().expect("run");
    let variable = |name: &str| {
        let found = case.environment.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let around = Surroundings {
        variable: &variable,
        names: case
            .environment
            .iter()
            .map(|(key, _)| (*key).to_owned())
            .collect(),
        directory: "/".into(),
        pid: 42,
    };
    run::plan(matches, &around)
}

fn finish(case: Case<'_>, file: &Value) -> Result<(Settings, Vec<String>), Vec<String>> {
    let texts =
        |errors: Vec<ConfigError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let plan = plan(case).map_err(texts)?;
    let file = file.as_object().cloned().unwrap_or_default();
    let (settings, warnings) = config::finish(&plan.written, &file, &[]).map_err(texts)?;
    Ok((settings, warnings.iter().map(ToString::to_string).collect()))
}

fn settings(line: &str, environment: &[(&str, &str)], file: Value) -> Settings {
    let outcome = finish(Case { line, environment }, &file);
    outcome
        .unwrap_or_else(|errors| panic!("{line}: {errors:?}"))
        .0
}

fn line(line: &str) -> Settings {
    settings(line, &[], json!({}))
}

#[test]
fn clap_finds_no_fault_with_the_options() {
    command().debug_assert();
}

/// The presets pass the checks of their own kinds: none is a value that a person could not write.
#[test]
fn presets_are_in_checked_form() {
    let it = line("app");
    let written = it.values.clone();
    let again = settings("app", &[], Value::Object(written.clone()));
    assert_eq!(again.values, written);
}

#[test]
fn defaults() {
    let it = line("app:app");
    assert_eq!(it.app.name, "app:app");
    assert_eq!(
        it.listening.binds,
        [Bind::Tcp {
            host: "127.0.0.1".into(),
            port: 8000,
            addresses: vec!["127.0.0.1:8000".parse().expect("address")]
        }]
    );
    assert_eq!(
        (
            it.workers.count,
            it.workers.threads,
            it.workers.worker_class
        ),
        (1, 1, WorkerClass::Sync)
    );
    assert_eq!(it.workers.timeout.map(|t| t.as_secs()), Some(30));
    assert_eq!(it.http.keepalive.map(|t| t.as_secs()), Some(75));
    assert_eq!(it.http.limit_request_body, Some(100 << 20));
    assert_eq!(it.listening.max_connections_per_address, Some(256));
    assert_eq!(
        (
            it.workers.memory_soft,
            it.workers.memory_hard,
            it.workers.max_requests
        ),
        (None, None, None)
    );
    assert_eq!(
        (it.logs.access_log, it.logs.error_log),
        (LogTarget::Off, LogTarget::Standard)
    );
    assert_eq!(
        (it.app.interface, it.app.preload),
        (Interface::Auto, Preload::Auto)
    );
    assert_eq!(it.process.proc_name, "app:app");
    assert!(it.http.request_buffering && it.http.response_buffering && it.http.sendfile);
    assert!(it.origins.keys().eq(["python"]));
}

#[test]
fn the_later_source_wins() {
    let four = [("WEB_CONCURRENCY", "4")];
    let args = [
        ("WEB_CONCURRENCY", "4"),
        ("GUNICORN_CMD_ARGS", "--workers 6 ignored:app"),
    ];
    let file = json!({"workers": 5});
    let check =
        |words: &str, environment: &[(&str, &str)], file: &Value, expected: u32, origin: Origin| {
            let it = settings(words, environment, file.clone());
            assert_eq!(
                (it.workers.count, it.origin("workers")),
                (expected, origin),
                "{words} {environment:?} {file}"
            );
        };
    check("app", &[], &json!({}), 1, Origin::Default);
    check(
        "app",
        &[("WEB_CONCURRENCY", "")],
        &json!({}),
        1,
        Origin::Default,
    );
    check("app", &four, &json!({}), 4, Origin::Environment);
    check(
        "app",
        &four,
        &json!({"workers": null}),
        4,
        Origin::Environment,
    );
    check("app", &four, &file, 5, Origin::File);
    check("app", &args, &file, 6, Origin::Arguments);
    check("app -w 7", &args, &file, 7, Origin::CommandLine);
    check("app -w 7 -w 8", &[], &file, 8, Origin::CommandLine);
}

#[test]
fn the_app_is_the_argument_or_wsgi_app() {
    let check = |words: &str, file: Value, expected: &str| {
        assert_eq!(settings(words, &[], file).app.name, expected)
    };
    check("shop:app", json!({}), "shop:app");
    check("shop:app", json!({"wsgi_app": "other:app"}), "shop:app");
    check("", json!({"wsgi_app": "other:app"}), "other:app");
    check("--factory shop:make", json!({}), "shop:make()");
    check("--factory shop:make()", json!({}), "shop:make()");
    check("--preload shop:app", json!({}), "shop:app");
}

#[test]
fn addresses() {
    let check = |words: &str, environment: &[(&str, &str)], file: Value, expected: &[&str]| {
        let binds: Vec<String> = settings(words, environment, file)
            .listening
            .binds
            .iter()
            .map(Bind::to_string)
            .collect();
        assert_eq!(binds, expected, "{words} {environment:?}");
    };
    let port = [("PORT", "5000")];
    check("app", &port, json!({}), &["0.0.0.0:5000"]);
    check("app", &port, json!({"bind": ":80"}), &["0.0.0.0:80"]);
    check(
        "app -b 127.0.0.1:1",
        &port,
        json!({"bind": ":80"}),
        &["127.0.0.1:1"],
    );
    check(
        "app -b 127.0.0.1:1 -b [::1]:2 --bind unix:/run/a.sock -b fd://3",
        &[],
        json!({}),
        &["127.0.0.1:1", "[::1]:2", "unix:/run/a.sock", "fd://3"],
    );
    check(
        "app",
        &[],
        json!({"bind": ["127.0.0.1:1", "unix:a.sock"]}),
        &["127.0.0.1:1", "unix:/a.sock"],
    );
    check(
        "app -b 127.0.0.1:0 -b 127.0.0.1:0",
        &[],
        json!({}),
        &["127.0.0.1:0", "127.0.0.1:0"],
    );
    check(
        "app --host 0.0.0.0 --port 80",
        &port,
        json!({}),
        &["0.0.0.0:80"],
    );
    check(
        "app --port 80",
        &[],
        json!({"bind": ":1"}),
        &["127.0.0.1:80"],
    );
    check("app --host ::1", &[], json!({}), &["[::1]:8000"]);
    check(
        "app --uds /run/a.sock",
        &[],
        json!({}),
        &["unix:/run/a.sock"],
    );
    check("app --fd 4", &[], json!({}), &["fd://4"]);
    // A variable `host` of the file is the file's own.
    check(
        "app",
        &[],
        json!({"host": "10.0.0.1", "port": "x"}),
        &["127.0.0.1:8000"],
    );
    check(
        "app -b :80",
        &[("LISTEN_FDS", "2"), ("LISTEN_PID", "42")],
        json!({}),
        &["fd://3", "fd://4"],
    );
    check(
        "app -b :80",
        &[("LISTEN_FDS", "2"), ("LISTEN_PID", "41")],
        json!({}),
        &["0.0.0.0:80"],
    );
}

#[test]
fn values_in_many_spellings() {
    let it = line(
        "app -t 0 --graceful-timeout 500ms --keep-alive 1m --limit-request-body 16MiB --memory-hard 1G -m 027 --header-timeout=0",
    );
    assert_eq!(
        (it.workers.timeout, it.workers.graceful_timeout.as_millis()),
        (None, 500)
    );
    assert_eq!(
        (
            it.http.keepalive.map(|t| t.as_secs()),
            it.http.header_timeout
        ),
        (Some(60), None)
    );
    assert_eq!(
        (it.http.limit_request_body, it.workers.memory_hard),
        (Some(16 << 20), Some(1 << 30))
    );
    assert_eq!(it.process.umask, Some(0o27));

    let file = json!({"workers": "0x4", "timeout": 0.5, "umask": 0o22, "preload_app": true, "limit_request_body": 0,
        "forwarded_allow_ips": "*", "accesslog": "-", "loglevel": "WARNING", "user": 1000, "daemon": "true",
        "secure_scheme_headers": {"X-Scheme": "https"}, "static_files": {"/static/": "tmp"}, "access_log_json": true,
        "worker_class": "<class 'uvicorn.workers.UvicornH11Worker'>", "raw_env": ["A=1", "B=x=y"]});
    let it = settings("app", &[], file);
    assert_eq!(
        (
            it.workers.count,
            it.workers.timeout.map(|t| t.as_millis()),
            it.process.umask
        ),
        (4, Some(500), Some(0o22))
    );
    assert_eq!(
        (
            it.app.preload,
            it.http.limit_request_body,
            it.process.daemon
        ),
        (Preload::On, None, true)
    );
    assert_eq!(
        (it.listening.forwarded_allow_ips, it.logs.access_log),
        (Trust::Everyone, LogTarget::Standard)
    );
    assert_eq!(
        (it.logs.log_level, it.process.user),
        (config::LogLevel::Warning, Some(config::Account::Id(1000)))
    );
    assert_eq!(
        it.listening
            .secure_scheme_headers
            .get("X-Scheme")
            .map(String::as_str),
        Some("https")
    );
    assert_eq!(
        it.listening.static_files,
        [config::StaticFiles {
            prefix: "/static".into(),
            directory: "/tmp".into()
        }]
    );
    assert_eq!(it.logs.access_log_format, AccessLogFormat::Json);
    assert_eq!(
        (it.workers.worker_class, it.app.interface, it.app.event_loop),
        (
            WorkerClass::Asgi,
            Interface::Asgi,
            config::EventLoop::Asyncio
        )
    );
    assert_eq!(
        it.app.env,
        [
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "x=y".to_owned())
        ]
    );
}

#[test]
fn other_ways_of_saying_it() {
    let it = line(
        "app --timeout-keep-alive 5 --timeout-graceful-shutdown 9 --limit-max-requests 7 --root-path /shop/ --lifespan off --access-log --no-proxy-headers",
    );
    assert_eq!(
        (
            it.http.keepalive.map(|t| t.as_secs()),
            it.workers.graceful_timeout.as_secs(),
            it.workers.max_requests
        ),
        (Some(5), 9, Some(7))
    );
    assert_eq!(
        (it.app.root_path.as_str(), it.app.lifespan),
        ("/shop", config::Lifespan::Off)
    );
    assert_eq!(
        (it.logs.access_log, it.listening.forwarded_allow_ips),
        (LogTarget::Standard, Trust::Networks(Vec::new()))
    );
    assert_eq!(
        settings("app --no-access-log", &[], json!({"accesslog": "-"}))
            .logs
            .access_log,
        LogTarget::Off
    );
    assert_eq!(
        line("app --access-logformat json").logs.access_log_format,
        AccessLogFormat::Json
    );
    assert_eq!(
        settings(
            "app",
            &[("SCRIPT_NAME", "/a"), ("SENDFILE", "no")],
            json!({})
        )
        .app
        .root_path,
        "/a"
    );
    assert!(
        !settings("app", &[("SENDFILE", "no")], json!({}))
            .http
            .sendfile
    );
    assert_eq!(
        line("app --threads 4").workers.worker_class,
        WorkerClass::Gthread
    );
    // A clear beginning of a flag is enough, as in gunicorn.
    assert_eq!(
        line("app --worker-cl gthread --graceful 3")
            .workers
            .graceful_timeout
            .as_secs(),
        3
    );
}

#[test]
fn where_the_config_file_is() {
    let check = |words: &str,
                 environment: &[(&str, &str)],
                 file: Option<&str>,
                 explicit: bool,
                 module: Option<&str>| {
        let plan = plan(Case {
            line: words,
            environment,
        })
        .unwrap_or_else(|errors| panic!("{errors:?}"));
        let it = plan.configure;
        let seen = (
            it.file.as_deref().and_then(|path| path.to_str()),
            it.explicit,
            it.module.as_deref(),
        );
        assert_eq!(seen, (file, explicit, module), "{words}");
    };
    check("app", &[], Some("/gunicorn.conf.py"), false, None);
    check(
        "app --chdir /tmp",
        &[],
        Some("/gunicorn.conf.py"),
        false,
        None,
    );
    check("app -c bin/sh", &[], Some("/bin/sh"), true, None);
    check("app -c file:/bin/sh", &[], Some("/bin/sh"), true, None);
    check(
        "app -c python:shop.conf",
        &[],
        None,
        true,
        Some("shop.conf"),
    );
    check(
        "app",
        &[("GUNICORN_CMD_ARGS", "-c python:shop.conf")],
        None,
        true,
        Some("shop.conf"),
    );
}

#[test]
fn what_is_in_force_has_every_name() {
    let it = settings(
        "app -w 3 --threads 2 -e SECRET=abc",
        &[],
        json!({"keepalive": 5}),
    );
    let all = config::effective(&it);
    let check = |name: &str, expected: Value| assert_eq!(all.get(name), Some(&expected), "{name}");
    check("workers", json!(3));
    check("keepalive", json!(5));
    check("timeout", json!(30));
    check("worker_class", json!("gthread"));
    check("bind", json!(["127.0.0.1:8000"]));
    check("wsgi_app", json!("app"));
    check("forwarded_allow_ips", json!(["127.0.0.1", "::1"]));
    check("post_fork", json!(null));
    check("raw_env", json!(["SECRET=abc"]));
    assert!(!all.contains_key("host") && !all.contains_key("python"));

    let printed = config::print(&it);
    let line = |name: &str| {
        printed
            .lines()
            .find(|line| line.starts_with(name))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(
        line("workers ").as_deref(),
        Some("workers = 3 # command line")
    );
    assert_eq!(
        line("keepalive ").as_deref(),
        Some("keepalive = 5 # config file")
    );
    assert_eq!(
        line("raw_env ").as_deref(),
        Some("raw_env = ['SECRET=…'] # command line")
    );
    assert!(!printed.contains("abc"));

    let copy: Settings =
        serde_json::from_str(&serde_json::to_string(&it).expect("JSON")).expect("settings");
    assert_eq!(copy, it);
}

#[test]
fn an_env_file_does_not_override_the_environment() {
    let path = std::env::temp_dir().join(format!("ostler-env-{}", std::process::id()));
    std::fs::write(&path, "A=file\nB=file\nC=file\n").expect("write");
    let words = format!("app --env-file {} -e B=flag", path.display());
    let it = settings(&words, &[("A", "there")], json!({}));
    std::fs::remove_file(&path).expect("remove");
    let pairs = it
        .app
        .env
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>();
    assert_eq!(pairs, ["B=file", "C=file", "B=flag"]);
}

#[test]
fn the_alias_takes_the_same_line() {
    let matches = command()
        .try_get_matches_from(["ostler", "gunicorn", "-w", "2", "app"])
        .expect("parses");
    let (name, matches) = matches.subcommand().expect("a command");
    assert_eq!(
        (name, options::layer(matches)),
        ("run", Map::from_iter([("workers".to_owned(), json!("2"))]))
    );
}

/// Compares with a file beside the sources, or writes it anew with `OSTLER_BLESS=1`.
fn golden(path: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("OSTLER_BLESS").is_some() {
        std::fs::write(&path, text).expect("write");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{} is not up to date: run the tests once with OSTLER_BLESS=1",
        path.display()
    );
}

#[test]
fn help_is_as_kept() {
    let help = options::command()
        .bin_name("ostler run")
        .term_width(100)
        .render_help()
        .to_string();
    let trimmed: Vec<&str> = help.lines().map(str::trim_end).collect();
    golden("src/cli/run-help.txt", &(trimmed.join("\n") + "\n"));
}

#[test]
fn reference_is_as_kept() {
    golden("../../docs/reference/run.md", &super::reference::run());
    golden(
        "../../docs/reference/ostler-toml.md",
        &super::reference_toml::page(),
    );
}
