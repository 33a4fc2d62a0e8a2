//! Reads the text of an env file (`--env-file`): `KEY=value` lines. Knows no files and no processes.

/// The pairs of an env file, in order. Comments, blank lines and a leading `export` are fine; a value may be
/// quoted (single: as it is; double: `\n`, `\t`, `\"`, `\\` mean what they mean in Python). No expansion.
///
/// # Errors
/// The number of the first line (from 1) that is none of these, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let fail = |what| (index + 1, what);
        let (key, value) = line.split_once('=').ok_or(fail("no \"=\""))?;
        let key = key.trim_end();
        if !is_name(key) {
            return Err(fail("what stands before \"=\" is no name"));
        }
        pairs.push((key.to_owned(), unquote(value.trim()).map_err(fail)?));
    }
    Ok(pairs)
}

/// True for a name that an environment variable may have: letters, digits and `_`, not a digit first.
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn unquote(value: &str) -> Result<String, &'static str> {
    if let Some(rest) = value.strip_prefix('\'') {
        let (inside, after) = rest
            .split_once('\'')
            .ok_or("a single quote is not closed")?;
        return nothing_but_comment(after).map(|()| inside.to_owned());
    }
    let Some(rest) = value.strip_prefix('"') else {
        let end = value.find(" #").unwrap_or(value.len());
        return Ok(value[..end].trim_end().to_owned());
    };
    let mut out = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next().ok_or("a double quote is not closed")? {
            '"' => break,
            '\\' => match chars.next().ok_or("a double quote is not closed")? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                c @ ('"' | '\\' | '$') => out.push(c),
                c => out.extend(['\\', c]),
            },
            c => out.push(c),
        }
    }
    nothing_but_comment(chars.as_str()).map(|()| out)
}

fn nothing_but_comment(after: &str) -> Result<(), &'static str> {
    let after = after.trim_start();
    if after.is_empty() || after.starts_with('#') {
        Ok(())
    } else {
        Err("text after the closing quote")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let text =
            "# one\n\nA=1\nexport B = two words # note\nC='#=x'\nD=\"a\\n\\\"b\\\" \\d\" # c\nE=\n";
        let pairs = parse(text).expect("parses");
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "#=x"),
            ("D", "a\n\"b\" \\d"),
            ("E", ""),
        ];
        let seen: Vec<_> = pairs
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn wrong_lines_are_named() {
        assert_eq!(parse("A=1\nnonsense"), Err((2, "no \"=\"")));
        assert_eq!(
            parse("1A=1"),
            Err((1, "what stands before \"=\" is no name"))
        );
        assert_eq!(parse("A='x"), Err((1, "a single quote is not closed")));
        assert_eq!(parse("A=\"x\"y"), Err((1, "text after the closing quote")));
    }
}
