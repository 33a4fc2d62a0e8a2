//! What is refused, and what a person reads then.

use super::{Folder, SMALL};

/// The files, the environment, and everything that is said. `DIR` stands for the folder.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &str) {
    let folder = Folder::with(files);
    let told = folder.problems(&[("SET", "set")]);
    assert_eq!(told, expected.trim_start_matches('\n'), "\n{told}");
}

#[test]
fn every_problem_at_once_with_its_place() {
    let text = r#"
[server]
keep_allive = "30s"
workers = 4
log_level = "lowd"

[projects.shop]
source = "shop"
hosts = ["shop.example.com:80"]

[projects.shop.web]
app = "app.py"
threads = true
"#;
    check(
        &[("ostler.toml", text), ("shop/", "")],
        r#"
error: unknown key `keep_allive` in [server]
 --> ostler.toml:3:1
  |
3 | keep_allive = "30s"
  | ^^^^^^^^^^^
  |
  = hint: did you mean `keep_alive`? (Close a connection that is idle for this long; 0: after each response)

error: unknown key `workers` in [server]
 --> ostler.toml:4:1
  |
4 | workers = 4
  | ^^^^^^^
  |
  = hint: `workers` belongs in [projects.NAME.web]

error: `log_level` needs one of debug, info, warning, error, critical
 --> ostler.toml:5:13
  |
5 | log_level = "lowd"
  |             ^^^^^^
  |
  = hint: write one of debug, info, warning, error, critical

error: "shop.example.com:80" has a port
 --> ostler.toml:9:10
  |
9 | hosts = ["shop.example.com:80"]
  |          ^^^^^^^^^^^^^^^^^^^^^
  |
  = hint: leave the port out: every address of listen has every host

error: `app` is no module:callable
  --> ostler.toml:12:7
   |
12 | app = "app.py"
   |       ^^^^^^^^
   |
   = hint: give the module as Python imports it, as in app:app (with chdir for another directory)

error: `threads` needs a whole number from 1 to 1000
  --> ostler.toml:13:11
   |
13 | threads = true
   |           ^^^^
   |
   = hint: give a number from 1 to 1000
"#,
    );
}

#[test]
fn a_host_of_two_projects_shows_both_places() {
    let other = "[projects.blog]\nsource = \"..\"\nhosts = [\"*.example.com\", \"SHOP.example.com\"]\nweb.app = \"blog\"\n";
    let text = format!("include = [\"conf.d/*.toml\"]\n{SMALL}");
    check(
        &[
            ("ostler.toml", &text),
            ("conf.d/blog.toml", other),
            ("shop/", ""),
        ],
        r#"
error: the host shop.example.com belongs to two projects
 --> ostler.toml:4:10
  |
4 | hosts = ["shop.example.com"]
  |          ^^^^^^^^^^^^^^^^^^ of `shop`
  |
 ::: conf.d/blog.toml:3:27
  |
3 | hosts = ["*.example.com", "SHOP.example.com"]
  |                           ------------------ of `blog`
  |
  = hint: a host belongs to one project: take it out of the other, or make it a route of one
"#,
    );
}

#[test]
fn tls_is_not_spoken_on_a_unix_socket() {
    let text = format!(
        "{SMALL}[server]\nlisten = [\"unix:/run/a.sock\"]\nlisten_tls = [\"127.0.0.1:443\", \"unix:b.sock\"]\n"
    );
    check(
        &[("ostler.toml", &text), ("shop/", "")],
        r#"
error: `listen_tls` has a UNIX socket, and TLS is spoken over TCP only
 --> ostler.toml:7:32
  |
7 | listen_tls = ["127.0.0.1:443", "unix:b.sock"]
  |                                ^^^^^^^^^^^^^
  |
  = hint: give an address, as in "127.0.0.1:443", or write the socket into `listen`, for plain HTTP
"#,
    );
}

