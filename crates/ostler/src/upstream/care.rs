//! What goes on beside the requests: names are looked up again and again, upstreams are asked how they are, and
//! connections that nobody uses are closed. Off the edge threads.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::hmac;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::serve::{Address, Target, Upstreams};

use super::check;
use super::group::Group;
use super::health::Rule;
use super::one::{One, Place};
use super::stream::Tls;

/// How often names are looked up: as often as Docker's and Kubernetes' DNS expects (TTLs of 5 to 30 s).
const LOOK_UP: Duration = Duration::from_secs(10);

/// Who cannot connect has them looked up at once, but not more often than this.
const BETWEEN: Duration = Duration::from_secs(1);

/// What one look-up may take; resolvers themselves take up to 10 s for two tries.
const ANSWER: Duration = Duration::from_secs(12);

/// Look-ups at a time: each has a thread of its own while it waits.
pub const LOOK_UPS: usize = 4;

/// Addresses of one name that are used: more than any DNS answer of 512 bytes has.
const MOST_ADDRESSES: usize = 30;

/// Idle connections are looked through this often.
const SWEEP: Duration = Duration::from_secs(2);

/// All groups that are in use.
pub struct Caretaker {
    /// Guards the map alone: it is touched when sites are made and when somebody asks.
    groups: Mutex<HashMap<Kind, Weak<Group>>>,
    look_ups: Arc<Semaphore>,
    /// Cookies tell upstreams apart by what this makes of their addresses.
    marks: hmac::Key,
}

/// Groups with the same are one.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    project: String,
    said: Upstreams,
    /// The text of the file with the authorities.
    ca: Option<String>,
}

impl Caretaker {
    /// Cookies made with the same `marks` name the same upstreams.
    pub fn new(marks: &[u8; 32]) -> Self {
        Self {
            groups: Mutex::default(),
            look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
            marks: hmac::Key::new(hmac::HMAC_SHA256, marks),
        }
    }

    /// The group that `said` means: the one that is there already, with its connections and what is known of its
    /// upstreams, or a new one that is looked after from now on. Called within the runtime that does that. `tls` makes
    /// what certificates are checked with of the text in `ca`.
    ///
    /// # Errors
    /// Those of `tls`, and a name that no certificate can have.
    pub fn open(
        &self,
        said: &Upstreams,
        project: &str,
        ca: Option<String>,
        tls: impl FnOnce(Option<&str>) -> Result<Arc<ClientConfig>, String>,
        threads: usize,
    ) -> Result<Arc<Group>, String> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, group| group.strong_count() > 0);
        let kind = Kind {
            project: project.to_owned(),
            said: said.clone(),
            ca,
        };
        if let Some(group) = groups.get(&kind).and_then(Weak::upgrade) {
            return Ok(group);
        }
        let secure = |target: &Target| matches!(target.address, Address::Tcp { tls: true, .. });
        let config = match said.targets.iter().any(secure) {
            true => Some(tls(kind.ca.as_deref())?),
            false => None,
        };
        let named = said
            .targets
            .iter()
            .map(|target| Named::new(target, said, config.as_ref()));
        let named = named.collect::<Result<Vec<_>, _>>()?;
        let group = Arc::new(Group::new(said.clone(), threads));
        groups.insert(kind, Arc::downgrade(&group));
        drop(groups);
        let care = Care {
            group: Arc::downgrade(&group),
            named,
            look_ups: Arc::clone(&self.look_ups),
            marks: self.marks.clone(),
            project: project.to_owned(),
        };
        tokio::spawn(care.run());
        if said.health.is_some() {
            tokio::spawn(ask_again_and_again(Arc::downgrade(&group)));
        }
        Ok(group)
    }

    /// Tells all upgraded connections to end.
    pub fn say_farewell(&self) {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let live = groups.values().filter_map(Weak::upgrade);
        live.for_each(|group| group.say_farewell());
    }
}

/// A target and the addresses that it had last.
struct Named {
    target: Target,
    tls: Option<Tls>,
    addresses: Vec<Place>,
    /// The last look-up failed, which was told.
    failing: bool,
}

impl Named {
    fn new(
        target: &Target,
        said: &Upstreams,
        config: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        let tls = match (&target.address, config) {
            (
                Address::Tcp {
                    tls: true, host, ..
                },
                Some(config),
            ) => {
                let name = said.tls_name.as_ref().unwrap_or(host);
                let name = name.strip_suffix('.').unwrap_or(name).to_owned();
                let parsed = ServerName::try_from(name.clone());
                let name = parsed.map_err(|_| {
                    format!("no certificate can have the name {name}; hint: set proxy.tls_name")
                })?;
                Some(Tls {
                    config: Arc::clone(config),
                    name,
                })
            }
            _ => None,
        };
        Ok(Self {
            target: target.clone(),
            tls,
            addresses: Vec::new(),
            failing: false,
        })
    }
}

/// The names and connections of one group.
struct Care {
    group: Weak<Group>,
    named: Vec<Named>,
    look_ups: Arc<Semaphore>,
    marks: hmac::Key,
    project: String,
}

