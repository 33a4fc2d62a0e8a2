//! The screens of `ostler perf`.

use super::{
    BOLD, Cell, GREEN, NONE, RED, Screen, YELLOW, brief, moment, named, number, size, span, text,
    visible,
};
use crate::runs::{Call, Compared, Glance, Summary, Verdict};

/// Calls below which a percentile says no more than the longest does.
const P90_NEEDS: u64 = 10;
const P99_NEEDS: u64 = 100;

/// Cells of times stand on the right.
fn time(micros: u64) -> Cell {
    number(brief(micros))
}

fn failed(count: u64) -> Cell {
    let colour = if count > 0 { RED } else { NONE };
    Cell(count.to_string(), colour, true)
}

/// Runs, the most recent one last: its number, what is in it, and how many processes have written; true when it goes on.
pub fn list_of_runs(runs: &[(u64, Glance, usize, bool)], colours: bool) -> String {
    let rows = runs.iter().map(|(run, seen, workers, open)| {
        let at = |micros: u64| moment(i64::try_from(micros).unwrap_or(i64::MAX));
        let length = seen.length().map(|micros| span(micros as f64 / 1e6));
        let mut cells = vec![
            number(run),
            text(seen.first.map_or("-".to_owned(), at)),
            number(length.as_deref().unwrap_or("-")),
            number(seen.calls),
            number(workers),
            number(size(seen.bytes)),
            text(named(&seen.app)),
        ];
        cells.push(match open {
            true => Cell("going on".to_owned(), GREEN, false),
            false => text(""),
        });
        cells
    });
    let heads = [
        "RUN", "STARTED", "LENGTH", "CALLS", "WORKERS", "SIZE", "APP", "",
    ];
    table(colours, &heads, rows.collect())
}

/// One run: each endpoint and call.
pub fn about_run(
    run: u64,
    summary: &Summary,
    calls: &[Call],
    left: usize,
    colours: bool,
) -> String {
    let rows = calls.iter().map(|call| {
        let enough = |needed: u64, micros: u64| match call.calls >= needed {
            true => time(micros),
            false => number("-"),
        };
        vec![
            number(call.calls),
            failed(call.errors),
            time(call.total),
            time(call.mean),
            time(call.p50),
            enough(P90_NEEDS, call.p90),
            enough(P99_NEEDS, call.p99),
            time(call.longest),
            text(&call.name),
        ]
    });
    let heads = [
        "CALLS", "ERRORS", "TOTAL", "MEAN", "P50", "P90", "P99", "LONGEST", "CALL",
    ];
    let mut out = table(colours, &heads, rows.collect());
    if summary.calls == 0 {
        out.push_str(&format!("run {run} has no calls\n"));
    }
    out + &more(left)
}

/// Two runs: each endpoint and call in both.
pub fn compared_runs(
    (first, second): (u64, u64),
    all: &[Compared],
    left: usize,
    colours: bool,
) -> String {
    let rows = all.iter().map(|one| {
        let pair = |(a, b): (u64, u64), calls: (u64, u64), needed: u64| {
            let side = |micros, calls: u64| match calls >= needed {
                true => brief(micros),
                false => "-".to_owned(),
            };
            number(format!("{} → {}", side(a, calls.0), side(b, calls.1)))
        };
        let ratio = |ratio: Option<f64>, needed: u64| match ratio {
            Some(ratio) if one.calls.0.min(one.calls.1) >= needed => number(format!("×{ratio:.2}")),
            _ => number("-"),
        };
        let errors = Cell(
            format!("{} → {}", one.errors.0, one.errors.1),
            if one.errors.1 > one.errors.0 {
                RED
            } else {
                NONE
            },
            true,
        );
        vec![
            number(format!("{} → {}", one.calls.0, one.calls.1)),
            errors,
            pair(one.p50, one.calls, 1),
            ratio(one.p50_ratio, 1),
            pair(one.p99, one.calls, P99_NEEDS),
            ratio(one.p99_ratio, P99_NEEDS),
            verdict(one.verdict),
            text(&one.name),
        ]
    });
    let heads = ["CALLS", "ERRORS", "P50", "", "P99", "", "VERDICT", "CALL"];
    let mut out = format!("run {first} → run {second}\n");
    out.push_str(&table(colours, &heads, rows.collect()));
    if all.is_empty() {
        out.push_str("neither has calls\n");
    }
    out + &more(left)
}

fn verdict(verdict: Verdict) -> Cell {
    let (text, colour) = match verdict {
        Verdict::Same => ("-", NONE),
        Verdict::Slower => ("slower", RED),
        Verdict::Faster => ("faster", GREEN),
        Verdict::TailSlower => ("tail slower", RED),
        Verdict::TailFaster => ("tail faster", GREEN),
        Verdict::Few => ("too few calls", YELLOW),
        Verdict::New => ("new", BOLD),
        Verdict::Gone => ("gone", BOLD),
    };
    Cell(text.to_owned(), colour, false)
}

fn more(left: usize) -> String {
    match left {
        0 => String::new(),
        _ => format!("and {left} more: --limit N shows them\n"),
    }
}

fn table(colours: bool, heads: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let out = String::new();
    let mut screen = Screen { colours, out };
    screen.table(heads, rows);
    match screen.out.strip_prefix('\n') {
        Some(table) => table.to_owned(),
        None => screen.out,
    }
}

/// What is wrong with the files of a run, for standard error.
pub fn troubles(run: u64, summary: &Summary) -> String {
    let mut out = String::new();
    if summary.bad > 0 {
        let places = summary.bad_places.join(", ");
        let more = if summary.bad > summary.bad_places.len() as u64 {
            ", ..."
        } else {
            ""
        };
        out.push_str(&format!(
            "warning: run {run}: {} bad lines are left out: {places}{more}\n",
            summary.bad
        ));
    }
    for file in &summary.unread {
        out.push_str(&format!("warning: {} is left out\n", visible(file)));
    }
    out
}
