//! The hostile messages of `e2e/corpus/http1.txt` at the parsers, cut at every byte; and the inputs
//! that fuzzing has found worth keeping. The end-to-end tests send the same messages to the server.

use std::path::{Path, PathBuf};

use super::chunked::Decoder;
use super::head::{Framing, Head, Limits, Progress, parse};
use crate::edge::files::range_invariants::check_range;
use crate::edge::proxy_invariants::check_proxy;

use super::invariants::{check_chunked, check_cookie, check_head, check_host};
use crate::edge::reason::Reason;

/// One message and what it must come to: `None` is accepted, else the status and the reason's code.
struct Case {
    name: String,
    refused: Option<(u16, String)>,
    message: Vec<u8>,
}

/// The limit of bodies that the end-to-end tests use, in bytes.
const BODY_LIMIT: u64 = 100 << 20;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(top().join("e2e/corpus/http1.txt")).expect("the corpus");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(case).collect()
}

/// `verdict | name | message`.
fn case(line: &str) -> Case {
    let mut parts = line.splitn(3, " | ");
    let mut part = || parts.next().expect("three parts");
    let (verdict, name, message) = (part(), part(), part());
    let refused = verdict
        .split_once(' ')
        .map(|(status, code)| (status.parse().expect("a status"), code.to_owned()));
    Case {
        name: name.to_owned(),
        refused,
        message: unescape(message),
    }
}

/// `\r`, `\n`, `\t`, `\\`, `\{`, `\xNN`, and `{TEXT*COUNT}` for a repetition.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '\\' => {
                let escape = rest.chars().next().expect("an escape");
                rest = &rest[1..];
                match escape {
                    'r' => out.push(b'\r'),
                    'n' => out.push(b'\n'),
                    't' => out.push(b'\t'),
                    'x' => {
                        out.push(u8::from_str_radix(&rest[..2], 16).expect("two hex digits"));
                        rest = &rest[2..];
                    }
                    other => out.push(other as u8),
                }
            }
            '{' => {
                let end = rest.find('}').expect("a closing brace");
                let (text, count) = rest[..end].rsplit_once('*').expect("text*count");
                out.extend(unescape(text).repeat(count.parse().expect("a count")));
                rest = &rest[end + 1..];
            }
            other => out.push(other as u8),
        }
    }
    out
}

/// A message as a connection reads it, in pieces that end at `cuts` and at its end.
fn read(message: &[u8], cuts: &[usize]) -> Result<(), Reason> {
    let mut head = Head::default();
    let mut ends = cuts.iter().copied().chain([message.len()]);
    let mut end;
    let used = loop {
        end = ends.next().ok_or(Reason::HeadIncomplete)?;
        if let Progress::Complete { consumed } =
            parse(&message[..end], &Limits::default(), &mut head)?
        {
            break consumed;
        }
    };
    match head.framing() {
        Framing::None => Ok(()),
        Framing::Length(length) if length > BODY_LIMIT => Err(Reason::BodyTooLarge),
        Framing::Length(length) if ((message.len() - used) as u64) < length => {
            Err(Reason::BodyIncomplete)
        }
        Framing::Length(_) => Ok(()),
        Framing::UntilEnd => unreachable!("no message of HTTP/1.1 is framed so"),
        Framing::Chunked => {
            let (mut decoder, mut out, mut from) = (Decoder::default(), Vec::new(), used);
            loop {
                if decoder.decode(&message[from..end], &mut out)?.done {
                    return Ok(());
                }
                from = end;
                end = ends.next().ok_or(Reason::BodyIncomplete)?;
            }
        }
    }
}

/// Every place to cut; of a long message's middle, which is filler, a sample.
fn places(len: usize) -> impl Iterator<Item = usize> {
    (1..len).filter(move |at| len <= 1000 || *at < 300 || len - at < 300 || at % 97 == 0)
}

#[test]
fn every_message_is_judged_alike_wherever_it_is_cut() {
    let cases = cases();
    let refused = cases.iter().filter(|case| case.refused.is_some()).count();
    assert!(refused >= 150, "only {refused} hostile messages");
    for case in cases {
        let check = |cuts: &[usize]| {
            let seen = read(&case.message, cuts).err();
            let seen = seen.map(|reason| (reason.status(), reason.code().to_owned()));
            assert_eq!(seen, case.refused, "{} cut at {cuts:?}", case.name);
        };
        check(&[]);
        for at in places(case.message.len()) {
            check(&[at]);
        }
        let every: Vec<usize> = (1..case.message.len().min(2000)).collect();
        check(&every);
    }
}

#[test]
fn every_message_keeps_the_invariants() {
    for case in cases() {
        check_head(&case.message, 1);
        if let Some(at) = memchr::memmem::find(&case.message, b"\r\n\r\n") {
            check_chunked(&case.message[at + 4..], 1);
        }
    }
}

/// What fuzzing has found is looked at in every test run.
#[test]
fn kept_inputs_keep_the_invariants() {
    for (target, check) in [
        ("head", check_head as fn(&[u8], u64) -> bool),
        ("chunked", check_chunked),
        ("host", check_host),
        ("cookie", check_cookie),
        ("proxy", check_proxy),
        ("range", |input, _| check_range(input)),
    ] {
        let folder = top().join("fuzz/corpus").join(target);
        let inputs = std::fs::read_dir(&folder).expect("a corpus").map(|entry| {
            let path = entry.expect("an entry").path();
            std::fs::read(path).expect("an input")
        });
        let inputs: Vec<Vec<u8>> = inputs.collect();
        let accepted = inputs.iter().filter(|input| check(input, 1)).count();
        println!("{target}: {} inputs, {accepted} accepted", inputs.len());
        assert!(
            accepted > 0 && accepted < inputs.len(),
            "{target}: {accepted} accepted"
        );
    }
}
