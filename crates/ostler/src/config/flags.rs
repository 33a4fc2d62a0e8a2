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
