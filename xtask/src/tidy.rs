//! `cargo xtask tidy`: the rules of the house that a compiler does not know.
//!
//! Each rule is a function from a path and a text to findings, so that its tests plant a violation
//! without touching the disk. This file walks the tree and prints; it knows no rule.

mod arrows;
mod code;
mod python;
mod rust;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use code::Code;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// From the top of the repository, with `/`.
    pub path: String,
    /// From 1.
    pub line: usize,
    pub text: String,
}

/// Checks every file below `root`, prints what is wrong, and fails when anything is.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let mut python_files = Vec::new();
    let mut rust_files = Vec::new();
    let mut test_files = HashSet::new();
    for path in files(root)? {
        let name = relative(root, &path);
        findings.extend(misnamed(&name));
        if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).with_context(|| name.clone())?;
            let code = Code::new(&text);
            test_files.extend(
                code.test_modules()
                    .flat_map(|module| module_files(&name, module)),
            );
            rust_files.push((name, text, code));
        } else if name.ends_with(".py") {
            python_files.push(path);
        }
    }
    for (name, text, code) in &rust_files {
        let test_file = name.contains("/tests/") || test_files.contains(name);
        findings.extend(rust::check(name, text, code, test_file));
        findings.extend(arrows::check(name, code));
    }
    findings.extend(python::check(root, &python_files)?);
    for Finding { path, line, text } in &findings {
        eprintln!("{path}:{line}: {text}");
    }
    ensure!(findings.is_empty(), "tidy: {} found", findings.len());
    println!("tidy: ok");
    Ok(())
}

/// Where `module` may lie that the file `from` declares.
fn module_files(from: &str, module: &str) -> [String; 2] {
    let (folder, file) = from.rsplit_once('/').unwrap_or((".", from));
    let stem = file.trim_end_matches(".rs");
    let base = match stem {
        "mod" | "lib" | "main" => folder.to_owned(),
        _ => format!("{folder}/{stem}"),
    };
    [
        format!("{base}/{module}.rs"),
        format!("{base}/{module}/mod.rs"),
    ]
}

/// Names that say nothing, so everything ends up there.
const EMPTY_NAMES: [&str; 8] = [
    "utils", "util", "common", "helpers", "helper", "manager", "managers", "misc",
];

fn misnamed(path: &str) -> Option<Finding> {
    let name = path.rsplit('/').next()?;
    let (stem, kind) = name.split_once('.')?;
    let empty = matches!(kind, "rs" | "py") && EMPTY_NAMES.contains(&stem);
    let folder = path
        .split('/')
        .rev()
        .skip(1)
        .find(|part| EMPTY_NAMES.contains(part));
    let word = if empty { Some(stem) } else { folder };
    word.map(|word| Finding {
        path: path.to_owned(),
        line: 1,
        text: format!("`{word}` says nothing: name the file after the noun it owns"),
    })
}

/// Folders that hold what tools made.
const SKIPPED: [&str; 4] = ["target", "node_modules", "__pycache__", "venv"];

/// Every file below `root` that people write, sorted.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || SKIPPED.contains(&name.as_ref()) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_names_are_found() {
        assert!(misnamed("crates/ostler/src/edge/utils.rs").is_some());
        assert!(misnamed("crates/ostler/src/common/time.rs").is_some());
        assert!(misnamed("e2e/helpers.py").is_some());
        assert_eq!(misnamed("crates/ostler/src/edge/reply.rs"), None);
        assert_eq!(misnamed("docs/common.md"), None);
    }

    #[test]
    fn modules_are_beside_their_parent_or_below_it() {
        assert_eq!(
            module_files("src/logs/mod.rs", "scratch")[0],
            "src/logs/scratch.rs"
        );
        assert_eq!(module_files("src/tidy.rs", "code")[0], "src/tidy/code.rs");
    }

    #[test]
    fn a_planted_violation_is_found_on_disk() {
        let root = std::env::temp_dir().join(format!("tidy-{}", std::process::id()));
        let folder = root.join("crates/ostler/src/edge");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("mod.rs"), "//! Fine.\n").unwrap();
        assert!(run(&root).is_ok());
        fs::write(
            folder.join("bad.rs"),
            "//! Not fine.\nuse crate::deploy::Plan;\n",
        )
        .unwrap();
        let outcome = run(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(outcome.unwrap_err().to_string(), "tidy: 1 found");
    }
}
