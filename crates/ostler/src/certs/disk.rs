//! Our folder: accounts, orders and certificates. Every file is written to a temporary name, synced
//! and renamed, and only its owner can read it. Knows no CA.
//!
//! ```text
//! state/<ca>/account.json        the account's key and URL
//! state/<ca>/budget.json         what was asked of the CA lately
//! state/<ca>/<names>/order.json  how far the certificate is
//! state/<ca>/<names>/current.pem the certificate in use: private key, certificate, chain
//! ```
//! Key and certificate are one file, so that they can never be of different ages.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::budget::Budget;
use super::names::Names;
use super::state::Record;

/// A file that is larger was not written by us.
const MOST_BYTES: u64 = 4 << 20;

/// What is between a file's name and the number of its unfinished copy.
const UNFINISHED: &str = ".new-";

/// Our folder for one CA.
#[derive(Debug, Clone)]
pub struct Disk {
    state: PathBuf,
    ca: PathBuf,
}

/// The account at the CA.
#[derive(Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct AccountFile {
    /// PEM of the private key (PKCS#8, P-256).
    pub key: String,
    /// What the CA calls it, once it knows it.
    pub url: Option<String>,
    /// Whom the CA was told to write to.
    #[serde(default)]
    pub contact: Option<String>,
}

impl Disk {
    /// Makes the folders where they are missing, and removes what a crash left unfinished.
    pub fn open(state: &Path, directory: &str) -> io::Result<Self> {
        let disk = Self {
            state: state.to_owned(),
            ca: state.join(folder_of(directory)),
        };
        make_folder(&disk.ca)?;
        remove_unfinished(&disk.ca)?;
        for entry in fs::read_dir(&disk.ca)? {
            let path = entry?.path();
            if path.is_dir() {
                remove_unfinished(&path)?;
            }
        }
        Ok(disk)
    }

    /// The same for who only looks: makes nothing.
    pub fn at(state: &Path, directory: &str) -> Self {
        Self {
            state: state.to_owned(),
            ca: state.join(folder_of(directory)),
        }
    }

    pub fn account(&self) -> io::Result<Option<AccountFile>> {
        read_json(&self.ca.join("account.json"))
    }

    pub fn save_account(&self, account: &AccountFile) -> io::Result<()> {
        write_json(&self.ca.join("account.json"), account)
    }

    /// The account's key proves nothing to the CA any more.
    pub fn forget_account(&self) -> io::Result<()> {
        remove(&self.ca.join("account.json"))
    }

    pub fn budget(&self) -> io::Result<Budget> {
        Ok(read_json(&self.ca.join("budget.json"))?.unwrap_or_default())
    }

    pub fn save_budget(&self, budget: &Budget) -> io::Result<()> {
        write_json(&self.ca.join("budget.json"), budget)
    }

    pub fn record(&self, names: &Names) -> io::Result<Option<Record>> {
        read_json(&self.order_file(names))
    }

    pub fn save_record(&self, record: &Record) -> io::Result<()> {
        let path = self.order_file(&record.names);
        make_folder(path.parent().unwrap_or(&self.ca))?;
        write_json(&path, record)
    }

    /// Private key and chain of the certificate in use, in one PEM text.
    pub fn certificate(&self, names: &Names) -> io::Result<Option<String>> {
        read(&self.certificate_file(names))
    }

    pub fn save_certificate(&self, names: &Names, pem: &str) -> io::Result<()> {
        let path = self.certificate_file(names);
        make_folder(path.parent().unwrap_or(&self.ca))?;
        write(&path, pem.as_bytes())
    }

    pub fn certificate_file(&self, names: &Names) -> PathBuf {
        self.ca.join(names.folder()).join("current.pem")
    }

    fn order_file(&self, names: &Names) -> PathBuf {
        self.ca.join(names.folder()).join("order.json")
    }

