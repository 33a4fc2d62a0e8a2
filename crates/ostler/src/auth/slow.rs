//! Work that takes a core for milliseconds, for callers who have proved nothing: one at a time, in a short line.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// At once: whoever floods us with wrong passwords gets one core, never all of them.
const AT_ONCE: usize = 1;

/// Most callers in line, those who are served included: at 20 ms each the last one waits for two thirds of a second.
const LINE: usize = 32;

/// The line is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// The line for slow work of one server.
#[derive(Debug)]
pub struct SlowLine {
    turns: Semaphore,
    waiting: AtomicUsize,
}

impl Default for SlowLine {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// A place in the line, left when it is dropped.
struct Place<'l>(&'l AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SlowLine {
    /// Runs `work` on a thread that may take its time.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _place = Place(&self.waiting);
        if before >= LINE {
            return Err(Busy);
        }
        let _turn = self.turns.acquire().await.map_err(|_| Busy)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, PoisonError};

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
                    tokio::spawn(async move { line.run(work).await })
                })
                .collect();
            while line.waiting.load(Ordering::Relaxed) < LINE {
                tokio::task::yield_now().await;
            }
            assert_eq!(line.run(|| ()).await, Err(Busy));
            drop(open);
            for task in tasks {
                assert_eq!(task.await.expect("no panic"), Ok(()));
            }
            assert_eq!(line.run(|| 7).await, Ok(7));
        });
    }
}
