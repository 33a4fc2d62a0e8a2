//! A Rust source with its comments and literals blanked out, line by line, so that a rule can look
//! for a word without meeting it in prose. Not a parser: it knows where text is, and where tests are.

/// The lines of a file as code only, each as long as it was (in characters).
pub struct Code {
    lines: Vec<String>,
    /// For each line, whether it belongs to a `#[cfg(test)]` item.
    tests: Vec<bool>,
}

impl Code {
    pub fn new(text: &str) -> Self {
        let blanked = blank(text);
        let lines: Vec<String> = blanked.lines().map(str::to_owned).collect();
        let tests = test_lines(&lines);
        Self { lines, tests }
    }

    /// Line number (from 1), code, and whether the line is test code.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        self.lines
            .iter()
            .zip(&self.tests)
            .enumerate()
            .map(|(index, (line, test))| (index + 1, line.as_str(), *test))
    }

    /// The modules in other files that exist for tests only: `#[cfg(test)] mod name;`.
    pub fn test_modules(&self) -> impl Iterator<Item = &str> {
        self.lines()
            .filter(|(_, _, test)| *test)
            .filter_map(|(_, line, _)| {
                let (_, rest) = line.split_once("mod ")?;
                rest.trim_end().strip_suffix(';').map(str::trim)
            })
    }
}

/// What the scanner is inside of.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Code,
    Line,
    /// How many block comments are open: Rust's nest.
    Block(usize),
    Text,
    /// How many `#` end it.
    Raw(usize),
}

fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut inside = Inside::Code;
    let mut at = 0;
    while let Some(&char) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let (state, width) = step(inside, &chars, at, char, next);
        let keep = inside == Inside::Code && state == Inside::Code && width == 1;
        for &passed in &chars[at..(at + width).min(chars.len())] {
            out.push(if keep || passed == '\n' { passed } else { ' ' });
        }
        inside = state;
        at += width;
    }
    out
}

/// The state after the character at `at`, and how many characters that took.
fn step(
    inside: Inside,
    chars: &[char],
    at: usize,
    char: char,
    next: Option<char>,
) -> (Inside, usize) {
    match inside {
        Inside::Code => enter(chars, at, char, next),
        Inside::Line => (
            if char == '\n' {
                Inside::Code
            } else {
                Inside::Line
            },
            1,
        ),
        Inside::Block(depth) => match (char, next) {
            ('/', Some('*')) => (Inside::Block(depth + 1), 2),
            ('*', Some('/')) if depth == 1 => (Inside::Code, 2),
            ('*', Some('/')) => (Inside::Block(depth - 1), 2),
            _ => (inside, 1),
        },
        Inside::Text => match char {
            '\\' => (inside, 2),
            '"' => (Inside::Code, 1),
            _ => (inside, 1),
        },
        Inside::Raw(hashes) => {
            let closes = char == '"' && (1..=hashes).all(|n| chars.get(at + n) == Some(&'#'));
            if closes {
                (Inside::Code, 1 + hashes)
            } else {
                (inside, 1)
            }
        }
    }
}

fn enter(chars: &[char], at: usize, char: char, next: Option<char>) -> (Inside, usize) {
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (char, next) {
        ('/', Some('/')) => (Inside::Line, 2),
        ('/', Some('*')) => (Inside::Block(1), 2),
        ('"', _) => (Inside::Text, 1),
        ('r', Some('"' | '#')) if !after_word || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            match chars.get(at + 1 + hashes) {
                Some('"') => (Inside::Raw(hashes), 2 + hashes),
                _ => (Inside::Code, 1),
            }
        }
        // A character, not a lifetime: 'x' or '\...'. Blanked by its width.
        ('\'', Some('\\')) => {
            let rest = chars.get(at + 3..).unwrap_or(&[]);
            let close = rest
                .iter()
                .position(|&c| c == '\'')
                .map_or(1, |found| found + 4);
            (Inside::Code, close)
        }
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => (Inside::Code, 3),
        _ => (Inside::Code, 1),
    }
}

/// Marks the item after each `#[cfg(test)]`, to the brace that closes it (or its `;`).
fn test_lines(lines: &[String]) -> Vec<bool> {
    let mut tests = vec![false; lines.len()];
    let mut at = 0;
    while at < lines.len() {
        if !lines[at].contains("#[cfg(test)]") {
            at += 1;
            continue;
        }
        let mut depth = 0_usize;
        let mut opened = false;
        while at < lines.len() {
            tests[at] = true;
            for char in lines[at].chars() {
                match char {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            let ends = (opened && depth == 0) || (!opened && lines[at].trim_end().ends_with(';'));
            at += 1;
            if ends {
                break;
            }
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let code: Vec<String> = Code::new(text).lines;
        assert_eq!(code.join("\n").trim_end(), expected);
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check("let a = 1; // unsafe", "let a = 1;");
        check("a /* x /* y */ z */ b", "a                   b");
        check(r#"f("a \" {") + 1"#, "f(        ) + 1");
        check("let c = '{'; let l: &'a str", "let c =    ; let l: &'a str");
        check("let c = '\\''; x", "let c =     ; x");
        check(
            "let r = r#\"unsafe \" {\"#; y",
            "let r =                ; y",
        );
        check("let r = br\"x\"; y", "let r = b    ; y");
        check("for r in rows {}", "for r in rows {}");
    }

    #[test]
    fn test_items_are_known() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c }\n}\nfn d() {}\n";
        let tests: Vec<bool> = Code::new(text).lines().map(|(_, _, test)| test).collect();
        assert_eq!(tests, [false, true, true, true, true, false]);
        let text = "#[cfg(test)]\nmod tests;\nfn d() {}\n";
        let tests: Vec<bool> = Code::new(text).lines().map(|(_, _, test)| test).collect();
        assert_eq!(tests, [true, true, false]);
        assert_eq!(
            Code::new(text).test_modules().collect::<Vec<_>>(),
            ["tests"]
        );
    }
}
