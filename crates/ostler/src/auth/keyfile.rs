//! The text of `auth-keys.csv`, and of `API_KEYS` → users and their keys. Opens no file.

/// Most lines of a file that are told as bad: behind a few, the others only follow from them.
const MOST_BAD: usize = 5;

/// Longest name of a user, in bytes: it stands in every row of the log.
pub const LONGEST_USER: usize = 64;

/// Longest key, in bytes: a JSON web token that somebody uses as one still fits, a pasted file does not.
pub const LONGEST_KEY: usize = 1024;

/// A user, and the key that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'t> {
    pub user: &'t str,
    pub key: &'t str,
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed<'t> {
    pub entries: Vec<Entry<'t>>,
    /// Lines that are none, by number from 1, with what is wrong. Never with what stands there: it may be a key.
    pub bad: Vec<(usize, &'static str)>,
    /// How many more bad lines there are.
    pub more: usize,
}

/// Reads `username,apikey` lines. `#` begins a comment, at the start of a line or behind a blank; empty lines, a
/// byte order mark, CRLF and double quotes around a field are fine, and so is the heading `username,apikey`.
pub fn parse(text: &str) -> Parsed<'_> {
    let mut parsed = Parsed::default();
    for (number, line) in (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
        match entry(line) {
            Ok(None) => {}
            Ok(Some(entry)) => parsed.entries.push(entry),
            Err(what) if parsed.bad.len() < MOST_BAD => parsed.bad.push((number, what)),
            Err(_) => parsed.more += 1,
        }
    }
    parsed
}

/// One line; `None` for one that says nothing.
fn entry(line: &str) -> Result<Option<Entry<'_>>, &'static str> {
    let line = without_comment(line).trim();
    if line.is_empty() {
        return Ok(None);
    }
    let (user, key) = line.split_once(',').ok_or("it has no comma")?;
    let (user, key) = (unquoted(user), unquoted(key));
    // A heading that is taken for an entry would make `apikey` a key.
    if key.eq_ignore_ascii_case("apikey") {
        return Ok(None);
    }
    check_user(user)?;
    check_key(key)?;
    Ok(Some(Entry { user, key }))
}

fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

fn unquoted(field: &str) -> &str {
    let field = field.trim();
    let inside = field
        .strip_prefix('"')
        .and_then(|field| field.strip_suffix('"'));
    inside.map_or(field, str::trim)
}

/// A name that may stand in a log, in a header and in `REMOTE_USER`.
fn check_user(user: &str) -> Result<(), &'static str> {
    match user {
        "" => Err("it names no user"),
        _ if user.len() > LONGEST_USER => Err("its user is longer than 64 bytes"),
        _ if !user.bytes().all(|b| matches!(b, b' '..=b'~')) => {
            Err("its user has other characters than printable ASCII")
        }
        _ => Ok(()),
    }
}

/// What can be sent in a header field as one word.
fn check_key(key: &str) -> Result<(), &'static str> {
    match key {
        "" => Err("it has no key"),
        _ if key.len() > LONGEST_KEY => Err("its key is longer than 1024 bytes"),
        _ if key.contains(',') => Err("it has more than two fields"),
        _ if !key.bytes().all(|b| b.is_ascii_graphic()) => {
            Err("its key has other characters than letters, digits and signs of ASCII")
        }
        _ => Ok(()),
    }
}

/// Reads `key1,key2`. In `ada-0123456789` the user is `ada`; a key without such a beginning is `key1` by its place.
///
/// # Errors
/// The place of the first one, from 1, that is no key.
pub fn parse_variable(text: &str) -> Result<Vec<(String, &str)>, (usize, &'static str)> {
    let keys = text.split(',').map(str::trim);
    let mut entries = Vec::new();
    for (place, key) in (1..).zip(keys).filter(|(_, key)| !key.is_empty()) {
        check_key(key).map_err(|what| (place, what))?;
        let user = user_of(key).map_or_else(|| format!("key{place}"), str::to_owned);
        entries.push((user, key));
    }
    Ok(entries)
}

