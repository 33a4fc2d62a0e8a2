//! Work that takes a core for milliseconds, for callers who have proved nothing: one at a time, in a short line.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// At once: whoever floods us with wrong passwords gets one core, never all of them.
const AT_ONCE: usize = 1;

/// Most things in line that are to be found out, that under way included: at 20 ms each the last one waits for two
/// thirds of a second. Who shows the same as another takes no place.
const LINE: usize = 32;

/// The line is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// The line for slow work of one server.
#[derive(Debug)]
pub struct SlowLine {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for SlowLine {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// A place in the line, left when it is dropped.
struct Place(Arc<SlowLine>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nobody else has one of these; left when it is dropped, and what it runs has ended.
pub struct Turn {
    permit: Arc<OwnedSemaphorePermit>,
    _place: Place,
}

impl SlowLine {
    /// Waits in line.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn turn(self: &Arc<Self>) -> Result<Turn, Busy> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        if before >= LINE {
            return Err(Busy);
        }
        let permit = Arc::clone(&self.turns).acquire_owned().await;
        Ok(Turn {
            permit: Arc::new(permit.map_err(|_| Busy)?),
            _place: place,
        })
    }
}

impl Turn {
    /// Runs `work` on a thread that may take its time.
    ///
    /// # Errors
    /// It could not be run to its end.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let permit = Arc::clone(&self.permit);
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            // As long as the core is taken, whoever has stopped waiting.
            drop(permit);
            done
        });
        working.await.map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    #[test]
    fn a_line_that_is_full_refuses_and_empties_again() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().expect("a runtime");
        runtime.block_on(async {
            let line = Arc::new(SlowLine::default());
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let gate = Arc::new(Mutex::new(gate));
            let tasks: Vec<_> = (0..LINE)
                .map(|_| {
                    let (line, gate) = (Arc::clone(&line), Arc::clone(&gate));
                    let work = move || {
                        let _opened = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    };
                    tokio::spawn(async move { line.turn().await?.run(work).await })
                })
                .collect();
            while line.waiting.load(Ordering::Relaxed) < LINE {
                tokio::task::yield_now().await;
            }
            assert_eq!(line.turn().await.err(), Some(Busy));
            drop(open);
            for task in tasks {
                assert_eq!(task.await.expect("no panic"), Ok(()));
            }
            let turn = line.turn().await.expect("room");
            assert_eq!(turn.run(|| 7).await, Ok(7));
        });
    }
}
