//! What a repository's own file says about its project, laid below what the operator's file says. A repository's file
//! is hostile input: it may set its own keys, within its own checkout, and nothing else.

use std::path::{Path, PathBuf};

use super::problem::{Problem, short};
use super::read::{self, Entry, Node, Table, Value};
use super::schema::{Owner, REPOSITORY, Section};
use super::source::{self, Source, Sources};
use crate::config::error::Warning;

/// The name of the file, of a machine and of a repository.
pub const FILE: &str = "ostler.toml";

/// Lays the repositories' keys into the projects of `tree`: key by key, the operator's wins. The sections `web` and
/// `static` at the top of the operator's own file are those of the folder it is in. What is wrong is put into
/// `problems`.
pub fn lay(
    tree: &mut Table,
    sources: &mut Sources,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) {
    let own = own(tree, problems);
    let top = sources.file(0).folder.clone();
    let mut taken = false;
    for (name, project) in projects(tree) {
        let node = project.get("source").map(|entry| &entry.node);
        let Some((at, written)) = node.and_then(|node| Some((node.at, node.text()?))) else {
            continue;
        };
        let (shown, folder) = sources.path(at, Path::new(written));
        if is_same(&folder, &top) {
            // The file there is the operator's.
            below(project, own.clone());
            taken = true;
            continue;
        }
        let shown = Path::new(&shown).join(FILE).display().to_string();
        let (checkout, text) = match repository(&folder) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(why) => {
                let hint = format!("correct it in the repository of `{}`", short(name));
                problems.push(Problem::new(at, format!("{shown} {why}"), hint));
                continue;
            }
        };
        let file = sources.add(Source {
            name: shown.clone(),
            folder,
            text,
            checkout: Some(checkout),
        });
        let Some(mut table) = read::read(file, &sources.file(file).text, None, problems) else {
            continue;
        };
        if table.0.remove("server").is_some() {
            warnings.push(Warning(format!(
                "[server] in {shown} is not read: it counts only for `ostler serve` in that folder"
            )));
        }
        only_its_own(&mut table, name, problems);
        below(project, table);
    }
    if !taken {
        local(tree, own, &top, problems);
    }
}

/// The projects that are sections.
fn projects(tree: &mut Table) -> impl Iterator<Item = (&String, &mut Table)> {
    let entry = tree.0.get_mut("projects");
    let table = entry.and_then(|entry| entry.node.table_mut());
    let entries = table.into_iter().flat_map(|table| &mut table.0);
    entries.filter_map(|(name, entry)| Some((name, entry.node.table_mut()?)))
}

/// Takes what the operator's file says about the folder it is in.
fn own(tree: &mut Table, problems: &mut Vec<Problem>) -> Table {
    let mut own = Table::default();
    for name in REPOSITORY {
        let Some(entry) = tree.0.remove(name) else {
            continue;
        };
        if entry.key.file != 0 {
            let what = format!("`{name}` at the top of an included file belongs to no project");
            let hint = format!("write [projects.NAME.{name}]");
            problems.push(Problem::new(entry.key, what, hint));
        }
        own.0.insert(name.to_owned(), entry);
    }
    own
}

/// Makes the project of the folder that the operator's file is in, for every host.
fn local(tree: &mut Table, own: Table, folder: &Path, problems: &mut Vec<Problem>) {
    let Some(at) = own.0.values().map(|entry| entry.key).min() else {
        return;
    };
    let text = |text: &str| Node {
        at,
        value: Value::Text {
            text: text.to_owned(),
            written: text.to_owned(),
        },
    };
    let hosts = Node {
        at,
        value: Value::List(vec![text("*")]),
    };
    let mut project = own;
    project.0.insert(
        "source".to_owned(),
        Entry {
            key: at,
            node: text("."),
        },
    );
    project.0.insert(
        "hosts".to_owned(),
        Entry {
            key: at,
            node: hosts,
        },
    );
    let entry = |table| Entry {
        key: at,
        node: Node {
            at,
            value: Value::Table(table),
        },
    };
    let projects = tree
        .0
        .entry("projects".to_owned())
        .or_insert_with(|| entry(Table::default()));
    let Value::Table(projects) = &mut projects.node.value else {
        return;
    };
    let name = local_name(folder);
    if let Some(other) = projects.0.get(&name) {
        let what = format!("this would be another project `{name}`, after the folder of this file");
        let hint = format!("write [projects.{name}.web] and [projects.{name}.static]");
        problems.push(Problem::new(at, what, hint).beside(other.key, "the one that is there"));
        return;
    }
    projects.0.insert(name, entry(project));
}

/// A project's name from that of its folder.
fn local_name(folder: &Path) -> String {
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    match name.trim_matches('-') {
        "" => "app".to_owned(),
        name => name.to_owned(),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// The folder of a checkout with its links resolved, and the text of its file; `None` where it has none.
///
/// # Errors
/// Why it cannot be read: goes behind the file's name.
fn repository(folder: &Path) -> Result<Option<(PathBuf, String)>, String> {
    let path = folder.join(FILE);
    // A link that leads nowhere is there too.
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let told = |error: std::io::Error| format!("cannot be read: {error}");
    let checkout = folder.canonicalize().map_err(told)?;
    if !path.canonicalize().map_err(told)?.starts_with(&checkout) {
        return Err("leads out of its checkout".to_owned());
    }
    Ok(Some((checkout, source::text_of(&path)?)))
}

/// Takes out, and tells, what a repository may not set.
fn only_its_own(table: &mut Table, project: &str, problems: &mut Vec<Problem>) {
    table.0.retain(|name, entry| {
        let key = Section::Project.key(name);
        let its = key.is_some_and(|key| Section::Project.owner(&key) == Owner::Repository);
        if !its {
            problems.push(foreign(project, name, entry));
        }
        its
    });
}

/// A key that a repository may not set, or that nobody knows.
fn foreign(project: &str, key: &str, entry: &Entry) -> Problem {
    let heading = match key {
        "include" | "projects" | "acme" => "the machine's file".to_owned(),
        _ if Section::Project.key(key).is_some() => {
            format!("[projects.{}] of the machine's file", short(project))
        }
        _ => {
            let what = format!("unknown key `{}`", short(key));
            return Problem::new(
                entry.key,
                what,
                "a repository's file has web, static, fallback, compress, redirects, headers, errors and cors",
            );
        }
    };
    let what = format!("`{key}` is the operator's to set");
    Problem::new(entry.key, what, format!("write it into {heading}"))
}

/// Adds what `other` says and `table` does not.
fn below(table: &mut Table, other: Table) {
    for (name, entry) in other.0 {
        match table.0.get_mut(&name) {
            None => drop(table.0.insert(name, entry)),
            Some(here) => {
                if let (Value::Table(here), Value::Table(other)) =
                    (&mut here.node.value, entry.node.value)
                {
                    below(here, other);
                }
            }
        }
    }
}
