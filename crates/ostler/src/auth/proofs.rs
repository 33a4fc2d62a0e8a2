//! Who has shown a good key or password, and who is about to: whoever shows the same meanwhile waits for the one
//! outcome. A page that is opened right after a start comes with dozens of requests, and the slow function runs once.
//! It must not know what the function is.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;

use super::hash::Digest;
use super::slow::{Busy, SlowLine, Turn};

/// Whose it is, when it is anybody's.
type Found = Option<Arc<str>>;

/// The slow function, with all that it is about.
type Work = Box<dyn FnOnce() -> Result<Found, Busy> + Send>;

/// What was shown of one set of keys or users, by its quick digest.
#[derive(Default)]
pub struct Proofs {
    /// What was found good. Never more than there are keys or users. Guards the map alone.
    proven: RwLock<HashMap<Digest, Arc<str>>>,
    /// What is being found out, with an end of it that tells: never more than the line has places. Guards the map alone.
    under_way: Mutex<HashMap<Digest, watch::Receiver<Option<Found>>>>,
}

/// What is known of something that was shown.
pub enum Proof {
    Known(Found),
    /// It is for the one who has asked to find out, now: nobody else has a turn.
    Open(Trial),
}

/// A turn to find out whose it is. Others who have shown the same wait for it to run or to be dropped.
pub struct Trial {
    work: Option<Work>,
    claim: Claim,
    turn: Turn,
}

/// Whoever has this finds out for all others.
struct Claim {
    proofs: Arc<Proofs>,
    quick: Digest,
    tell: watch::Sender<Option<Found>>,
}

impl Proofs {
    /// What was found good before.
    pub fn known(&self, quick: &Digest) -> Found {
        let proven = self.proven.read().unwrap_or_else(PoisonError::into_inner);
        proven.get(quick).map(Arc::clone)
    }

    /// Nothing was found good yet.
    pub fn is_empty(&self) -> bool {
        let proven = self.proven.read().unwrap_or_else(PoisonError::into_inner);
        proven.is_empty()
    }

    /// Waits for what another finds out about the same, or for a turn to do so.
    ///
    /// # Errors
    /// Too many wait for a turn.
    pub async fn of(
        self: &Arc<Self>,
        quick: Digest,
        line: &Arc<SlowLine>,
        work: impl FnOnce() -> Result<Found, Busy> + Send + 'static,
    ) -> Result<Proof, Busy> {
        loop {
            let mut told = match self.claim(quick) {
                Err(told) => told,
                Ok(claim) => {
                    // Between a look of who asks and the claim another may have found it.
                    if let Some(user) = self.known(&quick) {
                        return Ok(Proof::Known(Some(user)));
                    }
                    let turn = line.turn().await?;
                    let work: Option<Work> = Some(Box::new(work));
                    return Ok(Proof::Open(Trial { work, claim, turn }));
                }
            };
            if let Ok(found) = told.wait_for(Option::is_some).await {
                return Ok(Proof::Known(found.clone().flatten()));
            }
            // It was dropped: who had the turn may guess no more, or the line was full. That holds for nobody else.
        }
    }

    /// The right to find out, or what tells what another finds out.
    fn claim(self: &Arc<Self>, quick: Digest) -> Result<Claim, watch::Receiver<Option<Found>>> {
        let mut under_way = self.under_way();
        if let Some(told) = under_way.get(&quick) {
            return Err(told.clone());
        }
        let (tell, told) = watch::channel(None);
        under_way.insert(quick, told);
        let proofs = Arc::clone(self);
        Ok(Claim {
            proofs,
            quick,
            tell,
        })
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<Option<Found>>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trial {
    /// Runs the slow function, once, and tells everybody. The turn lasts until this is dropped.
    ///
    /// # Errors
    /// There is no memory for it.
    pub async fn run(&mut self) -> Result<Found, Busy> {
        let found = self.turn.run(self.work.take().ok_or(Busy)?).await??;
        let Claim {
            proofs,
            quick,
            tell,
        } = &self.claim;
        if let Some(user) = &found {
            let mut proven = proofs
                .proven
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            proven.insert(*quick, Arc::clone(user));
        }
        tell.send_replace(Some(found.clone()));
        Ok(found)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.proofs.under_way().remove(&self.quick);
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known(_) => "Known",
            Self::Open(_) => "Open",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Asks as often as that at once, each as the edge does; the outcomes, and how often the function ran.
    fn ask(times: usize, found: Option<&'static str>, dropped: usize) -> (Vec<Found>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let (proofs, line) = (Arc::<Proofs>::default(), Arc::<SlowLine>::default());
        let (ran, drops) = (
            Arc::<AtomicUsize>::default(),
            Arc::new(AtomicUsize::new(dropped)),
        );
        let asked = async {
            let tasks = (0..times).map(|_| {
                let (proofs, line) = (Arc::clone(&proofs), Arc::clone(&line));
                let (ran, drops) = (Arc::clone(&ran), Arc::clone(&drops));
                tokio::spawn(async move {
                    let work = move || {
                        ran.fetch_add(1, Ordering::Relaxed);
                        Ok(found.map(Into::into))
                    };
                    match proofs.of([7; 32], &line, work).await.expect("room") {
                        Proof::Known(found) => found,
                        Proof::Open(_) if drops.load(Ordering::Relaxed) > 0 => {
                            drops.fetch_sub(1, Ordering::Relaxed);
                            None
                        }
                        Proof::Open(mut trial) => trial.run().await.expect("memory"),
                    }
                })
            });
            let mut outcomes = Vec::new();
            for task in tasks.collect::<Vec<_>>() {
                outcomes.push(task.await.expect("no panic"));
            }
            outcomes
        };
        let outcomes = runtime.expect("a runtime").block_on(asked);
        assert!(proofs.under_way().is_empty());
        assert_eq!(proofs.known(&[7; 32]).as_deref(), found);
        (outcomes, ran.load(Ordering::Relaxed))
    }

    #[test]
    fn the_same_is_found_out_once_for_all_who_show_it() {
        let (outcomes, ran) = ask(1000, Some("ada"), 0);
        assert!(outcomes.iter().all(|user| user.as_deref() == Some("ada")));
        assert_eq!(ran, 1);
        let (outcomes, ran) = ask(1000, None, 0);
        assert!(outcomes.iter().all(Option::is_none));
        assert_eq!(ran, 1);
    }

    #[test]
    fn who_may_not_try_leaves_the_turn_to_the_next() {
        let (outcomes, ran) = ask(20, Some("ada"), 3);
        let good = outcomes.iter().filter(|user| user.is_some()).count();
        assert_eq!((good, ran), (17, 1));
    }
}
