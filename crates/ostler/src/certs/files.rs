//! Certificates that the operator keeps in files: read at the start and again when the files change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use tokio::time::sleep;

use super::certificate::Certificate;
use super::keys;
use super::names::Names;
use super::shared::{Row, Shared, check_names};
use super::state::Held;

/// A changed file is noticed by then. Two `stat` calls cost nothing, and inotify does not see every
/// way a file can be replaced (a link's target, a network file system).
const LOOK: Duration = Duration::from_secs(5);

/// No certificate with its chain, and no key, is larger.
const MOST_BYTES: u64 = 1 << 20;

/// A pair of files, and how they were when they were last read.
pub struct Files {
    names: Names,
    certificate: PathBuf,
    key: PathBuf,
    seen: Option<[Stamp; 2]>,
}

/// Another one means another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// A pair that can be served.
pub struct Pair {
    pub key: Arc<CertifiedKey>,
    pub held: Held,
    /// What the operator should know: it is served all the same.
    pub warning: Option<String>,
}

impl Files {
    pub fn new(names: Names, certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            names,
            certificate,
            key,
            seen: None,
        }
    }

    /// The pair, if it is another than at the last look. Two files that do not belong together (one of
    /// them is still to be replaced) are looked at again.
    pub fn look(&mut self) -> Option<Result<Pair, String>> {
        let stamps =
            stamp(&self.certificate).and_then(|certificate| Ok([certificate, stamp(&self.key)?]));
        match stamps {
            Ok(stamps) if self.seen == Some(stamps) => None,
            Ok(stamps) => {
                let read = self.read();
                if read.is_ok() {
                    self.seen = Some(stamps);
                }
                Some(read)
            }
            Err(error) => Some(Err(error.to_string())),
        }
    }

    fn read(&self) -> Result<Pair, String> {
        let read = |path: &Path| read(path).map_err(|error| error.to_string());
        let of = |error: String| format!("{}: {error}", self.certificate.display());
        let key = keys::from_pem(&read(&self.key)?, &read(&self.certificate)?).map_err(of)?;
        let certificate = Certificate::read(&key.cert[0]).map_err(of)?;
        Ok(Pair {
            key: Arc::new(key),
            held: certificate.held(),
            warning: check_names(&certificate, &self.names).err().map(of),
        })
    }

    /// Serves what the files hold, for as long as this is polled.
    pub async fn run(mut self, shared: Arc<Shared>) {
        let mut held = None;
        let mut said = None;
        loop {
            let found = shared.publish(|served| {
                let found = self.look();
                if let Some(Ok(pair)) = &found {
                    served.put(&self.names, &pair.key);
                }
                found
            });
            match found {
                None => {}
                Some(Ok(pair)) => {
                    held = Some(pair.held);
                    self.tell(&shared, held, pair.warning, &mut said);
                }
                Some(Err(error)) => self.tell(&shared, held, Some(error), &mut said),
            }
            sleep(LOOK.min(shared.pace.operator)).await;
        }
    }

    fn tell(
        &self,
        shared: &Shared,
        held: Option<Held>,
        error: Option<String>,
        said: &mut Option<String>,
    ) {
        if let Some(error) = &error
            && Some(error) != said.as_ref()
        {
            match held {
                Some(_) => tracing::warn!("{}: {error}; what was read last is served", self.names),
                None => tracing::error!("{}: {error}", self.names),
            }
        }
        said.clone_from(&error);
        let expired = held.is_some_and(|held| held.not_after < SystemTime::now());
        let state = match held {
            None => "from files, which cannot be used",
            Some(_) if expired => "from files, expired",
            Some(_) => "from files",
        };
        let row = Row {
            state,
            held,
            error,
            next: None,
        };
        shared.tell(&self.names, row);
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path).map_err(|error| about(path, &error))?;
    Ok(Stamp {
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// A text file of a sane size.
pub fn read(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)
        .map_err(|error| about(path, &error))?
        .len();
    if length > MOST_BYTES {
        let error = io::Error::new(io::ErrorKind::InvalidData, "the file is too large");
        return Err(about(path, &error));
    }
    fs::read_to_string(path).map_err(|error| about(path, &error))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot read {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::super::testing::Folder;
    use super::*;

    fn write(folder: &Path, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let pair = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        fs::write(folder.join("cert.pem"), &pair.0).unwrap();
        fs::write(folder.join("key.pem"), &pair.1).unwrap();
        pair
    }

    #[test]
    fn files_are_read_again_when_they_change() {
        let folder = Folder::new();
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        let names: Names = "a.example".parse().unwrap();
        let mut files = Files::new(names, cert.clone(), key.clone());
        let error = files.look().unwrap().err().unwrap();
        assert!(error.contains("cert.pem"), "{error}");
        write(folder.path(), "a.example");
        let first = files.look().unwrap().ok().unwrap();
        assert!(first.warning.is_none());
        assert!(files.look().is_none(), "nothing has changed");
        // Certificate and key are replaced one after the other.
        let (_, old_key) = (fs::read(&cert).unwrap(), fs::read(&key).unwrap());
        let (_, new_key) = write(folder.path(), "a.example");
        fs::write(&key, old_key).unwrap();
        let error = files.look().unwrap().err().unwrap();
        assert!(error.contains("belong together"), "{error}");
        fs::write(&key, new_key).unwrap();
        let second = files.look().unwrap().ok().unwrap();
        assert_ne!(first.key.cert, second.key.cert);
        // For another name: served, and said.
        write(folder.path(), "b.example");
        let warning = files.look().unwrap().ok().unwrap().warning.unwrap();
        assert!(warning.contains("not for a.example"), "{warning}");
    }
}
