//! From a path below a root to what lies there: the only place that asks the disk about a request's path.
//!
//! A look that reaches to memory only may end with [`Miss::WouldWait`]; the same look, to the disk, then tells.
//! It must not know the request: the same outcome serves everyone who asks within a second.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Refusal;
use super::beneath::{self, Root};
use super::cache::Found;
use super::path;
use super::representation::{Given, Identity, Presentation, Representation};
use crate::edge::disk::Reach;
use crate::edge::h1::coding::Coding;

/// Why a look has nothing to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Only the disk can tell, and the look was not to reach that far.
    WouldWait,
    Refused(Refusal),
}

impl Miss {
    /// The refusal after a look to the disk, which is always one.
    pub fn refusal(self) -> Refusal {
        match self {
            Miss::WouldWait => Refusal::Busy,
            Miss::Refused(refusal) => refusal,
        }
    }
}

/// A directory that is looked beneath, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Look<'r> {
    pub root: &'r Root,
    pub reach: Reach,
    /// Copies in a coding are made of what is found.
    pub presses: bool,
}

/// What lies somewhere.
enum Lies {
    File(OwnedFd, Identity),
    Directory,
}

impl Look<'_> {
    /// Looks for what a visitor asked: `rest` is what follows the prefix, empty or starting with `/`. What was
    /// `known` before is taken where the disk still agrees, and left alone when the look would wait.
    ///
    /// Errors: [`Miss::WouldWait`] only; what is refused is found, too.
    pub fn find(self, rest: &[u8], known: &mut Option<Found>) -> Result<Found, Miss> {
        match self.file_or_directory(rest, known) {
            Err(Miss::Refused(refusal)) => Ok(Found::Nothing(refusal)),
            outcome => outcome,
        }
    }

    /// Looks for a file an application named; names are not checked, links may lead anywhere within the root.
    pub fn find_named(self, below: &[u8], given: Given<'_>) -> Result<Representation, Miss> {
        let opened = self.root.open_file(below, self.reach);
        let opened = opened.map_err(|errno| self.miss(errno))?;
        let stat = rustix::fs::fstat(&opened.file).map_err(|errno| self.miss(errno))?;
        let identity = Identity::of(&stat).ok_or(Miss::Refused(Refusal::NotFound))?;
        let how = Presentation {
            name: below,
            given,
            ..Presentation::default()
        };
        self.load((opened.file, identity), how)
    }

    fn file_or_directory(self, rest: &[u8], known: &mut Option<Found>) -> Result<Found, Miss> {
        let below = rest.strip_prefix(b"/").unwrap_or(rest);
        path::check(below).map_err(Miss::Refused)?;
        if below.is_empty() || below.ends_with(b"/") {
            let index = [below, INDEX].concat();
            return match rest.is_empty() {
                true => self.index_exists(&index),
                false => self.file(&index, known),
            };
        }
        match self.open(below) {
            // Out of descriptors: what was there a second ago is better than nothing.
            Err(Miss::Refused(Refusal::Busy)) if matches!(known, Some(Found::File { .. })) => {
                known.take().ok_or(Miss::Refused(Refusal::Busy))
            }
            Ok(Lies::Directory) => self.index_exists(&[below, b"/", INDEX].concat()),
            Ok(Lies::File(plain, identity)) => self.beside(below, plain, identity, known),
            Err(miss) => Err(miss),
        }
    }

    fn open(self, below: &[u8]) -> Result<Lies, Miss> {
        let opened = self.root.open_file(below, self.reach);
        let opened = opened.map_err(|errno| self.miss(errno))?;
        // Behind a link the request's name says nothing about the file's own.
        if opened.through_link
            && beneath::real_name(&opened.file).is_some_and(|name| path::is_hidden(&name))
        {
            return Err(Miss::Refused(Refusal::NotFound));
        }
        let stat = rustix::fs::fstat(&opened.file).map_err(|errno| self.miss(errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(Lies::Directory);
        }
        let identity = Identity::of(&stat).ok_or(Miss::Refused(Refusal::NotFound))?;
        Ok(Lies::File(opened.file, identity))
    }

    fn index_exists(self, index: &[u8]) -> Result<Found, Miss> {
        match self.open(index)? {
            Lies::File(..) => Ok(Found::Directory),
            Lies::Directory => Err(Miss::Refused(Refusal::NotFound)),
        }
    }

    fn file(self, below: &[u8], known: &mut Option<Found>) -> Result<Found, Miss> {
        match self.open(below)? {
            Lies::File(plain, identity) => self.beside(below, plain, identity, known),
            Lies::Directory => Err(Miss::Refused(Refusal::NotFound)),
        }
    }

    /// The file with its neighbours.
    fn beside(
        self,
        below: &[u8],
        plain: OwnedFd,
        identity: Identity,
        known: &mut Option<Found>,
    ) -> Result<Found, Miss> {
        let mut neighbours = [None, None, None];
        for coding in Coding::ALL {
            neighbours[coding.index()] = self.neighbour(below, coding, &identity)?;
        }
        let varies = neighbours.iter().any(Option::is_some);
        if let Some(known) = known.take_if(|known| still(known, &identity, &neighbours)) {
            return Ok(known);
        }
        let how = Presentation {
            name: below,
            varies,
            may_be_copied: self.presses,
            ..Presentation::default()
        };
        let plain = self.load((plain, identity), how)?;
        let mut coded = [None, None, None];
        for (coding, neighbour) in Coding::ALL.into_iter().zip(neighbours) {
            let Some(neighbour) = neighbour else { continue };
            let how = Presentation {
                coding: Some(coding),
                ..how
            };
            coded[coding.index()] = there(self.load(neighbour, how))?.map(Box::new);
        }
        let copies = Default::default();
        Ok(Found::File {
            plain,
            coded,
            copies,
        })
    }

    /// A precompressed copy that is not older than the file.
    fn neighbour(
        self,
        below: &[u8],
        coding: Coding,
        of: &Identity,
    ) -> Result<Option<(OwnedFd, Identity)>, Miss> {
        Ok(
            match there(self.open(&[below, coding.suffix()].concat()))? {
                Some(Lies::File(file, identity)) if identity.not_older_than(of) => {
                    Some((file, identity))
                }
                Some(Lies::File(..) | Lies::Directory) | None => None,
            },
        )
    }

    fn load(
        self,
        (file, identity): (OwnedFd, Identity),
        how: Presentation<'_>,
    ) -> Result<Representation, Miss> {
        let loaded = Representation::load(file, identity, how, self.reach);
        loaded.map_err(|errno| self.miss(errno))
    }

    fn miss(self, errno: Errno) -> Miss {
        match (errno, self.reach) {
            (Errno::AGAIN, Reach::Memory) => Miss::WouldWait,
            _ => Miss::Refused(Refusal::from_errno(errno)),
        }
    }
}

/// What may as well not be there.
fn there<T>(looked: Result<T, Miss>) -> Result<Option<T>, Miss> {
    match looked {
        Ok(thing) => Ok(Some(thing)),
        Err(Miss::Refused(_)) => Ok(None),
        Err(Miss::WouldWait) => Err(Miss::WouldWait),
    }
}

fn still(known: &Found, plain: &Identity, neighbours: &[Option<(OwnedFd, Identity)>; 3]) -> bool {
    let same = |known: Option<&Representation>, now: Option<&Identity>| match (known, now) {
        (Some(known), Some(now)) => known.is_still(now),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let identity = |coding: Coding| {
        neighbours[coding.index()]
            .as_ref()
            .map(|(_, identity)| identity)
    };
    same(known.representation(None), Some(plain))
        && Coding::ALL
            .into_iter()
            .all(|c| same(known.representation(Some(c)), identity(c)))
}

const INDEX: &[u8] = b"index.html";