impl Care {
    /// Until the group is gone.
    async fn run(mut self) {
        let Some(suspect) = self.group.upgrade().map(|group| Arc::clone(&group.suspect)) else {
            return;
        };
        let mut look_up_at = Instant::now();
        loop {
            if Instant::now() >= look_up_at {
                self.look_up().await;
                look_up_at = Instant::now() + LOOK_UP;
            }
            let earliest = look_up_at - (LOOK_UP - BETWEEN);
            match self.group.upgrade() {
                None => return,
                Some(group) => group.sweep(),
            }
            tokio::select! {
                () = sleep(SWEEP) => {}
                () = async {
                    suspect.notified().await;
                    sleep_until(earliest).await;
                } => look_up_at = Instant::now(),
            }
        }
    }

    async fn look_up(&mut self) {
        for index in 0..self.named.len() {
            let found = match &self.named[index].target.address {
                Address::Unix(path) => Ok(vec![Place::Unix(path.clone())]),
                Address::Tcp { host, port, .. } => {
                    let found = self.addresses(host.clone(), *port).await;
                    found.map(|found| found.into_iter().map(Place::Tcp).collect())
                }
            };
            self.note(index, found);
        }
        let Some(group) = self.group.upgrade() else {
            return;
        };
        let before = group.all.load_full();
        let all = self.ones(&group, &before);
        let same = all.len() == before.len()
            && all
                .iter()
                .zip(before.iter())
                .all(|(one, other)| Arc::ptr_eq(one, other));
        if !same {
            group.all.store(Arc::new(all));
        }
        group.looked_up.store(true, Ordering::Release);
        group.budget.top_up();
        group.freed.notify_waiters();
    }

    /// The last good addresses stay while there are no others.
    fn note(&mut self, index: usize, found: io::Result<Vec<Place>>) {
        let named = &mut self.named[index];
        let (project, address) = (&self.project, &named.target.address);
        match found {
            Ok(found) => {
                if named.failing {
                    tracing::info!("{project}: upstream {address} has an address again");
                }
                (named.addresses, named.failing) = (found, false);
            }
            Err(error) => {
                if !named.failing {
                    let rest = match named.addresses.is_empty() {
                        true => "requests get 502 while no upstream has an address",
                        false => "its last addresses are used",
                    };
                    tracing::warn!("{project}: upstream {address} has no address: {error}; {rest}");
                }
                named.failing = true;
            }
        }
    }

    /// One for each address; those that were there before stay as they are.
    fn ones(&self, group: &Group, before: &[Arc<One>]) -> Vec<Arc<One>> {
        let rule = Rule {
            fails: group.said.fails,
            time: group.said.fail_time,
        };
        let mut all: Vec<Arc<One>> = Vec::new();
        for named in &self.named {
            let (address, authority) = (&named.target.address, named.target.address.authority());
            for place in &named.addresses {
                let shown = match (place, address) {
                    (Place::Tcp(at), Address::Tcp { host, .. }) if at.ip().to_string() != *host => {
                        format!("{address} ({})", at.ip())
                    }
                    _ => address.to_string(),
                };
                if all.iter().any(|one| one.shown == shown) {
                    continue;
                }
                let same = before.iter().find(|one| one.shown == shown);
                all.push(same.cloned().unwrap_or_else(|| {
                    let text = format!("{}|{shown}", self.project);
                    let mark = hmac::sign(&self.marks, text.as_bytes());
                    let mark = mark.as_ref()[..12].iter().map(|byte| format!("{byte:02x}"));
                    let names = (shown, authority.clone(), mark.collect());
                    let (weight, tls) = (named.target.weight, named.tls.clone());
                    Arc::new(One::new(
                        place.clone(),
                        names,
                        weight,
                        tls,
                        rule,
                        group.threads,
                    ))
                }));
            }
        }
        all
    }

    /// At least one, in the order of their numbers: resolvers turn the list around, and the cut must not.
    async fn addresses(&self, host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let Ok(permit) = Arc::clone(&self.look_ups).acquire_owned().await else {
            return Err(io::ErrorKind::Other.into());
        };
        let asking = tokio::task::spawn_blocking(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            // As long as the thread is taken, whoever has stopped waiting.
            drop(permit);
            found.map(Iterator::collect::<Vec<_>>)
        });
        let answer = timeout(ANSWER, asking).await;
        let late = || io::Error::other("no answer in time");
        let mut found = answer.map_err(|_| late())?.map_err(|_| late())??;
        found.sort_unstable();
        found.dedup();
        found.truncate(MOST_ADDRESSES);
        match found.is_empty() {
            true => Err(io::Error::other("the name has none")),
            false => Ok(found),
        }
    }
}

impl Group {
    fn sweep(&self) {
        let all = self.all.load();
        all.iter()
            .for_each(|one| one.sweep(self.said.keepalive_time));
    }
}

/// Asks all upstreams how they are, at the interval that is configured.
async fn ask_again_and_again(group: Weak<Group>) {
    loop {
        let interval = {
            let Some(group) = group.upgrade() else { return };
            let Some(health) = &group.said.health else {
                return;
            };
            let mut asking = JoinSet::new();
            for one in group.all.load().iter().map(Arc::clone) {
                let (health, connect) = (health.clone(), group.said.connect);
                asking.spawn(async move { one.checked(check::ask(&one, &health, connect).await) });
            }
            while asking.join_next().await.is_some() {}
            match group.looked_up.load(Ordering::Acquire) {
                true => health.interval,
                false => health.interval.min(BETWEEN),
            }
        };
        sleep(interval).await;
    }
}
