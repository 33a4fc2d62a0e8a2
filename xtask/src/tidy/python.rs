//! Python sources parse: ours as the oldest Python that workers run on reads them, the rest as the
//! Python at hand does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{Finding, relative};

/// Prints `path<TAB>line<TAB>text` for each file that does not parse. `ast` keeps the disk clean of
/// bytecode.
const PARSE: &str = r#"
import ast, sys
for path in sys.argv[1:]:
    ours = "/ostler-worker/py/" in path
    try:
        ast.parse(open(path, "rb").read(), path, feature_version=(3, 9) if ours else None)
    except (SyntaxError, ValueError) as error:
        print(path, getattr(error, "lineno", 1), error, sep="\t")
"#;

pub fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<Finding>> {
    let output = Command::new("python3")
        .args(["-c", PARSE])
        .args(files)
        .output()
        .context("python3 could not be started")?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| finding(root, line))
        .collect())
}

fn finding(root: &Path, line: &str) -> Option<Finding> {
    let mut parts = line.splitn(3, '\t');
    let path = relative(root, Path::new(parts.next()?));
    let line = parts.next()?.parse().unwrap_or(1);
    Some(Finding {
        path,
        line,
        text: format!("does not parse: {}", parts.next()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_syntax_error_is_found() {
        let root = std::env::temp_dir().join(format!("tidy-python-{}", std::process::id()));
        let ours = root.join("crates/ostler-worker/py");
        fs::create_dir_all(&ours).unwrap();
        let sources = [
            (ours.join("good.py"), "def f():\n    return 1\n"),
            (ours.join("new.py"), "match x:\n    case 1: pass\n"),
            (root.join("bad.py"), "x = 1\ndef f(:\n"),
        ];
        for (path, text) in &sources {
            fs::write(path, text).unwrap();
        }
        let found = check(&root, &sources.map(|(path, _)| path)).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let places: Vec<_> = found.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(
            places,
            [("crates/ostler-worker/py/new.py", 2), ("bad.py", 2)]
        );
    }
}
