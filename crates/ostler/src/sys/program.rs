//! A program of the operator that is run to its end, for what it does and what it says.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{process, spawn};

/// What is kept of its output, in bytes; the rest is read and dropped.
const MOST_OUTPUT: usize = 4 << 10;

/// What a program has left running may hold its output open; that is not waited for any longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a program has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// The beginning of what it wrote to its standard output and error.
    pub output: String,
}

/// Runs `program` with `args` and waits for its end. It has a process group of its own, which is
/// killed when time is up or the returned future is dropped.
///
/// # Errors
/// It cannot be started, or has not ended `within` that time (`TimedOut`).
pub async fn run(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    within: Duration,
) -> io::Result<Ended> {
    let (reader, writer) = io::pipe()?;
    let pipe = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let started = Command::new(program)
        .args(args)
        .env_clear()
        .envs(spawn::own_env())
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(writer.try_clone()?))
        .stderr(OwnedFd::from(writer))
        .process_group(0)
        .spawn();
    let mut group = Group(started.map_err(|error| about("cannot start", program, &error))?);
    let mut output = Vec::new();
    let status = timeout(within, wait(&mut group.0, pipe, &mut output)).await;
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    match status {
        Ok(status) => Ok(Ended {
            status: status?,
            output,
        }),
        Err(_) => {
            let text = format!("no end within {} s; it said: {output}", within.as_secs());
            let error = io::Error::new(io::ErrorKind::TimedOut, text);
            Err(about("gave up", program, &error))
        }
    }
}

async fn wait(child: &mut Child, pipe: Receiver, output: &mut Vec<u8>) -> io::Result<ExitStatus> {
    let mut reading = pin!(read(pipe, output));
    let mut open = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = &mut reading, if open => open = false,
        }
    };
    if open {
        let _ = timeout(LAST_WORDS, reading).await;
    }
    status
}

/// Reads to the end and keeps the beginning.
async fn read(mut pipe: Receiver, output: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let room = MOST_OUTPUT - output.len();
        output.extend_from_slice(&buffer[..length.min(room)]);
    }
}

/// Ends with all that it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // There is an id as long as it was not reaped: the group is its own until then.
        if let Some(pid) = self.0.id() {
            let _ = process::kill_group(pid);
        }
    }
}

fn about(what: &str, program: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("{what} {}: {error}", program.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn sh(script: &str, within: Duration) -> io::Result<Ended> {
        run(
            Path::new("sh"),
            &["-c", script, "sh", "a b", "$HOME"],
            within,
        )
        .await
    }

    #[tokio::test]
    async fn a_program_says_and_ends() {
        let script = r#"echo "$1 $2"; echo oops >&2; exit 3"#;
        let ended = sh(script, PATIENCE).await.unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.output, "a b $HOME\noops");
    }

    #[tokio::test]
    async fn what_it_says_is_bounded() {
        let ended = sh("yes | head -c 1000000", PATIENCE).await.unwrap();
        assert_eq!(ended.status.code(), Some(0));
        assert!(ended.output.len() <= MOST_OUTPUT);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_what_it_started() {
        let script = "sleep 600 & echo $!; wait";
        let error = sh(script, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let text = error.to_string();
        let pid: u32 = text.rsplit(' ').next().unwrap().parse().unwrap();
        while process::exists(pid) && !ended(pid) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_left_running_is_not_waited_for() {
        let ended = sh("sleep 600 & echo $!", PATIENCE).await.unwrap();
        let pid: u32 = ended.output.parse().unwrap();
        assert!(process::exists(pid), "it was not ours to kill");
        process::Pidfd::open(pid)
            .unwrap()
            .send(crate::sys::Signal::Kill)
            .unwrap();
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = run(Path::new("/no/such"), &["x"], PATIENCE)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }

    /// An orphan that nobody has reaped yet.
    fn ended(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    }
}
