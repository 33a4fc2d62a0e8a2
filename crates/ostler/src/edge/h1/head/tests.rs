//! Tables of good and bad request heads.

use super::*;
use proptest::prelude::*;

/// Parses `input` arriving in pieces of `step` bytes.
fn verdict(input: &[u8], step: usize) -> Result<(Head, usize), Reason> {
    let mut head = Head::default();
    let mut end = 0;
    loop {
        end = (end + step).min(input.len());
        match parse(&input[..end], &Limits::default(), &mut head)? {
            Progress::Complete { consumed } => return Ok((head, consumed)),
            Progress::Partial if end == input.len() => return Err(Reason::HeadIncomplete),
            Progress::Partial => {}
        }
    }
}

fn check(input: &str, expected: Result<Framing, Reason>) {
    for step in [1, 2, 5, input.len()] {
        let seen = verdict(input.as_bytes(), step).map(|(head, _)| head.framing());
        assert_eq!(seen, expected, "{input:?} by {step}");
    }
}

#[test]
fn good_requests_are_understood() {
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Framing::None));
    check("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Framing::None));
    check("GET / HTTP/1.0\r\n\r\n", Ok(Framing::None));
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        Ok(Framing::Length(5)),
    );
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        Ok(Framing::Chunked),
    );
    check(
        "GET http://a:80/x HTTP/1.1\r\nHost: A\r\n\r\n",
        Ok(Framing::None),
    );
    check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Framing::None));
}

#[test]
fn ambiguous_framing_is_refused() {
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for (fields, reason) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Reason::ClAndTe,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Reason::ClAndTe,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            Reason::ClDuplicate,
        ),
        ("Content-Length: 5, 5\r\n", Reason::ClInvalid),
        ("Content-Length: +5\r\n", Reason::ClInvalid),
        ("Content-Length: -5\r\n", Reason::ClInvalid),
        ("Content-Length: 0x5\r\n", Reason::ClInvalid),
        ("Content-Length: 5_0\r\n", Reason::ClInvalid),
        ("Content-Length:\r\n", Reason::ClInvalid),
        ("Content-Length: 9223372036854775808\r\n", Reason::ClInvalid),
        (
            "Content-Length: 99999999999999999999\r\n",
            Reason::ClInvalid,
        ),
        ("Transfer-Encoding: chunked, chunked\r\n", Reason::TeInvalid),
        (
            "Transfer-Encoding: identity, chunked\r\n",
            Reason::TeInvalid,
        ),
        ("Transfer-Encoding: ,chunked\r\n", Reason::TeInvalid),
        ("Transfer-Encoding: xchunked\r\n", Reason::TeInvalid),
        ("Transfer-Encoding: chunked;q=1\r\n", Reason::TeInvalid),
        ("Transfer-Encoding: \u{b}chunked\r\n", Reason::Control),
        ("Transfer-Encoding: gzip\r\n", Reason::TeUnsupported),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Reason::TeDuplicate,
        ),
        ("Transfer-Encoding : chunked\r\n", Reason::SpaceBeforeColon),
        (" Transfer-Encoding: chunked\r\n", Reason::ObsFold),
        ("X: y\r\n z\r\n", Reason::ObsFold),
        ("X\r\n", Reason::FieldLine),
        (": x\r\n", Reason::FieldName),
        ("X: a\rb\r\n", Reason::BareCr),
        ("X: a\nb\r\n", Reason::BareLf),
        ("X: a\0b\r\n", Reason::Nul),
        (
            "Content-Type: a\r\nContent-Type: b\r\n",
            Reason::FieldDuplicate,
        ),
        ("Connection: X-Forwarded-For\r\n", Reason::ConnectionNames),
        ("Connection: authorization\r\n", Reason::ConnectionNames),
        ("Expect: 200-ok\r\n", Reason::Expect),
    ] {
        check(&post(fields), Err(reason));
    }
    check(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(Reason::TeInOldVersion),
    );
}

