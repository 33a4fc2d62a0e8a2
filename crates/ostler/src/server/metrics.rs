//! What the server counts, with the names that Prometheus has for it. Every label has few values: projects, our own
//! reasons, eight methods and six classes of status.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::admin::api;
use crate::admin::metrics::Page;
use crate::edge::Thread;
use crate::edge::meter::{BOUNDS, CLASSES, METHODS, Meters, Reading, Spread};

use super::Server;
use super::admin::Seen;

/// What a metric takes from what is known.
type TimesOf = fn(&Reading) -> &Spread;
type NumberOf = fn(&api::Project) -> u64;
type CountOf = fn(&api::Upstream) -> u64;

/// What is known of one project.
struct Measured {
    project: api::Project,
    reading: Reading,
}

impl Server {
    /// Makes a page of everything that is counted.
    pub(super) fn tell_metrics(&self, answer: oneshot::Sender<String>) {
        let seen = self.projects.iter().filter(|project| !project.retired);
        let seen: Vec<(Seen, Arc<Meters>)> = seen
            .map(|project| (Seen::new(project), Arc::clone(&project.meters)))
            .collect();
        let threads: Vec<Arc<Thread>> = self
            .threads
            .iter()
            .map(|thread| Arc::clone(&thread.thread))
            .collect();
        let uptime = self.started.elapsed().as_secs();
        let peers = Arc::clone(&self.shared.peers);
        let log = self.log.clone();
        tokio::spawn(async move {
            let mut all = Vec::new();
            for (seen, meters) in seen {
                all.push(Measured {
                    project: seen.finish(false).await,
                    reading: meters.read(),
                });
            }
            let mut page = Page::default();
            page.begin("ostler_build_info", "gauge", "The version that runs.");
            page.number(
                "ostler_build_info",
                &[("version", env!("CARGO_PKG_VERSION"))],
                1,
            );
            page.begin(
                "ostler_server_uptime_seconds",
                "gauge",
                "Since this server was started.",
            );
            page.number("ostler_server_uptime_seconds", &[], uptime);
            connections(&mut page, &threads, peers.total(), peers.sockets());
            let mut nowhere = Reading::default();
            threads
                .iter()
                .for_each(|thread| thread.tally.nowhere.add_to(&mut nowhere));
            requests(&mut page, &all, &nowhere);
            workers(&mut page, &all);
            upstreams(&mut page, &all);
            if let Some(log) = log {
                let name = "ostler_request_log_lost_total";
                page.begin(name, "counter", "Rows of the request log that were lost.");
                page.number(name, &[], log.lost());
            }
            // Who has asked may have left.
            let _ = answer.send(page.text());
        });
    }
}

fn connections(page: &mut Page, threads: &[Arc<Thread>], open: u32, sockets: u32) {
    let sum = |of: fn(&Thread) -> u64| threads.iter().map(|thread| of(thread)).sum::<u64>();
    page.begin("ostler_connections", "gauge", "Open connections.");
    page.number(
        "ostler_connections",
        &[("kind", "http")],
        open.saturating_sub(sockets),
    );
    page.number("ostler_connections", &[("kind", "socket")], sockets);
    let name = "ostler_connections_accepted_total";
    page.begin(name, "counter", "Connections that were accepted.");
    page.number(name, &[], sum(|thread| thread.tally.accepted.read()));
    let name = "ostler_tls_handshakes_total";
    page.begin(name, "counter", "TLS handshakes by outcome.");
    page.number(
        name,
        &[("outcome", "done")],
        sum(|thread| thread.tally.handshakes.read()),
    );
    page.number(
        name,
        &[("outcome", "failed")],
        sum(|thread| thread.tally.failed_handshakes.read()),
    );
    let mut reasons = BTreeMap::new();
    threads
        .iter()
        .for_each(|thread| thread.tally.add_reasons(&mut reasons));
    let name = "ostler_refused_total";
    page.begin(
        name,
        "counter",
        "Requests that ostler itself answered or ended, by reason.",
    );
    for (reason, count) in reasons {
        page.number(name, &[("reason", reason)], count);
    }
}

