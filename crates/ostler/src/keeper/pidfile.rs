//! The pid file: whom to signal, for scripts.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::sys::process;

use super::zygotes::Trouble;

/// A file that holds the keeper's pid.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes our pid, where one is wanted, in one piece: whoever reads it reads a whole number.
    ///
    /// # Errors
    /// When the file names another process that is running, or cannot be written.
    pub fn write(path: Option<&Path>) -> Result<Option<Self>, Trouble> {
        let Some(path) = path else { return Ok(None) };
        let refuse = |text: String| Trouble {
            exit: 1,
            text: format!("error: {text}"),
        };
        let shown = path.display();
        let own = process::own_pid();
        if let Some(pid) = named_in(path)
            && pid != own
            && process::exists(pid)
        {
            let hint = "hint: stop it first, or choose another --pid";
            return Err(refuse(format!(
                "{shown} names process {pid}, which is running; {hint}"
            )));
        }
        write_whole(path, own).map_err(|error| {
            refuse(format!(
                "cannot write {shown}: {error}; hint: choose another --pid"
            ))
        })?;
        Ok(Some(Self {
            path: path.to_owned(),
        }))
    }

    /// Removes the file unless somebody else has written theirs meanwhile.
    pub fn remove(&self) {
        if named_in(&self.path) == Some(process::own_pid()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn named_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn write_whole(path: &Path, pid: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{pid}"));
    // Never through a link that somebody else has put there: whoever may write to the folder could.
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&new)?;
    file.write_all(format!("{pid}\n").as_bytes())?;
    fs::rename(&new, path).inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::scratch::Scratch;

    fn write(path: &Path) -> Result<Option<PidFile>, Trouble> {
        PidFile::write(Some(path))
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let scratch = Scratch::new("pidfile-link");
        let (path, victim) = (scratch.path("app.pid"), scratch.path("victim"));
        fs::write(&victim, "kept").expect("writable");
        let guessed = scratch.path(&format!("app.pid.{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, guessed).expect("a link");
        let file = write(&path).expect("writable").expect("wanted");
        assert_eq!(fs::read_to_string(&victim).expect("there"), "kept");
        assert!(fs::symlink_metadata(&path).expect("there").is_file());
        file.remove();
    }

    #[test]
    fn the_file_is_written_and_removed() {
        let scratch = Scratch::new("pidfile");
        let path = scratch.path("app.pid");
        let file = write(&path).expect("writable").expect("wanted");
        let text = fs::read_to_string(&path).expect("there");
        assert_eq!(text, format!("{}\n", std::process::id()));
        file.remove();
        assert!(!path.exists());
        assert!(PidFile::write(None).expect("nothing to do").is_none());
    }

    #[test]
    fn a_file_of_a_running_process_is_respected_and_a_stale_one_replaced() {
        let scratch = Scratch::new("pidfile-stale");
        let path = scratch.path("app.pid");
        scratch.write("app.pid", "1\n");
        let text = write(&path).expect_err("process 1 runs").text;
        assert!(text.contains("process 1, which is running"), "{text}");
        for stale in ["4194999\n", "", "not a number"] {
            scratch.write("app.pid", stale);
            assert!(write(&path).is_ok(), "{stale:?}");
        }
    }

    #[test]
    fn somebody_elses_file_is_left_alone() {
        let scratch = Scratch::new("pidfile-other");
        let file = write(&scratch.path("app.pid"))
            .expect("writable")
            .expect("wanted");
        scratch.write("app.pid", "1\n");
        file.remove();
        assert!(scratch.path("app.pid").exists());
        assert!(write(&scratch.path("nowhere/app.pid")).is_err());
    }
}
