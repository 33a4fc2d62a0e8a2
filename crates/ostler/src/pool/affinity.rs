//! Which worker holds which Socket.IO session: its later requests must reach the same one.
//!
//! An Engine.IO session lives in the memory of the worker that opened it. Its id is in the first
//! reply and in the query of every request after it (`?EIO=4&transport=polling&sid=…`), so nothing
//! has to be configured and no cookie is set.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::supervise::WorkerId;

/// What a request says of the session it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session<'r> {
    /// Any worker may serve it.
    None,
    /// It opens a session, which the reply will name.
    Opens,
    /// It belongs to this one.
    Of(&'r [u8]),
}

/// Sessions that each half of the memory holds: at 200 bytes, 13 MiB for both.
const HALF: usize = 32 * 1024;

/// Longest id, in bytes. python-engineio's and engine.io's have 20.
const LONGEST: usize = 64;

/// Sessions by id. The least recently used are forgotten: once the younger half is full, it becomes
/// the older one, whose sessions move back when they are asked for.
#[derive(Debug, Default)]
pub struct Affinity {
    /// Guards both halves.
    sessions: Mutex<Halves>,
}

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<Box<[u8]>, WorkerId>,
    old: HashMap<Box<[u8]>, WorkerId>,
}

impl Affinity {
    fn sessions(&self) -> MutexGuard<'_, Halves> {
        // A panic while it is held leaves two maps.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers who opened a session.
    pub fn learn(&self, session: &[u8], worker: WorkerId) {
        if session.len() <= LONGEST {
            self.sessions().insert(session.into(), worker);
        }
    }

    /// Who opened it.
    pub fn worker(&self, session: &[u8]) -> Option<WorkerId> {
        let mut sessions = self.sessions();
        if let Some(worker) = sessions.young.get(session) {
            return Some(*worker);
        }
        let (session, worker) = sessions.old.remove_entry(session)?;
        sessions.insert(session, worker);
        Some(worker)
    }
}

impl Halves {
    fn insert(&mut self, session: Box<[u8]>, worker: WorkerId) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(session, worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_sessions_outlive_unused_ones() {
        let affinity = Affinity::default();
        affinity.learn(b"used", WorkerId(1));
        affinity.learn(b"unused", WorkerId(2));
        for round in 0..4 {
            for number in 0..HALF as u32 / 2 {
                affinity.learn(format!("{round} {number}").as_bytes(), WorkerId(3));
            }
            assert_eq!(affinity.worker(b"used"), Some(WorkerId(1)), "{round}");
        }
        assert_eq!(affinity.worker(b"unused"), None);
        let sessions = affinity.sessions();
        assert!(sessions.young.len() <= HALF && sessions.old.len() <= HALF);
    }

    #[test]
    fn an_endless_id_is_not_remembered() {
        let affinity = Affinity::default();
        affinity.learn(&[b'a'; 65], WorkerId(1));
        assert_eq!(affinity.worker(&[b'a'; 65]), None);
    }
}
