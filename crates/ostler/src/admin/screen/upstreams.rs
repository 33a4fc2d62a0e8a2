//! The part of the screen that is about upstreams.

use crate::admin::api::Project;

use super::{Cell, Screen, WORKERS_SHOWN, named, number, span, text};

impl Screen {
    pub(super) fn upstreams(&mut self, projects: &[Project]) {
        let all = projects
            .iter()
            .flat_map(|project| project.upstreams.iter().map(move |one| (project, one)));
        let rows: Vec<Vec<Cell>> = all
            .take(WORKERS_SHOWN)
            .map(|(project, one)| {
                let out = one.out.as_ref();
                vec![
                    text(named(&project.name)),
                    text(&one.address),
                    text(out.map_or("in".to_owned(), |out| {
                        format!("out {}", span(out.since as f64))
                    })),
                    number(one.weight),
                    number(one.busy),
                    number(one.requests),
                    number(one.failures),
                    text(out.map_or("", |out| &out.why)),
                ]
            })
            .collect();
        if rows.is_empty() {
            return;
        }
        let heads = [
            "PROJECT", "UPSTREAM", "STATE", "WEIGHT", "BUSY", "REQUESTS", "FAILURES", "WHY",
        ];
        self.table(&heads, rows);
    }
}
