//! How long a look into the table of routes takes: the table of the product, compiled here from its own file.

use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;

/// What the table takes of the configuration.
pub mod config {
    pub mod serve {
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(dead_code, reason = "the table knows all three")]
        pub enum Host {
            Name(String),
            Below(String),
            Any,
        }
    }
}

#[allow(dead_code, reason = "only looks are measured")]
#[path = "../../crates/ostler/src/routes/mod.rs"]
mod routes;

use routes::{Host, Table};

/// Hosts, and prefixes below each.
const SHAPES: [(u64, u64); 3] = [(1, 10), (1_000, 10), (100, 100)];

/// Rounds, of which the quickest counts: the others met something else on the machine.
const ROUNDS: usize = 20;

/// Looks in a round.
const LOOKS: usize = 100_000;

/// Prints each shape, and nanoseconds a look.
pub fn run() -> anyhow::Result<()> {
    for (hosts, prefixes) in SHAPES {
        let nanoseconds = look(hosts, prefixes)?;
        println!("{hosts} hosts × {prefixes} prefixes {nanoseconds:.1}");
    }
    Ok(())
}

fn look(hosts: u64, prefixes: u64) -> anyhow::Result<f64> {
    let mut table = Table::new(u64::MAX);
    for host in 0..hosts {
        for prefix in 0..prefixes {
            let name = Host::Name(host_of(host));
            let added = table.add(name, &format!("/p{prefix}"), host * prefixes + prefix);
            ensure!(added.is_ok(), "a route is there twice");
        }
    }
    // The next one is far from the last one, and what is asked lies side by side, as it does not in the table: a request
    // was just read when its route is looked for, and the table was not.
    let all = hosts * prefixes;
    let asked: Vec<Asked> = (0..all)
        .map(|number| Asked::new(number * FAR % all, prefixes))
        .collect();
    let passes = LOOKS / asked.len();
    let mut quickest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for asked in (0..passes).flat_map(|_| &asked) {
            let found = black_box(table.find(asked.host(), asked.path()));
            ensure!(*found == asked.route, "a request goes elsewhere");
        }
        let looks = (passes * asked.len()) as f64;
        quickest = quickest.min(began.elapsed().as_nanos() as f64 / looks);
    }
    Ok(quickest)
}

/// Shares no factor with the numbers of routes, so that steps of it meet each one.
const FAR: u64 = 7_919;

/// A request for one of the routes.
struct Asked {
    text: [u8; 96],
    host: usize,
    end: usize,
    route: u64,
}

impl Asked {
    fn new(route: u64, prefixes: u64) -> Self {
        let host = host_of(route / prefixes);
        let path = format!("/p{}/things/{route}/parts", route % prefixes);
        let mut text = [0; 96];
        let both = [host.as_bytes(), path.as_bytes()].concat();
        text[..both.len()].copy_from_slice(&both);
        let (host, end) = (host.len(), both.len());
        Self {
            text,
            host,
            end,
            route,
        }
    }

    fn host(&self) -> &[u8] {
        &self.text[..self.host]
    }

    fn path(&self) -> &[u8] {
        &self.text[self.host..self.end]
    }
}

fn host_of(number: u64) -> String {
    format!("shop-{number}.customers.example.com")
}