/// What a CA has to do with it.
#[test]
fn certificates_that_cannot_be_had() {
    let tls = "[server]\nlisten_tls = [\":443\"]\n";
    let check = |text: &str, expected: &[&str]| {
        let folder = Folder::with(&[("ostler.toml", text), ("shop/", ""), ("file", "")]);
        let told = match expected.is_empty() {
            true => folder.good(&[]).print(),
            false => folder.problems(&[]),
        };
        let lines = told.lines().filter_map(|line| line.strip_prefix("error: "));
        assert_eq!(lines.collect::<Vec<_>>(), expected, "{text}\n{told}");
    };
    let acme =
        |line: &str, expected: &[&str]| check(&format!("{SMALL}{tls}[acme]\n{line}\n"), expected);
    acme("directory = \"lets-encrypt\"", &["`directory` is no CA"]);
    acme(
        "directory = \"http://ca.test/dir\"",
        &["`directory` is no CA"],
    );
    acme("directory = \"https:///dir\"", &["`directory` is no CA"]);
    acme(
        "resolver = \"dns.test\"",
        &["`resolver` is no address of a DNS server"],
    );
    acme("key = \"rsa\"", &["`key` needs one of p256, p384"]);
    acme(
        "http_port = 0",
        &["`http_port` needs a whole number from 1 to 65535"],
    );
    acme("hook = \"none\"", &["`hook` names no file (DIR/none)"]);
    acme(
        "ca_root = \"none.pem\"",
        &["`ca_root` names no file (DIR/none.pem)"],
    );
    acme(
        "eab_id = \"a\"",
        &["`eab_id` and `eab_key` belong together"],
    );
    acme(
        "challenge = \"dns-01\"",
        &["the challenge dns-01 needs a program that sets TXT records"],
    );
    check(
        &format!("{SMALL}[acme]\n"),
        &["[acme] is there and nothing listens for HTTPS"],
    );
    let wild = SMALL.replace("shop.example.com", "*.example.com");
    check(
        &format!("{wild}{tls}"),
        &["no certificate can be had for `*.example.com`: a CA proves wildcards through DNS only"],
    );
    let own = |lines: &str| SMALL.replace("hosts =", &format!("{lines}\nhosts ="));
    check(
        &format!("{}{tls}", own("certfile = \"none.pem\"")),
        &["`certfile` names no file (DIR/none.pem)"],
    );
    check(
        &format!("{}{tls}", own("keyfile = \"file\"")),
        &["`keyfile` is set without `certfile`"],
    );
    check(
        &format!("{}{tls}", own("client_ca = \"none.pem\"")),
        &["`client_ca` names no file (DIR/none.pem)"],
    );
    check(
        &format!("{}{tls}", own("client_ca = \"file\"\nhttps = \"optional\"")),
        &["`client_ca` is set and requests without TLS are answered"],
    );
    check(
        &format!("{}{tls}", own("access.client_certificate = true")),
        &["`client_certificate` without `client_ca`"],
    );
    // All of these are good.
    acme(
        "challenge = \"dns-01\"\nhook = \"file\"\nresolver = \"9.9.9.9\"",
        &[],
    );
    check(
        &format!("{wild}{tls}[acme]\nchallenge = \"dns-01\"\nhook = \"file\"\n"),
        &[],
    );
    check(
        &format!(
            "{}{tls}",
            own("certfile = \"file\"").replace("shop.example.com", "*.example.com")
        ),
        &[],
    );
}

