//! What must hold for any bytes between server and worker, for the tests and the fuzz target. Panics
//! when it does not; tells whether there was a good frame.

use ostler_wire::{
    BodyKind, CloseFrame, FileHead, FrameHead, HEAD_LEN, Kind, Opcode, RequestEncoder, RequestHead,
    ResponseEncoder, ResponseHead, WireError, frame,
};

/// A frame as a reader keeps it.
type Read = Result<Vec<(FrameHead, Vec<u8>)>, WireError>;

/// Frames mean the same however their bytes arrive, and a good payload is encoded as it was.
pub fn check_frames(input: &[u8], seed: u64) -> bool {
    let whole = read(input, &[]);
    let at = 1 + seed as usize % input.len().max(1);
    assert_eq!(read(input, &[at.min(input.len())]), whole, "cut at {at}");
    if input.len() <= 256 {
        let every: Vec<usize> = (1..input.len()).collect();
        assert_eq!(read(input, &every), whole, "byte by byte");
    }
    let frames = match &whole {
        Ok(frames) => frames,
        Err(_) => return false,
    };
    let mut good = false;
    for (head, payload) in frames {
        assert_eq!(head.len as usize, payload.len());
        assert_eq!(FrameHead::decode(&head.encode()), Ok(Some(*head)));
        good |= check_payload(head, payload);
    }
    good
}

/// Every whole frame of `input`, which comes in pieces that end at `cuts` and at its end.
fn read(input: &[u8], cuts: &[usize]) -> Read {
    let (mut frames, mut from) = (Vec::new(), 0);
    for &end in cuts.iter().chain([&input.len()]) {
        while let Some((head, payload, used)) = frame(&input[from..end])? {
            assert_eq!(used, HEAD_LEN + payload.len());
            frames.push((head, payload.to_vec()));
            from += used;
        }
    }
    Ok(frames)
}

/// Decodes a payload as its receiver would; true when it is good.
fn check_payload(head: &FrameHead, payload: &[u8]) -> bool {
    match head.kind {
        Kind::ReqHead => match RequestHead::decode(payload) {
            Ok(request) => check_request(head, &request, payload),
            Err(_) => return false,
        },
        Kind::RespHead | Kind::RespInfo | Kind::RespTrailers | Kind::WsAccept => {
            match ResponseHead::decode(payload) {
                Ok(response) => check_response(head, &response, payload),
                Err(_) => return false,
            }
        }
        Kind::RespFile => return FileHead::decode(payload).is_ok(),
        Kind::WsMessage => match Opcode::decode(payload) {
            Ok((opcode, message)) => {
                let mut again = Vec::new();
                opcode.encode(&mut again, head.stream, message);
                let pieces = read(&again, &[]).expect("our own frames");
                let joined: Vec<u8> = pieces
                    .iter()
                    .flat_map(|(_, piece)| piece[1..].to_vec())
                    .collect();
                assert_eq!(joined, message);
            }
            Err(_) => return false,
        },
        Kind::WsClose => return CloseFrame::decode(payload).is_ok(),
        _ => {}
    }
    true
}

fn check_request(head: &FrameHead, request: &RequestHead<'_>, payload: &[u8]) {
    let fields: Vec<_> = request.fields().collect();
    assert_eq!(fields.len(), usize::from(request.field_count));
    let mut again = Vec::new();
    let mut encoder = RequestEncoder::new(&mut again, head.stream, request);
    for field in &fields {
        encoder.field_with_id(field.id, field.name, field.value);
    }
    encoder.finish(request.inline);
    let (again_head, again, _) = frame(&again).expect("our own frame").expect("whole");
    assert_eq!(again_head.has_fd(), request.body == BodyKind::File);
    // Bits of the flags that nobody has named yet are not kept.
    if payload[2] & !7 == 0 {
        assert_eq!(again, payload, "a request is encoded differently");
    }
}

fn check_response(head: &FrameHead, response: &ResponseHead<'_>, payload: &[u8]) {
    assert_eq!(response.fields().count(), usize::from(response.field_count));
    let mut again = Vec::new();
    let (status, reason) = (response.status, response.reason);
    let mut encoder = ResponseEncoder::new(&mut again, head.kind, 0, head.stream, status, reason);
    for (name, value) in response.fields() {
        encoder.field(name, value);
    }
    encoder.finish(response.inline.len());
    again.extend_from_slice(response.inline);
    assert_eq!(
        &again[HEAD_LEN..],
        payload,
        "a response is encoded differently"
    );
}
