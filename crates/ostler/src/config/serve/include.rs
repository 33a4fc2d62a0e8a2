//! The operator's file and the files it includes → one tree. Knows one key, `include`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::problem::{Problem, short};
use super::read::{self, Entry, Table, Value, Variables};
use super::source::{self, At, Source, Sources};

/// Files that include files that include files: deeper than this nobody finds anything.
const DEEPEST: usize = 8;

/// Bytes of all files together: a configuration with 10,000 projects has a tenth of it.
const LARGEST_TOTAL: usize = 16 << 20;

/// Most files that one pattern names, for the same reason.
const MOST_NAMED: usize = 10_000;

/// Reads the file at `path`, relative to `directory`, and what it includes.
///
/// # Errors
/// `None` when a file cannot be read or is no TOML. What is wrong is put into `problems`.
pub fn load(
    path: &Path,
    directory: &Path,
    variables: Variables<'_>,
    sources: &mut Sources,
    problems: &mut Vec<Problem>,
) -> Option<Table> {
    let mut loader = Loader {
        variables,
        sources,
        problems,
        seen: HashMap::new(),
        total: 0,
        good: true,
    };
    let name = path.display().to_string();
    let table = loader.file(&directory.join(path), name, None, 0);
    loader.good.then_some(table)
}

struct Loader<'a> {
    variables: Variables<'a>,
    sources: &'a mut Sources,
    problems: &'a mut Vec<Problem>,
    /// Files by their paths without links, and where each was included.
    seen: HashMap<PathBuf, Option<At>>,
    /// Bytes that were read.
    total: usize,
    /// Every file could be read.
    good: bool,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path, name: String, from: Option<At>, depth: usize) -> Table {
        let Some(text) = self.text(path, &name, from) else {
            return Table::default();
        };
        let folder = path.parent().unwrap_or(path).to_owned();
        let source = Source {
            name,
            folder,
            text,
            checkout: None,
        };
        let file = self.sources.add(source);
        let text = &self.sources.file(file).text;
        let Some(mut table) = read::read(file, text, Some(self.variables), self.problems) else {
            self.good = false;
            return Table::default();
        };
        if let Some(include) = table.0.remove("include") {
            self.includes(&include, &mut table, depth);
        }
        table
    }

    /// The text of a file that was not read before.
    fn text(&mut self, path: &Path, name: &str, from: Option<At>) -> Option<String> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(before) = self.seen.get(&real) {
            let what = format!("{} is read twice", short(name));
            let problem = Problem {
                places: Vec::new(),
                ..Problem::nowhere(
                    what,
                    "include each file once; keep the included ones in a folder of their own",
                )
            };
            let problem = from
                .into_iter()
                .fold(problem, |problem, at| problem.beside(at, ""));
            let problem = before.iter().fold(problem, |problem, at| {
                problem.beside(*at, "included here before")
            });
            self.problems.push(problem);
            return None;
        }
        self.seen.insert(real, from);
        let outcome = source::text_of(path).and_then(|text| {
            self.total += text.len();
            match self.total > LARGEST_TOTAL {
                true => Err(format!(
                    "makes more than {} MiB of configuration",
                    LARGEST_TOTAL >> 20
                )),
                false => Ok(text),
            }
        });
        outcome
            .map_err(|why| {
                let what = format!("{} {why}", short(name));
                let problem = Problem::nowhere(
                    what,
                    "correct the path, or make it readable for the user who starts ostler",
                );
                self.problems.push(
                    from.into_iter()
                        .fold(problem, |problem, at| problem.beside(at, "")),
                );
                self.good = false;
            })
            .ok()
    }

    /// Adds what the files of one `include` say to `table`.
    fn includes(&mut self, include: &Entry, table: &mut Table, depth: usize) {
        for item in include.node.items() {
            let Some(pattern) = item.text() else {
                if !matches!(item.value, Value::Unknown) {
                    let hint = "write include = [\"conf.d/*.toml\"]";
                    self.problems.push(Problem::new(
                        item.at,
                        "`include` needs names of files",
                        hint,
                    ));
                }
                continue;
            };
            if depth == DEEPEST {
                let what = format!("`include` is {} files deep", DEEPEST + 1);
                self.problems.push(Problem::new(
                    item.at,
                    what,
                    "include the file from one further up",
                ));
                continue;
            }
            for path in self.named(pattern, item.at) {
                let (name, path) = self.sources.path(item.at, &path);
                let other = self.file(&path, name, Some(item.at), depth + 1);
                self.merge(table, other);
            }
        }
    }

    /// The files that a pattern names, in the order of their names, relative to the file it stands in.
    fn named(&mut self, pattern: &str, at: At) -> Vec<PathBuf> {
        let folder = self.sources.of(at).folder.clone();
        let mut found = vec![PathBuf::new()];
        for part in Path::new(pattern).components() {
            let part = part.as_os_str().to_string_lossy().into_owned();
            if !part.contains(['*', '?']) {
                found.iter_mut().for_each(|path| path.push(&part));
                continue;
            }
            found = found
                .iter()
                .flat_map(|path| matching(&folder, path, &part))
                .take(MOST_NAMED)
                .collect();
        }
        found
    }

    /// Adds `other` to `table`; a key that both have is an error.
    fn merge(&mut self, table: &mut Table, other: Table) {
        for (name, entry) in other.0 {
            let Some(here) = table.0.get_mut(&name) else {
                table.0.insert(name, entry);
                continue;
            };
            match (&mut here.node.value, entry.node.value) {
                (Value::Table(here), Value::Table(other)) => self.merge(here, other),
                _ => self.problems.push(
                    Problem::new(
                        entry.key,
                        format!("`{}` is set twice", short(&name)),
                        "keep one of the two",
                    )
                    .beside(here.key, "set here too"),
                ),
            }
        }
    }
}

/// The entries of `folder/below` whose names match, each behind `below`, sorted. A name with a dot at its start is hidden.
fn matching(folder: &Path, below: &Path, pattern: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join(below))
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with('.') == pattern.starts_with('.'))
        .filter(|name| matches(pattern.as_bytes(), name.as_bytes()))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|name| below.join(name)).collect()
}

/// `*` is any number of bytes, `?` one character. Goes back to the last `*` only, so a name is looked at as often as
/// the pattern is long.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                n += 1;
                while name.get(n).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    n += 1;
                }
                p += 1;
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else {
                    return false;
                };
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