/// One line about each of these, by what is said first; the files around them are good.
#[test]
fn what_is_refused() {
    let check = |text: &str, expected: &[&str]| {
        let folder = Folder::with(&[("ostler.toml", text), ("shop/", ""), ("file", "")]);
        let told = folder.problems(&[("SET", "set"), ("EMPTY", "")]);
        let lines = told.lines().filter_map(|line| line.strip_prefix("error: "));
        assert_eq!(lines.collect::<Vec<_>>(), expected, "{text}\n{told}");
    };
    let server =
        |line: &str, expected: &[&str]| check(&format!("{SMALL}[server]\n{line}\n"), expected);
    let project = |line: &str, expected: &[&str]| check(&format!("{SMALL}{line}\n"), expected);
    let hosts = |text: &str, expected: &[&str]| {
        check(&SMALL.replace("[\"shop.example.com\"]", text), expected);
    };
    server("listen = 80", &["`listen` needs addresses"]);
    server("listen = \"*:80\"", &["`listen` has \"*\" for a host"]);
    server(
        "listen = [\":80,:81\"]",
        &["`listen` has several addresses in one text"],
    );
    let long = format!("listen = \"unix:/{}\"", "x".repeat(107));
    server(&long, &["`listen` has a path of more than 107 bytes"]);
    server("listen = []", &["nothing is listened on"]);
    server(
        "listen = [\":80\", \"0.0.0.0:80\"]",
        &["one address is listened on twice"],
    );
    server(
        "certfile = \"file\"",
        &["`certfile` is set and nothing listens for HTTPS"],
    );
    server(
        "keyfile = \"file\"",
        &["`keyfile` is set without `certfile`"],
    );
    server(
        "listen_tls = [\":443\"]\ncertfile = \"none.pem\"",
        &["`certfile` names no file (DIR/none.pem)"],
    );
    server(
        "trusted_proxies = -1",
        &["`trusted_proxies` needs a whole number from 0 to 100"],
    );
    server(
        "trusted_proxies = [\"10.0.0.1/8\"]",
        &["`trusted_proxies` has \"10.0.0.1/8\" with bits set behind the first 8"],
    );
    server(
        "default_host = \"other.com\"",
        &["`default_host` names a host of no project"],
    );
    server(
        "default_host = \"*.shop.example.com\"",
        &["`default_host` needs one name"],
    );
    server(
        "log_level = true",
        &["`log_level` needs one of debug, info, warning, error, critical"],
    );
    server("sendfile = \"maybe\"", &["`sendfile` needs true or false"]);
    server(
        "keep_alive = true",
        &["`keep_alive` needs a number of seconds, 0 or more"],
    );
    server(
        "keep_alive = 1979-05-27",
        &["`keep_alive` needs a number of seconds, 0 or more"],
    );
    server(
        "keep_alive = inf",
        &["`keep_alive` needs a number of seconds, 0 or more"],
    );
    server(
        "edge_threads = 99999999999999999999",
        &["`edge_threads` needs a whole number from 0 to 256"],
    );
    server(
        "header_map = \"dangerous\"",
        &[
            "`header_map` cannot be dangerous: a header X_Y would pass for the X-Y of a trusted proxy",
        ],
    );
    server(
        "secure_scheme_headers = { A = 1 }",
        &["`secure_scheme_headers` needs texts for values"],
    );
    server("bind = \":80\"", &["unknown key `bind` in [server]"]);
    check(
        &format!("server = 3\n{SMALL}"),
        &["`server` needs a section"],
    );
    check(
        &format!("servr.listen = \":80\"\n{SMALL}"),
        &["unknown key `servr` at the top of the file"],
    );
    check("[projects]\nshop = 1", &["project `shop` needs a section"]);
    check(
        "[projects.shop]",
        &[
            "project `shop` has no `source`",
            "project `shop` has no `hosts`",
        ],
    );
    check(
        "[projects.Shop]\nsource = \"none\"\nhosts = \"a\"",
        &[
            "`Shop` is no name of a project",
            "`source` names no directory (DIR/none)",
        ],
    );
    check(
        "[projects.shop]\nsource = \"shop\"\nhosts = [\"a\"]",
        &["project `shop` names no app"],
    );
    hosts("[]", &["`hosts` names no host"]);
    hosts("3", &["`hosts` needs names of hosts"]);
    hosts("[\"a\", \"A.\"]", &["the host a is named twice"]);
    hosts(
        "[\"https://a/\"]",
        &["\"https://a/\" is no host but a URL or a path"],
    );
    hosts(
        "[\"a.*\"]",
        &["\"a.*\" has a * that is not its whole first label"],
    );
    hosts(
        "[\"bücher.de\"]",
        &["\"bücher.de\" has letters that are not ASCII"],
    );
    hosts(
        "[\"a..b\", \"-a\", \"a b\", \"\"]",
        &[
            "\"a..b\" is no host name",
            "\"-a\" is no host name",
            "\"a b\" is no host name",
            "\"\" is no host name",
        ],
    );
    hosts(
        "[\"[::g]\"]",
        &["\"[::g]\" has no IPv6 address in its brackets"],
    );
    project("routes = 1", &["`routes` needs sections"]);
    project(
        "routes = [{ prefix = \"api\" }, { prefix = \"/a/\" }]",
        &["`prefix` does not begin with /", "`prefix` ends with /"],
    );
    project(
        "routes = [{ prefix = \"/a//b\" }, { prefix = \"/a/../b\" }, { prefix = \"/%41\" }]",
        &[
            "`prefix` has an empty segment",
            "`prefix` has a . or .. in it",
            "`prefix` has a character that no path has",
        ],
    );
    project(
        "routes = [{ prefix = \"/a\" }, { prefix = \"/a\", hosts = [\"shop.example.com\"] }]",
        &["the prefix /a is routed twice"],
    );
    project(
        "routes = [{ prefix = \"/a\", hosts = [\"b\"] }]",
        &["the host b is not one of the project's"],
    );
    project(
        "web.workers = 0",
        &["`workers` needs a whole number from 1 to 1000"],
    );
    project(
        "web.worker_class = \"gevent\"",
        &["`worker_class` names gevent, which ostler's workers do not run on"],
    );
    project("web.env = [\"A=1\"]", &["`env` needs names and values"]);
    project(
        "web.env = { \"A B\" = \"x\", C = 1 }",
        &[
            "`A B` is no name of a variable",
            "`env` needs texts for values",
        ],
    );
    project(
        "web.chdir = \"none\"",
        &["`chdir` names no directory (DIR/shop/none)"],
    );
    project(
        "web.env_file = \".env\"",
        &["`env_file` names no file (DIR/shop/.env)"],
    );
    project(
        "web.config = \"g.py\"",
        &["`config` names no file (DIR/shop/g.py)"],
    );
    project(
        "web.internal_files = { \"/p\" = \"none\" }",
        &["`internal_files` names no directory (DIR/shop/none)"],
    );
    project(
        "static = { \"/s\" = \"none\", \"t\" = \"none\" }",
        &[
            "`/s` names no directory (DIR/shop/none)",
            "`t` does not begin with /",
            "`t` names no directory (DIR/shop/none)",
        ],
    );
    project("static = { \"/s\" = 1 }", &["`static` needs folders"]);
    project(
        "web.bind = \":80\"",
        &["unknown key `bind` in [projects.shop.web]"],
    );
    server(
        "log_level = \"${UNSET} ${EMPTY} ${SET}\"",
        &["the variable `UNSET` is not set"],
    );
    server("state = \"${\"", &["`${` is not closed"]);
    server("state = \"${A-B}\"", &["`${A-B}` names no variable"]);
    server(
        "log_level = \"${SET}\"",
        &["`log_level` needs one of debug, info, warning, error, critical"],
    );
    check("a = [", &["this is no TOML: unclosed array, expected `]`"]);
    check("a = 1\na = 2", &["this key is set twice"]);
    check("include = [1]", &["`include` needs names of files"]);
    check(
        "include = [\"none.toml\"]",
        &["none.toml cannot be read: No such file or directory (os error 2)"],
    );
}

