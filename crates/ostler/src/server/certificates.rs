//! Which host is served with which certificate.

use anyhow::Context;

use crate::certs::{Certs, Given, Next, Settings, Wanted};
use crate::config::serve::Host;
use crate::keeper;
use crate::keeper::protocol::{Machine, Project};

/// Looks at the certificates of a configuration.
///
/// # Errors
/// One cannot be used, or our folder cannot.
pub(super) fn prepare(
    certs: &Certs,
    machine: &Machine,
    projects: &[Project],
) -> anyhow::Result<Next> {
    let mut given = Vec::new();
    let mut wanted = Vec::new();
    let machines = machine.settings.listening.tls.as_ref();
    for project in projects {
        let hosts = hosts(project);
        let texts = || hosts.iter().map(ToString::to_string).collect();
        if let Some(pair) = &project.pair {
            let own = Given::new(texts(), &pair.certfile, &pair.key, &pair.certificate);
            given.push(
                own.map_err(anyhow::Error::msg)
                    .context(project.name.clone())?,
            );
        } else if let Some(tls) = machines {
            let own = Given::new(
                texts(),
                &tls.certfile,
                &tls.texts.key,
                &tls.texts.certificate,
            );
            given.push(own.map_err(anyhow::Error::msg)?);
        } else if let Some(acme) = &machine.acme {
            for host in hosts {
                match host.certificate_name() {
                    Some(name) => wanted.push(Wanted::acme([name], acme.challenge)?),
                    None => given.extend(Given::self_signed(&host.to_string())),
                }
            }
        } else {
            let own = hosts.iter().filter(|host| **host != Host::Any);
            given.extend(own.filter_map(|host| Given::self_signed(&host.to_string())));
        }
    }
    for warning in given.iter().filter_map(Given::warning) {
        tracing::warn!("{warning}");
    }
    let acme = machine.acme.as_ref().zip(machine.state.as_ref());
    let settings =
        acme.map(|(acme, state)| Settings::new(acme, keeper::certificates_folder(state)));
    Ok(certs.prepare(given, wanted, settings)?)
}

/// Each host once.
fn hosts(project: &Project) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    for route in &project.routes {
        if !hosts.contains(&route.host) {
            hosts.push(route.host.clone());
        }
    }
    hosts
}
