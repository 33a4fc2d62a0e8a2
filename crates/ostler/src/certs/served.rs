//! The certificate that the edge hands out for the name a client asks for. One table, swapped whole,
//! read once per handshake.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::names::Names;

/// The protocol of TLS-ALPN-01 (RFC 8737 section 6.2). The edge offers it last, and closes a
/// connection that has chosen it.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// What is handed out. A name that nobody wants gets an alert, and so does a client that names none:
/// no list of hosts leaks.
#[derive(Default)]
pub struct Served {
    table: ArcSwap<Table>,
    /// Certificates that answer a CA, by name.
    answers: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
}

/// Certificates by the name they are for; a wildcard by what follows its `*.`.
#[derive(Default, Clone)]
pub struct Table {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wild: HashMap<String, Arc<CertifiedKey>>,
}

impl Table {
    pub fn insert<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        key: &Arc<CertifiedKey>,
    ) {
        for name in names {
            let (map, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wild, parent),
                None => (&mut self.exact, name),
            };
            map.insert(name.to_owned(), Arc::clone(key));
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wild = || self.wild.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wild)
    }
}

impl Served {
    /// Hands out what is in `table`, and nothing else.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// Hands out `key` for `names` from now on.
    pub fn put(&self, names: &Names, key: &Arc<CertifiedKey>) {
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.insert(names.iter(), key);
            table
        });
    }

    /// Answers a CA that comes for `name`.
    pub fn answer(&self, name: &str, key: &Arc<CertifiedKey>) {
        self.answers.rcu(|answers| {
            let mut answers = HashMap::clone(answers);
            answers.insert(name.to_owned(), Arc::clone(key));
            answers
        });
    }

    pub fn answer_no_more(&self, name: &str) {
        self.answers.rcu(|answers| {
            let mut answers = HashMap::clone(answers);
            answers.remove(name);
            answers
        });
    }

    fn find(&self, name: &str, acme: bool) -> Option<Arc<CertifiedKey>> {
        let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        match acme {
            true => self.answers.load().get(&*name).cloned(),
            false => self.table.load().find(&name).cloned(),
        }
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737 section 3: the CA offers this protocol and no other.
        let acme = hello
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS));
        self.find(hello.server_name()?, acme)
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::*;

    #[test]
    fn names_get_their_own_certificate() {
        let served = Served::default();
        let key = |names: &str| {
            let names: Names = names.parse().unwrap();
            let key = Arc::new(keys::self_signed(&names).unwrap());
            served.put(&names, &key);
            key
        };
        let exact = key("a.some.example");
        let wild = key("*.some.example");
        let is = |name: &str, expected: Option<&Arc<CertifiedKey>>| {
            let found = served.find(name, false);
            assert_eq!(
                found.as_ref().map(Arc::as_ptr),
                expected.map(Arc::as_ptr),
                "{name}"
            );
        };
        is("a.some.example", Some(&exact));
        is("A.Some.Example", Some(&exact));
        is("b.some.example", Some(&wild));
        is("a.b.some.example", None);
        is("some.example", None);
        is("other.test", None);
        served.replace(Table::default());
        is("a.some.example", None);
    }

    #[test]
    fn only_a_ca_gets_an_answer() {
        let served = Served::default();
        let key = Arc::new(keys::challenge("a.example", &[7; 32]).unwrap());
        served.answer("a.example", &key);
        assert!(served.find("a.example", true).is_some());
        assert!(served.find("a.example", false).is_none());
        served.answer_no_more("a.example");
        assert!(served.find("a.example", true).is_none());
    }
}