#[test]
fn a_variable_is_shown_where_it_stands() {
    let text = format!(
        "{SMALL}web.env = {{ A = \"${{SET}} ä ${{UNSET}}${{UNSET}}\", B = \"\\u0024{{UNSET}}\" }}\nweb.workers = \"${{SET}}\"\n"
    );
    check(
        &[("ostler.toml", &text), ("shop/", "")],
        r#"
error: the variable `UNSET` is not set
 --> ostler.toml:5:27
  |
5 | web.env = { A = "${SET} ä ${UNSET}${UNSET}", B = "\u0024{UNSET}" }
  |                           ^^^^^^^^
  |
  = hint: set UNSET in the environment that ostler starts in; write $$ for a dollar

error: the variable `UNSET` is not set
 --> ostler.toml:5:35
  |
5 | web.env = { A = "${SET} ä ${UNSET}${UNSET}", B = "\u0024{UNSET}" }
  |                                   ^^^^^^^^
  |
  = hint: set UNSET in the environment that ostler starts in; write $$ for a dollar

error: the variable `UNSET` is not set
 --> ostler.toml:5:50
  |
5 | web.env = { A = "${SET} ä ${UNSET}${UNSET}", B = "\u0024{UNSET}" }
  |                                                  ^^^^^^^^^^^^^^^
  |
  = hint: set UNSET in the environment that ostler starts in; write $$ for a dollar

error: `workers` needs a whole number from 1 to 1000
 --> ostler.toml:6:15
  |
6 | web.workers = "${SET}"
  |               ^^^^^^^^
  |
  = hint: give a number from 1 to 1000
"#,
    );
}

