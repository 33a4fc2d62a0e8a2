//! The API keys in force: kept as hashes, looked up at once, replaced whole when their file changes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::config::serve::KeyHash;

use super::credential::Shown;
use super::hash::{Digest, Hasher};
use super::proofs::{Proof, Proofs};
use super::slow::{Busy, SlowLine};

/// Most keys under a slow function: to hash them takes ten seconds at each change.
const MOST_SLOW: usize = 500;

/// One set of keys.
pub struct KeySet {
    hasher: Hasher,
    /// By the first bytes of what is kept. Those depend on a secret: how long a look-up takes tells nothing.
    users: HashMap<[u8; 8], Vec<(Digest, Arc<str>)>>,
    count: usize,
    /// Under a slow function: keys that were found good.
    proofs: Arc<Proofs>,
}

/// The keys that are in force now.
pub struct Keys {
    /// Guards the pointer alone.
    now: RwLock<Arc<KeySet>>,
    line: Arc<SlowLine>,
}

impl KeySet {
    /// Of two users with one key the first one has it.
    ///
    /// # Errors
    /// Too many for the function, or the system has no memory or no random bytes.
    pub fn new<'k>(
        function: KeyHash,
        entries: impl IntoIterator<Item = (&'k str, &'k str)>,
    ) -> Result<Self, &'static str> {
        let hasher = Hasher::new(function).ok_or("the system gives no random bytes")?;
        let mut set = Self {
            hasher,
            users: HashMap::new(),
            count: 0,
            proofs: Arc::default(),
        };
        for (user, key) in entries {
            if set.hasher.is_slow() && set.count == MOST_SLOW {
                return Err(
                    "there are more than 500 keys, too many for argon2id; hint: key_hash = \"sha256\"",
                );
            }
            let digest = set.hasher.digest(key.as_bytes());
            let digest = digest.ok_or("there is no memory for argon2id")?;
            if set.user(&digest).is_none() {
                let found = set.users.entry(bucket(&digest)).or_default();
                found.push((digest, user.into()));
                set.count += 1;
            }
        }
        Ok(set)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    fn user(&self, digest: &Digest) -> Option<Arc<str>> {
        let near = self.users.get(&bucket(digest))?;
        let same =
            |(known, _): &&(Digest, Arc<str>)| verify_slices_are_equal(known, digest).is_ok();
        near.iter().find(same).map(|(_, user)| Arc::clone(user))
    }
}

fn bucket(digest: &Digest) -> [u8; 8] {
    let mut bucket = [0; 8];
    bucket.copy_from_slice(&digest[..8]);
    bucket
}

impl Keys {
    pub fn new(set: KeySet, line: Arc<SlowLine>) -> Self {
        Self {
            now: RwLock::new(Arc::new(set)),
            line,
        }
    }

    /// From now on these hold.
    pub fn replace(&self, set: KeySet) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }

    fn now(&self) -> Arc<KeySet> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keys that were not found good yet take [`Keys::prove`].
    pub fn is_slow(&self) -> bool {
        self.now().hasher.is_slow()
    }

    /// The user whose key is shown, as far as a look can tell.
    pub fn known(&self, shown: Shown<'_>) -> Option<Arc<str>> {
        let set = self.now();
        shown.keys().find_map(|key| {
            let quick = set.hasher.quick(key);
            match set.hasher.is_slow() {
                false => set.user(&quick),
                true => set.proofs.known(&quick),
            }
        })
    }

    /// The user whose key this is, by a slow function.
    ///
    /// # Errors
    /// Too many ask at once.
    pub async fn prove(&self, key: Vec<u8>) -> Result<Proof, Busy> {
        let set = self.now();
        let quick = set.hasher.quick(&key);
        let own = Arc::clone(&set);
        let work = move || Ok(own.user(&own.hasher.digest(&key).ok_or(Busy)?));
        set.proofs.of(quick, &self.line, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: [(&str, &str); 3] = [("ada", "k1"), ("grace", "k2"), ("eve", "k1")];

    fn ask(keys: &Keys, key: &str) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let shown = Shown {
            api_key: Some(key.as_bytes()),
            ..Shown::default()
        };
        let known = keys.known(shown);
        let proving = async {
            match keys.prove(key.into()).await.expect("nobody else asks") {
                Proof::Known(user) => user,
                Proof::Open(mut trial) => trial.run().await.expect("memory"),
            }
        };
        let proven = runtime.expect("a runtime").block_on(proving);
        assert!(keys.is_slow() || known == proven);
        proven.map(|user| user.to_string())
    }

    #[test]
    fn a_key_names_its_user_under_every_function() {
        for function in [KeyHash::Sha256, KeyHash::Sha512, KeyHash::Argon2id] {
            let set = KeySet::new(function, ENTRIES).expect("a set");
            assert_eq!(set.len(), 2, "one key is one user's");
            let keys = Keys::new(set, Arc::default());
            for _ in 0..2 {
                assert_eq!(ask(&keys, "k1").as_deref(), Some("ada"), "{function:?}");
                assert_eq!(ask(&keys, "k2").as_deref(), Some("grace"), "{function:?}");
                assert_eq!(ask(&keys, "k3"), None, "{function:?}");
            }
            keys.replace(KeySet::new(function, []).expect("a set"));
            assert_eq!(ask(&keys, "k1"), None, "{function:?}: revoked");
        }
    }

    #[test]
    fn a_slow_function_is_for_few_keys() {
        let many: Vec<String> = (0..=MOST_SLOW).map(|n| n.to_string()).collect();
        let entries = || many.iter().map(|key| ("u", key.as_str()));
        assert!(KeySet::new(KeyHash::Sha256, entries()).is_ok());
    }
}
