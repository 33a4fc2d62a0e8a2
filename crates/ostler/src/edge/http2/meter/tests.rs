//! Frames in any pieces.

use super::*;

/// On stream 1; a header block is many times the field 16 of the static table.
fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let fill = if matches!(kind, 1 | 9) { 0x90 } else { 0 };
    frame_of(1, kind, flags, &vec![fill; payload])
}

fn frame_of(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// How many frames are taken before one is too much, however they are cut.
fn taken(kind: u8, flags: u8, payload: usize) -> Option<usize> {
    let seen = [1, 7, 4096].map(|cut| {
        let now = Instant::now();
        let mut meter = Meter::new(now, 1);
        assert_eq!(meter.take(&mut [b'x'; PREFACE], now).breach, None);
        (0..20_000).find(|number| {
            let mut frame = frame(kind, flags, payload);
            if kind == 1 {
                let stream = 2 * *number as u32 + 1;
                frame[5..HEAD].copy_from_slice(&stream.to_be_bytes());
            }
            frame
                .chunks_mut(cut)
                .any(|piece| meter.take(piece, now).breach.is_some())
        })
    });
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    seen[0]
}

#[test]
fn floods_are_told_from_traffic() {
    assert_eq!(taken(3, 0, 4), Some(RESETS as usize));
    for (kind, payload) in [(4, 0), (6, 8), (2, 5), (99, 300), (0, 0)] {
        assert_eq!(
            taken(kind, 0, payload),
            Some(IDLE_FRAMES as usize),
            "{kind}"
        );
    }
    assert_eq!(taken(8, 0, 4), None);
    assert_eq!(taken(0, 1, 0), None, "the ends of bodies");
    assert_eq!(taken(0, 0, 1000), None);
    assert_eq!(taken(1, 5, 100), None);
}

#[test]
fn a_head_is_on_its_way_until_its_last_byte() {
    let now = Instant::now();
    let mut meter = Meter::new(now, 1);
    let mut sees = |bytes: &[u8]| {
        assert_eq!(meter.take(&mut bytes.to_vec(), now).breach, None);
        meter.head_since().is_some()
    };
    assert!(!sees(&[b'x'; PREFACE]));
    assert!(!sees(&frame(1, 4, 10)), "whole at once");
    assert!(!sees(&frame(1, 4, 0)));
    let (start, rest) = (&frame(1, 4, 10)[..15], &frame(1, 4, 10)[15..]);
    assert!(sees(start) && !sees(rest));
    assert!(sees(&frame(1, 0, 10)) && sees(&frame(9, 0, 10)) && sees(&frame(9, 0, 0)));
    assert!(!sees(&frame(9, 4, 10)));
    assert!(!sees(&frame(0, 0, 10)[..12]), "a body");
}

#[test]
fn a_proxy_may_do_what_its_clients_may() {
    let now = Instant::now();
    let mut meter = Meter::new(now, 10);
    assert_eq!(meter.take(&mut [b'x'; PREFACE], now).breach, None);
    let taken = (0..9999).find(|_| meter.take(&mut frame(3, 0, 4), now).breach.is_some());
    assert_eq!(taken, Some(10 * RESETS as usize));
}

#[test]
fn what_was_long_ago_does_not_count() {
    let start = Instant::now();
    let mut meter = Meter::new(start, 1);
    assert_eq!(meter.take(&mut [b'x'; PREFACE], start).breach, None);
    for second in 0..100 {
        for _ in 0..20 {
            let now = start + Duration::from_secs(second);
            assert_eq!(
                meter.take(&mut frame(3, 0, 4), now).breach,
                None,
                "{second}"
            );
        }
    }
}

/// What is said of a frame behind a good one, however they are cut, and how much of both is good at least.
fn said(frame: &[u8]) -> Option<Breach> {
    let all = [&super::tests::frame(6, 0, 8)[..], frame].concat();
    let seen = [1, 5, 4096].map(|cut| {
        let now = Instant::now();
        let mut meter = Meter::new(now, 1);
        assert_eq!(meter.take(&mut [b'x'; PREFACE], now).breach, None);
        let mut good = 0;
        for piece in all.clone().chunks_mut(cut) {
            let taken = meter.take(piece, now);
            good += taken.good;
            if taken.breach.is_some() {
                assert!((HEAD + 8..all.len()).contains(&good), "{good}");
                return taken.breach;
            }
        }
        assert_eq!(good, all.len());
        None
    });
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    seen[0]
}

#[test]
fn a_frame_has_the_length_of_its_kind() {
    for (kind, flags, good, bad) in [
        (2, 0, 5, 4),
        (3, 0, 4, 5),
        (4, 0, 12, 11),
        (4, 1, 0, 6),
        (6, 0, 8, 7),
        (8, 0, 4, 3),
    ] {
        assert_eq!(said(&frame(kind, flags, good)), None, "{kind}");
        let breach = said(&frame(kind, flags, bad));
        assert_eq!(breach, Some(Breach::FrameSize), "{kind}");
    }
    assert_eq!(said(&frame(5, 4, 10)), Some(Breach::Push));
    assert_eq!(said(&frame(99, 0, 3)), None);
}

#[test]
fn no_window_is_larger_than_there_is() {
    let settings = |window: u32| {
        let mut all = frame(4, 0, 12);
        all[HEAD + 1] = 3;
        all[HEAD + 6 + 1] = 4;
        all[HEAD + 6 + 2..].copy_from_slice(&window.to_be_bytes());
        all
    };
    assert_eq!(said(&settings(0x7fff_ffff)), None);
    assert_eq!(said(&settings(0x8000_0000)), Some(Breach::Window));
}

/// What is said of the last of some frames, however they are cut; the others are good.
fn said_of_last(frames: &[Vec<u8>]) -> Option<Breach> {
    let (last, before) = frames.split_last().expect("a frame");
    let before = before.concat();
    let seen = [1, 3, 4096].map(|cut| {
        let now = Instant::now();
        let mut meter = Meter::new(now, 1);
        assert_eq!(meter.take(&mut [b'x'; PREFACE], now).breach, None);
        for piece in before.clone().chunks_mut(cut) {
            assert_eq!(meter.take(piece, now).breach, None);
        }
        let mut last = last.clone();
        let mut taken = last
            .chunks_mut(cut)
            .map(|piece| meter.take(piece, now).breach);
        taken.find_map(|breach| breach)
    });
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    seen[0]
}

#[test]
fn on_a_stream_that_the_client_has_ended_nothing_follows() {
    let head = |flags| frame(1, flags, 3);
    let data = |flags| frame(0, flags, 3);
    let closed = Some(Breach::Closed);
    assert_eq!(said_of_last(&[head(5), data(1)]), closed);
    assert_eq!(said_of_last(&[head(5), head(5)]), closed);
    assert_eq!(said_of_last(&[head(4), data(1), data(0)]), closed);
    assert_eq!(said_of_last(&[head(4), frame(3, 0, 4), head(5)]), closed);
    assert_eq!(said_of_last(&[head(4), data(0), head(5), data(1)]), closed);
    // What may still come, and what is for `h2`.
    for (kind, length) in [(2, 5), (3, 4), (8, 4), (9, 3), (99, 3)] {
        assert_eq!(said_of_last(&[head(5), frame(kind, 4, length)]), None);
    }
    assert_eq!(said_of_last(&[head(1), data(1)]), None, "in a block");
    assert_eq!(said_of_last(&[head(5), frame_of(3, 0, 1, b"x")]), None);
    let reserved = frame_of(0x8000_0001, 0, 1, b"x");
    assert_eq!(said_of_last(&[head(5), reserved]), closed);
}

#[test]
fn a_block_that_cannot_be_decoded_ends_the_connection() {
    let head = |flags, payload: &[u8]| frame_of(1, 1, flags, payload);
    let more = |flags, payload: &[u8]| frame_of(1, 9, flags, payload);
    let block = Some(Breach::Block);
    assert_eq!(said_of_last(&[head(5, b"\x40")]), block);
    assert_eq!(said_of_last(&[head(1, b"\x40"), more(4, b"")]), block);
    assert_eq!(
        said_of_last(&[head(1, b"\x40"), more(4, b"\x01a\x00")]),
        None
    );
    assert_eq!(said_of_last(&[head(1, b""), more(0, b"\x80")]), block);
    // Padding, and what once was a priority, are not of the block; padding that is too long is for `h2`.
    assert_eq!(said_of_last(&[head(5 | PADDED, b"\x02\x90\x80\x80")]), None);
    assert_eq!(
        said_of_last(&[head(5 | PADDED, b"\x02\x80\x80\x80")]),
        block
    );
    assert_eq!(said_of_last(&[head(5 | PADDED, b"\x04\x80\x80\x80")]), None);
    assert_eq!(said_of_last(&[head(5 | PADDED, b"")]), None);
    let both = 5 | PADDED | PRIORITY;
    assert_eq!(
        said_of_last(&[head(both, b"\x01\x80\x80\x80\x80\x80\x90\x80")]),
        None
    );
    assert_eq!(
        said_of_last(&[head(both, b"\x01\x80\x80\x80\x80\x80\x80\x80")]),
        block
    );
    assert_eq!(said_of_last(&[head(5 | PRIORITY, b"\x80\x80")]), None);
}

#[test]
fn trailers_have_no_pseudo_header_fields() {
    let [request, trailers] = [4, 5].map(|flags| frame_of(1, 1, flags, b"\x83"));
    let breach = said_of_last(&[request.clone(), frame(0, 0, 3), trailers]);
    assert_eq!(breach, Some(Breach::Trailers));
    let cut = [
        request.clone(),
        frame_of(1, 1, 1, b"\x04"),
        frame_of(1, 9, 4, b"\x00"),
    ];
    assert_eq!(said_of_last(&cut), Some(Breach::Trailers));
    assert_eq!(said_of_last(&[request, frame(1, 5, 3)]), None);
}

/// RFC 9113 section 6.8: it may go on.
#[test]
fn a_client_that_goes_away_is_not_taken_at_its_word() {
    for cut in [1, 2, 3, 4, 5, 4096] {
        let now = Instant::now();
        let mut meter = Meter::new(now, 1);
        assert_eq!(meter.take(&mut [b'x'; PREFACE], now).breach, None);
        let (ping, away) = (frame(6, 0, 8), frame_of(0, GOAWAY, 0, &[GOAWAY; 8]));
        let sent = [&ping[..], &away, &ping].concat();
        let mut seen = sent.clone();
        for piece in seen.chunks_mut(cut) {
            assert_eq!(meter.take(piece, now).breach, None, "{cut}");
        }
        let other: Vec<usize> = (0..sent.len()).filter(|&at| seen[at] != sent[at]).collect();
        assert_eq!(other, [ping.len() + KIND], "{cut}");
        assert_eq!(seen[ping.len() + KIND], UNKNOWN);
    }
    assert_eq!(
        said(&frame(GOAWAY, 0, 8)),
        Some(Breach::GoAway),
        "of a stream"
    );
    let short = frame_of(0, GOAWAY, 0, &[0; 7]);
    assert_eq!(said(&short), Some(Breach::FrameSize));
}
