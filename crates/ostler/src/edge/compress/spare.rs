//! The encoders of one edge thread: how many there may be, and which are kept for the next body.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::engine::{Effort, Engine, Failed};
use crate::edge::h1::coding::Coding;
use crate::edge::lock;

/// Bodies that one edge thread codes at the same time. An engine takes 1.6 MiB at most, so this is 50 MiB; who comes
/// when all are in use gets the body as it is. Only answers that come in parts hold one for longer than a moment.
const MOST: usize = 32;

/// Engines of each coding that are kept while nobody needs them: making one costs as much as coding 20 KB.
const KEPT: usize = 2;

/// The encoders of one edge thread.
#[derive(Default)]
pub struct Spare {
    /// Guards what is free and how many are in use; held for a few instructions.
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    /// By [`Coding::index`].
    free: [Vec<Engine>; 3],
    in_use: usize,
}

/// An engine that codes one body.
pub struct Encoder {
    /// There until it is dropped.
    engine: Option<Engine>,
    coding: Coding,
    home: Arc<Spare>,
    /// What came out last.
    out: Vec<u8>,
    /// Bytes went in that may not have come out.
    holds: bool,
    begun: bool,
}

impl Spare {
    /// An encoder, unless all that there may be are in use.
    pub fn take(self: &Arc<Self>, coding: Coding) -> Option<Encoder> {
        let mut inside = lock(&self.inside);
        if inside.in_use >= MOST {
            return None;
        }
        let free = inside.free[coding.index()].pop();
        let engine = match free {
            Some(engine) => engine,
            None => Engine::new(coding, Effort::Each).ok()?,
        };
        inside.in_use += 1;
        Some(Encoder {
            engine: Some(engine),
            coding,
            home: Arc::clone(self),
            out: Vec::new(),
            holds: false,
            begun: false,
        })
    }
}

impl Encoder {
    /// Takes bytes of the body and gives what came out.
    pub fn write(&mut self, bytes: &[u8]) -> Result<&[u8], Failed> {
        self.holds |= !bytes.is_empty();
        self.begun = true;
        self.step(|engine, out| engine.write(bytes, out))
    }

    /// Whether something of what went in has yet to come out.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Gives what it holds.
    pub fn flush(&mut self) -> Result<&[u8], Failed> {
        self.holds = false;
        self.step(Engine::flush)
    }

    /// Gives the rest of the body.
    pub fn finish(&mut self) -> Result<&[u8], Failed> {
        (self.holds, self.begun) = (false, false);
        self.step(Engine::finish)
    }

    fn step(
        &mut self,
        work: impl FnOnce(&mut Engine, &mut Vec<u8>) -> Result<(), Failed>,
    ) -> Result<&[u8], Failed> {
        self.out.clear();
        work(self.engine.as_mut().ok_or(Failed)?, &mut self.out)?;
        Ok(&self.out)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let mut engine = self.engine.take();
        if self.begun {
            engine = engine.take_if(|engine| engine.reset().is_ok());
        }
        let mut inside = lock(&self.home.inside);
        inside.in_use -= 1;
        let free = &mut inside.free[self.coding.index()];
        if free.len() < KEPT {
            free.extend(engine);
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({:?})", self.coding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_they_come_back() {
        let spare = Arc::new(Spare::default());
        let mut taken: Vec<_> = (0..MOST).map_while(|_| spare.take(Coding::Gzip)).collect();
        assert_eq!(taken.len(), MOST);
        assert!(spare.take(Coding::Zstd).is_none(), "all together");
        let whole = taken[0].finish().expect("memory").to_vec();
        // One that was left in the middle of a body begins anew.
        let _ = taken[1].write(b"half of a body").expect("memory");
        taken.truncate(1);
        let mut again = spare.take(Coding::Gzip).expect("there is one");
        assert_eq!(again.finish().expect("memory"), whole);
        drop(taken);
        drop(again);
        let inside = lock(&spare.inside);
        assert_eq!((inside.in_use, inside.free[2].len()), (0, KEPT));
    }
}
