//! What one edge thread remembers about files: found, not found, and for how long that may be believed.
//!
//! Not shared, so it needs no lock. It must not know how a path is found or what a reply looks like.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use super::Refusal;
use super::representation::Representation;
use crate::edge::compress::Kept;
use crate::edge::h1::coding::Coding;

/// What a path turned out to be.
#[derive(Debug)]
pub enum Found {
    /// A regular file and its fresh precompressed neighbours, in the order of [`Coding::ALL`].
    File {
        plain: Representation,
        coded: [Option<Box<Representation>>; 3],
        /// Copies of ours, which are kept elsewhere.
        copies: [Weak<Kept>; 3],
    },
    /// A directory with an index, asked for without its final slash.
    Directory,
    /// Nothing that is served.
    Nothing(Refusal),
}

impl Found {
    /// The neighbours that are there.
    pub fn available(&self) -> impl Iterator<Item = Coding> {
        let there = |coding: &Coding| self.representation(Some(*coding)).is_some();
        Coding::ALL.into_iter().filter(there)
    }

    /// The representation for a coding.
    pub fn representation(&self, coding: Option<Coding>) -> Option<&Representation> {
        match (self, coding) {
            (Found::File { plain, .. }, None) => Some(plain),
            (Found::File { coded, .. }, Some(coding)) => coded[coding.index()].as_deref(),
            (Found::Directory | Found::Nothing(_), _) => None,
        }
    }

    fn representations(&self) -> impl Iterator<Item = &Representation> {
        let codings = std::iter::once(None).chain(Coding::ALL.map(Some));
        codings.filter_map(|coding| self.representation(coding))
    }
}

/// One edge thread's memory of files.
///
/// Two generations: what is used moves to (or stays in) the young one; when that is full, the old one is
/// forgotten and the young one becomes old. So a file in use survives a flood of other names, and no hit
/// writes to a list.
#[derive(Debug)]
pub struct FileCache {
    young: Generation,
    old: Generation,
    /// Bytes per generation.
    budget: usize,
}

impl Default for FileCache {
    /// The cache of a server with one edge thread.
    fn default() -> FileCache {
        FileCache::new(TOTAL_BYTES)
    }
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
    descriptors: usize,
}

#[derive(Debug)]
struct Entry {
    found: Found,
    /// When the disk was last asked.
    checked: Instant,
}

impl FileCache {
    /// A cache that holds up to `bytes` bytes. The budget of an edge is [`TOTAL_BYTES`]: divide it by the number
    /// of edge threads.
    pub fn new(bytes: usize) -> FileCache {
        FileCache {
            young: Generation::default(),
            old: Generation::default(),
            budget: bytes / 2,
        }
    }

    /// Calls `answer` with what is known about a path, when that was checked less than [`BELIEVED_FOR`] ago.
    pub fn fresh<R>(
        &mut self,
        path: &[u8],
        now: Instant,
        answer: impl FnOnce(&mut Found) -> R,
    ) -> Option<R> {
        if let Some(entry) = self.young.entries.get_mut(path) {
            return entry.is_fresh(now).then(|| answer(&mut entry.found));
        }
        let (key, mut entry) = self.old.remove(path)?;
        let answer = entry.is_fresh(now).then(|| answer(&mut entry.found));
        self.put(key, entry);
        answer
    }

    /// Takes out what was known about a path, however old.
    pub fn take(&mut self, path: &[u8]) -> Option<Found> {
        let taken = self.young.remove(path).or_else(|| self.old.remove(path));
        taken.map(|(_, entry)| entry.found)
    }

    /// Remembers what a path is as of `now`.
    pub fn remember(&mut self, path: &[u8], found: Found, now: Instant) {
        self.put(
            path.into(),
            Entry {
                found,
                checked: now,
            },
        );
    }

