//! Every setting of `ostler run`, one row each: the command line, `--help`, `GUNICORN_CMD_ARGS`, the check of
//! `gunicorn.conf.py`, `--print-config` and `docs/reference/run.md` all derive from this list. No logic here.

use self::Kind::{
    Account, Binds, Choice, Commas, Hook, List, Networks, Octal, Opaque, Pairs, Path, Seconds,
    Size, Switch, Text, Unswitch, Whole,
};
use self::Preset::{Int, No, Texts, Unset, Word, Words, Yes};

/// One setting. Its fields are what a person would look up about it.
#[derive(Debug)]
pub struct Setting {
    /// gunicorn's name where gunicorn has it: the name in `gunicorn.conf.py` and in `server.cfg`.
    pub name: &'static str,
    /// Flags and metavar as a manual page would write them: `-w --workers N`. The first long flag is the one
    /// that help and messages use; empty when there is no flag.
    pub flags: &'static str,
    pub kind: Kind,
    /// The value when nobody gives one.
    pub preset: Preset,
    /// One line: what it does, or for a level other than `Supported` why it does nothing.
    pub help: &'static str,
    pub level: Level,
    pub whose: Whose,
    /// A reload does not take it: it decides how ostler starts.
    pub at_start: bool,
    pub place: Place,
    /// What `help` says in the words of `ostler.toml`; empty when it is the same.
    pub said: &'static str,
}

/// The section of `ostler.toml` that has a setting, and its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Nowhere,
    /// `[server]`
    Server(&'static str),
    /// `[projects.NAME.web]`
    Web(&'static str),
}

impl Setting {
    /// The same, also in `[server]` under this name.
    const fn server(self, name: Name) -> Self {
        Self {
            place: Place::Server(name),
            ..self
        }
    }

    /// The same, also in `[projects.NAME.web]` under this name.
    const fn web(self, name: Name) -> Self {
        Self {
            place: Place::Web(name),
            ..self
        }
    }

    /// The same, told otherwise in `ostler.toml`.
    const fn said(self, said: Name) -> Self {
        Self { said, ..self }
    }

    /// The same, taken only by a start.
    const fn at_start(self) -> Self {
        Self {
            at_start: true,
            ..self
        }
    }
}

/// What becomes of a value that is not the preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Supported,
    /// Accepted without a meaning here: named in one warning, together with the reason in `help`.
    Moot,
    /// An error with the reason in `help` and this way out.
    Refused(&'static str),
}

/// Who knows a setting under its name, and so where it may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// gunicorn's: command line and `gunicorn.conf.py`.
    Gunicorn,
    /// Ours, in the same places.
    Ostler,
    /// Only on the command line: a variable of this name in `gunicorn.conf.py` is no setting.
    CommandLine,
}

/// How a value is written and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false; the flag takes no value and means true.
    Switch,
    /// true or false; the flag takes no value and means false.
    Unswitch,
    /// A whole number from the first to the second.
    Whole(i64, i64),
    /// A duration in seconds (`30`, `0.5`, `30s`, `1m`).
    Seconds,
    /// A number of bytes (`1048576`, `100M`, `16MiB`).
    Size,
    /// File permission bits, octal as text (`022`, `0o22`), a number in the file.
    Octal,
    Text,
    Path,
    /// Several texts: the flag is repeated, the file has a list.
    List,
    /// Several texts, comma-separated, or a list in the file.
    Commas,
    /// Several `PREFIX=DIR`: the flag is repeated, the file has a dict.
    Pairs,
    /// One of these words. A bare flag, and `True` in the file, mean the second field; `False` the third.
    Choice(
        &'static [&'static str],
        Option<&'static str>,
        Option<&'static str>,
    ),
    /// Addresses to listen on.
    Binds,
    /// Comma-separated addresses and networks, or `*`.
    Networks,
    /// A user or group: a name or a number.
    Account,
    /// A gunicorn worker class, mapped to one of ours.
    WorkerClass,
    /// A Python function in the file.
    Hook,
    /// Anything.
    Opaque,
}

