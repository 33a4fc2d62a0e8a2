//! What is refused, what is warned about, and in which words.

use serde_json::{Value, json};

use super::{Case, finish};
use crate::cli::command;

/// Every refusal, by a piece of what is said; `hint:` is in each.
#[test]
fn refusals() {
    let check = |words: &str, file: Value, expected: &[&str]| {
        let errors = finish(
            Case {
                line: words,
                environment: &[],
            },
            &file,
        )
        .expect_err(words);
        assert_eq!(errors.len(), expected.len(), "{words} {file}: {errors:#?}");
        for (error, piece) in errors.iter().zip(expected) {
            assert!(
                error.contains(piece) && error.contains("; hint: "),
                "{words} {file}: {error}"
            );
        }
    };
    let none = || json!({});
    check(
        "app -w 0",
        none(),
        &["workers needs a whole number from 1 to 1000: `--workers 0` on the command line"],
    );
    check("app -w -1", none(), &["`--workers -1`"]);
    check(
        "app --threads four",
        none(),
        &["threads needs a whole number"],
    );
    check(
        "app",
        json!({"workers": 2.5}),
        &["workers needs a whole number from 1 to 1000: `workers = 2.5` in gunicorn.conf.py"],
    );
    check("app -t -5", none(), &["timeout needs a number of seconds"]);
    check(
        "app",
        json!({"timeout": -1}),
        &["timeout needs a number of seconds"],
    );
    check(
        "app --keep-alive soon",
        none(),
        &["keepalive needs a number of seconds"],
    );
    check(
        "app --limit-request-body 1X",
        none(),
        &["limit_request_body needs a number of bytes"],
    );
    check("app -m 9", none(), &["umask needs octal"]);
    check(
        "app",
        json!({"daemon": "maybe"}),
        &["daemon needs True or False"],
    );
    check("app", json!({"accesslog": 5}), &["accesslog needs text"]);
    check(
        "app --log-level loud",
        none(),
        &["loglevel needs one of debug"],
    );
    check(
        "app --interface cgi",
        none(),
        &["app_interface needs one of auto, wsgi, asgi: `--interface cgi`"],
    );
    check(
        "app --interface wsgi -k asgi",
        none(),
        &["app_interface contradicts worker_class"],
    );
    check("app -k gevent", none(), &["worker_class names gevent"]);
    check("app -k eventlet", none(), &["worker_class names eventlet"]);
    check(
        "app",
        json!({"worker_class": "tornado"}),
        &["worker_class names tornado"],
    );
    check("app -b :80a", none(), &["bind has no port number"]);
    check(
        "app -b :80 -b :80",
        none(),
        &["bind names the same address twice: `--bind :80 --bind :80`"],
    );
    check("app", json!({"bind": []}), &["bind names no address"]);
    check(
        "app -b no-such-host.invalid:80",
        none(),
        &["bind names a host that cannot be found"],
    );
    check(
        "app -b :80 --host x --uds y",
        none(),
        &["--bind and --host and --uds contradict"],
    );
    check("app --access-log --no-access-log", none(), &["contradict"]);
    check(
        "app --forwarded-allow-ips proxy",
        none(),
        &["forwarded_allow_ips has \"proxy\""],
    );
    check(
        "app --header-map dangerous",
        none(),
        &["header_map cannot be dangerous"],
    );
    check(
        "app --certfile /nonexistent/c --keyfile /nonexistent/k",
        none(),
        &["certfile names no file", "keyfile names no file"],
    );
    check(
        "app --keyfile /bin/sh",
        none(),
        &["keyfile is set without a certfile"],
    );
    check(
        "app --certfile /bin/sh --cert-reqs 2",
        none(),
        &["cert_reqs asks for client certificates without ca_certs"],
    );
    check(
        "app --static /s=/nonexistent",
        none(),
        &["static_files names no directory"],
    );
    check(
        "app --static s=/tmp",
        none(),
        &["static_files has a prefix that is no path"],
    );
    check("app --static /tmp", none(), &["static_files needs pairs"]);
    check(
        "app --static /s=/tmp --static /s/=/tmp",
        none(),
        &["static_files names \"/s\" twice"],
    );
    check(
        "app --chdir /nonexistent",
        none(),
        &["chdir names no directory"],
    );
    check("app -e 1=2", none(), &["raw_env needs KEY=VALUE"]);
    check(
        "app --root-path shop",
        none(),
        &["root_path does not begin"],
    );
    check(
        "app --memory-soft 2G --memory-hard 1G",
        none(),
        &["memory_soft is above memory_hard"],
    );
    check(
        "app --single-process -w 2",
        none(),
        &["workers is above one, and --single-process"],
    );
    check("app --paste x.ini", none(), &["paste cannot be used"]);
    check("app --protocol uwsgi", none(), &["protocol cannot be used"]);
    check(
        "app --reload-extra-file /nonexistent",
        none(),
        &["reload_extra_files names a file"],
    );
    check("app -u a:b", none(), &["user needs the name"]);
    check(
        "app -c /nonexistent/conf.py",
        none(),
        &["the config file is not there"],
    );
    check(
        "app --env-file /nonexistent/env",
        none(),
        &["env_file cannot be read"],
    );
    check(
        "app --python /nonexistent/python",
        none(),
        &["--python names a Python that is not there"],
    );
    check("", none(), &["no app is named"]);
    check(
        "--factory shop",
        none(),
        &["--factory needs the name of the callable: `shop`"],
    );
    check(
        "./shop.py",
        none(),
        &["hint: give the module as Python imports it, as in shop:app"],
    );
    check(
        "-w 0 -t x --python /nonexistent/python app",
        none(),
        &["--python", "workers", "timeout"],
    );
    check(
        "-w 2 --single-process --chdir /nonexistent",
        json!({"backlog": 0}),
        &["backlog", "chdir", "no app", "workers"],
    );
}