fn requests(page: &mut Page, all: &[Measured], nowhere: &Reading) {
    let named = all
        .iter()
        .map(|measured| (&measured.project.name[..], &measured.reading));
    let readings: Vec<(&str, &Reading)> = named.chain([("", nowhere)]).collect();
    let name = "ostler_requests_total";
    page.begin(
        name,
        "counter",
        "Requests that have ended, by project, method and class of status.",
    );
    // That of `ostler run` has no name, as what belongs to no project.
    let mut sums: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for (project, reading) in &readings {
        for (class, counts) in CLASSES.iter().zip(&reading.requests) {
            for (method, &count) in METHODS.iter().zip(counts).filter(|(_, count)| **count > 0) {
                *sums.entry((project, method, class)).or_default() += count;
            }
        }
    }
    for ((project, method, class), count) in sums {
        let labels = [("project", project), ("method", method), ("class", class)];
        page.number(name, &labels, count);
    }
    let times: [(&str, &str, TimesOf); 3] = [
        (
            "ostler_request_seconds",
            "From the whole head to the last byte of the answer.",
            |r| &r.total,
        ),
        (
            "ostler_request_queue_seconds",
            "In line for a worker.",
            |r| &r.queue,
        ),
        (
            "ostler_request_app_seconds",
            "From a worker to the head of its answer.",
            |r| &r.app,
        ),
    ];
    for (name, help, of) in times {
        page.begin(name, "histogram", help);
        for Measured { project, reading } in all {
            let spread = of(reading);
            let labels = [("project", &project.name[..])];
            page.histogram(name, &labels, &BOUNDS, &spread.buckets, spread.sum);
        }
    }
    let name = "ostler_response_body_bytes_total";
    page.begin(name, "counter", "Bytes of bodies that were sent.");
    for Measured { project, reading } in all {
        page.number(name, &[("project", &project.name)], reading.sent);
    }
}

/// One row for each address; two routes that go to the same one under different settings are added up.
fn upstreams(page: &mut Page, all: &[Measured]) {
    let kinds: [(&str, &str, &str, CountOf); 5] = [
        (
            "ostler_upstream_up",
            "gauge",
            "1 while it gets requests.",
            |one| u64::from(one.out.is_none()),
        ),
        (
            "ostler_upstream_requests_in_flight",
            "gauge",
            "Requests that it has now.",
            |one| one.busy.into(),
        ),
        (
            "ostler_upstream_requests_total",
            "counter",
            "Requests that were sent there, again ones too.",
            |one| one.requests,
        ),
        (
            "ostler_upstream_failures_total",
            "counter",
            "Requests that got no answer there that could be sent on.",
            |one| one.failures,
        ),
        (
            "ostler_upstream_connections_total",
            "counter",
            "Connections that were begun.",
            |one| one.connections,
        ),
    ];
    for (name, kind, help, of) in kinds {
        page.begin(name, kind, help);
        for Measured { project, .. } in all {
            let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
            for one in &project.upstreams {
                let sum = sums.entry(&one.address).or_default();
                *sum = match name {
                    "ostler_upstream_up" => of(one).max(*sum),
                    _ => *sum + of(one),
                };
            }
            for (address, sum) in sums {
                let labels = [("project", &project.name[..]), ("upstream", address)];
                page.number(name, &labels, sum);
            }
        }
    }
}

fn workers(page: &mut Page, all: &[Measured]) {
    let gauges: [(&str, &str, &str, NumberOf); 4] = [
        (
            "ostler_requests_in_flight",
            "gauge",
            "Requests that workers serve now.",
            |project| {
                project
                    .workers
                    .iter()
                    .map(|worker| u64::from(worker.busy))
                    .sum()
            },
        ),
        (
            "ostler_line_length",
            "gauge",
            "Requests that wait for a worker.",
            |project| project.line.length as u64,
        ),
        (
            "ostler_worker_starts_total",
            "counter",
            "Workers that were started.",
            |project| project.starts,
        ),
        (
            "ostler_worker_crashes_total",
            "counter",
            "Workers that ended although nobody wanted them to.",
            |project| project.crashes,
        ),
    ];
    for (name, kind, help, of) in gauges {
        page.begin(name, kind, help);
        for Measured { project, .. } in all {
            page.number(name, &[("project", &project.name)], of(project));
        }
    }
    page.begin("ostler_workers", "gauge", "Workers by state.");
    for Measured { project, .. } in all {
        for state in ["starting", "ready", "leaving", "draining"] {
            let workers = project
                .workers
                .iter()
                .filter(|worker| worker.state == state);
            let labels = [("project", &project.name[..]), ("state", state)];
            page.number("ostler_workers", &labels, workers.count());
        }
    }
}
