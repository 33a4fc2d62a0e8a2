//! The upstreams of a route: one of them is chosen for each request, or waited for in a line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::config::serve::Upstreams;

use super::budget::Budget;
use super::choice::{Candidate, choose};
use super::health::Standing;
use super::one::{Link, Look, One};
use super::stream::{Stream, Trouble};

/// What requests on some routes are served by.
pub struct Group {
    pub said: Upstreams,
    /// One for each address that the names have now.
    pub(super) all: ArcSwap<Vec<Arc<One>>>,
    /// Every name was looked up once, whatever came of it.
    pub(super) looked_up: AtomicBool,
    /// Told when `looked_up` is set and when a request ends that others wait for.
    pub(super) freed: Notify,
    waiting: AtomicUsize,
    turn: AtomicUsize,
    pub(super) budget: Budget,
    /// Somebody could not connect: names are looked up anew.
    pub(super) suspect: Arc<Notify>,
    pub(super) farewell: watch::Sender<bool>,
    /// Where connections of an edge thread are kept.
    pub(super) threads: usize,
}

/// Why no upstream is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No name has an address.
    NoAddress,
    /// All say that they are not well.
    AllUnwell,
    LineFull,
}

/// A request's hold on an upstream.
pub struct Lease<'g> {
    group: &'g Group,
    one: Arc<One>,
    trial: bool,
}

impl Group {
    pub(super) fn new(said: Upstreams, threads: usize) -> Self {
        Self {
            said,
            all: ArcSwap::default(),
            looked_up: AtomicBool::new(false),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            budget: Budget::default(),
            suspect: Arc::new(Notify::new()),
            farewell: watch::Sender::new(false),
            threads,
        }
    }

    /// Leases an upstream when one has room now. `mark` is what the client's cookie says; those that were `tried` come last.
    pub fn lease_now(&self, mark: Option<&[u8]>, tried: &[Arc<One>]) -> Option<Lease<'_>> {
        match self.choose(mark, tried) {
            Chosen::One(one, trial) => Some(self.take(one, trial)),
            Chosen::None | Chosen::Unwell | Chosen::Full => None,
        }
    }

    /// As [`Group::lease_now`], but waits for one as long as the caller does.
    pub async fn lease(
        &self,
        mark: Option<&[u8]>,
        tried: &[Arc<One>],
    ) -> Result<Lease<'_>, Refused> {
        let mut place: Option<Place<'_>> = None;
        loop {
            // Before the look, so that what ends in between is not missed.
            let freed = self.freed.notified();
            match self.choose(mark, tried) {
                Chosen::One(one, trial) => return Ok(self.take(one, trial)),
                Chosen::None if self.looked_up.load(Ordering::Acquire) => {
                    return Err(Refused::NoAddress);
                }
                Chosen::Unwell => return Err(Refused::AllUnwell),
                Chosen::None | Chosen::Full => {}
            }
            if place.is_none() {
                place = Some(Place::last(self).ok_or(Refused::LineFull)?);
                // Who ended before the place was there has told nobody.
                continue;
            }
            freed.await;
        }
    }

    fn take(&self, one: Arc<One>, trial: bool) -> Lease<'_> {
        one.in_flight.fetch_add(1, Ordering::Relaxed);
        one.requests.fetch_add(1, Ordering::Relaxed);
        if trial {
            one.begin_trial();
        }
        Lease {
            group: self,
            one,
            trial,
        }
    }

    fn choose(&self, mark: Option<&[u8]>, tried: &[Arc<One>]) -> Chosen {
        let all = self.all.load();
        if all.is_empty() {
            return Chosen::None;
        }
        // A second try takes no other request's turn.
        let turn = match tried {
            [] => self.turn.fetch_add(1, Ordering::Relaxed),
            _ => self.turn.load(Ordering::Relaxed),
        };
        let was_tried = |one: &Arc<One>| tried.iter().any(|other| Arc::ptr_eq(one, other));
        if let Some(mark) = mark
            && let Some(one) = all.iter().find(|one| one.mark.as_bytes() == mark)
            && one.standing() == Standing::In
            && !was_tried(one)
        {
            // It waits for this one, and no other has its session.
            return match self.has_room(one) {
                true => Chosen::One(Arc::clone(one), false),
                false => Chosen::Full,
            };
        }
        let pick = |wanted: &dyn Fn(&Arc<One>, Standing) -> bool| {
            let candidates = all.iter().map(|one| {
                let fits = self.has_room(one) && wanted(one, one.standing());
                fits.then(|| Candidate {
                    load: one.in_flight.load(Ordering::Relaxed),
                    weight: one.weight,
                })
            });
            choose(candidates, turn, all.len()).map(|index| &all[index])
        };
        let well = |standing| matches!(standing, Standing::In | Standing::Trial);
        let found = pick(&|one, standing| well(standing) && !was_tried(one))
            .or_else(|| pick(&|one, standing| standing == Standing::Out && !was_tried(one)))
            .or_else(|| pick(&|_, standing| well(standing)))
            .or_else(|| pick(&|_, standing| standing == Standing::Out));
        match found {
            Some(one) => Chosen::One(Arc::clone(one), one.standing() == Standing::Trial),
            None if all.iter().all(|one| one.standing() == Standing::Unwell) => Chosen::Unwell,
            None => Chosen::Full,
        }
    }

    fn has_room(&self, one: &One) -> bool {
        one.in_flight.load(Ordering::SeqCst) < self.said.most
    }

    /// A request is here that may be sent.
    pub fn earn(&self) {
        self.budget.earn();
    }

    /// A request may be sent again that did not fail for want of a connection.
    pub fn may_retry(&self) -> bool {
        self.budget.spend()
    }

    /// Resolves when upgraded connections are to end.
    pub fn farewell(&self) -> impl Future<Output = ()> + use<> {
        let mut told = self.farewell.subscribe();
        async move {
            if told.wait_for(|told| *told).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn say_farewell(&self) {
        self.farewell.send_replace(true);
    }

    pub fn look(&self) -> Vec<Look> {
        self.all.load().iter().map(|one| one.look()).collect()
    }
}

enum Chosen {
    One(Arc<One>, bool),
    /// There is none.
    None,
    Unwell,
    /// All have as much as they may.
    Full,
}

/// A place in the line.
struct Place<'g>(&'g Group);

