//! From what was found and what the client has and wants to what is sent.
//!
//! No disk here: everything is in the [`Found`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use super::cache::Found;
use super::conditions::Outcome;
use super::range::{self, Ranges, Slice};
use super::representation::{Content, Representation};
use super::{FileReply, FileRequest, Part, Refusal, path};
use crate::edge::h1::coding::choose;

/// The reply to a visitor's GET or HEAD as of `now`. What lies beside the file goes before copies of ours: somebody has
/// made it on purpose.
pub fn answer(found: &mut Found, request: &FileRequest<'_>, now: Instant) -> FileReply {
    let coding = choose(request.accept_encoding, found.available());
    if let Some(coded) = coding.and_then(|coding| found.representation(Some(coding))) {
        return send(coded, request, 200);
    }
    let (plain, copies) = match found {
        Found::File { plain, copies, .. } => (plain, copies),
        Found::Directory => return to_slash_form(request),
        Found::Nothing(refusal) => return FileReply::Refused(*refusal),
    };
    let press = request.press;
    let copy = press.and_then(|press| press.copy_of(plain, copies, request.accept_encoding, now));
    match copy {
        Some(copy) => send(&copy.representation, request, 200),
        None => send(plain, request, 200),
    }
}

/// The reply with one representation. `status` other than 200 stands, and rules conditions and ranges out; so
/// does a method that is no mere reading: the application has already acted on it.
pub fn send(representation: &Representation, request: &FileRequest<'_>, status: u16) -> FileReply {
    if status != 200 || !matches!(request.method, b"GET" | b"HEAD") {
        return whole(representation, request, status);
    }
    match request.conditions.evaluate(representation.validators()) {
        Outcome::Proceed => {}
        Outcome::NotModified => {
            return FileReply::Empty {
                status: 304,
                head: Arc::clone(&representation.head_not_modified),
            };
        }
        Outcome::Failed => return FileReply::Refused(Refusal::Precondition),
    }
    // Range is defined for GET only (RFC 9110 section 14.2).
    let Some(wanted) = request.range.filter(|_| request.method == b"GET") else {
        return whole(representation, request, status);
    };
    if !request
        .conditions
        .range_applies(representation.validators())
    {
        return whole(representation, request, status);
    }
    match range::parse(wanted, representation.size) {
        Ranges::Whole => whole(representation, request, status),
        Ranges::Unsatisfiable => FileReply::Refused(Refusal::Range {
            size: representation.size,
        }),
        Ranges::Parts(slices) => match slices[..] {
            [slice] => one_part(representation, slice),
            // A multipart answer has a type of its own, but the application's is already in the head.
            _ if !representation.own_type => whole(representation, request, status),
            _ => many_parts(representation, &slices, &boundary()),
        },
    }
}

fn whole(representation: &Representation, request: &FileRequest<'_>, status: u16) -> FileReply {
    let head = Arc::clone(&representation.head);
    if request.method == b"HEAD" {
        return FileReply::Empty { status, head };
    }
    match &representation.content {
        Content::Memory(body) => FileReply::Memory {
            status,
            head,
            body: Arc::clone(body),
        },
        Content::File(file) => {
            let part = Part {
                prefix: Vec::new(),
                offset: 0,
                len: representation.size,
            };
            FileReply::File {
                status,
                head,
                parts: vec![part],
                file: Arc::clone(file),
            }
        }
    }
}

fn to_slash_form(request: &FileRequest<'_>) -> FileReply {
    let mut head = b"Location: ".to_vec();
    head.extend_from_slice(&path::slash_form(request.path, request.query));
    head.extend_from_slice(b"\r\nContent-Length: 0\r\n");
    FileReply::Empty {
        status: 308,
        head: Arc::from(head),
    }
}

fn one_part(representation: &Representation, slice: Slice) -> FileReply {
    let mut head = format!("Content-Length: {}\r\n", slice.len);
    let _ = write!(head, "{}\r\n", content_range(slice, representation.size));
    let head = [
        head.as_bytes(),
        &representation.head[type_at(representation)..],
    ]
    .concat();
    let part = Part {
        prefix: Vec::new(),
        offset: slice.offset,
        len: slice.len,
    };
    partial(representation, head, vec![part])
}

fn many_parts(representation: &Representation, slices: &[Slice], boundary: &str) -> FileReply {
    let mut parts = Vec::with_capacity(slices.len() + 1);
    for (index, &slice) in slices.iter().enumerate() {
        let mut prefix = String::with_capacity(160);
        let opening = if index == 0 { "--" } else { "\r\n--" };
        let _ = write!(
            prefix,
            "{opening}{boundary}\r\nContent-Type: {}\r\n",
            representation.content_type
        );
        let _ = write!(
            prefix,
            "{}\r\n\r\n",
            content_range(slice, representation.size)
        );
        parts.push(Part {
            prefix: prefix.into_bytes(),
            offset: slice.offset,
            len: slice.len,
        });
    }
    let closing = format!("\r\n--{boundary}--\r\n").into_bytes();
    parts.push(Part {
        prefix: closing,
        offset: 0,
        len: 0,
    });

    let length: u64 = parts
        .iter()
        .map(|part| part.prefix.len() as u64 + part.len)
        .sum();
    let mut head = format!("Content-Length: {length}\r\n");
    let _ = write!(
        head,
        "Content-Type: multipart/byteranges; boundary={boundary}\r\n"
    );
    let head = [
        head.as_bytes(),
        &representation.head[representation.common_at..],
    ]
    .concat();
    partial(representation, head, parts)
}

fn partial(representation: &Representation, head: Vec<u8>, parts: Vec<Part>) -> FileReply {
    let head = Arc::from(head);
    match &representation.content {
        Content::File(file) => FileReply::File {
            status: 206,
            head,
            parts,
            file: Arc::clone(file),
        },
        Content::Memory(bytes) => {
            let mut body = Vec::new();
            for part in &parts {
                body.extend_from_slice(&part.prefix);
                body.extend_from_slice(slice_of(bytes, part));
            }
            FileReply::Memory {
                status: 206,
                head,
                body: Arc::from(body),
            }
        }
    }
}

/// Slices come from [`range::parse`] with this representation's size, so they lie inside.
fn slice_of<'b>(bytes: &'b [u8], part: &Part) -> &'b [u8] {
    let offset = usize::try_from(part.offset).unwrap_or(usize::MAX);
    let len = usize::try_from(part.len).unwrap_or(usize::MAX);
    bytes
        .get(offset..)
        .and_then(|rest| rest.get(..len))
        .unwrap_or_default()
}

fn content_range(slice: Slice, size: u64) -> String {
    format!(
        "Content-Range: bytes {}-{}/{size}",
        slice.offset,
        slice.offset + slice.len - 1
    )
}

/// Where the fields behind `Content-Length` start.
fn type_at(representation: &Representation) -> usize {
    memchr::memchr(b'\n', &representation.head).map_or(0, |end| end + 1)
}

/// Random, so that no file can hold it on purpose.
fn boundary() -> String {
    let mut bytes = [0u8; 12];
    // The kernel answers from its pool at once; should it ever not, a fixed boundary is still well formed.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes
        .iter()
        .fold(String::with_capacity(24), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
