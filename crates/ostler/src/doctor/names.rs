//! Hosts and their certificates: what the CA would see, the CA itself, and the clock.

use std::time::{Duration, SystemTime};

use super::{Case, Finding, ok, problem, warning};
use crate::admin::api::{Certificate, NameLook};
use crate::certs::{self, Settings, Wanted};
use crate::client::{self, Target};
use crate::config::serve::{Acme, Host};

/// For the CA's directory.
const ANSWER: Duration = Duration::from_secs(15);

/// A directory has a few hundred bytes.
const LARGEST: usize = 256 * 1024;

/// Clocks may differ by so many seconds: certificates and tokens have to the second when they begin.
const SKEW: u64 = 60;

pub async fn look(case: &Case, found: &mut Vec<Finding>) {
    if case.serve.machine.listening.tls_binds.is_empty() {
        found.push(ok(
            "names",
            "nothing listens for HTTPS, so no name needs a certificate",
        ));
        return;
    }
    if let Ok(status) = &case.running {
        found.extend(status.certificates.iter().map(certificate));
    }
    let Some(acme) = &case.serve.acme else {
        return;
    };
    found.extend(ca(acme).await);
    let looks = match &case.looks {
        Some(looks) => looks.iter().flat_map(name).collect(),
        None => without_us(case, acme).await,
    };
    found.extend::<Vec<Finding>>(looks);
}

/// What the server says of one certificate.
fn certificate(certificate: &Certificate) -> Finding {
    let names = certificate.names.join(", ");
    let mut text = format!("{names}: {}", certificate.state);
    if let Some(days) = certificate.days_left {
        text.push_str(&format!(", {days} days left"));
    }
    let Some(error) = &certificate.error else {
        return ok("certificate", text);
    };
    text.push_str(&format!("; {error}"));
    if let Some(next) = &certificate.next_attempt {
        text.push_str(&format!("; asked again at {next}"));
    }
    match certificate.days_left {
        Some(1..) => warning("certificate", text),
        _ => problem("certificate", text),
    }
}

/// Whether the CA can be reached, and what time it is there.
async fn ca(acme: &Acme) -> Vec<Finding> {
    let text = match &acme.ca_root {
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                return vec![problem(
                    "ca",
                    format!(
                        "{}: {error}; hint: correct `ca_root` of [acme]",
                        path.display()
                    ),
                )];
            }
        },
        None => None,
    };
    let fetched = async {
        let roots = client::roots(text.as_deref())?;
        let target = Target::parse(&acme.directory)?;
        client::fetch(&target, Some(&roots), LARGEST, ANSWER).await
    };
    match fetched.await {
        Ok(fetched) => {
            let reached = ok("ca", format!("{} answers", acme.directory));
            let clock = fetched.date.map(|date| clock(date, SystemTime::now()));
            std::iter::once(reached).chain(clock).collect()
        }
        Err(error) => {
            // Who lives in another time finds certificates that are over, or not yet good.
            let hint = match error.contains("Expired") || error.contains("NotValidYet") {
                true => "set the clock: `timedatectl set-ntp true`",
                false => {
                    "see to DNS, the firewall for outgoing connections to its port, and `directory` and `ca_root` of [acme]"
                }
            };
            vec![problem(
                "ca",
                format!("{} cannot be asked: {error}; hint: {hint}", acme.directory),
            )]
        }
    }
}

fn clock(theirs: SystemTime, ours: SystemTime) -> Finding {
    let (skew, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead.as_secs(), "ahead of"),
        Err(behind) => (behind.duration().as_secs(), "behind"),
    };
    match skew > SKEW {
        true => problem(
            "clock",
            format!("it is {skew} s {word} the CA's; hint: `timedatectl set-ntp true`"),
        ),
        false => ok("clock", "it is the CA's, but for a minute at most"),
    }
}

fn name(look: &NameLook) -> Vec<Finding> {
    let mut found: Vec<Finding> = look
        .unclear
        .iter()
        .map(|text| warning("name", text.clone()))
        .collect();
    match &look.problem {
        Some(text) => found.push(problem("name", text.clone())),
        None if found.is_empty() => found.push(ok("name", format!("{} leads to us", look.name))),
        None => {}
    }
    found
}

/// As a CA would see it while nobody of ours answers.
async fn without_us(case: &Case, acme: &Acme) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut wanted = Vec::new();
    let machine_pair = case.serve.machine.listening.tls.is_some();
    let projects = case.serve.projects.iter();
    for project in projects.filter(|project| project.pair.is_none() && !machine_pair) {
        for name in project.hosts.iter().filter_map(Host::certificate_name) {
            match Wanted::acme([name], acme.challenge) {
                Ok(one) => wanted.push(one),
                Err(error) => found.push(problem("name", error.to_string())),
            }
        }
    }
    let settings = Settings {
        acme: acme.clone(),
        state: case.certificates.clone(),
    };
    for looked in certs::look_without_us(settings, wanted).await {
        let look = NameLook {
            name: looked.name,
            problem: looked.problem,
            unclear: looked.unclear,
        };
        let mut seen = name(&look);
        if look.problem.is_none() && look.unclear.is_empty() {
            seen = vec![ok(
                "name",
                format!(
                    "{}: nothing is in the way; the rest is seen when ostler runs",
                    look.name
                ),
            )];
        }
        found.append(&mut seen);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn clocks_may_differ_by_a_minute() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(clock(at(1_000_060), now).grade, Grade::Ok);
        let behind = clock(at(1_000_100), now);
        assert_eq!(behind.grade, Grade::Problem);
        assert!(behind.text.contains("100 s behind"), "{}", behind.text);
        assert!(clock(at(999_000), now).text.contains("1000 s ahead of"));
    }
}
