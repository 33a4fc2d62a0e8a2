//! A directory of its own for one test, gone when the test is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("ostler-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self, below: &str) -> PathBuf {
        if below.is_empty() {
            self.0.clone()
        } else {
            self.0.join(below)
        }
    }

    pub fn write(&self, below: &str, content: impl AsRef<[u8]>) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Writes beside the file and renames over it, as deploys do.
    pub fn replace(&self, below: &str, content: impl AsRef<[u8]>) {
        let fresh = format!("{below}.new");
        self.write(&fresh, content);
        std::fs::rename(self.path(&fresh), self.path(below)).unwrap();
    }

    /// Sets the modification time, seconds since 1970.
    pub fn touch(&self, below: &str, seconds: u64) {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let file = std::fs::File::options()
            .write(true)
            .open(self.path(below))
            .unwrap();
        file.set_modified(time).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
