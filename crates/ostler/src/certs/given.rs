//! Certificates that are there: the operator's own, as the keeper has read them, and those that nobody trusts for
//! names that no CA certifies.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::served::Table;
use super::state::Held;
use super::{Status, keys};

/// A certificate that can be served.
pub struct Given {
    /// The hosts that get it: names, `*.example.com`, `*` for those that nobody else has.
    hosts: Vec<String>,
    key: Arc<CertifiedKey>,
    held: Held,
    state: &'static str,
    /// What the operator should know: it is served all the same.
    warning: Option<String>,
}

impl Given {
    /// The one in the operator's file `path`.
    ///
    /// # Errors
    /// What is wrong with key and chain (both PEM).
    pub fn new(hosts: Vec<String>, path: &Path, key: &str, chain: &str) -> Result<Self, String> {
        let of = |error: String| {
            let path = path.display();
            format!(
                "cannot use the certificate {path}: {error}; hint: check that certificate and key belong together"
            )
        };
        let key = keys::from_pem(key, chain).map_err(of)?;
        let certificate = Certificate::read(&key.cert[0]).map_err(of)?;
        let names = hosts.iter().filter(|host| *host != "*");
        let mut strangers = names.filter(|host| !certificate.covers(host));
        let warning = strangers.next().map(|host| {
            let path = path.display();
            format!("the certificate {path} is not for {host}: browsers refuse it there")
        });
        Ok(Self {
            hosts,
            key: Arc::new(key),
            held: certificate.held(),
            state: "from files",
            warning,
        })
    }

    /// One of our own making. `None` when a certificate cannot be for this host.
    pub fn self_signed(host: &str) -> Option<Self> {
        let key = keys::self_signed([host]).ok()?;
        let held = Certificate::read(&key.cert[0]).ok()?.held();
        Some(Self {
            hosts: vec![host.to_owned()],
            key: Arc::new(key),
            held,
            state: "self-signed",
            warning: None,
        })
    }

    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    pub(super) fn status(&self, now: SystemTime) -> Status {
        let days = self.held.days(now);
        Status {
            names: self.hosts.clone(),
            state: if days < 0 { "expired" } else { self.state },
            expires: Some(self.held.not_after),
            days_left: Some(days),
            last_error: self.warning.clone(),
            next_attempt: None,
        }
    }
}

/// Which host gets which.
pub fn table(all: &[Given]) -> Table {
    let mut table = Table::default();
    for given in all {
        table.insert(given.hosts.iter().map(String::as_str), &given.key);
    }
    table
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_pair_is_checked_and_named() {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let given = |hosts: &[&str], key: &str| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            Given::new(hosts, Path::new("chain.pem"), key, &chain)
        };
        let good = given(&["a.example", "*"], &key.serialize_pem()).unwrap();
        assert_eq!(good.warning(), None);
        let other = given(&["a.example", "b.example"], &key.serialize_pem()).unwrap();
        assert!(other.warning().unwrap().contains("not for b.example"));
        let stranger = KeyPair::generate().unwrap().serialize_pem();
        let error = given(&["a.example"], &stranger).err().unwrap();
        assert!(
            error.contains("chain.pem") && error.contains("belong together"),
            "{error}"
        );
    }

    #[test]
    fn a_name_of_this_machine_gets_one_that_nobody_trusts() {
        let own = Given::self_signed("localhost").unwrap();
        let status = own.status(SystemTime::now());
        assert_eq!(
            (status.state, status.names.as_slice()),
            ("self-signed", &["localhost".to_owned()][..])
        );
    }
}