impl<'g> Place<'g> {
    /// `None` when the line is full.
    fn last(group: &'g Group) -> Option<Self> {
        // What follows looks at `in_flight`, and who ends looks here afterwards: one of the two must see the other.
        let waiting = group.waiting.fetch_add(1, Ordering::SeqCst);
        let place = Self(group);
        (waiting < group.said.line_length).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease<'_> {
    pub fn group(&self) -> &Group {
        self.group
    }

    pub fn one(&self) -> &Arc<One> {
        &self.one
    }

    /// An idle connection, if there is one `now`. `surely`: the request cannot be sent twice.
    pub fn idle(&self, thread: usize, now: Instant, surely: bool) -> Option<Link> {
        let age = self.group.said.keepalive_time;
        self.one.reuse(thread, age, now, surely)
    }

    pub async fn connect(&self) -> Result<Link, Trouble> {
        self.one.connect().await
    }

    /// No connection was had.
    pub fn unreachable(&mut self, why: &str) {
        self.group.suspect.notify_one();
        self.failed(why);
    }

    pub fn failed(&mut self, why: &str) {
        self.trial = false;
        self.one.failed(why);
    }

    /// It was answered; `stream` can carry another request.
    pub fn succeeded(&mut self, stream: Option<Stream>, thread: usize) {
        self.trial = false;
        self.one.succeeded();
        if let Some(stream) = stream {
            self.one.keep(stream, thread, self.group.said.keepalive);
        }
    }

    /// How long a connection may take.
    pub fn patience(&self) -> Duration {
        self.group.said.connect
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.one.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.trial {
            self.one.end_trial();
        }
        if self.group.waiting.load(Ordering::SeqCst) > 0 {
            match self.group.said.sticky {
                None => self.group.freed.notify_one(),
                // One of them may wait for this upstream and no other.
                Some(_) => self.group.freed.notify_waiters(),
            }
        }
    }
}
