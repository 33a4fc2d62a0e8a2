//! Splits a line into words as a POSIX shell would, without running anything: for `GUNICORN_CMD_ARGS`.
//! Knows no options.

/// The words of `line` (quotes and backslashes as in POSIX sh; no expansions, no comments).
///
/// # Errors
/// Says which quote was left open, or that the line ends in a backslash.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\\' => {
                let next = chars.next().ok_or("it ends in a backslash")?;
                word.get_or_insert_default().push(next);
            }
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a single quote is not closed")? {
                        '\'' => break,
                        inside => word.push(inside),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a double quote is not closed")? {
                        '"' => break,
                        // Inside double quotes a backslash only escapes what would be special there.
                        '\\' if matches!(chars.peek(), Some('"' | '\\')) => {
                            word.extend(chars.next())
                        }
                        inside => word.push(inside),
                    }
                }
            }
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_a_shell_splits_them() {
        let check = |line: &str, expected: &[&str]| {
            assert_eq!(split(line).expect("splits"), expected, "{line:?}");
        };
        check("", &[]);
        check("  --workers 4\t-b :80 ", &["--workers", "4", "-b", ":80"]);
        check("--name 'my app'", &["--name", "my app"]);
        check(r#"--name "my \"app\"""#, &["--name", r#"my "app""#]);
        check(r#"a\ b "c\d" ''"#, &["a b", r"c\d", ""]);
        check(
            "--access-logformat='%(h)s \"%(r)s\"'",
            &["--access-logformat=%(h)s \"%(r)s\""],
        );
    }

    #[test]
    fn open_quotes_are_named() {
        assert_eq!(split("a 'b"), Err("a single quote is not closed"));
        assert_eq!(split("a \"b"), Err("a double quote is not closed"));
        assert_eq!(split("a \\"), Err("it ends in a backslash"));
    }
}
