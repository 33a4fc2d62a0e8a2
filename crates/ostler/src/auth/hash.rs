//! The functions that keys are kept under. What they are applied to is the caller's affair.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{hmac, rand};

use crate::config::serve::KeyHash;

/// KiB and passes of Argon2id: the second choice of RFC 9106 scaled as OWASP has it for web servers (19 MiB, two
/// passes, one lane), some 20 ms of one core.
const ARGON2: (u32, u32) = (19 * 1024, 2);

/// Bytes of every digest.
pub const DIGEST: usize = 32;

/// A function and a secret of its own that is drawn anew for each set of keys: digests of two sets cannot be
/// compared, and nobody outside can aim at one.
pub struct Hasher {
    /// SHA-256 or SHA-512 with the secret before it (HMAC, RFC 2104).
    quick: hmac::Key,
    salt: [u8; 16],
    function: KeyHash,
}

pub type Digest = [u8; DIGEST];

impl Hasher {
    /// `None`: the system gives no random bytes.
    pub fn new(function: KeyHash) -> Option<Self> {
        let (mut secret, mut salt) = ([0; 32], [0; 16]);
        rand::fill(&mut secret).ok()?;
        rand::fill(&mut salt).ok()?;
        let algorithm = match function {
            KeyHash::Sha512 => hmac::HMAC_SHA512,
            KeyHash::Sha256 | KeyHash::Argon2id => hmac::HMAC_SHA256,
        };
        Some(Self {
            quick: hmac::Key::new(algorithm, &secret),
            salt,
            function,
        })
    }

    /// Costs less than a microsecond, whatever the function: with a slow one it only tells keys apart that were
    /// found good before.
    pub fn quick(&self, key: &[u8]) -> Digest {
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&hmac::sign(&self.quick, key).as_ref()[..DIGEST]);
        digest
    }

    pub fn is_slow(&self) -> bool {
        self.function == KeyHash::Argon2id
    }

    /// What is kept of a key. `None`: there is no memory for it.
    pub fn digest(&self, key: &[u8]) -> Option<Digest> {
        if !self.is_slow() {
            return Some(self.quick(key));
        }
        let (memory, passes) = ARGON2;
        let params = Params::new(memory, passes, 1, Some(DIGEST)).ok()?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut digest = [0; DIGEST];
        argon2
            .hash_password_into(key, &self.salt, &mut digest)
            .ok()?;
        Some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_tells_keys_apart_and_every_set_has_its_own() {
        for function in [KeyHash::Sha256, KeyHash::Sha512, KeyHash::Argon2id] {
            let hasher = Hasher::new(function).expect("random bytes");
            let digest = |key: &[u8]| hasher.digest(key).expect("memory");
            assert_eq!(digest(b"k1"), digest(b"k1"), "{function:?}");
            assert_ne!(digest(b"k1"), digest(b"k2"), "{function:?}");
            let other = Hasher::new(function).expect("random bytes");
            assert_ne!(Some(digest(b"k1")), other.digest(b"k1"), "{function:?}");
        }
    }
}
