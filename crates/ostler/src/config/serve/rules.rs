//! What holds on a route beside its app: who is let in. Values that were checked; each is made of the keys of one
//! section.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::schema::KEY_FILE;
use super::shape::DraftRules;
use super::source::clean;

/// The rules of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    pub access: Access,
}

/// Who is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Where the API keys are; `None`: nobody is asked for one.
    pub keys: Option<KeySource>,
}

/// Where API keys come from. Both sources together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeySource {
    /// Absolute.
    pub file: Option<PathBuf>,
    /// The file was named: then it must be there.
    pub named: bool,
    /// Name of the environment variable.
    pub variable: String,
    pub hash: KeyHash,
}

/// What is kept of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyHash {
    Sha256,
    Sha512,
    Argon2id,
}

impl Rules {
    /// `source` is the project's folder.
    pub fn of(draft: &DraftRules, source: &Path) -> Self {
        Self {
            access: Access {
                keys: keys(draft, source),
            },
        }
    }
}

fn keys(draft: &DraftRules, source: &Path) -> Option<KeySource> {
    if !draft.is("access", "keys") {
        return None;
    }
    let file = draft.text("access", "key_file");
    Some(KeySource {
        file: Some(clean(&source.join(file.unwrap_or(KEY_FILE)))),
        named: file.is_some(),
        variable: draft
            .text("access", "key_variable")
            .unwrap_or("API_KEYS")
            .to_owned(),
        hash: match draft.text("access", "key_hash") {
            Some("sha512") => KeyHash::Sha512,
            Some("argon2id") => KeyHash::Argon2id,
            _ => KeyHash::Sha256,
        },
    })
}
