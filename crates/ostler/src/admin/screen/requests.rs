//! The screens of `ostler requests`.

use super::{Cell, NONE, RED, Screen, YELLOW, brief, moment, named, number, size, text, visible};
use crate::store::find::{Percentiles, Reach, Request};

/// Rows of `ostler requests`, without heads: more may follow.
pub fn requests(rows: &[Request], colours: bool) -> String {
    let mut screen = Screen {
        colours,
        out: String::new(),
    };
    let micros =
        |time: Option<i64>| time.map_or("-".to_owned(), |time| brief(time.cast_unsigned()));
    for row in rows {
        let colour = match row.status {
            500.. | 0 => RED,
            400.. => YELLOW,
            _ => NONE,
        };
        let status = screen.painted(&format!("{:3}", row.status), colour);
        let at = moment(row.at);
        let sender = match &row.user {
            Some(user) => format!("{} {}", visible(&row.client), visible(user)),
            None => visible(&row.client),
        };
        screen.out.push_str(&format!(
            "{at}  {:12}  {status}  {:>8}  line {:>8}  app {:>8}  {:>9}  {sender:15}  {} {}{}\n",
            visible(named(&row.project)),
            brief(row.total.cast_unsigned()),
            micros(row.queue),
            micros(row.app),
            size(row.sent.cast_unsigned()),
            visible(&row.method),
            visible(&row.path),
            match &row.reason[..] {
                "" => String::new(),
                reason => format!("  ({})", visible(reason)),
            },
        ));
    }
    screen.out
}

/// The table of `ostler requests --percentiles`.
pub fn percentiles(all: &[Percentiles], colours: bool) -> String {
    let mut screen = Screen {
        colours,
        out: String::new(),
    };
    let rows = all.iter().map(|one| {
        vec![
            text(named(&one.project)),
            number(one.requests),
            Cell(
                one.failed.to_string(),
                if one.failed > 0 { RED } else { NONE },
                true,
            ),
            number(brief(one.p50)),
            number(brief(one.p90)),
            number(brief(one.p99)),
            number(brief(one.longest)),
            text(format!("{} {}", one.method, one.path).trim_start()),
        ]
    });
    let rows = rows.collect();
    screen.table(
        &[
            "PROJECT", "REQUESTS", "FAILED", "P50", "P90", "P99", "LONGEST", "ROUTE",
        ],
        rows,
    );
    screen.out
}

/// What stands below an answer of the request log that does not tell of all; nothing below one that does.
pub fn reach(reach: &Reach) -> String {
    let mut out = String::new();
    if let Some(since) = reach.searched_since {
        let since = moment(since);
        out.push_str(&format!(
            "note: only since {since}; older rows were not looked at\n"
        ));
    }
    if reach.lost > 0 {
        out.push_str(&format!(
            "note: {} rows were lost since the server was started: their disk was too slow or full\n",
            reach.lost
        ));
    }
    out
}
