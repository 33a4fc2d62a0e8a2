//! Which projects `ostler maintenance` has switched to their maintenance page: kept in the state folder, so that it
//! outlives servers, reloads and restarts. Here and not in the server, as whose user the apps run.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Its name in the state folder: a JSON list of names.
const FILE: &str = "maintenance.json";

/// Names that are kept: far more than a machine has projects, and each switch writes all of them.
const MOST: usize = 10_000;

/// A larger file was not written by us: ten thousand names of 63 bytes take less.
const MOST_BYTES: u64 = 1 << 20;

/// The projects that are switched, also those that are not in the configuration now: one that comes again must not
/// come open.
#[derive(Debug, Default)]
pub struct Maintenance {
    /// `None` under `ostler run`, which has no state folder.
    file: Option<PathBuf>,
    names: BTreeSet<String>,
}

impl Maintenance {
    /// Reads what is kept in the state folder. A file that cannot be read is said, and keeps nobody from starting.
    pub fn open(state: Option<&Path>) -> Self {
        // The keeper may be started elsewhere, as a daemon is.
        let folder = state.and_then(|state| std::path::absolute(state).ok());
        let Some(file) = folder.map(|folder| folder.join(FILE)) else {
            return Self::default();
        };
        let names = read(&file).unwrap_or_else(|error| {
            eprintln!(
                "warning: {}: {error}: no project is in maintenance; hint: remove it, and say `ostler maintenance on NAME` again",
                file.display()
            );
            BTreeSet::new()
        });
        Self {
            file: Some(file),
            names,
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Switches a project, on disk first; whether it was on before.
    ///
    /// # Errors
    /// It cannot be kept, for the operator; then nothing has changed.
    pub fn switch(&mut self, name: &str, on: bool) -> Result<bool, String> {
        let was = self.has(name);
        if was == on {
            return Ok(was);
        }
        let Some(file) = &self.file else {
            return Err("error: there is no state folder to keep it in\n".to_owned());
        };
        if on && self.names.len() >= MOST {
            return Err(format!(
                "error: {MOST} projects are in maintenance already; hint: switch off those that are gone, {} has them\n",
                file.display()
            ));
        }
        let mut next = self.names.clone();
        match on {
            true => next.insert(name.to_owned()),
            false => next.remove(name),
        };
        write(file, &next).map_err(|error| {
            format!(
                "error: {} cannot be written: {error}; hint: see to the disk and the folder; nothing has changed\n",
                file.display()
            )
        })?;
        self.names = next;
        Ok(was)
    }
}

fn read(file: &Path) -> io::Result<BTreeSet<String>> {
    let text = match File::open(file) {
        Ok(open) => io::read_to_string(io::Read::take(open, MOST_BYTES))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    Ok(serde_json::from_str(&text)?)
}

/// To a temporary name, synced, renamed; then the folder is synced, so that a power cut takes none of it back.
fn write(file: &Path, names: &BTreeSet<String>) -> io::Result<()> {
    let unfinished = file.with_extension("json.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    out.write_all(&serde_json::to_vec(names)?)?;
    out.sync_all()?;
    fs::rename(&unfinished, file)?;
    let folder = file.parent().map(File::open).transpose()?;
    folder.map_or(Ok(()), |folder| folder.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::scratch::Scratch;

    #[test]
    fn what_is_switched_is_kept_and_what_cannot_be_kept_is_not_switched() {
        let scratch = Scratch::new("maintenance");
        let state = scratch.path("state");
        let mut first = Maintenance::open(Some(&state));
        let refused = first.switch("shop", true);
        assert!(refused.is_err_and(|text| text.contains("cannot be written")));
        assert!(!first.has("shop"));
        fs::create_dir(&state).expect("a folder");
        fs::write(state.join("maintenance.json.new"), "of a crash").expect("written");
        assert_eq!(first.switch("shop", true), Ok(false));
        assert_eq!(first.switch("shop", true), Ok(true));
        assert_eq!(first.switch("blog", true), Ok(false));
        assert_eq!(first.switch("shop", false), Ok(true));
        let again = Maintenance::open(Some(&state));
        assert!(again.has("blog") && !again.has("shop"));
        let entries = fs::read_dir(&state).expect("a folder").count();
        assert_eq!(entries, 1, "nothing unfinished is left");
        for nonsense in ["", "{", "[1]"] {
            fs::write(state.join(FILE), nonsense).expect("written");
            assert!(!Maintenance::open(Some(&state)).has("blog"), "{nonsense}");
        }
        let mut none = Maintenance::open(None);
        assert!(none.switch("shop", true).is_err());
    }
}
