//! Questions to the request log, and their answers.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{OptionalExtension, Result, Row, ToSql};
use serde::{Deserialize, Serialize};

use super::route::Route;
use super::table::Table;

/// Which rows are asked for. All of it must hold.
#[derive(Debug, Default, Deserialize)]
pub struct Filter {
    pub project: Option<String>,
    pub method: Option<String>,
    /// The beginning of a path.
    pub path: Option<String>,
    pub client: Option<String>,
    pub user: Option<String>,
    /// Statuses from and up to these.
    pub status: Option<u16>,
    pub status_to: Option<u16>,
    /// Microseconds in all, at least.
    pub slower: Option<i64>,
    /// Microseconds since 1970.
    pub since: Option<i64>,
    /// Only rows behind this number, the oldest of them first.
    pub after: Option<i64>,
    pub limit: Option<u32>,
}

/// Rows, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    pub rows: Vec<Request>,
    /// The number of the last row there is.
    pub last: i64,
    pub reach: Reach,
}

/// What an answer does not tell of.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct Reach {
    /// Rows that were lost since the server was started.
    pub lost: u64,
    /// When the oldest row ended that was looked at (µs since 1970), where older ones were asked for and are there.
    pub searched_since: Option<i64>,
}

/// One row. Times are microseconds, sizes bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub number: i64,
    /// When it ended, since 1970.
    pub at: i64,
    /// Its id in answers and other logs.
    pub request: String,
    pub project: String,
    /// None as long as a project is a folder.
    pub version: Option<String>,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub received: Option<i64>,
    pub sent: i64,
    pub client: String,
    /// Where somebody had to prove who they are.
    pub user: Option<String>,
    pub queue: Option<i64>,
    pub app: Option<i64>,
    pub total: i64,
    pub worker: Option<i64>,
    pub reason: String,
}

/// Routes, the most frequent first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spread {
    pub routes: Vec<Percentiles>,
    pub reach: Reach,
}

/// How long requests of one route took, in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Percentiles {
    pub project: String,
    /// `OTHER` for those that nobody has defined.
    pub method: String,
    /// With `{}` for each value in it; `…` for all that there was no room for.
    pub path: String,
    pub requests: u64,
    /// Those of them with a status of 500 and above.
    pub failed: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub longest: u64,
}

/// Rows that one answer has when nobody says how many, and at most: with the longest paths there are, each byte
/// written as six, an answer stays below what its reader takes.
const USUAL: u32 = 50;
const MOST: u32 = 1_000;

/// Rows that are looked at for one answer, the newest: a second's work.
const SEARCHED: i64 = 1_000_000;

/// Routes that are told apart: each word of a client may be one.
const MOST_ROUTES: usize = 1_000;

/// Where the routes go that there is no room for.
const OTHERS: &str = "…";

const COLUMNS: &str = "number, at, request, project, version, method, path, status, received, sent, client, user, queue, app, total, worker, reason";

/// The rows that a filter lets through.
pub fn rows(path: &Path, filter: &Filter) -> Result<Found> {
    let connection = Table::read(path)?;
    let last = last(&connection)?;
    let mut asked = Asked::new(filter, last);
    let limit = filter.limit.unwrap_or(USUAL).min(MOST);
    let order = if filter.after.is_some() {
        "ASC"
    } else {
        "DESC"
    };
    let text = format!(
        "SELECT {COLUMNS} FROM requests WHERE {} ORDER BY number {order} LIMIT {limit}",
        asked.conditions.join(" AND ")
    );
    let mut statement = connection.prepare(&text)?;
    let values: Vec<&dyn ToSql> = asked.values.iter_mut().map(|value| &**value).collect();
    let found = statement.query_map(&values[..], request)?;
    let mut rows = found.collect::<Result<Vec<_>>>()?;
    if filter.after.is_none() {
        rows.reverse();
    }
    // As many as were asked for are the newest there are.
    let reach = match filter.after.is_none() && rows.len() < limit as usize {
        true => reach(&connection, filter, last)?,
        false => Reach::default(),
    };
    Ok(Found { rows, last, reach })
}

