//! The SQL of the request log: its table, writing a batch, keeping it within its bounds.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Result, params};

use super::record::Record;

/// The version of the table. A file of a later version is left alone.
const VERSION: i64 = 1;

/// How long a writer waits for a reader's lock, which in WAL mode nobody holds for long.
const BUSY: Duration = Duration::from_secs(2);

/// `version` waits for projects that have several: today's are folders, which have none.
const CREATE: &str = "
CREATE TABLE requests (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    request INTEGER NOT NULL,
    project TEXT NOT NULL,
    version TEXT,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    status INTEGER NOT NULL,
    received INTEGER,
    sent INTEGER NOT NULL,
    client TEXT NOT NULL,
    user TEXT,
    queue INTEGER,
    app INTEGER,
    total INTEGER NOT NULL,
    worker INTEGER,
    reason TEXT NOT NULL
) STRICT;
";

const INSERT: &str = "
INSERT INTO requests (at, request, project, method, path, status, received, sent, client, user, queue, app, total, worker, reason)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";

/// Numbers rise with time, so the oldest rows are the first.
const DELETE: &str = "
DELETE FROM requests WHERE number IN (SELECT number FROM requests ORDER BY number LIMIT ?1) AND at < ?2";

const OLDEST: &str = "SELECT at FROM requests ORDER BY number LIMIT 1";

/// The file, for the one who writes it.
#[derive(Debug)]
pub struct Table(Connection);

impl Table {
    /// Opens the file, which is made when it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        if connection.is_readonly("main")? {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
            let text = "the server's user may not write to it".to_owned();
            return Err(rusqlite::Error::SqliteFailure(error, Some(text)));
        }
        // What was written in the last moments may be lost in a power cut; the file stays whole (WAL, NORMAL).
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match version {
            0 => {
                connection.execute_batch(&format!(
                    "BEGIN; {CREATE} PRAGMA user_version = {VERSION}; COMMIT"
                ))?;
            }
            VERSION => {}
            _ => return Err(rusqlite::Error::InvalidPath(path.to_owned())),
        }
        Ok(Self(connection))
    }

    /// Opens it for questions.
    pub fn read(path: &Path) -> Result<Connection> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    /// Writes a batch of encoded records, all or none; gives how many.
    pub fn write(&mut self, mut batch: &[u8]) -> Result<u64> {
        let transaction = self.0.transaction()?;
        let mut rows = 0;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            while let Some(record) = Record::decode(&mut batch) {
                let text = |bytes| String::from_utf8_lossy(bytes);
                let number = |number: Option<u64>| number.map(u64::cast_signed);
                insert.execute(params![
                    record.at.cast_signed(),
                    record.id.cast_signed(),
                    text(record.project),
                    text(record.method),
                    text(record.path),
                    record.status,
                    number(record.received),
                    record.sent.cast_signed(),
                    text(record.client),
                    (!record.user.is_empty()).then(|| text(record.user)),
                    number(record.queue),
                    number(record.app),
                    record.total.cast_signed(),
                    number(record.worker),
                    text(record.reason),
                ])?;
                rows += 1;
            }
        }
        transaction.commit()?;
        Ok(rows)
    }

    /// Deletes some of the oldest rows, `most` at most, when they are from before `since` (microseconds since 1970), or
    /// when the file holds more than `size` bytes; true when there is more to delete.
    pub fn trim(&mut self, since: u64, size: u64, most: u64) -> Result<bool> {
        let Some(before) = self.too_much(since, size)? else {
            return Ok(false);
        };
        let mut delete = self.0.prepare_cached(DELETE)?;
        delete.execute(params![most.cast_signed(), before])?;
        drop(delete);
        Ok(self.too_much(since, size)?.is_some())
    }

    /// The moment before which rows have to go; `None` when none has to.
    fn too_much(&self, since: u64, size: u64) -> Result<Option<i64>> {
        let before = match self.bytes()? > size {
            true => i64::MAX,
            false => since.cast_signed(),
        };
        let mut oldest = self.0.prepare_cached(OLDEST)?;
        let oldest: Option<i64> = oldest.query_row([], |row| row.get(0)).optional()?;
        Ok(oldest.filter(|at| *at < before).map(|_| before))
    }

    /// Bytes of the file that hold something. It never shrinks: what is deleted makes room for what comes.
    pub fn bytes(&self) -> Result<u64> {
        let one = |pragma: &str| self.0.query_row(pragma, [], |row| row.get::<_, i64>(0));
        let (pages, free) = (one("PRAGMA page_count")?, one("PRAGMA freelist_count")?);
        Ok((pages - free).cast_unsigned() * one("PRAGMA page_size")?.cast_unsigned())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder for one test, which goes with it.
    pub struct Folder(PathBuf);

    impl Folder {
        pub fn new(name: &str) -> Self {
            let name = format!("ostler-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).expect("a folder");
            Self(folder)
        }

        pub fn file(&self) -> PathBuf {
            self.0.join("requests.db")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn count(table: &Table) -> i64 {
        let counted = table
            .0
            .query_row("SELECT count(*) FROM requests", [], |row| row.get(0));
        counted.expect("a number")
    }

    fn batch(rows: u64, at: u64) -> Vec<u8> {
        let mut batch = Vec::new();
        for number in 0..rows {
            let record = Record {
                at: at + number,
                path: b"/\xff",
                total: u64::MAX,
                ..Record::default()
            };
            record.encode(&mut batch);
        }
        batch
    }

    #[test]
    fn rows_leave_by_age_and_by_size() {
        let folder = Folder::new("trim");
        let path = folder.file();
        let mut table = Table::open(&path).expect("open");
        assert_eq!(table.write(&batch(6_000, 0)).expect("write"), 6_000);
        assert_eq!(table.write(&batch(10, 1_000_000)).expect("write"), 10);
        let mut trim = |since, size| table.trim(since, size, 5_000).expect("trim");
        assert!(!trim(0, u64::MAX), "nothing is too old or too much");
        assert!(trim(1_000_000, u64::MAX), "not all at once");
        assert!(!trim(1_000_000, u64::MAX));
        assert_eq!(count(&table), 10);
        drop(table);
        let mut table = Table::open(&path).expect("open again");
        assert_eq!(count(&table), 10);
        table.write(&batch(6_000, 2_000_000)).expect("write");
        assert!(
            table.trim(0, 1000, 5_000).expect("trim"),
            "the file is larger than that"
        );
        assert_eq!(count(&table), 1_010);
    }

    #[test]
    fn file_of_a_later_version_or_of_somebody_else_is_left_alone() {
        let folder = Folder::new("later");
        let path = folder.file();
        drop(Table::open(&path).expect("open"));
        let connection = Connection::open(&path).expect("open");
        connection
            .pragma_update(None, "user_version", 2)
            .expect("set");
        drop(connection);
        assert!(Table::open(&path).is_err());
        let other = path.with_file_name("other");
        std::fs::write(&other, "no database at all, and longer than a header").expect("write");
        assert!(Table::open(&other).is_err());
    }
}
