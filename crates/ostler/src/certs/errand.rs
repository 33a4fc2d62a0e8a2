//! The shell around one job: performs its actions one at a time and feeds back what came of them.
//! Decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};

use super::answers;
use super::ca::Session;
use super::keys;
use super::names::Names;
use super::precheck;
use super::shared::{Row, Shared};
use super::state::{Action, Event, Job, Proof, Say, Trouble, Whose};
use crate::config::serve::Challenge;

/// The longest sleep: a clock that was set, or a machine that was suspended, is noticed by then.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// One action may take this long. The CA's own answers and hook programs have limits below it.
const LONGEST_ACTION: Duration = Duration::from_secs(600);

/// Nonces may be refused this often in one action before the CA counts as broken. instant-acme asks
/// three times by itself, and an action may be a request for each of a hundred names.
const MOST_NONCES: u32 = 200;

/// Before the next try after a refused nonce, for each that was refused in the same action.
const NONCE_PAUSE: Duration = Duration::from_millis(10);

/// The CA may ask us to look again later than we would, up to this.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// A job and what its actions need.
pub struct Errand {
    shared: Arc<Shared>,
    challenge: Challenge,
    job: Job,
    todo: VecDeque<Action>,
    /// Open while an attempt is under way.
    session: Option<Session>,
}

impl Errand {
    /// A job that goes on from what is on disk.
    pub fn open(shared: Arc<Shared>, names: Names, challenge: Challenge) -> Self {
        let record = shared.disk.record(&names).unwrap_or_else(|error| {
            tracing::warn!(%error, "the order of {names} is begun anew");
            None
        });
        let held = shared.installed(&names).map(|(_, held)| held);
        let now = SystemTime::now();
        let job = Job::restore(names, record, held, shared.pace, now);
        let errand = Self {
            shared,
            challenge,
            job,
            todo: VecDeque::new(),
            session: None,
        };
        errand.tell();
        errand
    }

    /// Keeps the certificate, for as long as this is polled.
    pub async fn run(mut self) {
        loop {
            let now = SystemTime::now();
            let look = self.job.next_look().unwrap_or(now);
            match look.duration_since(now) {
                Ok(wait) if !wait.is_zero() => sleep(wait.min(LONGEST_SLEEP)).await,
                _ => {
                    let shared = Arc::clone(&self.shared);
                    // Closed never.
                    let _turn = shared.turns.acquire().await;
                    self.attempt().await;
                }
            }
        }
    }

    /// Looks at the time, and goes through an attempt if one is due.
    pub async fn attempt(&mut self) {
        self.feed(Event::Tick);
        while self.act().await {}
        self.session = None;
    }

    /// Performs the next action, if there is one.
    pub async fn act(&mut self) -> bool {
        let Some(action) = self.todo.pop_front() else {
            return false;
        };
        match self.perform_in_time(&action).await {
            Ok(None) => {}
            Ok(Some(event)) => self.feed(event),
            Err(trouble) => {
                self.todo.clear();
                // What its answers were is not known: the next attempt asks anew.
                self.session = None;
                if !self.job.busy() {
                    // The end of an attempt: nothing is left that could fail.
                    tracing::error!("{}: {trouble}", self.job.names());
                }
                self.feed(Event::Failed(trouble));
            }
        }
        true
    }

    async fn perform_in_time(&mut self, action: &Action) -> Result<Option<Event>, Trouble> {
        let performing = async {
            let mut refused = 0;
            loop {
                match self.perform(action.clone()).await {
                    Err(trouble) if trouble.nonce && refused < MOST_NONCES => refused += 1,
                    done => return done,
                }
                sleep(NONCE_PAUSE * refused).await;
            }
        };
        let late = || Trouble::new(Whose::Ca, "one step took more than ten minutes");
        let done = timeout(LONGEST_ACTION, performing).await;
        done.unwrap_or_else(|_| Err(late()))
    }

    pub fn feed(&mut self, event: Event) {
        let (job, actions) = self.job.clone().step(event, SystemTime::now());
        self.job = job;
        self.todo.extend(actions);
        self.tell();
    }

    fn tell(&self) {
        let job = &self.job;
        self.shared.tell(
            job.names(),
            Row {
                state: job.words(),
                held: job.held().copied(),
                error: job.failing().map(|failing| failing.text.clone()),
                next: (!job.busy()).then(|| job.due()),
            },
        );
    }

