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

/// What is handed out. A name that nobody wants gets an alert, and so does a client that names none, unless there is
/// a certificate for any host: no list of hosts leaks.
#[derive(Default)]
pub struct Served {
    /// The operator's own; they go before those of a CA.
    given: ArcSwap<Table>,
    table: ArcSwap<Table>,
    /// What HTTP-01 answers, by token.
    tokens: ArcSwap<HashMap<String, String>>,
    /// Certificates that answer a CA, by name.
    answers: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
}

/// Certificates by the name they are for; a wildcard by what follows its `*.`.
#[derive(Default, Clone)]
pub struct Table {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wild: HashMap<String, Arc<CertifiedKey>>,
    /// For every other host, and for clients that name none.
    any: Option<Arc<CertifiedKey>>,
}

impl Table {
    pub fn insert<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        key: &Arc<CertifiedKey>,
    ) {
        for name in names {
            if name == "*" {
                self.any = Some(Arc::clone(key));
                continue;
            }
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
    /// Hands out the operator's own certificates.
    pub fn give(&self, table: Table) {
        self.given.store(Arc::new(table));
    }

    /// Answers `/.well-known/acme-challenge/TOKEN` (RFC 8555 section 8.3), or does so no more.
    pub fn set_token(&self, token: &str, text: Option<String>) {
        self.tokens.rcu(|tokens| {
            let mut tokens = HashMap::clone(tokens);
            match &text {
                Some(text) => tokens.insert(token.to_owned(), text.clone()),
                None => tokens.remove(token),
            };
            tokens
        });
    }

    /// What a CA is answered. A token that is not ours belongs to the app.
    pub fn token(&self, token: &str) -> Option<String> {
        self.tokens.load().get(token).cloned()
    }

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

    /// `name` is `None` for a client that names no host.
    fn find(&self, name: Option<&str>, acme: bool) -> Option<Arc<CertifiedKey>> {
        let given = self.given.load();
        let Some(name) = name else {
            return given.any.clone().filter(|_| !acme);
        };
        let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        match acme {
            true => self.answers.load().get(&*name).cloned(),
            false => {
                let found = given.find(&name).cloned();
                let found = found.or_else(|| self.table.load().find(&name).cloned());
                found.or_else(|| given.any.clone())
            }
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
        self.find(hello.server_name(), acme)
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
            let key = Arc::new(keys::self_signed(names.iter()).unwrap());
            served.put(&names, &key);
            key
        };
        let exact = key("a.some.example");
        let wild = key("*.some.example");
        let is = |name: &str, expected: Option<&Arc<CertifiedKey>>| {
            let found = served.find(Some(name), false);
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
    fn the_operators_own_go_first_and_any_host_comes_last() {
        let served = Served::default();
        let key = || Arc::new(keys::self_signed(["a.example"]).unwrap());
        let (own, any, had) = (key(), key(), key());
        served.put(&"a.example, b.example".parse().unwrap(), &had);
        let mut table = Table::default();
        table.insert(["a.example"], &own);
        table.insert(["*"], &any);
        served.give(table);
        let is = |name: Option<&str>, expected: &Arc<CertifiedKey>| {
            let found = served.find(name, false).unwrap();
            assert!(Arc::ptr_eq(&found, expected), "{name:?}");
        };
        is(Some("a.example"), &own);
        is(Some("b.example"), &had);
        is(Some("other.test"), &any);
        is(None, &any);
        assert!(served.find(None, true).is_none());
        served.give(Table::default());
        assert!(served.find(None, false).is_none());
    }

    #[test]
    fn a_token_is_answered_while_it_is_set() {
        let served = Served::default();
        served.set_token("t", Some("text".to_owned()));
        assert_eq!(served.token("t").as_deref(), Some("text"));
        assert_eq!(served.token("u"), None);
        served.set_token("t", None);
        assert_eq!(served.token("t"), None);
    }

    #[test]
    fn only_a_ca_gets_an_answer() {
        let served = Served::default();
        let key = Arc::new(keys::challenge("a.example", &[7; 32]).unwrap());
        served.answer("a.example", &key);
        assert!(served.find(Some("a.example"), true).is_some());
        assert!(served.find(Some("a.example"), false).is_none());
        served.answer_no_more("a.example");
        assert!(served.find(Some("a.example"), true).is_none());
    }
}
