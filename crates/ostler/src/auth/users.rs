//! Users with passwords, for HTTP basic authentication (RFC 7617). Passwords are kept as Argon2 has them.

use std::collections::HashMap;
use std::sync::Arc;

use argon2::password_hash::PasswordHash;
use argon2::{Argon2, PasswordVerifier as _};

use crate::config::serve::KeyHash;

use super::credential::Shown;
use super::hash::Hasher;
use super::proofs::{Proof, Proofs};
use super::slow::{Busy, SlowLine};

/// The most that one check may take, in KiB: a hash that asks for more was made for something else.
const MOST_MEMORY: u32 = 256 * 1024;

/// The users of one site.
pub struct Users {
    known: Arc<HashMap<String, String>>,
    realm: String,
    hasher: Hasher,
    /// Who has shown a good password. Each user has one.
    proofs: Arc<Proofs>,
    line: Arc<SlowLine>,
}

impl Users {
    /// # Errors
    /// A user, and what is wrong with the hash.
    pub fn new(
        users: &[(String, String)],
        realm: &str,
        line: &Arc<SlowLine>,
    ) -> Result<Self, (String, String)> {
        for (name, text) in users {
            let hash =
                PasswordHash::new(text).map_err(|error| (name.clone(), error.to_string()))?;
            let memory = hash.params.get_decimal("m").unwrap_or(u32::MAX);
            if hash.hash.is_none() || memory > MOST_MEMORY {
                return Err((
                    name.clone(),
                    "it has no digest, or takes more than 256 MiB".to_owned(),
                ));
            }
        }
        let hasher = Hasher::new(KeyHash::Sha256);
        let hasher =
            hasher.ok_or_else(|| (String::new(), "the system gives no random bytes".to_owned()))?;
        Ok(Self {
            known: Arc::new(users.iter().cloned().collect()),
            realm: realm.replace(|c: char| c.is_control() || matches!(c, '"' | '\\'), "'"),
            hasher,
            proofs: Arc::default(),
            line: Arc::clone(line),
        })
    }

    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// A user who has shown this password before.
    pub fn known(&self, shown: Shown<'_>) -> Option<Arc<str>> {
        let credentials = shown.basic()?;
        if self.proofs.is_empty() {
            return None;
        }
        self.proofs.known(&self.hasher.quick(&credentials))
    }

    /// A user whose name and password these are.
    ///
    /// # Errors
    /// Too many ask at once.
    pub async fn prove(&self, credentials: Vec<u8>) -> Result<Proof, Busy> {
        let quick = self.hasher.quick(&credentials);
        let known = Arc::clone(&self.known);
        let work = move || Ok(verify(&known, &credentials).map(Into::into));
        self.proofs.of(quick, &self.line, work).await
    }
}

/// The name before the colon, when the password behind it is its own. An unknown name takes as long as a known one.
fn verify(known: &HashMap<String, String>, credentials: &[u8]) -> Option<String> {
    let colon = memchr::memchr(b':', credentials)?;
    let (name, password) = (
        std::str::from_utf8(&credentials[..colon]).ok(),
        &credentials[colon + 1..],
    );
    let own = name.and_then(|name| known.get(name));
    let hash = PasswordHash::new(own.or_else(|| known.values().next())?).ok()?;
    let good = Argon2::default().verify_password(password, &hash).is_ok();
    name.filter(|_| good && own.is_some()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `password`: a vector of the reference implementation.
    const HASH: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    #[test]
    fn a_good_password_names_its_user() {
        let known = HashMap::from([("ada".to_owned(), HASH.to_owned())]);
        assert_eq!(verify(&known, b"ada:password").as_deref(), Some("ada"));
        for wrong in [
            &b"ada:Password"[..],
            b"ada:",
            b"eve:password",
            b"ada",
            b"",
            b"\xff:password",
            b"ada:password\0",
        ] {
            assert_eq!(verify(&known, wrong), None);
        }
    }

    #[test]
    fn a_hash_that_cannot_be_checked_is_refused() {
        let users = |hash: &str| {
            Users::new(&[("ada".to_owned(), hash.to_owned())], "r", &Arc::default()).err()
        };
        assert!(users(HASH).is_none());
        for hash in [
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
            "x",
            &HASH.replace("m=256", "m=9999999"),
        ] {
            assert_eq!(
                users(hash).map(|(name, _)| name).as_deref(),
                Some("ada"),
                "{hash}"
            );
        }
    }
}