    /// Every certificate in our folder, of any CA and for any names: what may be served until a
    /// wanted one is there. What cannot be read is left out.
    pub fn all_certificates(&self) -> Vec<String> {
        let folders = |path: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(path).into_iter().flatten();
            entries.flatten().map(|entry| entry.path()).collect()
        };
        folders(&self.state)
            .iter()
            .flat_map(|ca| folders(ca))
            .filter_map(|names| read(&names.join("current.pem")).ok().flatten())
            .collect()
    }
}

/// A folder's name for a CA: readable, and safe in a path.
fn folder_of(directory: &str) -> String {
    let rest = directory.split_once("://").map_or(directory, |(_, r)| r);
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let name: String = rest
        .chars()
        .map(|c| if safe(c) { c } else { '_' })
        .collect();
    match name.trim_start_matches('.') {
        "" => "_".to_owned(),
        name => name.to_owned(),
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|error| about("cannot make the folder", path, &error))?;
    match path.parent() {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let value = serde_json::from_str(&text);
    value.map(Some).map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        about("cannot understand", path, &error)
    })
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(about("cannot read", path, &error)),
        Ok(meta) => meta.len(),
    };
    if length > MOST_BYTES {
        let error = io::Error::new(io::ErrorKind::InvalidData, "the file is too large");
        return Err(about("cannot read", path, &error));
    }
    let text = fs::read_to_string(path);
    text.map(Some)
        .map_err(|error| about("cannot read", path, &error))
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write(path, &serde_json::to_vec_pretty(value)?)
}

/// After this the file is either what it was or what it is to be, whatever happens to the machine.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!("{UNFINISHED}{}-{number}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let whole = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    };
    whole().map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        about("cannot write", path, &error)
    })
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(about("cannot remove", path, &error))
        }
        _ => Ok(()),
    }
}

fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(UNFINISHED) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn about(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::Folder;
    use super::*;

    #[test]
    fn only_the_owner_reads_what_is_written() {
        let folder = Folder::new();
        let disk = Disk::open(&folder.path().join("state"), "https://ca.example/dir").unwrap();
        let names: Names = "a.example".parse().unwrap();
        disk.save_certificate(&names, "PEM").unwrap();
        let account = AccountFile {
            key: "K".to_owned(),
            url: None,
            contact: None,
        };
        disk.save_account(&account).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = disk.certificate_file(&names);
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(file.parent().unwrap()), 0o700);
        assert_eq!(mode(&disk.ca), 0o700);
        assert_eq!(mode(&disk.ca.join("account.json")), 0o600);
        assert_eq!(disk.certificate(&names).unwrap().as_deref(), Some("PEM"));
        assert!(disk.account().unwrap() == Some(account));
        disk.forget_account().unwrap();
        assert!(disk.account().unwrap().is_none());
        assert_eq!(disk.all_certificates(), ["PEM"]);
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let folder = Folder::new();
        let disk = Disk::open(folder.path(), "https://ca.example/dir").unwrap();
        let names: Names = "a.example".parse().unwrap();
        disk.save_certificate(&names, "PEM").unwrap();
        let left = disk.certificate_file(&names).with_extension("pem.new-1-2");
        fs::write(&left, "half").unwrap();
        Disk::open(folder.path(), "https://ca.example/dir").unwrap();
        assert!(!left.exists());
        assert_eq!(disk.certificate(&names).unwrap().as_deref(), Some("PEM"));
    }

    #[test]
    fn a_file_that_is_not_ours_is_an_error_with_its_name() {
        let folder = Folder::new();
        let disk = Disk::open(folder.path(), "https://ca.example/dir").unwrap();
        fs::write(disk.ca.join("budget.json"), "{").unwrap();
        let error = disk.budget().unwrap_err().to_string();
        assert!(error.contains("budget.json"), "{error}");
    }

    #[test]
    fn folders_of_cas_are_apart() {
        assert_eq!(
            folder_of("https://acme-v02.api.letsencrypt.org/directory"),
            "acme-v02.api.letsencrypt.org_directory"
        );
        assert_eq!(folder_of("https://../../etc"), "_.._etc");
    }
}
