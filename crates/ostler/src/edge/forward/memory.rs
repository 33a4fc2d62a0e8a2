//! Memory that an exchange needs for moments only: each thread keeps one piece for the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are kept; a piece that grew larger is given back.
const KEEP: usize = 128 * 1024;

/// One spare piece of memory of a thread.
#[derive(Debug, Default)]
pub struct Memory {
    /// Guards the piece; other threads have their own.
    piece: Mutex<Vec<u8>>,
}

impl Memory {
    /// The piece, or an empty one while somebody has it.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.lock())
    }

    /// Keeps a piece without what is in it.
    pub fn give_back(&self, mut piece: Vec<u8>) {
        piece.clear();
        let mut kept = self.lock();
        if piece.capacity() > kept.capacity() && piece.capacity() <= KEEP {
            *kept = piece;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.piece.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_kept_and_nothing_of_what_was_in_it() {
        let memory = Memory::default();
        memory.give_back(b"a secret".to_vec());
        let piece = memory.take();
        assert!(piece.is_empty() && piece.capacity() >= 8);
        assert_eq!(memory.take().capacity(), 0);
        memory.give_back(Vec::with_capacity(KEEP + 1));
        assert_eq!(memory.take().capacity(), 0);
    }
}
