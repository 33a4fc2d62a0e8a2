//! Reads the `flags` column of the table: `-w --workers N` → one short flag, long flags, a metavar.

use super::table::{Group, Setting, TABLE};

/// The flags of a setting, without their dashes where clap wants none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub short: Option<char>,
    /// With their dashes; the first is the one that messages use.
    pub longs: Vec<&'static str>,
    pub metavar: &'static str,
}

pub fn of(setting: &Setting) -> Flags {
    let mut flags = Flags::default();
    for word in setting.flags.split(' ').filter(|word| !word.is_empty()) {
        match word.strip_prefix('-') {
            Some(rest) if rest.starts_with('-') => flags.longs.push(word),
            Some(rest) => flags.short = rest.chars().next(),
            None => flags.metavar = word,
        }
    }
    flags
}

/// Every row of the table.
pub fn rows() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().flat_map(|Group { rows, .. }| rows.iter())
}

/// The row of this name.
pub fn row(name: &str) -> Option<&'static Setting> {
    rows().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::table::Whose;

    #[test]
    fn names_and_flags_are_unique() {
        let mut seen = BTreeSet::new();
        for row in rows() {
            assert!(seen.insert(row.name.to_owned()), "{}", row.name);
            let flags = of(row);
            let short = flags.short.map(|short| format!("-{short}"));
            for flag in flags
                .longs
                .iter()
                .map(|long| (*long).to_owned())
                .chain(short)
            {
                assert!(seen.insert(flag.clone()), "{flag}");
            }
        }
    }

    /// gunicorn 27.0 has 120 settings: these, and `config`, which only the command line can set.
    #[test]
    fn every_setting_of_gunicorn_is_known() {
        let known = rows().filter(|row| row.whose == Whose::Gunicorn).count();
        assert_eq!(known + 1, 120);
        assert!(row("config").is_some() && row("http2_max_header_list_size").is_some());
    }

    #[test]
    fn flags_read_as_a_manual_page_writes_them() {
        let flags = of(row("bind").expect("a row"));
        let expected = Flags {
            short: Some('b'),
            longs: vec!["--bind"],
            metavar: "ADDRESS",
        };
        assert_eq!(flags, expected);
        assert_eq!(of(row("post_fork").expect("a row")), Flags::default());
    }
}