    async fn perform(&mut self, action: Action) -> Result<Option<Event>, Trouble> {
        let names = self.job.names().clone();
        let shared = Arc::clone(&self.shared);
        Ok(match action {
            Action::Save(record) => {
                shared
                    .on_disk(move |disk| disk.save_record(&record))
                    .await?;
                None
            }
            Action::Check => {
                for unclear in precheck::check(&shared, &names, self.challenge).await? {
                    tracing::warn!("{unclear}");
                }
                Some(Event::Checked)
            }
            Action::Reserve { .. } => {
                let held = self.job.held().copied();
                let life = held.map(|held| {
                    let life = held.not_after.duration_since(held.not_before);
                    life.unwrap_or_default()
                });
                shared.reserve(names, life).await?;
                Some(Event::Granted)
            }
            Action::Order { replaces } => {
                let held = shared.disk.certificate(&names).ok().flatten();
                let held = held.filter(|_| replaces);
                let profile = shared.settings.acme.profile.clone();
                let session = self.session().await?;
                let order = session.new_order(&names, held.as_deref(), profile.as_deref());
                let url = order.await?;
                Some(Event::Ordered { url })
            }
            Action::Read { order } => {
                let challenge = self.challenge;
                let view = self.session().await?.read(&order, challenge).await?;
                Some(Event::Seen(view))
            }
            Action::Present(proofs) => {
                self.present(&proofs).await?;
                Some(Event::Presented)
            }
            Action::Announce { order } => {
                let challenge = self.challenge;
                self.session().await?.announce(&order, challenge).await?;
                Some(Event::Announced)
            }
            Action::Look { order, after } => {
                let session = self.session().await?;
                let asked = session.retry_after().and_then(|time| {
                    let wait = time.duration_since(SystemTime::now());
                    wait.ok()
                });
                sleep(after.max(asked.unwrap_or_default().min(LONGEST_LOOK))).await;
                Some(Event::Seen(session.look(&order).await?))
            }
            Action::Withdraw(proofs) => {
                self.withdraw(&proofs).await;
                None
            }
            Action::MakeKey => {
                let pem = keys::generate(shared.settings.acme.key).map_err(|error| {
                    let text = format!("cannot make a private key: {error}");
                    Trouble::new(Whose::Operator, text)
                })?;
                Some(Event::KeyMade { pem })
            }
            Action::Count => {
                let renewal = self.job.held().is_some();
                shared
                    .spend(move |budget, now| budget.certificate(&names, renewal, now))
                    .await?;
                None
            }
            Action::Finalize { order, key } => {
                let request = keys::signing_request(&names, &key).map_err(|error| {
                    let text = format!("cannot sign with the private key of the order: {error}");
                    Trouble::new(Whose::Order, text)
                })?;
                let session = self.session().await?;
                Some(Event::Seen(session.finalize(&order, &request).await?))
            }
            Action::Fetch { order } => {
                let pem = self.session().await?.chain(&order).await?;
                Some(Event::Chain { pem })
            }
            Action::Install { key, chain } => {
                let held = shared.install(names, &key, &chain).await?;
                Some(Event::Installed(held))
            }
            Action::AskWindow => Some(self.ask_window(&names).await),
            Action::Blame => {
                shared
                    .spend(move |budget, now| budget.refusal(&names, now))
                    .await?;
                None
            }
            Action::ForgetAccount => {
                shared.on_disk(|disk| disk.forget_account()).await?;
                None
            }
            Action::Say(say) => {
                log(&names, &say);
                None
            }
        })
    }

    async fn session(&mut self) -> Result<&mut Session, Trouble> {
        if self.session.is_none() {
            let shared = &self.shared;
            // One at a time, so that there is one account.
            let _alone = shared.account.acquire().await;
            let tls = Arc::clone(&shared.tls);
            let session = Session::open(&shared.settings, &shared.disk, tls).await?;
            self.session = Some(session);
        }
        let none = || Trouble::new(Whose::Ca, "no session with the CA");
        self.session.as_mut().ok_or_else(none)
    }

    async fn present(&self, proofs: &[Proof]) -> Result<(), Trouble> {
        for proof in proofs {
            answers::present(&self.shared, self.challenge, proof).await?;
        }
        Ok(())
    }

    async fn withdraw(&self, proofs: &[Proof]) {
        for proof in proofs {
            if let Err(trouble) = answers::withdraw(&self.shared, self.challenge, proof).await {
                tracing::warn!("{}: the answer to a challenge stays: {trouble}", proof.name);
            }
        }
    }

    /// A CA that does not say is asked again as if it had none.
    async fn ask_window(&mut self, names: &Names) -> Event {
        let now = SystemTime::now();
        let none = Event::Window {
            window: None,
            ask: now + Duration::from_secs(6 * 3600),
        };
        let Ok(Some(pem)) = self.shared.disk.certificate(names) else {
            return none;
        };
        let asked = match self.session().await {
            Ok(session) => session.window(&pem).await,
            Err(trouble) => Err(trouble),
        };
        match asked {
            Ok((window, ask)) => Event::Window { window, ask },
            Err(trouble) => {
                tracing::debug!("{names}: when to renew is not known: {trouble}");
                none
            }
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        for proof in self.job.proofs() {
            answers::forget(&self.shared, self.challenge, proof);
        }
    }
}

fn log(names: &Names, say: &Say) {
    match say {
        Say::Ordering => tracing::info!("{names}: ordering a certificate"),
        Say::Resuming => tracing::info!("{names}: going on with an order"),
        Say::Issued { days } => {
            tracing::info!("{names}: there is a new certificate, valid for {days} days");
        }
        Say::Failed {
            trouble,
            next,
            days,
        } => {
            let wait = next.duration_since(SystemTime::now()).unwrap_or_default();
            let minutes = wait.as_secs().div_ceil(60);
            match days {
                Some(days @ 14..) => tracing::warn!(
                    "{names}: no new certificate: {trouble}; the one in use has {days} days; next attempt in {minutes} min"
                ),
                Some(days) => tracing::error!(
                    "{names}: no new certificate: {trouble}; the one in use has only {days} days; next attempt in {minutes} min"
                ),
                None => tracing::error!(
                    "{names}: no certificate: {trouble}; next attempt in {minutes} min"
                ),
            }
        }
    }
}
