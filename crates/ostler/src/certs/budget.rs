//! What was asked of one CA lately, and whether one more may be asked. Pure; it knows no disk.
//!
//! The limits are Let's Encrypt's (letsencrypt.org/docs/rate-limits): 300 new orders in 3 hours, 50
//! certificates for a registered domain and 5 for the same set of names in 7 days, 5 failed
//! validations of a name in an hour. Ours stop at four fifths, because others may use the same
//! domain, and clocks differ. Renewals (a certificate for the same names is held) do not count for
//! the registered domain and not as new orders there, but are counted here for CAs that are stricter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;

use super::names::Names;

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

const ORDERS: Limit = Limit(240, Duration::from_secs(3 * 3600));
const DOMAIN: Limit = Limit(40, WEEK);
const SAME_NAMES: Limit = Limit(4, WEEK);
const REFUSALS: Limit = Limit(4, HOUR);

/// Certificates that live for less than this are for CAs without such limits on the same names:
/// Let's Encrypt's shortest live for six days, of which five in a week would be too few otherwise.
const SHORT_LIFE: Duration = Duration::from_secs(3 * 24 * 3600);

/// At most so many in so long a time.
#[derive(Clone, Copy)]
struct Limit(usize, Duration);

/// What was asked of one CA, oldest first; nothing older than a week.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    spent: Vec<Spent>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Spent {
    /// Seconds since 1970.
    at: u64,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Order,
    Certificate { names: Names, renewal: bool },
    Refusal { name: String },
}

/// Why an order must wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    pub until: SystemTime,
    pub text: String,
}

impl Over {
    /// With the time from which on there is room.
    pub fn told(&self) -> String {
        let until = time::OffsetDateTime::from(self.until).format(&Rfc3339);
        format!(
            "{}; there is room again from {}",
            self.text,
            until.unwrap_or_default()
        )
    }
}

impl Budget {
    /// Counts an order for `names`, if there is room for it and for the certificate that it is to
    /// give. `life` is how long the certificate that is held lives, if one is.
    pub fn order(
        &mut self,
        names: &Names,
        life: Option<Duration>,
        now: SystemTime,
    ) -> Result<(), Over> {
        self.forget(now);
        self.room(ORDERS, now, "new orders", |what| {
            matches!(what, What::Order)
        })?;
        for name in names.iter() {
            let text = format!("refusals of {name}");
            self.room(
                REFUSALS,
                now,
                &text,
                |what| matches!(what, What::Refusal { name: of } if of == name),
            )?;
        }
        if life.is_none_or(|life| life > SHORT_LIFE) {
            let text = format!("certificates for exactly {names}");
            self.room(
                SAME_NAMES,
                now,
                &text,
                |what| matches!(what, What::Certificate { names: of, .. } if of == names),
            )?;
        }
        if life.is_none() {
            for domain in domains(names) {
                let text = format!("certificates for names of {domain}");
                self.room(DOMAIN, now, &text, |what| match what {
                    What::Certificate { names, renewal } => {
                        !renewal && domains(names).contains(&domain)
                    }
                    What::Order | What::Refusal { .. } => false,
                })?;
            }
        }
        self.spend(What::Order, now);
        Ok(())
    }

    /// Counts a certificate.
    pub fn certificate(&mut self, names: &Names, renewal: bool, now: SystemTime) {
        let names = names.clone();
        self.spend(What::Certificate { names, renewal }, now);
    }

    /// Counts a refusal of each of the names: which of them it was is not always said.
    pub fn refusal(&mut self, names: &Names, now: SystemTime) {
        for name in names.iter() {
            let name = name.to_owned();
            self.spend(What::Refusal { name }, now);
        }
    }

    fn spend(&mut self, what: What, now: SystemTime) {
        let at = seconds(now);
        self.spent.push(Spent { at, what });
        self.forget(now);
    }

    /// Drops what no limit looks at any more. What is dated in the future (a clock was wrong) counts
    /// as of now.
    fn forget(&mut self, now: SystemTime) {
        let now = seconds(now);
        for spent in &mut self.spent {
            spent.at = spent.at.min(now);
        }
        self.spent.retain(|spent| {
            let lives = match &spent.what {
                What::Order => ORDERS.1,
                What::Certificate { .. } => WEEK,
                What::Refusal { .. } => REFUSALS.1,
            };
            spent.at + lives.as_secs() > now
        });
    }

    fn room(
        &self,
        Limit(most, within): Limit,
        now: SystemTime,
        text: &str,
        counts: impl Fn(&What) -> bool,
    ) -> Result<(), Over> {
        let since = seconds(now).saturating_sub(within.as_secs());
        let mut times: Vec<u64> = self
            .spent
            .iter()
            .filter(|spent| spent.at > since && counts(&spent.what))
            .map(|spent| spent.at)
            .collect();
        if times.len() < most {
            return Ok(());
        }
        // There is room again once all but `most - 1` of them are old.
        times.sort_unstable();
        let until = times[times.len() - most] + within.as_secs();
        let count = times.len();
        let within = match within.as_secs() / 3600 {
            1 => "an hour".to_owned(),
            hours @ ..24 => format!("{hours} hours"),
            hours => format!("{} days", hours / 24),
        };
        Err(Over {
            until: UNIX_EPOCH + Duration::from_secs(until),
            text: format!(
                "the CA was not asked: {text}: {count} in {within}, and its limits allow few more"
            ),
        })
    }
}

