//! Sessions against raw bytes: what a client may not send, and what it gets for what it may.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::edge::share::{Account, Share};
use crate::edge::subscriber::Subscriber;

use super::frame::{Opcode, Violation, encode};
use super::{By, Closed, Data, Event, Handshake, Outgoing, Session, Settings, handshake};

/// A session with a test at both ends of it.
struct Test {
    client: DuplexStream,
    from_client: mpsc::Receiver<Event>,
    to_client: mpsc::Sender<Outgoing>,
    session: JoinHandle<Closed>,
}

fn agreed(offer: &'static [u8]) -> Handshake {
    let header = |name: &str| match name {
        "upgrade" => Some(&b"websocket"[..]),
        "connection" => Some(&b"upgrade"[..]),
        "sec-websocket-version" => Some(&b"13"[..]),
        "sec-websocket-key" => Some(&b"dGhlIHNhbXBsZSBub25jZQ=="[..]),
        "sec-websocket-extensions" => Some(offer),
        _ => None,
    };
    handshake(b"GET", header, true).expect("a good handshake")
}

fn start(settings: Settings, early: &[u8]) -> Test {
    start_for(Share::default(), settings, early)
}

fn start_for(share: Share, settings: Settings, early: &[u8]) -> Test {
    let (client, server) = duplex(1 << 20);
    let (to_app, from_client) = mpsc::channel(1);
    let (to_client, from_app) = mpsc::channel(1);
    let handshake = agreed(b"permessage-deflate");
    let session = Session::new(server, early.to_vec(), &handshake, settings, share);
    Test {
        client,
        from_client,
        to_client,
        session: tokio::spawn(session.run(to_app, from_app)),
    }
}

fn small() -> Settings {
    Settings {
        max_frame: 1000,
        max_message: 2000,
        ping_interval: None,
        ..Settings::default()
    }
}

impl Test {
    async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.expect("an open session");
    }

    /// Everything the client gets until the session ends.
    async fn rest(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        self.client.read_to_end(&mut got).await.expect("readable");
        got
    }

    async fn get(&mut self, len: usize) -> Vec<u8> {
        let mut got = vec![0; len];
        self.client
            .read_exact(&mut got)
            .await
            .expect("enough bytes");
        got
    }

    async fn event(&mut self) -> Event {
        self.from_client.recv().await.expect("an event")
    }

    async fn closed(self) -> Closed {
        drop(self.client);
        self.session.await.expect("no panic")
    }
}

/// A client's frame, masked with zeros (which a mask may be).
fn data(bytes: impl Into<Vec<u8>>) -> Data {
    Data::new(bytes.into(), Share::default(), Arc::default())
}

fn text(bytes: impl Into<Vec<u8>>) -> Event {
    Event::Text(data(bytes))
}

fn binary(bytes: impl Into<Vec<u8>>) -> Event {
    Event::Binary(data(bytes))
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame, Opcode::Continuation, false, payload);
    let head = frame.len() - payload.len();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.splice(head..head, [0; 4]);
    frame
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(0x88, &[&code.to_be_bytes(), reason].concat())
}