/// The user that a key begins with: letters, where enough is left behind them to be a secret.
fn user_of(key: &str) -> Option<&str> {
    const LEAST_SECRET: usize = 8;
    let (user, rest) = key.split_once('-')?;
    let named = !user.is_empty() && user.len() <= LONGEST_USER;
    let letters = user.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    (named && letters && rest.len() >= LEAST_SECRET).then_some(user)
}

/// What must hold for any text of a file and any variable: for tests and fuzzing.
#[cfg(any(test, fuzzing))]
pub mod invariants {
    use super::*;

    /// True when there is a key in it.
    pub fn check(text: &str) -> bool {
        let parsed = parse(text);
        let lines = text.lines().count();
        let told = parsed.entries.len() + parsed.bad.len() + parsed.more;
        assert!(told <= lines, "more entries than lines");
        assert!(parsed.more == 0 || parsed.bad.len() == MOST_BAD);
        for (number, _) in &parsed.bad {
            assert!((1..=lines).contains(number));
        }
        for Entry { user, key } in &parsed.entries {
            assert_eq!((check_user(user), check_key(key)), (Ok(()), Ok(())));
            // Written down plainly, an entry is what it was, unless a sign of the form is in it.
            let plain = format!("{user},{key}\r\n");
            let signs = [user.as_bytes(), key.as_bytes()].concat();
            if !signs.iter().any(|b| matches!(b, b'#' | b'"')) && user.trim() == *user {
                assert_eq!(parse(&plain).entries, [Entry { user, key }]);
            }
        }
        if let Ok(entries) = parse_variable(text) {
            for (user, key) in &entries {
                assert_eq!((check_user(user), check_key(key)), (Ok(()), Ok(())));
                assert!(user.len() < key.len() || user.starts_with("key"));
            }
        }
        !parsed.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(text: &str) -> Vec<(String, String)> {
        let entries = parse(text).entries.into_iter();
        entries
            .map(|entry| (entry.user.to_owned(), entry.key.to_owned()))
            .collect()
    }

    #[test]
    fn entries_comments_and_blank_lines() {
        let text = "\u{feff}username,apikey\r\n# of the team\r\n\r\n  ada , k1 \r\n\"Grace H\",\"k2\" # new\r\nimove,k#3\n";
        let expected = [("ada", "k1"), ("Grace H", "k2"), ("imove", "k#3")];
        let expected = expected.map(|(user, key)| (user.to_owned(), key.to_owned()));
        assert_eq!(entries(text), expected);
        assert_eq!(parse(text).bad, []);
        assert_eq!(parse("\u{feff}"), Parsed::default());
    }

    #[test]
    fn bad_lines_are_told_by_number_and_the_others_count() {
        let long = format!("a,{}", "k".repeat(LONGEST_KEY + 1));
        let text = format!("nokey\nada,k1\n,k2\nada,\na,b,c\nä,k\n{long}\n");
        let parsed = parse(&text);
        assert_eq!(entries(&text), [("ada".to_owned(), "k1".to_owned())]);
        let numbers: Vec<usize> = parsed.bad.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers, parsed.more), (vec![1, 3, 4, 5, 6], 1));
        for (_, what) in parsed.bad {
            assert!(!what.contains("k2"), "a key is not told");
        }
    }

    #[test]
    fn keys_of_the_environment_have_users() {
        let entries = parse_variable(" imove-0123456789, short-1 ,,550e8400-e29b-41d4-a716 ,x");
        let entries = entries.expect("good keys");
        let users: Vec<&str> = entries.iter().map(|(user, _)| user.as_str()).collect();
        assert_eq!(users, ["imove", "key2", "key4", "key5"]);
        assert_eq!(
            entries[0].1, "imove-0123456789",
            "the whole of it is the key"
        );
        assert_eq!(parse_variable(""), Ok(Vec::new()));
        assert!(matches!(parse_variable("good,two words"), Err((2, _))));
    }

    proptest! {
        #[test]
        fn whatever_a_file_says(text in "([a-z#\", \r\n\u{feff}ä-]|,){0,200}") {
            invariants::check(&text);
        }
    }
}