/// The registered domains of names. Without the public suffix list: the last two labels, or three
/// below a country's `co`, `com`, …. What is taken for one domain may be several, which is on the
/// safe side.
fn domains(names: &Names) -> Vec<String> {
    const SECOND_LEVEL: [&str; 8] = ["ac", "co", "com", "edu", "gov", "net", "org", "or"];
    let mut domains: Vec<String> = names
        .iter()
        .map(|name| {
            let labels: Vec<&str> = name.split('.').collect();
            let count = match labels[..] {
                [.., second, top] if top.len() == 2 && SECOND_LEVEL.contains(&second) => 3,
                _ => 2,
            };
            labels[labels.len().saturating_sub(count)..].join(".")
        })
        .collect();
    domains.sort();
    domains.dedup();
    domains
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Names {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(2_000_000_000 + seconds)
    }

    const NINETY_DAYS: Option<Duration> = Some(Duration::from_secs(90 * 24 * 3600));

    #[test]
    fn orders_stop_at_four_fifths() {
        let mut budget = Budget::default();
        for second in 0..240 {
            let name = names(&format!("n{second}.d{second}.example"));
            // Each under a domain of its own, but for the last two labels: renewals.
            assert_eq!(budget.order(&name, NINETY_DAYS, at(second)), Ok(()));
        }
        let over = budget
            .order(&names("a.b"), NINETY_DAYS, at(300))
            .unwrap_err();
        assert_eq!(over.until, at(3 * 3600));
        assert!(over.text.contains("new orders"), "{}", over.text);
        assert_eq!(
            budget.order(&names("a.b"), NINETY_DAYS, at(3 * 3600)),
            Ok(())
        );
    }

    #[test]
    fn refused_names_wait_for_an_hour() {
        let mut budget = Budget::default();
        let both = names("a.example.com, b.example.com");
        for second in 0..4 {
            budget.refusal(&both, at(second));
        }
        let over = budget
            .order(&names("b.example.com"), None, at(10))
            .unwrap_err();
        assert_eq!(over.until, at(3600));
        assert!(
            over.text.contains("refusals of b.example.com"),
            "{}",
            over.text
        );
        assert_eq!(budget.order(&names("c.example.com"), None, at(10)), Ok(()));
        assert_eq!(budget.order(&both, None, at(3600 + 4)), Ok(()));
    }

    #[test]
    fn the_same_names_are_had_four_times_a_week() {
        let mut budget = Budget::default();
        let same = names("a.example.com");
        for second in 0..4 {
            budget.certificate(&same, second > 0, at(second));
        }
        let over = budget.order(&same, NINETY_DAYS, at(10)).unwrap_err();
        assert_eq!(over.until, at(7 * 24 * 3600));
        assert_eq!(
            budget.order(&names("a.example.com, b.example.com"), None, at(10)),
            Ok(())
        );
        // Certificates that live for seconds are not Let's Encrypt's.
        let life = Some(Duration::from_secs(30));
        assert_eq!(budget.order(&same, life, at(10)), Ok(()));
    }

    #[test]
    fn a_domain_has_forty_new_names_a_week() {
        let mut budget = Budget::default();
        for second in 0..40 {
            let name = names(&format!("n{second}.example.co.uk"));
            assert_eq!(budget.order(&name, None, at(second)), Ok(()));
            budget.certificate(&name, false, at(second));
        }
        let over = budget
            .order(&names("new.example.co.uk"), None, at(50))
            .unwrap_err();
        assert!(over.text.contains("example.co.uk"), "{}", over.text);
        // Renewals and other domains go on.
        assert_eq!(
            budget.order(&names("n1.example.co.uk"), NINETY_DAYS, at(50)),
            Ok(())
        );
        assert_eq!(budget.order(&names("a.other.co.uk"), None, at(50)), Ok(()));
    }

    #[test]
    fn a_wrong_clock_does_not_stop_us_for_years() {
        let mut budget = Budget::default();
        let same = names("a.example.com");
        for _ in 0..4 {
            budget.refusal(&same, at(400 * 24 * 3600));
        }
        let over = budget.order(&same, None, at(0)).unwrap_err();
        assert_eq!(over.until, at(3600));
    }

    #[test]
    fn it_survives_the_disk() {
        let mut budget = Budget::default();
        budget.order(&names("a.b"), None, at(0)).unwrap();
        budget.certificate(&names("a.b"), false, at(1));
        budget.refusal(&names("a.b"), at(2));
        let text = serde_json::to_string(&budget).unwrap();
        assert_eq!(serde_json::from_str::<Budget>(&text).unwrap(), budget);
    }
}