#[tokio::test(start_paused = true)]
async fn bad_frames_end_the_connection_with_their_code() {
    use Violation::*;
    let text = |bytes: &[u8]| masked(0x81, bytes);
    let rows: Vec<(&str, Vec<u8>, Violation)> = vec![
        ("opcode 3", masked(0x83, b""), UnknownOpcode),
        ("opcode 7", masked(0x87, b""), UnknownOpcode),
        ("opcode 11", masked(0x8b, b""), UnknownOpcode),
        ("opcode 15", masked(0x8f, b""), UnknownOpcode),
        ("rsv2", masked(0xa1, b""), ReservedBits),
        ("rsv3", masked(0x91, b""), ReservedBits),
        ("rsv1 on a ping", masked(0xc9, b""), ReservedBits),
        ("rsv1 on a pong", masked(0xca, b""), ReservedBits),
        ("rsv1 on a close", masked(0xc8, &[3, 232]), ReservedBits),
        (
            "rsv1 on a continuation",
            [masked(1, b"a"), masked(0xc0, b"b")].concat(),
            ReservedBits,
        ),
        ("an unmasked frame", vec![0x81, 1, b'a'], Unmasked),
        ("an unmasked empty frame", vec![0x81, 0], Unmasked),
        ("a fragmented ping", masked(0x09, b""), FragmentedControl),
        ("a fragmented close", masked(0x08, b""), FragmentedControl),
        ("a ping of 126 bytes", masked(0x89, &[0; 126]), LongControl),
        ("a pong of 126 bytes", masked(0x8a, &[0; 126]), LongControl),
        (
            "a close of 126 bytes",
            close(1000, &[b'a'; 124]),
            LongControl,
        ),
        (
            "a long form of 5",
            vec![0x82, 0xfe, 0, 5, 0, 0, 0, 0],
            LongLength,
        ),
        (
            "a longer form of 5",
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0],
            LongLength,
        ),
        (
            "a length of 2^63",
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            LongLength,
        ),
        (
            "a length of 2^63 - 1",
            [&[0x82, 0xff, 0x7f][..], &[0xff; 11]].concat(),
            FrameTooBig,
        ),
        (
            "a frame over its limit",
            masked(0x82, &[0; 1001]),
            FrameTooBig,
        ),
        (
            "a message over its limit",
            [
                masked(2, &[0; 1000]),
                masked(0, &[0; 1000]),
                masked(0x80, b"a"),
            ]
            .concat(),
            MessageTooBig,
        ),
        (
            "a continuation first",
            masked(0x80, b"a"),
            StrayContinuation,
        ),
        (
            "a continuation after a message",
            [text(b"a"), masked(0, b"a")].concat(),
            StrayContinuation,
        ),
        (
            "a text in a text",
            [masked(1, b"a"), text(b"b")].concat(),
            MissingContinuation,
        ),
        (
            "a binary in a text",
            [masked(1, b"a"), masked(0x82, b"b")].concat(),
            MissingContinuation,
        ),
        ("a close of one byte", masked(0x88, &[3]), CloseCode),
        ("close 0", close(0, b""), CloseCode),
        ("close 999", close(999, b""), CloseCode),
        ("close 1004", close(1004, b""), CloseCode),
        ("close 1005", close(1005, b""), CloseCode),
        ("close 1006", close(1006, b""), CloseCode),
        ("close 1015", close(1015, b""), CloseCode),
        ("close 2999", close(2999, b""), CloseCode),
        ("close 5000", close(5000, b""), CloseCode),
        (
            "a close reason that is not utf-8",
            close(1000, b"\xff"),
            NotUtf8,
        ),
        ("a text that is not utf-8", text(b"\xff"), NotUtf8),
        ("a cut character", text(b"a\xe2\x82"), NotUtf8),
        ("an overlong slash", text(b"\xc0\xaf"), NotUtf8),
        ("a surrogate", text(b"\xed\xa0\x80"), NotUtf8),
        (
            "a fragment that is not utf-8, before its end",
            masked(1, b"\xffa"),
            NotUtf8,
        ),
        (
            "a frame that is not utf-8, before its end",
            vec![0x81, 0x85, 0, 0, 0, 0, b'a', 0xff],
            NotUtf8,
        ),
        ("no deflate data", masked(0xc1, &[0xff; 20]), BadDeflate),
        (
            "a deflated text that is not utf-8",
            masked(0xc1, &[0x01, 0x01, 0, 0xfe, 0xff, 0xff, 0]),
            NotUtf8,
        ),
    ];
    for (what, bytes, violation) in rows {
        let mut test = start(small(), b"");
        test.send(&bytes).await;
        let mut event = test.event().await;
        if matches!(event, Event::Text(_)) {
            event = test.event().await;
        }
        let (code, reason) = (violation.code(), violation.to_string());
        let mut expected = Vec::new();
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        encode(&mut expected, Opcode::Close, false, &payload);
        assert_eq!(test.rest().await, expected, "{what}");
        let by = By::Violation(violation);
        assert_eq!(event, Event::Closed { code, reason }, "{what}");
        assert_eq!(test.closed().await, Closed { code, by }, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bomb_is_too_big_and_not_unpacked() {
    let mut bomb = flate2::Compress::new(flate2::Compression::best(), false);
    let mut packed = Vec::with_capacity(1000);
    let zeros = vec![0; 200_000];
    bomb.compress_vec(&zeros, &mut packed, flate2::FlushCompress::Sync)
        .expect("room enough");
    let mut test = start(small(), &masked(0xc2, &packed));
    assert!(matches!(
        test.event().await,
        Event::Closed { code: 1009, .. }
    ));
    assert!(test.rest().await.starts_with(&[0x88]));
}

#[tokio::test(start_paused = true)]
async fn too_many_pings_are_a_violation() {
    let mut test = start(small(), b"");
    test.send(&masked(0x89, b"").repeat(100)).await;
    test.send(&masked(0x81, b"alive")).await;
    assert_eq!(test.event().await, text(b"alive".to_vec()));
    test.send(&masked(0x8a, b"")).await;
    assert!(matches!(
        test.event().await,
        Event::Closed { code: 1008, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn each_ping_is_answered_and_behind_unread_bytes_the_last() {
    let pings = (b'0'..=b'9').flat_map(|n| masked(0x89, &[n]));
    let pings: Vec<u8> = pings.chain(masked(0x81, b"")).collect();
    let mut test = start(small(), b"");
    test.send(&pings).await;
    for n in b'0'..=b'9' {
        assert_eq!(test.get(3).await, [0x8a, 1, n]);
    }
    assert_eq!(test.event().await, text(Vec::new()));
    let large = vec![7; 2 << 20];
    let taken = test.to_client.send(Outgoing::Binary(large.clone())).await;
    taken.expect("an open session");
    assert_eq!(test.get(10).await[..2], [0x82, 127]);
    test.send(&pings).await;
    assert_eq!(test.event().await, text(Vec::new()));
    assert_eq!(test.get(large.len()).await, large);
    assert_eq!(test.get(3).await, [0x8a, 1, b'9']);
    test.send(&masked(0x89, b"a")).await;
    assert_eq!(test.get(3).await, b"\x8a\x01a");
}

#[tokio::test(start_paused = true)]
async fn messages_come_whole_whatever_their_frames() {
    let euro = "€".as_bytes();
    let frames = [
        masked(0x01, &euro[..1]),
        masked(0x89, b"between"),
        masked(0x00, b""),
        masked(0x80, &euro[1..]),
        masked(0x82, b"\0\xff"),
        masked(0x81, b""),
        masked(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        masked(0x41, &[0xf2, 0x48, 0xcd]),
        masked(0x80, &[0xc9, 0xc9, 0x07, 0x00]),
        vec![0x81, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3],
        masked(0xc2, &[0x00]),
    ]
    .concat();
    // At once, byte by byte, and all of it before the session starts.
    for piece in [frames.len(), 1, 0] {
        let mut test = start(small(), if piece == 0 { &frames } else { b"" });
        let sent = frames.clone();
        let (mut read, mut write) = tokio::io::split(test.client);
        let writer = tokio::spawn(async move {
            for bytes in sent.chunks(piece.max(1)).filter(|_| piece > 0) {
                write.write_all(bytes).await.expect("an open session");
                tokio::task::yield_now().await;
            }
            write
        });
        for expected in [
            text("€"),
            binary(b"\0\xff".to_vec()),
            text(Vec::new()),
            text(b"Hello".to_vec()),
            text(b"Hello".to_vec()),
            text(b"abc".to_vec()),
            binary(Vec::new()),
        ] {
            assert_eq!(test.from_client.recv().await, Some(expected));
        }
        let mut pong = [0; 9];
        read.read_exact(&mut pong).await.expect("a pong");
        assert_eq!(&pong, b"\x8a\x07between");
        drop((read, writer.await));
        let gone = Event::Closed {
            code: 1006,
            reason: String::new(),
        };
        assert_eq!(test.from_client.recv().await, Some(gone));
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_closes() {
    for (frame, code, reason, answer) in [
        (
            close(4000, "tschüs".as_bytes()),
            4000,
            "tschüs",
            &b"\x88\x02\x0f\xa0"[..],
        ),
        (masked(0x88, b""), 1005, "", b"\x88\x00"),
    ] {
        let mut test = start(small(), b"");
        test.send(&[masked(0x81, b"last"), frame].concat()).await;
        assert_eq!(test.event().await, text(b"last".to_vec()));
        let reason = reason.to_owned();
        assert_eq!(test.rest().await, answer);
        assert_eq!(test.event().await, Event::Closed { code, reason });
        assert_eq!(
            test.closed().await,
            Closed {
                code,
                by: By::Client
            }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_app_closes() {
    let mut test = start(small(), b"");
    let (code, reason) = (4001, "bye".to_owned());
    test.to_client
        .send(Outgoing::Text(b"first".to_vec()))
        .await
        .expect("open");
    test.to_client
        .send(Outgoing::Close { code, reason })
        .await
        .expect("open");
    assert_eq!(test.get(14).await, b"\x81\x05first\x88\x05\x0f\xa1bye");
    // What the client sent before it knew is dropped; its answer ends the connection.
    test.send(
        &[
            masked(0x81, b"late"),
            masked(0x89, b"late"),
            close(4001, b""),
        ]
        .concat(),
    )
    .await;
    assert_eq!(test.rest().await, b"");
    assert_eq!(test.from_client.recv().await, None);
    assert_eq!(test.closed().await, Closed { code, by: By::App });
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_a_close_is_left() {
    let mut test = start(small(), b"");
    test.to_client
        .send(Outgoing::Close {
            code: 1012,
            reason: String::new(),
        })
        .await
        .expect("open");
    let before = tokio::time::Instant::now();
    assert_eq!(test.rest().await, b"\x88\x02\x03\xf4");
    assert_eq!(before.elapsed(), small().close_timeout);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_dies_closes_with_1011() {
    let mut test = start(small(), b"");
    let (to_client, _) = mpsc::channel(1);
    drop(std::mem::replace(&mut test.to_client, to_client));
    assert_eq!(test.get(4).await, b"\x88\x02\x03\xf3");
}

#[tokio::test(start_paused = true)]
async fn long_messages_are_compressed_and_short_ones_are_not() {
    let mut test = start(Settings::default(), b"");
    let message = b"the same again, ".repeat(100);
    for message in [&message[..], &message[..100]] {
        test.to_client
            .send(Outgoing::Text(message.to_vec()))
            .await
            .expect("open");
    }
    let head = test.get(2).await;
    assert_eq!(head[0], 0xc1);
    let packed = test.get(head[1].into()).await;
    let mut out = Vec::with_capacity(5000);
    let mut inflate = flate2::Decompress::new(false);
    inflate
        .decompress_vec(&packed, &mut out, flate2::FlushDecompress::Sync)
        .expect("good data");
    assert_eq!(out, message);
    assert_eq!(test.get(102).await, [b"\x81\x64", &message[..100]].concat());
    // The other way round, in the client's compression.
    test.send(&masked(0xc1, &packed)).await;
    assert_eq!(test.event().await, text(message));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_asked_and_then_left() {
    let settings = Settings {
        ping_interval: Some(Duration::from_secs(20)),
        ..small()
    };
    let mut test = start(settings, b"");
    let before = tokio::time::Instant::now();
    assert_eq!(test.get(2).await, b"\x89\x00");
    assert_eq!(before.elapsed().as_secs(), 20);
    test.send(&masked(0x8a, b"")).await;
    assert_eq!(test.get(2).await, b"\x89\x00");
    assert_eq!(before.elapsed().as_secs(), 40);
    assert!(matches!(
        test.event().await,
        Event::Closed { code: 1006, .. }
    ));
    assert_eq!(before.elapsed().as_secs(), 60);
    let (code, by) = (1006, By::Network);
    assert_eq!(test.closed().await, Closed { code, by });
}

#[tokio::test(start_paused = true)]
async fn a_slow_app_is_no_silent_client() {
    let settings = Settings {
        ping_interval: Some(Duration::from_secs(20)),
        ..small()
    };
    let mut test = start(settings, b"");
    for word in ["one", "two", "three"] {
        test.send(&masked(0x81, word.as_bytes())).await;
    }
    tokio::time::sleep(Duration::from_secs(300)).await;
    for word in ["one", "two", "three"] {
        assert_eq!(test.event().await, text(word));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_stops_the_app_and_nothing_else() {
    let mut test = start(
        Settings {
            max_message: 100_000,
            max_frame: 100_000,
            ..small()
        },
        b"",
    );
    let mut state = 1u32;
    // What does not compress (Marsaglia's xorshift).
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(300_000)
    .collect();
    let mut taken = 0;
    for _ in 0..200 {
        let message = Outgoing::Binary(random.clone());
        taken += usize::from(test.to_client.try_send(message).is_ok());
        tokio::task::yield_now().await;
    }
    // 1 MiB is on its way to the client; then one message waits in the session, one in the queue.
    assert_eq!(taken, 5);
    test.send(&masked(0x81, b"still here")).await;
    assert_eq!(test.event().await, text(b"still here".to_vec()));
}

/// An address may hold 32 MiB (edge/share.rs).
#[tokio::test]
async fn messages_that_wait_for_their_app_are_counted_and_what_follows_is_not_read() {
    const MESSAGE: usize = 14 << 20;
    let account = Arc::new(Account::new(Subscriber::of(
        std::net::Ipv4Addr::LOCALHOST.into(),
    )));
    let share = Share::of_memory(Some(account));
    let mut other = share.another();
    let settings = Settings {
        max_frame: MESSAGE,
        max_message: MESSAGE,
        ..small()
    };
    let mut test = start_for(share, settings, b"");
    let (reader, mut writer) = tokio::io::split(test.client);
    let sent = tokio::spawn(async move {
        for number in 0..4 {
            let message = masked(0x82, &vec![number; MESSAGE]);
            writer.write_all(&message).await.expect("it is open");
        }
        (reader, writer)
    });
    let mut taken = Vec::new();
    for number in 0..2 {
        let Some(Event::Binary(data)) = test.from_client.recv().await else {
            panic!("no message {number}");
        };
        assert!(data.len() == MESSAGE && data.iter().all(|&byte| byte == number));
        taken.push(data);
    }
    // Both are held here: there is no room for the next one, which is waited for.
    let third = test.from_client.recv();
    let third = tokio::time::timeout(Duration::from_millis(300), third).await;
    assert!(third.is_err() && !sent.is_finished() && !test.session.is_finished());
    assert!(!other.hold(28 << 20), "they are counted");
    taken.remove(0);
    for number in 2..4 {
        let Some(Event::Binary(data)) = test.from_client.recv().await else {
            panic!("no message {number}");
        };
        assert!(data.len() == MESSAGE && data.iter().all(|&byte| byte == number));
        taken.remove(0);
        taken.push(data);
    }
    drop(taken);
    let (reader, writer) = sent.await.expect("all were sent");
    test.client = reader.unsplit(writer);
    test.send(&close(1000, b"")).await;
    assert_eq!(test.closed().await.code, 1000);
    assert!(other.hold(32 << 20), "nothing is left");
}