#[test]
fn hosts_targets_methods_and_versions_are_checked() {
    for (input, reason) in [
        ("GET / HTTP/1.1\r\n\r\n", Reason::HostMissing),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Reason::HostInvalid),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Reason::HostDuplicate,
        ),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Reason::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Reason::HostInvalid),
        (
            "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
            Reason::HostMismatch,
        ),
        ("GET foo HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Target),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Fragment),
        ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Escape),
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", Reason::EscapedNul),
        ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Traversal),
        (
            "GET /%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n",
            Reason::Traversal,
        ),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Method),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::Method),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::MethodToken),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Reason::Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Reason::Version),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Reason::RequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestLine),
        ("GET /\r\nHost: a\r\n\r\n", Reason::RequestLine),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Reason::BareLf),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reason::Http2Preface),
    ] {
        let seen = verdict(input.as_bytes(), input.len()).map(|(head, _)| head.framing());
        assert_eq!(seen, Err(reason), "{input:?}");
    }
}

#[test]
fn limits_hold_whole_and_in_pieces() {
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8300));
    let field = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n",
        "a".repeat(8300)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "x: y\r\n".repeat(100)
    );
    let total = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        format!("x: {}\r\n", "y".repeat(8000)).repeat(5)
    );
    for (input, reason) in [
        (line, Reason::RequestLineTooLong),
        (field, Reason::FieldTooLong),
        (many, Reason::TooManyFields),
        (total, Reason::HeadTooLarge),
    ] {
        for step in [977, input.len()] {
            let seen = verdict(input.as_bytes(), step).map(|(head, _)| head.framing());
            assert_eq!(seen, Err(reason));
        }
    }
}

#[test]
fn names_with_underscores_and_proxy_never_arrive_and_hop_by_hop_fields_are_ours() {
    let input = b"GET /a%20b?q=1 HTTP/1.1\r\nHOST: Ex.com.:8080\r\nSCRIPT_NAME: /shop\r\nX_Forwarded_For: 1\r\nProxy: p\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nX-Kept:  v \r\n\r\nrest";
    let (head, consumed) = verdict(input, input.len()).expect("good");
    assert_eq!(consumed, input.len() - 4);
    assert_eq!((head.host(), head.port()), (&b"ex.com"[..], Some(8080)));
    assert_eq!((head.path(), head.query()), (&b"/a b"[..], &b"q=1"[..]));
    assert!(!head.keep_alive());
    assert_eq!(head.script_name(), Some(&b"/shop"[..]));
    let names: Vec<_> = head
        .fields()
        .map(|(_, name, value)| (name, value))
        .collect();
    assert_eq!(
        names,
        [(&b"host"[..], &b"Ex.com.:8080"[..]), (b"x-kept", b"v")]
    );
}

#[test]
fn the_host_is_that_of_the_field_or_of_an_absolute_target() {
    for (input, host, port, authority) in [
        (
            "GET http://Ex.com:81/ HTTP/1.0\r\n\r\n",
            "ex.com",
            Some(81),
            "Ex.com:81",
        ),
        (
            "GET http://Ex.com/ HTTP/1.0\r\nHost: ex.com:80\r\n\r\n",
            "ex.com",
            Some(80),
            "ex.com:80",
        ),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "a", None, "a"),
        ("GET / HTTP/1.0\r\n\r\n", "", None, ""),
    ] {
        let (head, _) = verdict(input.as_bytes(), input.len()).expect("good");
        assert_eq!(
            (head.host(), head.port()),
            (host.as_bytes(), port),
            "{input}"
        );
        assert_eq!(
            head.authority().unwrap_or_default(),
            authority.as_bytes(),
            "{input}"
        );
    }
}

#[test]
fn a_websocket_handshake_is_known() {
    let input = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert!(verdict(input, input.len()).expect("good").0.is_websocket());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&input, &Limits::default(), &mut Head::default());
    }

    #[test]
    fn mutated_requests_never_panic(at in 0usize..90, byte in any::<u8>()) {
        let mut input = b"POST /a/b?c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\nConnection: close\r\nCookie: a=b\r\n\r\n".to_vec();
        input[at] = byte;
        let _ = parse(&input, &Limits::default(), &mut Head::default());
    }
}
