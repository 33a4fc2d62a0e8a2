//! What fuzzing has found is looked at in every test run.

mod invariants;

use std::path::Path;

use invariants::check_frames;
use ostler_wire::{END, FileHead, Kind, RequestEncoder, RequestHead, ResponseEncoder};

#[test]
fn kept_inputs_keep_the_invariants() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/frame");
    let inputs = std::fs::read_dir(folder).expect("a corpus");
    let inputs =
        inputs.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("an input"));
    let inputs: Vec<Vec<u8>> = inputs.collect();
    let accepted = inputs.iter().filter(|input| check_frames(input, 1)).count();
    println!("frame: {} inputs, {accepted} accepted", inputs.len());
    assert!(
        accepted > 0 && accepted < inputs.len(),
        "{accepted} accepted"
    );
}

#[test]
fn our_own_frames_keep_the_invariants_and_broken_ones_too() {
    let mut out = Vec::new();
    let mut request = RequestEncoder::new(&mut out, 3, &RequestHead::EMPTY);
    request.field(b"host", b"a");
    request.field(b"x-odd", b"\xff");
    request.finish(b"");
    let mut response = ResponseEncoder::new(&mut out, Kind::RespHead, END, 3, 200, b"OK");
    response.field(b"Content-Type", b"text/plain");
    response.finish(0);
    FileHead { offset: 1, len: 2 }.encode(&mut out, END, 3);
    assert!(check_frames(&out, 7));
    for at in 0..out.len() {
        let mut broken = out.clone();
        broken[at] ^= 0x41;
        check_frames(&broken, at as u64);
        check_frames(&out[..at], at as u64);
    }
}
