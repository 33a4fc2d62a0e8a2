//! What holds for requests of a site before its app sees them. Each check is a function of the request line that
//! gives a value or a reason; read `handle.rs` for their order.

mod caller;
mod cors;
mod fallback;
mod fields;
mod forward;
mod limits;
mod pages;
mod rate;
mod redirects;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::auth::jwt::Tokens;
use crate::auth::{Keys, Users};
use crate::config::serve::{By, Rate, Redirect, Rules};
use crate::config::{Network, Trust};
use crate::edge::compress::Press;
use crate::edge::trace::FIELDS;

pub use caller::Asked;
pub use cors::Cors;
pub use fallback::Instead;
pub use fields::Fields;
pub use forward::Authority;
pub use pages::Pages;
pub use rate::{Limit, Rates};
pub use redirects::find as redirected;

/// The rules of one site, ready for use.
#[derive(Default)]
pub struct Policy {
    /// Only these addresses; `None`: all.
    allow: Option<Trust>,
    deny: Vec<Network>,
    /// Everyone gets 503: so the configuration has it.
    maintenance: bool,
    /// The same, switched while it runs; shared by all sites of a project.
    pub closed: Arc<AtomicBool>,
    /// Only clients that have shown a certificate.
    certified: bool,
    limits: Vec<Limit>,
    /// Wrong credentials under a slow function.
    wrong: Option<Limit>,
    rates: Arc<Rates>,
    keys: Option<Arc<Keys>>,
    users: Option<Arc<Users>>,
    tokens: Option<Arc<Tokens>>,
    authority: Option<Arc<Authority>>,
    pub redirects: Vec<Redirect>,
    pub cors: Option<Cors>,
    pub fields: Fields,
    pub pages: Pages,
    /// The file of a static folder for pages that it does not have.
    pub fallback: Option<String>,
    /// The app is told the trace of each request.
    pub traces: bool,
    /// Makes the coded copies of its files; `None` where nothing is to be coded.
    pub press: Option<Arc<Press>>,
    /// Bytes a request body may have, on top of what the app says.
    pub body: Option<u64>,
}

/// Wrong passwords, and keys where they are looked up slowly, from one address. Who has shown a good one before is not
/// held up by it.
const WRONG: Rate = Rate {
    quota: 10,
    window: Duration::from_secs(60),
    burst: 10,
    by: By::Address,
};

/// What credentials are checked against.
#[derive(Default)]
pub struct Doors {
    pub keys: Option<Arc<Keys>>,
    pub users: Option<Arc<Users>>,
    pub tokens: Option<Arc<Tokens>>,
    pub authority: Option<Arc<Authority>>,
}

impl Policy {
    /// `project` and `number` tell rules with the same rates apart; no name of a project has a NUL.
    ///
    /// # Errors
    /// A page, and why it cannot be read.
    pub fn new(
        rules: &Rules,
        doors: Doors,
        rates: &Arc<Rates>,
        project: &str,
        number: usize,
    ) -> Result<Self, (PathBuf, std::io::Error)> {
        let limit = |rate: &Rate| match rate.by {
            By::Route => rates.limit(&format!("{project}\0{number}"), *rate),
            By::Address | By::Key => rates.limit(project, *rate),
        };
        let cors = rules.cors.as_ref().map(Cors::new);
        let ours: &[&str] = if cors.is_some() { &cors::OURS } else { &[] };
        let traced: &[&str] = if rules.trace_context { &FIELDS } else { &[] };
        let mut fields = Fields::new(&rules.headers, ours, traced);
        if let Some(authority) = &doors.authority {
            fields.yield_to(authority.names());
        }
        Ok(Self {
            allow: rules.access.allow.clone(),
            deny: rules.access.deny.clone(),
            maintenance: rules.maintenance,
            closed: Arc::default(),
            certified: rules.access.certified,
            limits: rules.limits.rates.iter().map(limit).collect(),
            wrong: Some(rates.limit(&format!("{project}\0wrong"), WRONG)),
            rates: Arc::clone(rates),
            keys: doors.keys,
            users: doors.users,
            tokens: doors.tokens,
            authority: doors.authority,
            redirects: rules.redirects.clone(),
            cors,
            fields,
            traces: rules.trace_context,
            pages: Pages::read(&rules.errors)?,
            fallback: rules.fallback.clone(),
            press: None,
            body: rules.limits.body,
        })
    }

    /// How often requests may come.
    pub fn rates(&self) -> impl Iterator<Item = Rate> {
        self.limits.iter().map(|limit| limit.rate)
    }

    fn is_closed(&self) -> bool {
        self.maintenance || self.closed.load(Ordering::Relaxed)
    }

    fn admits(&self, address: Option<IpAddr>) -> bool {
        let denied = address
            .is_some_and(|address| self.deny.iter().any(|network| network.contains(address)));
        !denied
            && self
                .allow
                .as_ref()
                .is_none_or(|allow| allow.includes(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::serve::Rules;

    #[test]
    fn who_is_denied_is_denied_also_where_he_is_allowed() {
        let network = |address: &str, prefix| Network {
            address: address.parse().expect("an address"),
            prefix,
        };
        let mut rules = Rules::default();
        let policy = |rules: &Rules| {
            Policy::new(rules, Doors::default(), &Arc::default(), "", 0).expect("no pages")
        };
        let admits = |policy: &Policy, text: &str| policy.admits(text.parse().ok());
        assert!(admits(&policy(&rules), "192.0.2.1") && policy(&rules).admits(None));
        rules.access.deny = vec![network("10.1.0.0", 16)];
        assert!(!admits(&policy(&rules), "10.1.2.3") && admits(&policy(&rules), "10.2.2.3"));
        rules.access.allow = Some(Trust::Networks(vec![network("10.0.0.0", 8)]));
        let policy = policy(&rules);
        assert!(admits(&policy, "10.2.2.3") && !admits(&policy, "10.1.2.3"));
        assert!(!admits(&policy, "192.0.2.1") && !admits(&policy, "2001:db8::1"));
    }
}