/// How long they took, by route, the most frequent first.
pub fn percentiles(path: &Path, filter: &Filter) -> Result<Spread> {
    let connection = Table::read(path)?;
    let last = last(&connection)?;
    let mut asked = Asked::new(filter, last);
    let text = format!(
        "SELECT project, method, path, status, total FROM requests WHERE {}",
        asked.conditions.join(" AND ")
    );
    let mut statement = connection.prepare(&text)?;
    let values: Vec<&dyn ToSql> = asked.values.iter_mut().map(|value| &**value).collect();
    let mut routes = Routes::default();
    let mut rows = statement.query(&values[..])?;
    while let Some(row) = rows.next()? {
        let (method, path) = (row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        let route = Route::new(row.get(0)?, method, path);
        routes.add(route, row.get(3)?, row.get::<_, i64>(4)?.cast_unsigned());
    }
    let mut routes = routes.summed();
    routes.sort_by(|one, other| {
        let order = other.requests.cmp(&one.requests);
        order
            .then_with(|| one.project.cmp(&other.project))
            .then_with(|| one.path.cmp(&other.path))
            .then_with(|| one.method.cmp(&other.method))
    });
    routes.truncate(filter.limit.unwrap_or(USUAL).min(MOST) as usize);
    let reach = reach(&connection, filter, last)?;
    Ok(Spread { routes, reach })
}

/// The times of each route.
#[derive(Default)]
struct Routes {
    there: HashMap<Route, Times>,
    /// What was not found (404, 405). Those who guess paths take no room from those that are there.
    missing: HashMap<Route, Times>,
}

#[derive(Default)]
struct Times {
    /// Those with a status of 500 and above.
    failed: u64,
    micros: Vec<u64>,
}

impl Routes {
    fn add(&mut self, mut route: Route, status: u16, micros: u64) {
        let all = match status {
            404 | 405 if !self.there.contains_key(&route) => &mut self.missing,
            _ => &mut self.there,
        };
        if all.len() >= MOST_ROUTES && !all.contains_key(&route) {
            route.method.clear();
            OTHERS.clone_into(&mut route.path);
        }
        let times = all.entry(route).or_default();
        times.failed += u64::from(status >= 500);
        times.micros.push(micros);
    }

    fn summed(mut self) -> Vec<Percentiles> {
        for (route, missing) in self.missing {
            let times = self.there.entry(route).or_default();
            times.micros.extend(missing.micros);
        }
        self.there.into_iter().map(summed).collect()
    }
}

fn summed((route, times): (Route, Times)) -> Percentiles {
    let Times { failed, mut micros } = times;
    micros.sort_unstable();
    // The nearest rank: the smallest time that so many of a hundred are not above.
    let rank = |percent: usize| micros[(micros.len() * percent).div_ceil(100).max(1) - 1];
    Percentiles {
        project: route.project,
        method: route.method,
        path: route.path,
        requests: micros.len() as u64,
        failed,
        p50: rank(50),
        p90: rank(90),
        p99: rank(99),
        longest: rank(100),
    }
}

fn last(connection: &rusqlite::Connection) -> Result<i64> {
    let last = connection.query_row("SELECT max(number) FROM requests", [], |row| row.get(0))?;
    Ok(Option::unwrap_or(last, 0))
}

/// How far back an answer goes that looks at all it may.
fn reach(connection: &rusqlite::Connection, filter: &Filter, last: i64) -> Result<Reach> {
    let behind = last.saturating_sub(SEARCHED);
    let at = |text| -> Result<Option<i64>> {
        let found = connection.query_row(text, [behind], |row| row.get(0));
        found.optional()
    };
    let unseen = at("SELECT at FROM requests WHERE number <= ?1 ORDER BY number DESC LIMIT 1")?;
    let asked_for = |at| filter.since.is_none_or(|since| at >= since);
    let searched_since = match unseen.is_some_and(asked_for) {
        true => at("SELECT at FROM requests WHERE number > ?1 ORDER BY number LIMIT 1")?,
        false => None,
    };
    Ok(Reach {
        searched_since,
        ..Reach::default()
    })
}

/// A filter as SQL. Every value is bound, none is part of the text.
struct Asked {
    conditions: Vec<&'static str>,
    values: Vec<Box<dyn ToSql>>,
}

impl Asked {
    fn new(filter: &Filter, last: i64) -> Self {
        let mut asked = Self {
            conditions: Vec::new(),
            values: Vec::new(),
        };
        let first = last.saturating_sub(SEARCHED).max(filter.after.unwrap_or(0));
        asked.only("number > ?", Some(first));
        asked.only("project = ?", filter.project.clone());
        asked.only("method = ?", filter.method.clone());
        // Not LIKE, for which some letters of a path mean something.
        if let Some(path) = &filter.path {
            asked.only("substr(path, 1, ?) = ?", Some(path.chars().count() as i64));
            asked.values.push(Box::new(path.clone()));
        }
        asked.only("client = ?", filter.client.clone());
        asked.only("user = ?", filter.user.clone());
        asked.only("status >= ?", filter.status);
        asked.only("status <= ?", filter.status_to.or(filter.status));
        asked.only("total >= ?", filter.slower);
        asked.only("at >= ?", filter.since);
        asked
    }

    fn only<T: ToSql + 'static>(&mut self, condition: &'static str, value: Option<T>) {
        if let Some(value) = value {
            self.conditions.push(condition);
            self.values.push(Box::new(value));
        }
    }
}