    /// Forgets everything (after the roots changed).
    #[cfg(test)]
    pub fn clear(&mut self) {
        self.young = Generation::default();
        self.old = Generation::default();
    }

    fn put(&mut self, key: Box<[u8]>, entry: Entry) {
        let full = self.young.bytes + entry.weight(key.len()) > self.budget
            || self.young.entries.len() >= MAX_ENTRIES
            || self.young.descriptors + entry.descriptors() > MAX_DESCRIPTORS;
        if full {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

impl Generation {
    fn insert(&mut self, key: Box<[u8]>, entry: Entry) {
        let key_len = key.len();
        self.bytes += entry.weight(key_len);
        self.descriptors += entry.descriptors();
        if let Some(before) = self.entries.insert(key, entry) {
            self.bytes -= before.weight(key_len);
            self.descriptors -= before.descriptors();
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<(Box<[u8]>, Entry)> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.bytes -= entry.weight(key.len());
        self.descriptors -= entry.descriptors();
        Some((key, entry))
    }
}

impl Entry {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.checked) < BELIEVED_FOR
    }

    fn weight(&self, key_len: usize) -> usize {
        let held: usize = self
            .found
            .representations()
            .map(Representation::weight)
            .sum();
        held + key_len + size_of::<Entry>()
    }

    fn descriptors(&self) -> usize {
        self.found
            .representations()
            .filter(|r| r.holds_descriptor())
            .count()
    }
}

/// How long the disk is not asked again: a changed file is seen within this time.
pub const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// Bytes of small files of one edge, all its threads together.
pub const TOTAL_BYTES: usize = 32 * 1024 * 1024;

/// Names per generation, found or not: bounds what a scan of random names can make us hold.
const MAX_ENTRIES: usize = 4096;

/// Open large files per generation, well below the usual limit of 1,024 descriptors.
const MAX_DESCRIPTORS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Found {
        Found::Nothing(Refusal::NotFound)
    }

    #[test]
    fn a_name_in_use_survives_a_flood_of_others() {
        let now = Instant::now();
        let mut cache = FileCache::new(TOTAL_BYTES);
        cache.remember(b"/used", missing(), now);
        cache.remember(b"/unused", missing(), now);
        for number in 0..20_000 {
            cache.remember(format!("/{number}").as_bytes(), missing(), now);
            assert!(
                number % 1000 != 0 || cache.fresh(b"/used", now, |_| ()).is_some(),
                "{number}"
            );
        }
        assert!(cache.fresh(b"/unused", now, |_| ()).is_none());
        assert!(cache.young.entries.len() + cache.old.entries.len() <= 2 * MAX_ENTRIES);
    }

    #[test]
    fn nothing_is_believed_for_longer_than_a_second() {
        let now = Instant::now();
        let mut cache = FileCache::new(TOTAL_BYTES);
        cache.remember(b"/a", missing(), now);
        assert!(
            cache
                .fresh(b"/a", now + Duration::from_millis(999), |_| ())
                .is_some()
        );
        assert!(cache.fresh(b"/a", now + BELIEVED_FOR, |_| ()).is_none());
        assert!(cache.take(b"/a").is_some());
        assert!(cache.take(b"/a").is_none());
    }

    #[test]
    fn the_books_are_balanced() {
        let now = Instant::now();
        let mut cache = FileCache::new(4096);
        for number in 0..1000u32 {
            let name = format!("/{}", number % 37);
            if number % 5 == 0 {
                cache.take(name.as_bytes());
            } else {
                cache.remember(name.as_bytes(), missing(), now);
            }
            for generation in [&cache.young, &cache.old] {
                let weight: usize = generation
                    .entries
                    .iter()
                    .map(|(key, entry)| entry.weight(key.len()))
                    .sum();
                assert_eq!(weight, generation.bytes);
                assert!(generation.bytes <= cache.budget);
            }
        }
        cache.clear();
        assert_eq!(cache.young.bytes, 0);
    }
}
