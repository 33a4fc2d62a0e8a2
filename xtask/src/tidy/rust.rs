//! The rules for one Rust file: its first line, `unsafe`, `unwrap`, and what must not be left behind.

use super::Finding;
use super::code::Code;

/// The only places that may hold `unsafe`.
const UNSAFE_PLACES: [&str; 2] = ["crates/ostler/src/sys", "crates/ostler-worker/"];

/// `test_file`: the whole file is test code.
pub fn check(path: &str, text: &str, code: &Code, test_file: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line: usize, text: &str| {
        findings.push(Finding {
            path: path.to_owned(),
            line,
            text: text.to_owned(),
        });
    };
    if !text.starts_with("//!") {
        found(
            1,
            "the first line must be `//!`: what this file is for and what it must not know",
        );
    }
    let written: Vec<&str> = text.lines().collect();
    for (line, code, in_test) in code.lines() {
        if opens_unsafe(code) {
            if !UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) {
                found(line, "`unsafe` outside `sys` and the worker");
            }
            if !callback(code) && !explained(&written, line) {
                found(line, "`unsafe` without a `// SAFETY:` above it");
            }
        }
        if code.contains(".unwrap()") && !in_test && !test_file {
            found(
                line,
                "`unwrap` outside tests: handle it, or `expect(\"why it cannot fail\")`",
            );
        }
        if code.contains("#[ignore") {
            found(line, "an ignored test: fix it or delete it");
        }
        if code.contains("todo!") || code.contains("unimplemented!") {
            found(line, "unfinished code");
        }
    }
    findings
}

/// Whether a line opens an unsafe block, function, impl or trait. Attributes (`#[unsafe(..)]`) and
/// lint names (`unsafe_code`) do not, nor does a function pointer's type.
fn opens_unsafe(code: &str) -> bool {
    let mut rest = code;
    while let Some(at) = rest.find("unsafe") {
        let before = rest[..at].chars().next_back();
        let after = rest[at + "unsafe".len()..].trim_start();
        let whole_word = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '[');
        let attribute = rest[..at].trim_end().ends_with("#[") || after.starts_with('(');
        let opens = after.is_empty()
            || ["{", "impl", "trait", "extern \"C\" {"]
                .iter()
                .any(|word| after.starts_with(word))
            || (after.starts_with("fn ") || after.starts_with("extern"))
                && !code.trim_start().starts_with("type ")
                && after
                    .split("fn")
                    .nth(1)
                    .is_some_and(|name| name.starts_with(' '));
        if whole_word && !attribute && opens {
            return true;
        }
        rest = &rest[at + "unsafe".len()..];
    }
    false
}

/// A function for C to call: unsafe by its type. Its blocks carry the reasons.
fn callback(code: &str) -> bool {
    code.contains("unsafe extern") && code.contains(" fn ")
}

/// Whether `line` (from 1), or the comments and attributes above its statement, say why it is safe.
fn explained(written: &[&str], line: usize) -> bool {
    let says = |text: &str| text.contains("SAFETY:") || text.contains("# Safety");
    if written.get(line - 1).is_some_and(|text| says(text)) {
        return true;
    }
    let above = written[..line - 1].iter().rev().map(|text| text.trim());
    // A statement that began on an earlier line (`let x =`) carries the comment above its start.
    let mut beginnings = 3;
    for text in above {
        if says(text) {
            return true;
        }
        let passes = text.starts_with("//") || text.starts_with("#[");
        let continues = !text.is_empty() && !text.ends_with([';', '{', '}']);
        if !passes {
            if !continues || beginnings == 0 {
                return false;
            }
            beginnings -= 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &[(usize, &str)]) {
        let findings = check(path, text, &Code::new(text), path.contains("/tests/"));
        let short: Vec<(usize, &str)> = findings
            .iter()
            .map(|found| {
                (
                    found.line,
                    found.text.split([':', ' ']).next().unwrap_or(""),
                )
            })
            .collect();
        assert_eq!(short, expected, "{findings:?}");
    }

    const SYS: &str = "crates/ostler/src/sys/fd.rs";
    const EDGE: &str = "crates/ostler/src/edge/mod.rs";

    #[test]
    fn a_file_says_what_it_is_for() {
        finds(EDGE, "//! Fine.\n", &[]);
        finds(EDGE, "use std::fs;\n", &[(1, "the")]);
        finds(EDGE, "", &[(1, "the")]);
    }

    #[test]
    fn unsafe_has_a_place_and_a_reason() {
        finds(SYS, "//! x\n// SAFETY: fine.\nunsafe { f() };\n", &[]);
        finds(
            SYS,
            "//! x\n// SAFETY: fine,\n// truly.\nlet a =\n    unsafe { f() };\n",
            &[],
        );
        finds(
            SYS,
            "//! x\n/// # Safety\n/// `p` is valid.\npub unsafe fn f(p: *const u8) {}\n",
            &[],
        );
        finds(SYS, "//! x\nlet a = unsafe { f() };\n", &[(2, "`unsafe`")]);
        finds(
            SYS,
            "//! x\n// SAFETY: f.\nlet a = 1;\nunsafe { f() };\n",
            &[(4, "`unsafe`")],
        );
        finds(
            SYS,
            "//! x\nunsafe impl Send for A {}\n",
            &[(2, "`unsafe`")],
        );
        finds(
            EDGE,
            "//! x\n// SAFETY: fine.\nunsafe { f() };\n",
            &[(3, "`unsafe`")],
        );
        finds(
            EDGE,
            "//! unsafe {\n#![forbid(unsafe_code)]\n#[unsafe(no_mangle)]\n",
            &[],
        );
        finds(
            EDGE,
            "//! x\ntype Slot = unsafe extern \"C\" fn(i32);\n",
            &[],
        );
        finds(
            "crates/ostler-worker/src/lib.rs",
            "//! x\n// SAFETY: x.\nunsafe { f() }\n",
            &[],
        );
    }

    #[test]
    fn unwrap_is_for_tests() {
        finds(EDGE, "//! x\nlet a = b.unwrap();\n", &[(2, "`unwrap`")]);
        finds(
            EDGE,
            "//! x\n// .unwrap()\nlet a = \".unwrap()\";\nb.unwrap_or(1);\n",
            &[],
        );
        finds(
            EDGE,
            "//! x\n#[cfg(test)]\nmod tests {\n    fn f() { a.unwrap(); }\n}\n",
            &[],
        );
        finds(
            "crates/ostler/tests/run.rs",
            "//! x\nfn f() { a.unwrap(); }\n",
            &[],
        );
    }

    #[test]
    fn nothing_is_left_unfinished() {
        finds(
            EDGE,
            "//! x\n#[cfg(test)]\nmod t {\n#[ignore]\nfn a() {}\n}\n",
            &[(4, "an")],
        );
        finds(EDGE, "//! x\nfn a() { todo!() }\n", &[(2, "unfinished")]);
        finds(
            EDGE,
            "//! x\nfn a() { unimplemented!() }\n",
            &[(2, "unfinished")],
        );
    }
}