#[test]
fn a_key_in_two_files_shows_both() {
    let one = "[server]\nlog_level = \"info\"\n";
    let two = "[server]\nlog_level = \"debug\"\nedge_threads = \"many\"\n";
    let text = format!("include = [\"conf.d/?.toml\", \"conf.d/none*\"]\n{SMALL}");
    check(
        &[
            ("ostler.toml", &text),
            ("conf.d/1.toml", one),
            ("conf.d/2.toml", two),
            ("conf.d/.3.toml", "x"),
            ("shop/", ""),
        ],
        r#"
error: `log_level` is set twice
 --> conf.d/2.toml:2:1
  |
2 | log_level = "debug"
  | ^^^^^^^^^
  |
 ::: conf.d/1.toml:2:1
  |
2 | log_level = "info"
  | --------- set here too
  |
  = hint: keep one of the two

error: `edge_threads` needs a whole number from 0 to 256
 --> conf.d/2.toml:3:16
  |
3 | edge_threads = "many"
  |                ^^^^^^
  |
  = hint: give a number from 0 to 256
"#,
    );
}

#[test]
fn a_file_is_read_once() {
    let text = format!("include = [\"a.toml\", \"a.toml\"]\n{SMALL}");
    let cycle = "include = \"*.toml\"\n";
    check(
        &[("ostler.toml", &text), ("a.toml", cycle), ("shop/", "")],
        r#"
error: a.toml is read twice
 --> ostler.toml:1:22
  |
1 | include = ["a.toml", "a.toml"]
  |            --------  ^^^^^^^^
  |            |
  |            included here before
  |
  = hint: include each file once; keep the included ones in a folder of their own

error: a.toml is read twice
 --> a.toml:1:11
  |
1 | include = "*.toml"
  |           ^^^^^^^^
  |
 ::: ostler.toml:1:12
  |
1 | include = ["a.toml", "a.toml"]
  |            -------- included here before
  |
  = hint: include each file once; keep the included ones in a folder of their own

error: ostler.toml is read twice
 --> a.toml:1:11
  |
1 | include = "*.toml"
  |           ^^^^^^^^
  |
  = hint: include each file once; keep the included ones in a folder of their own
"#,
    );
}

#[test]
fn includes_have_an_end() {
    let text = format!("include = \"a/x\"\n{SMALL}");
    let names: Vec<String> = (1..=9)
        .map(|depth| format!("{}x", "a/".repeat(depth)))
        .collect();
    let mut files = vec![("ostler.toml", text.as_str()), ("shop/", "")];
    files.extend(
        names
            .iter()
            .map(|name| (name.as_str(), "include = \"a/x\"")),
    );
    check(
        &files,
        r#"
error: `include` is 9 files deep
 --> a/a/a/a/a/a/a/a/x:1:11
  |
1 | include = "a/x"
  |           ^^^^^
  |
  = hint: include the file from one further up
"#,
    );
}

