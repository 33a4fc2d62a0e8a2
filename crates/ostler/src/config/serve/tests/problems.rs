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
