//! What a keeper leaves to the program that it executes itself as: descriptors and pids that stay, as JSON in a
//! sealed file. Other versions of ostler read it, so fields are only ever added, and with a default.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::sys::{Child, Pidfd, anew, fds};

use super::bind::{Left, Listening};
use super::protocol::{MarkKey, ZygoteId, from_file, to_file};
use super::zygotes::Trouble;

/// Of the text below. A program that does not know it refuses, and then nothing changes.
const FORMAT: u32 = 1;

/// Descriptor numbers are valid in the program that reads this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heritage {
    pub format: u32,
    /// Of the program that leaves this.
    pub version: String,
    /// Where a new program is looked for at the next upgrade.
    pub program: PathBuf,
    /// The program that leaves this, open for being executed again.
    pub before: i32,
    /// One accepts connections, unless it has just ended; the others end.
    pub servers: Vec<LeftServer>,
    pub zygotes: Vec<LeftZygote>,
    /// A hook process may be there, which becomes nobody's child but ours.
    pub with_hooks: bool,
    pub listening: Vec<Left>,
    pub admin: Option<Left>,
    pub metrics: Vec<Left>,
    /// The number of the last project there was.
    pub last_project: u64,
    /// Projects whose app has served.
    pub serving: Vec<String>,
    /// Of who waits for the outcome.
    pub ticket: Option<u64>,
    /// Why the program that was executed gives the process back to the one before.
    #[serde(default)]
    pub failed: Option<String>,
    /// Clients have cookies that were made with it.
    #[serde(default)]
    pub marks: Option<MarkKey>,
    /// What only the program reads that has written it.
    pub own: serde_json::Value,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftServer {
    pub pid: u32,
    pub pidfd: i32,
    pub channel: i32,
    /// It accepts connections.
    pub current: bool,
    /// It has said that it writes no more to the state folder.
    pub drains: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftZygote {
    pub pid: u32,
    pub pidfd: i32,
    /// Of the server it belongs to.
    pub server: u32,
    pub id: Option<ZygoteId>,
}

impl Heritage {
    pub fn new(program: PathBuf, before: &OwnedFd, own: serde_json::Value) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program,
            before: before.as_raw_fd(),
            servers: Vec::new(),
            zygotes: Vec::new(),
            with_hooks: false,
            listening: Vec::new(),
            admin: None,
            metrics: Vec::new(),
            last_project: 0,
            serving: Vec::new(),
            ticket: None,
            failed: None,
            marks: None,
            own,
        }
    }

    fn descriptors(&self) -> impl Iterator<Item = i32> {
        let servers = self.servers.iter();
        let zygotes = self.zygotes.iter();
        let sockets = self.listening.iter().chain(&self.admin);
        servers
            .flat_map(|server| [server.pidfd, server.channel])
            .chain(zygotes.map(|zygote| zygote.pidfd))
            .chain(sockets.chain(&self.metrics).map(|left| left.fd))
            .chain([self.before])
    }

    /// Reads a file that says what there is.
    ///
    /// # Errors
    /// It is of a version of ostler that we do not know.
    fn read(file: OwnedFd) -> io::Result<Self> {
        let heritage: Self = from_file(file)?;
        if heritage.format != FORMAT {
            let text = format!(
                "ostler {} and {} do not understand each other; hint: restart it",
                heritage.version,
                env!("CARGO_PKG_VERSION")
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(heritage)
    }

    /// As a file, for another program.
    pub fn to_file(&self) -> io::Result<OwnedFd> {
        to_file("ostler-heritage", self)
    }
}

/// A heritage that was taken over, with its descriptors.
#[derive(Debug)]
pub struct Inheritance {
    pub said: Heritage,
    fds: HashMap<i32, OwnedFd>,
}

/// What a program that was started has to do with a heritage.
#[derive(Debug)]
pub enum Inherited {
    Nothing,
    /// It is asked whether it would take this over. What goes wrong, and that nothing does, it says on this file.
    Question {
        understood: io::Result<()>,
        answer: OwnedFd,
    },
    It(Box<Inheritance>),
}

/// The word before the descriptors of a question.
pub const QUESTION: &str = "question";

/// What the answer to a question ends with, before the version.
pub const YES: &str = "takes over: ostler ";

impl Inherited {
    /// Takes over what this process was left, once.
    ///
    /// # Errors
    /// A process that is left something it does not understand is lost: it was asked before.
    pub fn take() -> Result<Self, Trouble> {
        let Ok(value) = std::env::var(anew::HERITAGE) else {
            return Ok(Self::Nothing);
        };
        let strange = |error: io::Error| Trouble {
            exit: 2,
            text: format!(
                "error: {}={value}: {error}; hint: it is ostler's own, unset it",
                anew::HERITAGE
            ),
        };
        let number = |text: &str| {
            let parsed = text.parse::<i32>();
            parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
        };
        if let Some(rest) = value.strip_prefix(QUESTION) {
            let mut parts = rest.trim_start_matches(':').split(':').map(number);
            let mut next = || {
                let missing = || Err(io::ErrorKind::InvalidInput.into());
                fds::claim(parts.next().unwrap_or_else(missing)?)
            };
            let (file, answer) = (next().map_err(strange)?, next().map_err(strange)?);
            let understood = Heritage::read(file).map(drop);
            return Ok(Self::Question { understood, answer });
        }
        let file = number(&value).and_then(fds::claim).map_err(strange)?;
        let said = Heritage::read(file).map_err(strange)?;
        let claimed = said
            .descriptors()
            .map(|number| Ok((number, fds::claim(number)?)));
        let fds = claimed.collect::<io::Result<_>>().map_err(strange)?;
        Ok(Self::It(Box::new(Inheritance { said, fds })))
    }
}

/// Says that this program would take over, if it has `understood` what it is left; the exit code.
pub fn say_yes(understood: io::Result<()>, answer: OwnedFd) -> ExitCode {
    let text = match understood {
        Ok(()) => format!("{YES}{}\n", env!("CARGO_PKG_VERSION")),
        Err(error) => return say_no(answer, &format!("error: {error}\n")),
    };
    match File::from(answer).write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn say_no(answer: OwnedFd, why: &str) -> ExitCode {
    // Who has asked sees the exit code as well.
    let _ = File::from(answer).write_all(why.as_bytes());
    ExitCode::FAILURE
}

impl Inherited {
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// There is no plan: nothing of what was left can be gone on with.
    pub fn refuse(self, why: &str) -> ExitCode {
        match self {
            Self::Nothing => ExitCode::FAILURE,
            Self::Question { answer, .. } => say_no(answer, why),
            Self::It(inheritance) => {
                let error = inheritance.give_back(why.to_owned(), |_| true);
                eprintln!("error: the program before cannot be executed: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Inheritance {
    /// A descriptor of its own for what the heritage names.
    pub fn fd(&self, number: i32) -> io::Result<OwnedFd> {
        match self.fds.get(&number) {
            Some(fd) => fd.try_clone(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn child(&self, pid: u32, pidfd: i32) -> io::Result<Child> {
        let pidfd = Pidfd::from_fd(self.fd(pidfd)?, pid)?;
        Ok(Child { pid, pidfd })
    }

    /// One of its listening sockets.
    pub fn socket(&self, left: &Left) -> io::Result<Listening> {
        Ok(Listening::inherited(left, self.fd(left.fd)?))
    }

    /// Gives the process back to the program that has left all this; `servers` and `zygotes` are still there.
    /// Returns what keeps it from that.
    pub fn give_back(&self, failed: String, is_there: impl Fn(u32) -> bool) -> io::Error {
        let mut said = self.said.clone();
        said.failed = Some(failed);
        said.servers.retain(|server| is_there(server.pid));
        said.zygotes.retain(|zygote| is_there(zygote.pid));
        let file = match said.to_file() {
            Ok(file) => file,
            Err(error) => return error,
        };
        let before = match self.fd(said.before) {
            Ok(before) => before,
            Err(error) => return error,
        };
        let kept: Vec<BorrowedFd<'_>> = self.fds.values().map(AsFd::as_fd).collect();
        anew::execute(&anew::held(&before), &file, &kept)
    }
}
