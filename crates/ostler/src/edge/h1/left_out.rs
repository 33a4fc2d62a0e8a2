//! Names of fields that do not go on. It must not know why.

/// Names in lower case, sorted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Names(Vec<Box<[u8]>>);

impl Names {
    pub fn new<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let mut names: Vec<Box<[u8]>> = names
            .map(|name| name.to_ascii_lowercase().into_bytes().into())
            .collect();
        names.sort();
        names.dedup();
        Self(names)
    }

    /// These and some more.
    pub fn and<'n>(&self, more: impl Iterator<Item = &'n str>) -> Self {
        let mut all = self.clone();
        all.0.extend(Self::new(more).0);
        all.0.sort();
        all.0.dedup();
        all
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Appends the lines of a head whose fields are none of these.
    pub fn sift(&self, lines: &[u8], out: &mut Vec<u8>) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let colon = memchr::memchr(b':', line).unwrap_or(0);
            if !self.has(&line[..colon]) {
                out.extend_from_slice(line);
            }
        }
    }
}
