//! The part of the screen that is about limits.

use crate::admin::api::{Limits, Project, RouteLimits, Status};

use super::{Cell, Screen, named, number, size, span, text};

impl Screen {
    pub(super) fn limits(&mut self, status: &Status) {
        let rows = status.projects.iter().map(|project| {
            let Limits {
                timeout,
                graceful_timeout,
                line_length,
                line_timeout,
                max_requests,
                memory_soft,
                memory_hard,
                routes: _,
            } = project.limits;
            vec![
                text(named(&project.name)),
                number(timeout.map_or("-".to_owned(), span)),
                number(span(graceful_timeout)),
                number(line_length),
                number(span(line_timeout)),
                number(max_requests.map_or("-".to_owned(), |most| most.to_string())),
                bytes(memory_soft),
                bytes(memory_hard),
            ]
        });
        let rows = rows.collect();
        self.table(
            &[
                "LIMITS OF",
                "ANSWER",
                "TO END",
                "IN LINE",
                "FOR",
                "REQUESTS",
                "MEMORY",
                "HARD",
            ],
            rows,
        );
        self.limits_of_routes(&status.projects);
        let limits = &status.limits;
        let span = |limit: Option<f64>| limit.map_or("no limit".to_owned(), span);
        let most = limits.max_connections_per_address;
        self.out.push_str(&format!(
            "connections: {} of one address (IPv6: /64), head {}, idle {}, silence in a body {}, in an answer {}\n",
            most.map_or("any number".to_owned(), |most| most.to_string()),
            span(limits.header_timeout),
            span(limits.keepalive),
            span(limits.body_timeout),
            span(limits.write_timeout),
        ));
    }

    /// One row where all routes of a project have the same.
    fn limits_of_routes(&mut self, projects: &[Project]) {
        let row = |place: &str, limits: &RouteLimits| {
            let rates = limits.rates.join(", ");
            let rates = if rates.is_empty() { "-" } else { &rates };
            vec![text(place), bytes(limits.limit_request_body), text(rates)]
        };
        let mut rows = Vec::new();
        for project in projects {
            match &project.limits.routes[..] {
                [same] => rows.push(row(named(&project.name), same)),
                groups => rows.extend(groups.iter().flat_map(|limits| {
                    let places = limits.routes.iter();
                    places.map(move |place| row(place, limits))
                })),
            }
        }
        self.table(&["LIMITS AT", "BODY", "RATES"], rows);
    }
}

fn bytes(limit: Option<u64>) -> Cell {
    number(limit.map_or("-".to_owned(), size))
}