fn request(row: &Row<'_>) -> Result<Request> {
    Ok(Request {
        number: row.get(0)?,
        at: row.get(1)?,
        request: format!("{:016x}", row.get::<_, i64>(2)?),
        project: row.get(3)?,
        version: row.get(4)?,
        method: row.get(5)?,
        path: row.get(6)?,
        status: row.get(7)?,
        received: row.get(8)?,
        sent: row.get(9)?,
        client: row.get(10)?,
        user: row.get(11)?,
        queue: row.get(12)?,
        app: row.get(13)?,
        total: row.get(14)?,
        worker: row.get(15)?,
        reason: row.get(16)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Record, table};
    use super::*;

    /// A file with these rows, in a folder of its own.
    fn file(name: &str, records: &[Record<'_>]) -> table::tests::Folder {
        let folder = table::tests::Folder::new(name);
        let mut batch = Vec::new();
        records.iter().for_each(|record| record.encode(&mut batch));
        let mut table = Table::open(&folder.file()).expect("open");
        table.write(&batch).expect("write");
        folder
    }

    #[test]
    fn rows_are_found_by_who_sent_them() {
        let row = |client, user| Record {
            client,
            user,
            ..Record::default()
        };
        let records = [
            row(b"192.0.2.1", b"ada"),
            row(b"192.0.2.2", b"ada"),
            row(b"192.0.2.1", b"grace"),
            row(b"192.0.2.1", b""),
        ];
        let folder = file("senders", &records);
        let found = |client: Option<&str>, user: Option<&str>| {
            let filter = Filter {
                client: client.map(str::to_owned),
                user: user.map(str::to_owned),
                ..Filter::default()
            };
            let found = rows(&folder.file(), &filter).expect("rows").rows;
            let numbers = found.iter().map(|row| row.number);
            (numbers.collect::<Vec<_>>(), found)
        };
        assert_eq!(found(None, Some("ada")).0, [1, 2]);
        assert_eq!(found(Some("192.0.2.1"), None).0, [1, 3, 4]);
        assert_eq!(found(Some("192.0.2.1"), Some("ada")).0, [1]);
        assert_eq!(
            found(None, Some("")).0,
            [0; 0],
            "nobody is not a user without a name"
        );
        let (_, all) = found(None, None);
        let users: Vec<_> = all.iter().map(|row| row.user.as_deref()).collect();
        assert_eq!(users, [Some("ada"), Some("ada"), Some("grace"), None]);
        assert!(all.iter().all(|row| row.version.is_none()));
    }

    #[test]
    fn answer_says_when_it_does_not_reach_far_enough() {
        let row = |at| Record {
            at,
            ..Record::default()
        };
        let folder = file("reach", &[row(10), row(20), row(30)]);
        let asked = |since, limit| {
            let filter = Filter {
                since,
                limit,
                ..Filter::default()
            };
            let found = rows(&folder.file(), &filter).expect("rows").reach;
            let spread = percentiles(&folder.file(), &filter).expect("percentiles");
            (found.searched_since, spread.reach.searched_since)
        };
        assert_eq!(asked(None, None), (None, None), "all there is");
        let connection = rusqlite::Connection::open(folder.file()).expect("open");
        let later = "UPDATE requests SET number = number + ?1 WHERE at = 30";
        connection.execute(later, [SEARCHED - 3]).expect("update");
        assert_eq!(
            asked(None, None),
            (None, None),
            "the first is looked at as well"
        );
        connection.execute(later, [1]).expect("update");
        assert_eq!(asked(None, None), (Some(20), Some(20)));
        assert_eq!(asked(Some(10), None), (Some(20), Some(20)));
        assert_eq!(
            asked(Some(11), None),
            (None, None),
            "nothing older is asked for"
        );
        assert_eq!(
            asked(None, Some(2)),
            (None, Some(20)),
            "the two newest rows"
        );
    }

    #[test]
    fn percentiles_are_told_by_route() {
        let row = |method, path, status| Record {
            project: b"shop",
            method,
            path,
            status,
            ..Record::default()
        };
        let ids: Vec<String> = (0..1500).map(|number| format!("/item/{number}")).collect();
        let guesses: Vec<String> = (0..1500).map(|number| format!("/x{number}.php")).collect();
        let mut records: Vec<_> = guesses
            .iter()
            .map(|path| row(b"GET", path.as_bytes(), 404))
            .collect();
        records.extend(ids.iter().map(|path| row(b"GET", path.as_bytes(), 200)));
        records.push(row(b"GET", b"/item/7", 404));
        records.push(row(b"POST", b"/item/7", 500));
        records.push(row(b"GET", b"/items", 200));
        let folder = file("routes", &records);
        let filter = Filter {
            limit: Some(MOST),
            ..Filter::default()
        };
        let all = percentiles(&folder.file(), &filter)
            .expect("percentiles")
            .routes;
        let of = |method: &str, path: &str| {
            let found = all
                .iter()
                .find(|one| (&*one.method, &*one.path) == (method, path));
            found.map(|one| (one.requests, one.failed))
        };
        assert_eq!(of("GET", "/item/{}"), Some((1501, 0)));
        assert_eq!(of("", OTHERS), Some((500, 0)));
        let few = |path: &str| Filter {
            path: Some(path.to_owned()),
            ..Filter::default()
        };
        let all = percentiles(&folder.file(), &few("/item"))
            .expect("percentiles")
            .routes;
        let told: Vec<_> = all
            .iter()
            .map(|one| (&*one.method, &*one.path, one.requests, one.failed))
            .collect();
        let (item, items) = ("/item/{}", "/items");
        assert_eq!(
            told,
            [
                ("GET", item, 1501, 0),
                ("POST", item, 1, 1),
                ("GET", items, 1, 0)
            ]
        );
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let of = |times: Vec<u64>| {
            let route = Route::new("p".to_owned(), "GET", "/");
            let found = summed((
                route,
                Times {
                    failed: 0,
                    micros: times,
                },
            ));
            (found.p50, found.p90, found.p99, found.longest)
        };
        assert_eq!(of(vec![7]), (7, 7, 7, 7));
        assert_eq!(of((1..=100).rev().collect()), (50, 90, 99, 100));
        assert_eq!(of(vec![1, 2, 3]), (2, 3, 3, 3));
    }
}
