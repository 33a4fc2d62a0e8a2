//! From a path below a root to what lies there: the only place that asks the disk about a request's path.
//!
//! It must not know the request: the same outcome serves everyone who asks within a second.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use super::Refusal;
use super::beneath::{self, Root};
use super::cache::Found;
use super::encoding::Coding;
use super::path;
use super::representation::{Given, Identity, Presentation, Representation};

/// Looks for what a visitor asked: `rest` is what follows the prefix, empty or starting with `/`. What was
/// `known` before is kept where the disk still agrees.
pub fn look(root: &Root, rest: &[u8], known: Option<Found>) -> Found {
    let below = rest.strip_prefix(b"/").unwrap_or(rest);
    if let Err(refusal) = path::check(below) {
        return Found::Nothing(refusal);
    }
    if below.is_empty() || below.ends_with(b"/") {
        let index = [below, INDEX].concat();
        let found = if rest.is_empty() {
            index_exists(root, &index)
        } else {
            file(root, &index, known)
        };
        return found.unwrap_or_else(Found::Nothing);
    }
    let found = match open(root, below) {
        // Out of descriptors: what was there a second ago is better than nothing.
        Err(Refusal::Busy) if matches!(known, Some(Found::File { .. })) => {
            known.ok_or(Refusal::Busy)
        }
        Ok(Lies::Directory) => index_exists(root, &[below, b"/", INDEX].concat()),
        Ok(Lies::File(plain, identity)) => beside(root, below, plain, identity, known),
        Err(refusal) => Err(refusal),
    };
    found.unwrap_or_else(Found::Nothing)
}

/// Looks for a file an application named; names are not checked, links may lead anywhere within the root.
pub fn look_anywhere(
    root: &Root,
    below: &[u8],
    given: Given<'_>,
) -> Result<Representation, Refusal> {
    let opened = root.open_file(below).map_err(Refusal::from_errno)?;
    let stat = rustix::fs::fstat(&opened.file).map_err(Refusal::from_errno)?;
    let identity = Identity::of(&stat).ok_or(Refusal::NotFound)?;
    let how = Presentation {
        name: below,
        given,
        ..Presentation::default()
    };
    Representation::load(opened.file, identity, how).map_err(Refusal::from_errno)
}

const INDEX: &[u8] = b"index.html";

enum Lies {
    File(OwnedFd, Identity),
    Directory,
}

fn open(root: &Root, below: &[u8]) -> Result<Lies, Refusal> {
    let opened = root.open_file(below).map_err(Refusal::from_errno)?;
    // Behind a link the request's name says nothing about the file's own.
    if opened.through_link
        && beneath::real_name(&opened.file).is_some_and(|name| path::is_hidden(&name))
    {
        return Err(Refusal::NotFound);
    }
    let stat = rustix::fs::fstat(&opened.file).map_err(Refusal::from_errno)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(Lies::Directory);
    }
    let identity = Identity::of(&stat).ok_or(Refusal::NotFound)?;
    Ok(Lies::File(opened.file, identity))
}

fn index_exists(root: &Root, index: &[u8]) -> Result<Found, Refusal> {
    match open(root, index)? {
        Lies::File(..) => Ok(Found::Directory),
        Lies::Directory => Err(Refusal::NotFound),
    }
}

fn file(root: &Root, below: &[u8], known: Option<Found>) -> Result<Found, Refusal> {
    match open(root, below)? {
        Lies::File(plain, identity) => beside(root, below, plain, identity, known),
        Lies::Directory => Err(Refusal::NotFound),
    }
}

/// The file with its neighbours.
fn beside(
    root: &Root,
    below: &[u8],
    plain: OwnedFd,
    identity: Identity,
    known: Option<Found>,
) -> Result<Found, Refusal> {
    let neighbours = Coding::ALL.map(|coding| neighbour(root, below, coding, &identity));
    let varies = neighbours.iter().any(Option::is_some);
    if let Some(known) = known.filter(|known| still(known, &identity, &neighbours)) {
        return Ok(known);
    }
    let how = Presentation {
        name: below,
        varies,
        ..Presentation::default()
    };
    let load = |(file, identity), how| Representation::load(file, identity, how);
    let plain = load((plain, identity), how).map_err(Refusal::from_errno)?;
    let mut coded = [None, None, None];
    for (coding, neighbour) in Coding::ALL.into_iter().zip(neighbours) {
        let how = Presentation {
            coding: Some(coding),
            ..how
        };
        coded[coding.index()] = neighbour
            .and_then(|found| load(found, how).ok())
            .map(Box::new);
    }
    Ok(Found::File { plain, coded })
}

/// A precompressed copy that is not older than the file.
fn neighbour(
    root: &Root,
    below: &[u8],
    coding: Coding,
    of: &Identity,
) -> Option<(OwnedFd, Identity)> {
    match open(root, &[below, coding.suffix()].concat()) {
        Ok(Lies::File(file, identity)) if identity.not_older_than(of) => Some((file, identity)),
        _ => None,
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