#[test]
fn files_that_cannot_be_read() {
    let folder = Folder::with(&[
        ("ostler.toml", "include = [\"big\", \"bytes\", \"dir\"]"),
        ("dir/", ""),
    ]);
    std::fs::write(folder.0.join("bytes"), b"a = 1\n\xff").expect("write");
    std::fs::write(folder.0.join("big"), " ".repeat((1 << 20) + 1)).expect("write");
    assert_eq!(
        folder.problems(&[]),
        r#"error: big is larger than 1 MiB
 --> ostler.toml:1:12
  |
1 | include = ["big", "bytes", "dir"]
  |            ^^^^^
  |
  = hint: correct the path, or make it readable for the user who starts ostler

error: bytes is not UTF-8 text (line 2)
 --> ostler.toml:1:19
  |
1 | include = ["big", "bytes", "dir"]
  |                   ^^^^^^^
  |
  = hint: correct the path, or make it readable for the user who starts ostler

error: dir is no regular file
 --> ostler.toml:1:28
  |
1 | include = ["big", "bytes", "dir"]
  |                            ^^^^^
  |
  = hint: correct the path, or make it readable for the user who starts ostler
"#
    );
    let none = "error: ostler.toml cannot be read: No such file or directory (os error 2)\n  = hint: correct the path, or make it readable for the user who starts ostler\n";
    assert_eq!(Folder::with(&[]).problems(&[]), none);
}

#[test]
fn a_repository_stays_within_its_own() {
    let repository = r#"
include = ["*"]
hosts = ["evil.example.com"]
projects.shop.source = "/"
wbe = 1

[server]
listen = [":80"]

[web]
app = "app:app"
chdir = ".."
env_file = "link"
config = "file:/etc/passwd"
pythonpath = "lib,../other"
python = "/bin/sh"
env = { A = "${SET}" }
sendfile_root = ["/"]
internal_files = { "/p" = "/etc" }

[static]
"/one" = "folder"
"/two" = "../other"
"/three" = "/etc"
"/four" = "good"
"#;
    let text = "[projects.shop]\nsource = \"shop\"\nhosts = [\"a\"]\nweb.internal_files = { \"/q\" = \"good\" }\n";
    let folder = Folder::with(&[
        ("ostler.toml", text),
        ("shop/ostler.toml", repository),
        ("shop/good/", ""),
        ("other/", ""),
    ]);
    std::os::unix::fs::symlink("../ostler.toml", folder.0.join("shop/link")).expect("link");
    std::os::unix::fs::symlink("/etc", folder.0.join("shop/folder")).expect("link");
    let told = folder.problems(&[("SET", "set")]);
    assert_eq!(
        told,
        r#"error: `include` is the operator's to set
 --> shop/ostler.toml:2:1
  |
2 | include = ["*"]
  | ^^^^^^^
  |
  = hint: write it into the machine's file

error: `hosts` is the operator's to set
 --> shop/ostler.toml:3:1
  |
3 | hosts = ["evil.example.com"]
  | ^^^^^
  |
  = hint: write it into [projects.shop] of the machine's file

error: `projects` is the operator's to set
 --> shop/ostler.toml:4:1
  |
4 | projects.shop.source = "/"
  | ^^^^^^^^
  |
  = hint: write it into the machine's file

error: unknown key `wbe`
 --> shop/ostler.toml:5:1
  |
5 | wbe = 1
  | ^^^
  |
  = hint: a repository's file has web, static, fallback, compress, redirects, headers, errors and cors

error: `chdir` leads out of the checkout
  --> shop/ostler.toml:12:9
   |
12 | chdir = ".."
   |         ^^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file

error: `env_file` leads out of the checkout (to DIR/ostler.toml)
  --> shop/ostler.toml:13:12
   |
13 | env_file = "link"
   |            ^^^^^^
   |
   = hint: keep the files in the repository, or set the key in the machine's file

error: `config` leads out of the checkout
  --> shop/ostler.toml:14:10
   |
14 | config = "file:/etc/passwd"
   |          ^^^^^^^^^^^^^^^^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file

error: `pythonpath` leads out of the checkout
  --> shop/ostler.toml:15:14
   |
15 | pythonpath = "lib,../other"
   |              ^^^^^^^^^^^^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file

error: `python` leads out of the checkout
  --> shop/ostler.toml:16:10
   |
16 | python = "/bin/sh"
   |          ^^^^^^^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file

error: a repository's file cannot use variables of the operator's environment
  --> shop/ostler.toml:17:14
   |
17 | env = { A = "${SET}" }
   |              ^^^^^^
   |
   = hint: set the key in the machine's file, or let the app read the variable; write $$ for a dollar

error: `sendfile_root` leads out of the checkout
  --> shop/ostler.toml:18:18
   |
18 | sendfile_root = ["/"]
   |                  ^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file

error: `internal_files` leads out of the checkout
  --> shop/ostler.toml:19:27
   |
19 | internal_files = { "/p" = "/etc" }
   |                           ^^^^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file

error: `/one` leads out of the checkout (to /etc)
  --> shop/ostler.toml:22:10
   |
22 | "/one" = "folder"
   |          ^^^^^^^^
   |
   = hint: keep the files in the repository, or set the key in the machine's file

error: `static` leads out of the checkout
  --> shop/ostler.toml:23:10
   |
23 | "/two" = "../other"
   |          ^^^^^^^^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file

error: `static` leads out of the checkout
  --> shop/ostler.toml:24:12
   |
24 | "/three" = "/etc"
   |            ^^^^^^
   |
   = hint: a repository names paths below its own folder; others are set in the machine's file
"#
    );
}

