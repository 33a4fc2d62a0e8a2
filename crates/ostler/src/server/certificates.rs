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
    let over_tls = !machine.settings.listening.tls_binds.is_empty();
    for project in projects.iter().filter(|_| over_tls) {
        let hosts = hosts(project);
        if let Some(own) = from_files(machine, project, &hosts)? {
            given.push(own);
            continue;
        }
        for host in hosts {
            match (&machine.acme, host.certificate_name()) {
                (Some(acme), Some(name)) => wanted.push(Wanted::acme([name], acme.challenge)?),
                // Nobody asks for it by name.
                _ if host == Host::Any => {}
                _ => given.extend(Given::self_signed(&host.to_string())),
            }
        }
    }
    for warning in given.iter().filter_map(Given::warning) {
        tracing::warn!("{warning}");
    }
    let acme = machine.acme.as_ref().zip(machine.state.as_ref());
    let settings = acme.map(|(acme, state)| Settings {
        acme: acme.clone(),
        state: keeper::certificates_folder(state),
    });
    Ok(certs.prepare(given, wanted, settings)?)
}

/// The operator's certificate for a project: its own, else that of the machine.
fn from_files(
    machine: &Machine,
    project: &Project,
    hosts: &[Host],
) -> anyhow::Result<Option<Given>> {
    let tls = &machine.settings.listening.tls;
    let (path, key, chain) = match (&project.pair, tls) {
        (Some(pair), _) => (&pair.certfile, &pair.key, &pair.certificate),
        (None, Some(tls)) => (&tls.certfile, &tls.texts.key, &tls.texts.certificate),
        (None, None) => return Ok(None),
    };
    let hosts = hosts.iter().map(ToString::to_string).collect();
    let given = Given::new(hosts, path, key, chain).map_err(anyhow::Error::msg);
    Ok(Some(given.context(project.name.clone())?))
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