/// A value that can stand in a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    Unset,
    Yes,
    No,
    Int(i64),
    Word(&'static str),
    Words(&'static [&'static str]),
    Texts(&'static [(&'static str, &'static str)]),
}

/// The rows below one heading of `--help`.
#[derive(Debug)]
pub struct Group {
    pub heading: &'static str,
    pub rows: &'static [Setting],
}

// Shortens the signatures of the row makers.
type Name = &'static str;

const fn on(name: Name, flags: Name, kind: Kind, preset: Preset, help: Name) -> Setting {
    Setting {
        name,
        flags,
        kind,
        preset,
        help,
        level: Level::Supported,
        whose: Whose::Gunicorn,
        at_start: false,
        place: Place::Nowhere,
        said: "",
    }
}

const fn own(name: Name, flags: Name, kind: Kind, preset: Preset, help: Name) -> Setting {
    Setting {
        name,
        flags,
        kind,
        preset,
        help,
        level: Level::Supported,
        whose: Whose::Ostler,
        at_start: false,
        place: Place::Nowhere,
        said: "",
    }
}

const fn typed(name: Name, flags: Name, kind: Kind, preset: Preset, help: Name) -> Setting {
    Setting {
        name,
        flags,
        kind,
        preset,
        help,
        level: Level::Supported,
        whose: Whose::CommandLine,
        at_start: false,
        place: Place::Nowhere,
        said: "",
    }
}

const fn moot(name: Name, flags: Name, kind: Kind, preset: Preset, help: Name) -> Setting {
    Setting {
        name,
        flags,
        kind,
        preset,
        help,
        level: Level::Moot,
        whose: Whose::Gunicorn,
        at_start: false,
        place: Place::Nowhere,
        said: "",
    }
}

const fn refused(
    name: Name,
    flags: Name,
    kind: Kind,
    preset: Preset,
    help: Name,
    hint: Name,
) -> Setting {
    Setting {
        name,
        flags,
        kind,
        preset,
        help,
        level: Level::Refused(hint),
        whose: Whose::Gunicorn,
        at_start: false,
        place: Place::Nowhere,
        said: "",
    }
}

/// More workers or threads than this are a slip of the keyboard.
const MOST_WORKERS: i64 = 1000;
/// The largest count of anything that has no tighter bound.
const MOST: i64 = 1_000_000_000;

const INTERFACE: Kind = Choice(&["auto", "wsgi", "asgi"], None, None);
const LOOP: Kind = Choice(&["auto", "asyncio", "uvloop"], None, None);
const LIFESPAN: Kind = Choice(&["auto", "on", "off"], None, None);
const PRELOAD: Kind = Choice(&["auto", "on", "off"], Some("on"), Some("off"));
const PROXY_PROTOCOL: Kind = Choice(&["off", "v1", "v2", "auto"], Some("auto"), Some("off"));
const LEVEL: Kind = Choice(
    &["debug", "info", "warning", "error", "critical"],
    None,
    None,
);
const HEADER_MAP: Kind = Choice(&["drop", "refuse", "dangerous"], None, None);

/// gunicorn's combined log format.
pub const ACCESS_LOG_FORMAT: &str =
    r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

const STRICT: &str = "requests are always parsed strictly";
const HTTP2: &str =
    "HTTP/2 is spoken with every client that asks for it by ALPN, within limits of ostler's own";
const SYSLOG: &str = "logs go to files or to standard output and error";
const STATSD: &str = "no metrics are sent to statsd";
const DIRTY: &str = "there are no dirty workers";
const CONTROL: &str = "there is no gunicorn control socket";
const PASTE: &str = "PasteDeploy files are not read";
const PASTE_HINT: &str = "name the callable instead: a module with `app = paste.deploy.loadapp(\"config:/path.ini\")` as module:app";