#[test]
fn a_repository_file_is_one() {
    let folder = Folder::with(&[("ostler.toml", SMALL), ("shop/", "")]);
    std::os::unix::fs::symlink("/etc/passwd", folder.0.join("shop/ostler.toml")).expect("link");
    assert_eq!(
        folder.problems(&[]),
        r#"error: shop/ostler.toml leads out of its checkout
 --> ostler.toml:2:10
  |
2 | source = "shop"
  |          ^^^^^^
  |
  = hint: correct it in the repository of `shop`
"#
    );
}

/// What a repository writes must not write on the operator's terminal.
#[test]
fn a_message_has_no_control_characters() {
    let text = format!("\"\\u001b[31m\\u202e\\n\" = 1\n{SMALL}");
    check(
        &[("ostler.toml", &text), ("shop/", "")],
        r#"
error: unknown key ` [31m� ` at the top of the file
 --> ostler.toml:1:1
  |
1 | "\u001b[31m\u202e\n" = 1
  | ^^^^^^^^^^^^^^^^^^^^
  |
  = hint: there are include, server, acme, projects, web, static, fallback, compress, redirects, headers, errors, cors
"#,
    );
    check(
        &[("ostler.toml", "\u{9b}31m\u{1b} = 1\n")],
        r#"
error: this is no TOML: invalid unquoted key, expected letters, numbers, `-`, `_`
 --> ostler.toml:1:1
  |
1 | ¿31m␛ = 1
  | ^
  |
  = hint: write key = value, text in quotes, sections as [server]

error: this is no TOML: invalid unquoted key, expected letters, numbers, `-`, `_`
 --> ostler.toml:1:5
  |
1 | ¿31m␛ = 1
  |     ^
  |
  = hint: write key = value, text in quotes, sections as [server]
"#,
    );
}

#[test]
fn long_lines_and_many_problems_are_cut() {
    let long = format!("k = \"{}\"\n", "x".repeat(10_000));
    let many: String = (0..60).map(|n| format!("k{n} = 1\n")).collect();
    let told = Folder::with(&[("ostler.toml", &format!("{long}{many}"))]).problems(&[]);
    assert_eq!(told.matches("error: ").count(), 50, "{told}");
    assert!(told.ends_with("\n\nand 11 more\n"), "{told}");
    assert!(
        told.starts_with("error: unknown key `k` at the top of the file\n--> ostler.toml:1:1\n"),
        "{told}"
    );
    assert!(told.len() < 20_000, "{told}");
}

/// A mebibyte of slips in a repository's file costs no more than reading it: none of it is compared with every key.
#[test]
fn a_hostile_file_is_read_in_no_time() {
    let one = format!("[web]\n{} = 1\n", "workerz".repeat(100_000));
    let many: String = (0..60_000).map(|n| format!("workerz{n} = 1\n")).collect();
    for text in [
        one,
        format!("[web]\n{many}"),
        "[web]\nx = ".to_owned() + &"[".repeat(1_000_000),
    ] {
        let folder = Folder::with(&[("ostler.toml", SMALL), ("shop/ostler.toml", &text)]);
        let before = std::time::Instant::now();
        let told = folder.problems(&[]);
        assert!(before.elapsed().as_secs() < 10, "{:?}", before.elapsed());
        assert!(told.len() < 30_000, "{told}");
    }
}
