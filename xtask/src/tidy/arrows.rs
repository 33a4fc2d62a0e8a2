//! The arrows of the map: which top-level folder of `crates/ostler/src` may name which other.

use super::Finding;
use super::code::Code;

const SOURCE: &str = "crates/ostler/src/";

/// Each folder and the folders it may use besides itself. `ANY` is for the tables of contents.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", ANY),
    ("cli", ANY),
    ("keeper", ANY),
    ("server", ANY),
    ("admin", &["store", "runs", "sys"]),
    (
        "edge",
        &[
            "routes", "pool", "upstream", "certs", "auth", "client", "store", "logs", "sys",
            "config",
        ],
    ),
    ("auth", &["client", "logs", "sys", "config"]),
    ("client", &[]),
    (
        "doctor",
        &["admin", "certs", "client", "logs", "config", "sys"],
    ),
    ("store", &[]),
    ("runs", &[]),
    ("routes", &["pool", "logs", "sys", "config"]),
    ("pool", &["supervise", "logs", "sys", "config"]),
    ("upstream", &["config"]),
    ("certs", &["client", "logs", "sys", "config"]),
    ("supervise", &["logs", "sys", "config"]),
    ("logs", &["sys", "config"]),
    ("config", &["sys"]),
    ("sys", &[]),
];

const ANY: &[&str] = &["*"];

/// Every use of another folder that the map does not have.
pub fn check(path: &str, code: &Code) -> Vec<Finding> {
    let Some(inner) = path.strip_prefix(SOURCE) else {
        return Vec::new();
    };
    let from = inner.split(['/', '.']).next().unwrap_or(inner);
    let wrong = |line, text| Finding {
        path: path.to_owned(),
        line,
        text,
    };
    let Some((_, allowed)) = ARROWS.iter().find(|(folder, _)| *folder == from) else {
        return vec![wrong(
            1,
            format!("`{from}` is not on the map: add it to the arrows of tidy"),
        )];
    };
    if *allowed == ANY {
        return Vec::new();
    }
    named(inner, code)
        .into_iter()
        .filter(|(_, to)| to != from && is_folder(to) && !allowed.contains(&to.as_str()))
        .map(|(line, to)| wrong(line, format!("`{from}` must not use `{to}`")))
        .collect()
}

/// A folder of the map, of today or of later. What else follows `crate::` is an item of `main.rs`.
fn is_folder(name: &str) -> bool {
    const LATER: [&str; 5] = ["deploy", "services", "tasks", "dashboard", "import"];
    LATER.contains(&name) || ARROWS.iter().any(|(folder, _)| *folder == name)
}

/// The names that follow `crate::` (or as many `super::` as reach it), with their lines.
fn named(inner: &str, code: &Code) -> Vec<(usize, String)> {
    // `edge/mod.rs` and `edge.rs` are one module below the crate, `edge/h1/head.rs` is three.
    let parts = inner.split('/').count();
    let depth = if inner.ends_with("/mod.rs") {
        parts - 1
    } else {
        parts
    };
    let up = "super::".repeat(depth);
    let mut text = String::new();
    let mut starts = Vec::new();
    for (_, line, _) in code.lines() {
        starts.push(text.len());
        text.push_str(line);
        text.push('\n');
    }
    let line_of = |at: usize| starts.partition_point(|start| *start <= at);
    let mut names = Vec::new();
    for prefix in ["crate::", up.as_str()] {
        for (at, _) in text.match_indices(prefix) {
            let whole =
                !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if whole {
                let rest = &text[at + prefix.len()..];
                names.extend(
                    first_names(rest)
                        .into_iter()
                        .map(|name| (line_of(at), name)),
                );
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

/// `a::b` gives `a`; `{a::{b, c}, d}` gives `a` and `d`.
fn first_names(rest: &str) -> Vec<String> {
    let Some(group) = rest.trim_start().strip_prefix('{') else {
        return Vec::from_iter(identifier(rest));
    };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.extend(identifier(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(identifier(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text
        .trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &[(usize, &str)]) {
        let found: Vec<(usize, String)> = check(path, &Code::new(text))
            .into_iter()
            .map(|finding| (finding.line, finding.text))
            .collect();
        let expected: Vec<(usize, String)> = expected
            .iter()
            .map(|(line, text)| (*line, (*text).to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn arrows_point_down() {
        finds(
            "crates/ostler/src/edge/mod.rs",
            "use crate::pool::Lease;\nuse crate::edge::h1;\n",
            &[],
        );
        finds(
            "crates/ostler/src/server.rs",
            "use crate::edge::Edge;\n",
            &[],
        );
        finds(
            "crates/ostler-wire/src/lib.rs",
            "use crate::cursor::Cursor;\n",
            &[],
        );
        finds(
            "crates/ostler/src/pool/mod.rs",
            "\nuse crate::edge::Edge;\n",
            &[(2, "`pool` must not use `edge`")],
        );
        finds(
            "crates/ostler/src/sys/fd.rs",
            "fn f() -> crate::logs::Level { g() }\n",
            &[(1, "`sys` must not use `logs`")],
        );
    }

    #[test]
    fn edge_and_deploy_never_meet() {
        finds(
            "crates/ostler/src/edge/reply.rs",
            "use crate::deploy::Plan;\n",
            &[(1, "`edge` must not use `deploy`")],
        );
        finds(
            "crates/ostler/src/deploy/plan.rs",
            "//! x\n",
            &[(
                1,
                "`deploy` is not on the map: add it to the arrows of tidy",
            )],
        );
    }

    #[test]
    fn groups_and_supers_are_seen_through() {
        finds(
            "crates/ostler/src/routes/mod.rs",
            "use crate::{\n    pool::{Lease, line},\n    edge::{h1, reply},\n    Other,\n};\n",
            &[(1, "`routes` must not use `edge`")],
        );
        finds(
            "crates/ostler/src/supervise/worker.rs",
            "use super::super::pool::Pool;\nuse super::step::Step;\n",
            &[(1, "`supervise` must not use `pool`")],
        );
        finds(
            "crates/ostler/src/logs/mod.rs",
            "use super::edge;\n",
            &[(1, "`logs` must not use `edge`")],
        );
    }

    #[test]
    fn prose_is_not_an_arrow() {
        finds(
            "crates/ostler/src/sys/fd.rs",
            "//! Used by crate::edge.\nlet a = \"crate::edge\";\n",
            &[],
        );
    }

    #[test]
    fn the_map_has_no_circle() {
        // A folder is settled once everything it may use is; a circle never settles.
        let mut settled: Vec<&str> = Vec::new();
        let folders: Vec<_> = ARROWS.iter().filter(|(_, to)| *to != ANY).collect();
        for _ in &folders {
            for (folder, to) in &folders {
                if to.iter().all(|name| settled.contains(name)) && !settled.contains(folder) {
                    settled.push(folder);
                }
            }
        }
        assert_eq!(settled.len(), folders.len());
    }
}