/// The list.
#[rustfmt::skip]
pub const TABLE: &[Group] = &[
    Group { heading: "App", rows: &[
        on("wsgi_app", "", Text, Unset, "The app, when the command line names none: module:callable, module:factory() or module").web("app").said("The app: module:callable, module:factory() or module"),
        own("app_interface", "--interface KIND", INTERFACE, Word("auto"), "How the app is called; auto tells by the callable").web("interface"),
        typed("factory", "--factory", Switch, No, "The callable makes the app: call it first (as module:callable())"),
        typed("python", "--python PATH", Path, Unset, "Interpreter or venv to run the app with [default: $VIRTUAL_ENV, ./.venv, python3]").web("python").said("Interpreter or venv to run the app with; one without a / is looked for in $PATH [default: .venv, python3]"),
        on("chdir", "--chdir DIR", Path, Unset, "Change to this directory before the app is loaded").web("chdir"),
        on("pythonpath", "--pythonpath --app-dir DIRS", Commas, Words(&[]), "Comma-separated directories to put on sys.path").web("pythonpath").said("Directories to put on sys.path"),
        on("raw_env", "-e --env KEY=VALUE", List, Words(&[]), "Set an environment variable for the app; repeatable").web("env").said("Environment variables for the app"),
        typed("env_file", "--env-file FILE", Path, Unset, "File of KEY=VALUE lines for the app's environment").web("env_file"),
        on("root_path", "--root-path PREFIX", Text, Word(""), "Path prefix the app is mounted under: SCRIPT_NAME, root_path (or $SCRIPT_NAME)"),
        on("preload_app", "--preload MODE", PRELOAD, Word("auto"), "Load the app before the workers are forked; auto: WSGI apps that start no threads").web("preload"),
        on("asgi_lifespan", "--lifespan --asgi-lifespan MODE", LIFESPAN, Word("auto"), "Run the ASGI lifespan protocol").web("lifespan"),
        on("asgi_loop", "--loop --asgi-loop LOOP", LOOP, Word("auto"), "Event loop for ASGI; auto: uvloop when it is installed").web("loop"),
    ]},
    Group { heading: "Listening", rows: &[
        on("bind", "-b --bind ADDRESS", Binds, Words(&["127.0.0.1:8000"]), "host:port, :port, [::1]:port, unix:PATH or fd://N; repeatable ($PORT: 0.0.0.0:$PORT)").at_start().server("listen").said("Addresses for HTTP: host:port, :port, [::1]:port, unix:PATH or fd://N"),
        typed("host", "--host HOST", Text, Unset, "With --port, another way to say --bind HOST:PORT"),
        typed("port", "--port PORT", Whole(0, 65_535), Unset, "With --host, another way to say --bind HOST:PORT"),
        typed("uds", "--uds PATH", Path, Unset, "Another way to say --bind unix:PATH"),
        typed("fd", "--fd N", Whole(0, 65_535), Unset, "Another way to say --bind fd://N"),
        on("backlog", "--backlog N", Whole(1, 65_535), Int(2048), "Connections the kernel queues before they are accepted").at_start().server("backlog"),
        own("static_files", "--static PREFIX=DIR", Pairs, Texts(&[]), "Serve files below DIR at PREFIX; repeatable"),
        own("internal_files", "--internal PREFIX=DIR", Pairs, Texts(&[]), "The same, but only where the app answers X-Accel-Redirect: PREFIX/...; repeatable").web("internal_files").said("Serve files below a directory at a prefix, but only where the app answers X-Accel-Redirect: PREFIX/..."),
        own("sendfile_root", "--sendfile-root DIR", List, Words(&[]), "Directory whose files the app may name in X-Sendfile, beside those above; repeatable").web("sendfile_root").said("Directories whose files the app may name in X-Sendfile, beside those of static and internal_files"),
        own("max_connections_per_address", "--max-connections-per-address N", Whole(0, MOST), Int(256), "Connections of one untrusted address, of IPv6 of one /64; 0: no limit, nor one of what they may make ostler hold").server("max_connections_per_address"),
        own("edge_threads", "--edge-threads N", Whole(0, 256), Int(0), "Threads that serve connections; 0: one for each four cores, or for each core where no app runs").at_start().server("edge_threads"),
        on("forwarded_allow_ips", "--forwarded-allow-ips NETS", Networks, Words(&["127.0.0.1", "::1"]), "Peers whose X-Forwarded-* and X-Request-Id headers count; * for all (or $FORWARDED_ALLOW_IPS)").server("trusted_proxies").said("Peers whose X-Forwarded-* and X-Request-Id headers count: addresses and networks, * for all; or a number: so many proxies stand before ostler"),
        typed("proxy_headers", "--proxy-headers", Switch, No, "Believe X-Forwarded-* from --forwarded-allow-ips, which is already so"),
        typed("no_proxy_headers", "--no-proxy-headers", Switch, No, "Believe no X-Forwarded-* header, whoever sends it"),
        on("secure_scheme_headers", "", Pairs, Texts(&[("X-FORWARDED-PROTOCOL", "ssl"), ("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on")]), "Headers of a trusted proxy, and the value of each that means https").server("secure_scheme_headers"),
        on("forwarder_headers", "--forwarder-headers NAMES", Commas, Words(&["SCRIPT_NAME", "PATH_INFO"]), "Header names with _ that count from a trusted proxy: SCRIPT_NAME, or none").server("forwarder_headers"),
        on("proxy_protocol", "--proxy-protocol MODE", PROXY_PROTOCOL, Word("off"), "Have --proxy-allow-from peers begin with a PROXY header: v1, v2 or auto (either)").server("proxy_protocol").said("Have the peers of proxy_allow_from begin with a PROXY header: v1, v2 or auto (either)"),
        on("proxy_allow_ips", "--proxy-allow-from NETS", Networks, Words(&["127.0.0.1", "::1"]), "With --proxy-protocol, the peers that send it; * for all. Others speak HTTP at once").server("proxy_allow_from").said("With proxy_protocol, the peers that send it; * for all. Others speak HTTP at once"),
        moot("reuse_port", "--reuse-port", Switch, No, "all threads share one socket per address"),
        refused("protocol", "--protocol NAME", Text, Word("http"), "only HTTP is spoken on the listening sockets", "let the proxy in front speak HTTP (nginx: proxy_pass)"),
        moot("uwsgi_allow_ips", "--uwsgi-allow-from NETS", Opaque, Unset, "the uwsgi protocol is not spoken"),
    ]},
    Group { heading: "Workers", rows: &[
        on("workers", "-w --workers N", Whole(1, MOST_WORKERS), Int(1), "Worker processes (or $WEB_CONCURRENCY)").web("workers").said("Worker processes"),
        on("threads", "--threads N", Whole(1, MOST_WORKERS), Int(1), "Threads in each worker of a WSGI app: requests it runs at once").web("threads"),
        on("worker_class", "-k --worker-class CLASS", Kind::WorkerClass, Word("sync"), "sync, gthread, asgi or uvicorn.workers.UvicornWorker; all run on ostler's own worker").web("worker_class"),
        on("worker_connections", "--worker-connections N", Whole(1, 1_000_000), Int(1000), "Requests that one worker of an ASGI app runs at once").web("worker_connections"),
        own("websocket_threads", "--websocket-threads N", Whole(0, 100_000), Int(100), "WebSockets that one worker of a WSGI app holds open, beside its threads").web("websocket_threads"),
        own("single_process", "--single-process", Switch, No, "One worker, ever: for an app that keeps its state in memory; a reload stops it first").web("single_process"),
        on("timeout", "-t --timeout SECONDS", Seconds, Int(30), "Longest time from a request to the head of its response; 0: no limit").web("timeout"),
        on("graceful_timeout", "--graceful-timeout --timeout-graceful-shutdown SECONDS", Seconds, Int(30), "Time for requests to end when a worker or the server stops").web("graceful_timeout").said("Time for requests to end when a worker stops"),
        on("max_requests", "--max-requests --limit-max-requests N", Whole(0, MOST), Int(0), "Replace a worker after this many requests; 0: never").web("max_requests"),
        on("max_requests_jitter", "--max-requests-jitter --limit-max-requests-jitter N", Whole(0, MOST), Int(0), "Add up to this many at random, so that workers are not replaced together").web("max_requests_jitter"),
        own("memory_soft", "--memory-soft SIZE", Size, Int(0), "Drain and replace a worker above this much private memory; 0: never").web("memory_soft"),
        own("memory_hard", "--memory-hard SIZE", Size, Int(0), "Kill and replace a worker above this much private memory; 0: never").web("memory_hard"),
        own("line_length", "--line-length N", Whole(0, 1_000_000), Int(1000), "Requests that wait for a free worker; past them 503").web("line_length"),
        own("line_timeout", "--line-timeout SECONDS", Seconds, Int(30), "Longest wait for a free worker; past it 503").web("line_timeout"),
        moot("worker_tmp_dir", "--worker-tmp-dir DIR", Path, Unset, "workers need no heartbeat file"),
        moot("asgi_disconnect_grace_period", "--asgi-disconnect-grace-period SECONDS", Opaque, Int(3), "an app that does not heed http.disconnect is cancelled by its timeout"),
        moot("http_parser", "--http-parser NAME", Opaque, Word("auto"), "requests are parsed before they reach a worker"),
    ]},
    Group { heading: "HTTP limits", rows: &[
        on("limit_request_line", "--limit-request-line BYTES", Whole(0, MOST), Int(8190), "Longest request line; 0 means the most there is, 61440").server("limit_request_line"),
        on("limit_request_fields", "--limit-request-fields N", Whole(0, MOST), Int(100), "Most header fields of a request; 0 means the most there is, 1000").server("limit_request_fields"),
        on("limit_request_field_size", "--limit-request-field_size --limit-request-field-size BYTES", Whole(0, MOST), Int(8190), "Longest header field; 0 means the most there is, 61440").server("limit_request_field_size"),
        own("limit_request_body", "--limit-request-body SIZE", Size, Int(100 << 20), "Largest request body; 0: no limit").web("limit_request_body"),
        on("keepalive", "--keep-alive --timeout-keep-alive SECONDS", Seconds, Int(75), "Close a connection that is idle for this long; 0: after each response (gunicorn: 2)").server("keep_alive").said("Close a connection that is idle for this long; 0: after each response"),
        own("header_timeout", "--header-timeout SECONDS", Seconds, Int(10), "Longest time for the whole head of a request; 0: no limit").server("header_timeout"),
        own("body_timeout", "--body-timeout SECONDS", Seconds, Int(30), "Longest silence within a request body; 0: no limit").server("body_timeout"),
        own("write_timeout", "--write-timeout SECONDS", Seconds, Int(30), "Longest time in which a client takes no byte of a response; 0: no limit").server("write_timeout"),
        own("minimum_rate", "--minimum-rate SIZE", Size, Int(500), "Fewest bytes a second of a body, on average after 10 s; 0: no limit").server("minimum_rate"),
        own("request_buffering", "--no-request-buffering", Unswitch, Yes, "Pass request bodies on as they come, not when they are complete").web("request_buffering").said("Give a request to the app when its body is complete; false: pass the body on as it comes"),
        own("response_buffering", "--no-response-buffering", Unswitch, Yes, "Let a slow client hold its worker instead of buffering the response").web("response_buffering").said("Buffer a response for a slow client; false: let the client hold its worker"),
        on("websocket_max_message_size", "--websocket-max-message-size --ws-max-size SIZE", Size, Int(16 << 20), "Largest WebSocket message of an ASGI app").web("websocket_max_message_size"),
        on("header_map", "--header-map MODE", HEADER_MAP, Word("drop"), "Header names with _: drop those headers, or refuse the request").server("header_map"),
        on("sendfile", "--no-sendfile", Unswitch, Yes, "Do not use sendfile for static files (or $SENDFILE)").server("sendfile").said("Use sendfile for static files"),
        on("tmp_upload_dir", "", Path, Unset, "Directory for bodies that are too large for memory [default: $TMPDIR or /tmp]").at_start().server("tmp_upload_dir"),
        moot("http_protocols", "--http-protocols NAMES", Opaque, Word("h1"), HTTP2),
        moot("http2_cleartext", "--http2-cleartext MODE", Opaque, Word("off"), HTTP2),
        moot("http2_max_concurrent_streams", "--http2-max-concurrent-streams N", Opaque, Int(100), HTTP2),
        moot("http2_initial_window_size", "--http2-initial-window-size BYTES", Opaque, Int(65_535), HTTP2),
        moot("http2_max_frame_size", "--http2-max-frame-size BYTES", Opaque, Int(16_384), HTTP2),
        moot("http2_max_header_list_size", "--http2-max-header-list-size BYTES", Opaque, Int(65_536), HTTP2),
        moot("permit_obsolete_folding", "--permit-obsolete-folding", Switch, No, STRICT),
        moot("strip_header_spaces", "--strip-header-spaces", Switch, No, STRICT),
        moot("permit_unconventional_http_method", "--permit-unconventional-http-method", Switch, No, STRICT),
        moot("permit_unconventional_http_version", "--permit-unconventional-http-version", Switch, No, STRICT),
        moot("casefold_http_method", "--casefold-http-method", Switch, No, STRICT),
    ]},
    Group { heading: "TLS", rows: &[
        on("certfile", "--certfile --ssl-certfile FILE", Path, Unset, "Certificate chain (PEM); serve every address over TLS").server("certfile").said("Certificate chain (PEM) for the addresses of listen_tls"),
        on("keyfile", "--keyfile --ssl-keyfile FILE", Path, Unset, "Private key (PEM) [default: in the certificate's file]").server("keyfile"),
        on("ca_certs", "--ca-certs --ssl-ca-certs FILE", Path, Unset, "Certificate authorities that sign clients' certificates (PEM)"),
        on("cert_reqs", "--cert-reqs --ssl-cert-reqs N", Whole(0, 2), Int(0), "Client certificates: 0 not asked for, 1 optional, 2 required"),
        moot("ssl_version", "--ssl-version VERSION", Opaque, Int(2), "TLS 1.2 and 1.3 are spoken"),
        moot("ciphers", "--ciphers --ssl-ciphers LIST", Opaque, Unset, "only the cipher suites of TLS 1.3 and the good ones of 1.2 are there"),
        moot("suppress_ragged_eofs", "--suppress-ragged-eofs", Switch, Yes, "a connection may end at any time"),
        moot("do_handshake_on_connect", "--do-handshake-on-connect", Switch, No, "the handshake never holds a worker"),
    ]},
    Group { heading: "Logs", rows: &[
        on("accesslog", "--access-logfile FILE", Path, Unset, "File for one line per request; - for standard output").at_start().server("access_log"),
        typed("access_log", "--access-log", Switch, No, "Another way to say --access-logfile -"),
        typed("no_access_log", "--no-access-log", Switch, No, "Write no access log, whatever gunicorn.conf.py says"),
        on("access_log_format", "--access-logformat FORMAT", Text, Word(ACCESS_LOG_FORMAT), "Format of that line in gunicorn's atoms, or json").at_start().server("access_log_format"),
        own("access_log_json", "--access-log-json", Switch, No, "Another way to say --access-logformat json").at_start(),
        on("errorlog", "--error-logfile --log-file FILE", Path, Word("-"), "File for everything else; - for standard error").at_start().server("error_log"),
        on("loglevel", "--log-level LEVEL", LEVEL, Word("info"), "Least level that is logged: debug, info, warning, error or critical").at_start().server("log_level"),
        own("perf", "--perf", Switch, No, "Write how long each call took to perf/logs/RUN/PID.log; `ostler perf` reads it").web("perf"),
        own("perf_dir", "--perf-dir DIR", Path, Word("perf/logs"), "Where the folders of runs are").web("perf_dir"),
        own("perf_keep", "--perf-keep N", Whole(1, 10_000), Int(20), "So many runs are kept: a start removes the oldest").web("perf_keep"),
        own("perf_size", "--perf-size SIZE", Size, Int(1 << 30), "What all runs take together: the oldest make room, the last one ends there").web("perf_size"),
        on("capture_output", "--capture-output", Switch, No, "Put what the app prints into the error log").web("capture_output"),
        moot("disable_redirect_access_to_syslog", "--disable-redirect-access-to-syslog", Switch, No, SYSLOG),
        moot("logger_class", "--logger-class CLASS", Opaque, Word("gunicorn.glogging.Logger"), "the server's logs are not written by Python"),
        moot("logconfig", "--log-config FILE", Opaque, Unset, "the server's logs are not written by Python; configure the app's own logging in the app"),
        moot("logconfig_dict", "", Opaque, Texts(&[]), "the server's logs are not written by Python; configure the app's own logging in the app"),
        moot("logconfig_json", "--log-config-json FILE", Opaque, Unset, "the server's logs are not written by Python; configure the app's own logging in the app"),
        moot("syslog_addr", "--log-syslog-to ADDRESS", Opaque, Word("udp://localhost:514"), SYSLOG),
        moot("syslog", "--log-syslog", Switch, No, SYSLOG),
        moot("syslog_prefix", "--log-syslog-prefix TEXT", Opaque, Unset, SYSLOG),
        moot("syslog_facility", "--log-syslog-facility NAME", Opaque, Word("user"), SYSLOG),
        moot("enable_stdio_inheritance", "-R --enable-stdio-inheritance", Switch, No, "workers always inherit standard output and error"),
        moot("statsd_host", "--statsd-host HOST:PORT", Opaque, Unset, STATSD),
        moot("dogstatsd_tags", "--dogstatsd-tags TAGS", Opaque, Word(""), STATSD),
        moot("statsd_prefix", "--statsd-prefix TEXT", Opaque, Word(""), STATSD),
        moot("enable_backlog_metric", "--enable-backlog-metric", Switch, No, STATSD),
    ]},
    Group { heading: "Process", rows: &[
        on("user", "-u --user USER", Account, Unset, "Run as this user (name or number)").at_start().server("user").said("Server and apps run as this user (name or number); where root starts ostler and none is named, as the account `ostler`, if there is one"),
        on("group", "-g --group GROUP", Account, Unset, "Run as this group [default: the user's]").at_start().server("group"),
        on("umask", "-m --umask MODE", Octal, Unset, "Permission bits (octal) that new files of the app do not get").web("umask"),
        on("pidfile", "-p --pid FILE", Path, Unset, "Write the process id to this file").at_start().server("pidfile"),
        on("daemon", "-D --daemon", Switch, No, "Go on in the background").at_start(),
        on("proc_name", "-n --name NAME", Text, Unset, "Name of the processes in ps and top [default: the app]").web("proc_name"),
        on("default_proc_name", "", Text, Unset, "Name of the processes when proc_name is not set"),
        on("reload", "--reload", Switch, No, "Load the app again when its code changes (for development only)"),
        on("reload_extra_files", "--reload-extra-file FILE", List, Words(&[]), "With --reload, look at this file or pattern too; repeatable"),
        moot("reload_engine", "--reload-engine NAME", Opaque, Word("auto"), "there is one way of watching files"),
        moot("initgroups", "--initgroups", Switch, No, "with --user, the groups of that user are always set"),
    ]},
    Group { heading: "Python and gunicorn", rows: &[
        typed("config", "-c --config CONFIG", Text, Unset, "gunicorn's config: a file or python:module [default: ./gunicorn.conf.py if it is there]").web("config").said("gunicorn's config for this app: a file or python:module [default: gunicorn.conf.py if it is there]"),
        on("check_config", "--check-config", Switch, No, "Check the settings, load the app and exit"),
        on("print_config", "--print-config", Switch, No, "Print every setting and where it comes from, load the app and exit"),
        moot("spew", "--spew", Switch, No, "no trace of every line is written"),
        refused("paste", "--paste --paster FILE", Opaque, Unset, PASTE, PASTE_HINT),
        moot("raw_paste_global_conf", "--paste-global CONF", List, Words(&[]), PASTE),
        moot("dirty_apps", "--dirty-app APP", List, Words(&[]), DIRTY),
        moot("dirty_workers", "--dirty-workers N", Opaque, Int(0), DIRTY),
        moot("dirty_timeout", "--dirty-timeout SECONDS", Opaque, Int(300), DIRTY),
        moot("dirty_threads", "--dirty-threads N", Opaque, Int(1), DIRTY),
        moot("dirty_graceful_timeout", "--dirty-graceful-timeout SECONDS", Opaque, Int(30), DIRTY),
        moot("control_socket", "--control-socket PATH", Opaque, Word("gunicorn.ctl"), CONTROL),
        moot("control_socket_mode", "--control-socket-mode MODE", Opaque, Int(0o600), CONTROL),
        moot("control_socket_disable", "--no-control-socket", Switch, No, CONTROL),
    ]},
    Group { heading: "Hooks", rows: &[
        on("on_starting", "", Hook, Unset, "(server): before anything is started"),
        on("when_ready", "", Hook, Unset, "(server): when the server listens and workers are ready"),
        on("on_reload", "", Hook, Unset, "(server): when a reload begins"),
        on("nworkers_changed", "", Hook, Unset, "(server, new, old): when the number of workers changes"),
        on("child_exit", "", Hook, Unset, "(server, worker): in the hook process, after a worker has gone"),
        on("on_exit", "", Hook, Unset, "(server): at the end"),
        on("pre_fork", "", Hook, Unset, "(server, worker): in the process that workers are forked from, before a fork"),
        on("post_fork", "", Hook, Unset, "(server, worker): in the worker, after the fork"),
        on("post_worker_init", "", Hook, Unset, "(worker): in the worker, when the app is loaded"),
        on("pre_request", "", Hook, Unset, "(worker, req): before a request"),
        on("post_request", "", Hook, Unset, "(worker, req, environ, resp): after a request"),
        on("worker_int", "", Hook, Unset, "(worker): in the worker, on SIGINT or SIGQUIT"),
        on("worker_abort", "", Hook, Unset, "(worker): in the worker, on SIGABRT, as after a timeout"),
        on("worker_exit", "", Hook, Unset, "(server, worker): in the worker, before it exits"),
        moot("pre_exec", "", Hook, Unset, "an upgrade (SIGUSR2) runs no Python before the new program"),
        moot("ssl_context", "", Hook, Unset, "TLS does not run in Python"),
        moot("on_dirty_starting", "", Hook, Unset, DIRTY),
        moot("dirty_post_fork", "", Hook, Unset, DIRTY),
        moot("dirty_worker_init", "", Hook, Unset, DIRTY),
        moot("dirty_worker_exit", "", Hook, Unset, DIRTY),
    ]},
];