#[test]
fn refusals_of_the_environment() {
    let check = |environment: &[(&str, &str)], expected: &str| {
        let errors = finish(
            Case {
                line: "app",
                environment,
            },
            &json!({}),
        )
        .expect_err(expected);
        assert!(
            errors.len() == 1 && errors[0].contains(expected),
            "{errors:?}"
        );
    };
    check(
        &[("WEB_CONCURRENCY", "many")],
        "workers needs a whole number from 1 to 1000: `WEB_CONCURRENCY=many` in the environment",
    );
    check(&[("PORT", "http")], "`PORT=http` in the environment");
    check(
        &[("GUNICORN_CMD_ARGS", "--workers 0")],
        "`--workers 0` in GUNICORN_CMD_ARGS",
    );
    check(
        &[("GUNICORN_CMD_ARGS", "--wrokers 2")],
        "GUNICORN_CMD_ARGS cannot be read: unexpected argument '--wrokers' found; tip: a similar argument exists: '--workers'",
    );
    check(
        &[("GUNICORN_CMD_ARGS", "'")],
        "a single quote is not closed",
    );
}

#[test]
fn warnings() {
    let check = |words: &str, file: Value, expected: &[&str]| {
        let (_, warnings) = finish(
            Case {
                line: words,
                environment: &[],
            },
            &file,
        )
        .unwrap_or_else(|errors| panic!("{errors:?}"));
        assert_eq!(warnings, expected, "{words}");
    };
    check(
        "app",
        json!({"spew": false, "worker_tmp_dir": null, "proxy_protocol": false, "reload_engine": "auto"}),
        &[],
    );
    check(
        "app --worker-tmp-dir /dev/shm --reuse-port",
        json!({"statsd_host": "localhost:8125"}),
        &[
            "settings without a meaning here: reuse_port (all threads share one socket per address), \
           worker_tmp_dir (workers need no heartbeat file), statsd_host (no metrics are sent to statsd)",
        ],
    );
    check(
        "app --forwarder-headers SCRIPT_NAME,Remote-User",
        json!({}),
        &[
            "forwarder_headers: REMOTE_USER will not arrive, as no header with _ in its name does; \
           let the proxy send it with - instead",
        ],
    );
    check(
        "app --log-config log.ini",
        json!({}),
        &[
            "settings without a meaning here: logconfig (the server's logs are not written by Python; configure the app's own logging in the app)",
        ],
    );
    check(
        "app --reload",
        json!({}),
        &["--reload is for development only: it watches files and restarts workers"],
    );
    check(
        "app --limit-request-fields 5000",
        json!({}),
        &["limit_request_fields is lowered from 5000 to 1000, the most there is"],
    );
    check(
        "app",
        json!({"keepallive": 5, "cores": 4}),
        &[
            "gunicorn.conf.py sets keepallive, which is no setting; did you mean keepalive?",
            "gunicorn.conf.py sets names that are no settings and do nothing: cores",
        ],
    );
    check(
        "app -k shop.MyUvicornWorker",
        json!({}),
        &[
            "worker_class shop.MyUvicornWorker: what this class sets for uvicorn is not read; say it as settings",
        ],
    );
}

#[test]
fn unknown_flags_are_errors() {
    let check = |words: &str, expected: &str| {
        let words = ["ostler", "run"]
            .into_iter()
            .chain(words.split_whitespace());
        let error = command().try_get_matches_from(words).expect_err(expected);
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
    };
    check("app --wrokers 4", "'--workers'");
    check("app --limit-request-bodyy 4", "'--limit-request-body'");
    check("app other", "unexpected argument 'other'");
    check("app --bind", "a value is required");
}
