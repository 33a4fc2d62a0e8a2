//! Host and path → where a request goes. One immutable table, swapped whole; it knows neither requests nor
//! what its targets are.

use std::collections::HashMap;

pub use crate::config::serve::Host;

/// The longest host name, in bytes (RFC 1035 section 2.3.4); an IPv6 address in brackets is shorter.
const LONGEST_HOST: usize = 255;

/// What lies where. The most exact host that matches decides, then the longest prefix below it: a path that
/// a host does not have is not looked for below a wildcard.
#[derive(Debug)]
pub struct Table<T> {
    names: HashMap<Box<[u8]>, Prefixes<T>>,
    below: HashMap<Box<[u8]>, Prefixes<T>>,
    any: Prefixes<T>,
    nowhere: T,
}

/// Path prefixes of one host.
#[derive(Debug, Clone)]
struct Prefixes<T> {
    targets: HashMap<Box<[u8]>, T>,
    /// Bytes of the longest prefix: what lies behind them in a path decides nothing.
    longest: usize,
}

/// Two targets for the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub host: Host,
    pub prefix: String,
}

impl<T> Table<T> {
    /// Without a route: everything goes to `nowhere`.
    pub fn new(nowhere: T) -> Self {
        Self {
            names: HashMap::new(),
            below: HashMap::new(),
            any: Prefixes::default(),
            nowhere,
        }
    }

    /// Sends requests for `host` with a path below `prefix` to `target`. A prefix is `/` or starts with `/`
    /// and does not end with one; it ends at the end of a path segment.
    ///
    /// # Errors
    /// They go somewhere else already.
    pub fn add(&mut self, host: Host, prefix: &str, target: T) -> Result<(), Taken> {
        let prefixes = match &host {
            Host::Name(name) => self.names.entry(name.as_bytes().into()).or_default(),
            Host::Below(name) => self.below.entry(name.as_bytes().into()).or_default(),
            Host::Any => &mut self.any,
        };
        if prefixes.targets.contains_key(prefix.as_bytes()) {
            let prefix = prefix.to_owned();
            return Err(Taken { host, prefix });
        }
        prefixes.longest = prefixes.longest.max(prefix.len());
        prefixes.targets.insert(prefix.as_bytes().into(), target);
        Ok(())
    }

    /// Requests for hosts that are not in the table go where those for this one go.
    pub fn set_default(&mut self, host: &str)
    where
        T: Clone,
    {
        if let Some(prefixes) = self.host(host.as_bytes()) {
            self.any = prefixes.clone();
        }
    }

    /// Where a request goes. `host` is as the client wrote it, without its port; empty when it named none. Empty
    /// segments of the path do not count: there are apps to which `//admin` is `/admin`, and what holds there must
    /// hold for both.
    pub fn find(&self, host: &[u8], path: &[u8]) -> &T {
        if memchr::memmem::find(path, b"//").is_some() {
            let mut merged = path.to_vec();
            merged.dedup_by(|next, before| (*next, *before) == (b'/', b'/'));
            return self.find(host, &merged);
        }
        let found = match self.host(host) {
            Some(prefixes) => prefixes.find(path),
            None => self.any.find(path),
        };
        found.unwrap_or(&self.nowhere)
    }

    /// Where requests go that belong nowhere.
    pub fn nowhere(&self) -> &T {
        &self.nowhere
    }

    /// Everything that requests go to, in no order; some of it several times.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        let hosts = self.names.values().chain(self.below.values());
        let prefixes = hosts.chain(std::iter::once(&self.any));
        prefixes
            .flat_map(|prefixes| prefixes.targets.values())
            .chain(std::iter::once(&self.nowhere))
    }

    fn host(&self, host: &[u8]) -> Option<&Prefixes<T>> {
        if self.names.is_empty() && self.below.is_empty() || host.len() > LONGEST_HOST {
            return None;
        }
        let mut lower = [0; LONGEST_HOST];
        let lower = &mut lower[..host.len()];
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        self.names.get(&*lower).or_else(|| {
            let dot = memchr::memchr(b'.', lower)?;
            self.below.get(&lower[dot + 1..])
        })
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            targets: HashMap::new(),
            longest: 0,
        }
    }
}

impl<T> Prefixes<T> {
    /// The target of the longest prefix: one look for each segment of the path, from its end.
    fn find(&self, path: &[u8]) -> Option<&T> {
        let mut end = path.len();
        if end > self.longest {
            // The last border of a segment that a prefix can reach.
            end = memchr::memrchr(b'/', &path[..=self.longest])?;
        }
        while end > 0 {
            if let Some(target) = self.targets.get(&path[..end]) {
                return Some(target);
            }
            end = memchr::memrchr(b'/', &path[..end])?;
        }
        path.starts_with(b"/")
            .then(|| self.targets.get(&b"/"[..]))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Host {
        Host::Name(name.to_owned())
    }

    fn table() -> Table<&'static str> {
        let mut table = Table::new("nowhere");
        for (host, prefix, target) in [
            (name("a.example"), "/", "a"),
            (name("a.example"), "/api", "api"),
            (name("a.example"), "/api/v2", "v2"),
            (name("b.example"), "/only", "only"),
            (Host::Below("example".to_owned()), "/", "wild"),
            (Host::Any, "/", "any"),
            (name("[::1]"), "/", "six"),
        ] {
            table.add(host, prefix, target).expect("all differ");
        }
        table
    }

    #[test]
    fn the_most_exact_host_and_the_longest_prefix_decide() {
        let table = table();
        for (host, path, target) in [
            ("a.example", "/", "a"),
            ("A.Example", "/apidocs", "a"),
            ("a.example", "/api", "api"),
            ("a.example", "/api/", "api"),
            ("a.example", "/api/v1", "api"),
            ("a.example", "/api/v2/x", "v2"),
            ("a.example", "//api///v2/x", "v2"),
            ("a.example", "//", "a"),
            ("b.example", "/x//only", "nowhere"),
            ("a.example", "*", "nowhere"),
            ("b.example", "/only/this", "only"),
            ("b.example", "/else", "nowhere"),
            ("c.example", "/x", "wild"),
            ("d.c.example", "/x", "any"),
            ("example", "/x", "any"),
            ("[::1]", "/", "six"),
            ("", "/", "any"),
        ] {
            let found = table.find(host.as_bytes(), path.as_bytes());
            assert_eq!(*found, target, "{host} {path}");
        }
        let mut table = table;
        table.set_default("new.example");
        assert_eq!(*table.find(b"other", b"/x"), "wild");
        assert_eq!(*table.find(b"a.example", b"/x"), "a");
        table.set_default("other");
        let long = [b'a'; 300];
        assert_eq!(*table.find(&long, b"/"), "wild");
    }

    #[test]
    fn a_place_is_taken_once() {
        let mut table = table();
        assert_eq!(
            table.add(name("a.example"), "/api", "another"),
            Err(Taken {
                host: name("a.example"),
                prefix: "/api".to_owned()
            })
        );
        assert_eq!(table.add(name("a.example"), "/abi", "another"), Ok(()));
        assert_eq!(*table.find(b"a.example", b"/api"), "api");
    }
}
