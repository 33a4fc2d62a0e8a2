//! What conditions, ranges and accepted codings make of an answer.

use super::*;

#[test]
fn a_fresh_copy_is_not_sent_again() {
    let mut site = Site::new();
    for path in ["/static/a.css", "/static/big.bin"] {
        let head = seen(&site.get(path)).1;
        let etag = field(&head, "ETag").unwrap().to_owned();
        let modified = field(&head, "Last-Modified").unwrap().to_owned();
        for conditions in [
            Conditions {
                if_none_match: Some(etag.as_bytes()),
                ..Conditions::default()
            },
            Conditions {
                if_modified_since: Some(modified.as_bytes()),
                ..Conditions::default()
            },
        ] {
            let (status, head, body) = seen(&site.ask(&FileRequest {
                conditions,
                ..get(path)
            }));
            assert_eq!((status, body.len()), (304, 0));
            assert_eq!(field(&head, "ETag"), Some(&etag[..]));
            assert_eq!(field(&head, "Content-Length"), None);
        }
        let conditions = Conditions {
            if_match: Some(b"\"other\""),
            ..Conditions::default()
        };
        assert_eq!(
            status(&site.ask(&FileRequest {
                conditions,
                ..get(path)
            })),
            412
        );
    }
}

#[test]
fn ranges_of_memory_and_of_descriptors() {
    let mut site = Site::new();
    site.scratch.write("public/small.bin", pattern(1000));
    for (path, size) in [("/static/small.bin", 1000), ("/static/big.bin", 200_000)] {
        let all = pattern(size);
        let etag = field(&seen(&site.get(path)).1, "ETag").unwrap().to_owned();
        let conditions = Conditions {
            if_range: Some(etag.as_bytes()),
            ..Conditions::default()
        };
        let (status_of, head, body) = seen(&site.ask(&FileRequest {
            range: Some(b"bytes=10-19"),
            conditions,
            ..get(path)
        }));
        assert_eq!((status_of, &body[..]), (206, &all[10..20]));
        assert_eq!(
            field(&head, "Content-Range"),
            Some(&format!("bytes 10-19/{size}")[..])
        );
        assert_eq!(field(&head, "Content-Length"), Some("10"));
        assert_eq!(
            field(&head, "Content-Type"),
            Some("application/octet-stream")
        );
        assert_eq!(field(&head, "ETag"), Some(&etag[..]));

        let (status_of, head, body) = seen(&site.ask(&FileRequest {
            range: Some(b"bytes=0-4,-5"),
            ..get(path)
        }));
        let kind = field(&head, "Content-Type").unwrap();
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let part = |opening: &str, first: usize, last: usize| {
            let head = format!(
                "{opening}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
            );
            [head.as_bytes(), &all[first..=last]].concat()
        };
        let closing = format!("\r\n--{boundary}--\r\n").into_bytes();
        let expected = [part("", 0, 4), part("\r\n", size - 5, size - 1), closing].concat();
        assert_eq!((status_of, body), (206, expected.clone()));
        assert_eq!(
            field(&head, "Content-Length"),
            Some(&expected.len().to_string()[..])
        );

        let beyond = format!("bytes={size}-");
        let (status_of, head, _) = seen(&site.ask(&FileRequest {
            range: Some(beyond.as_bytes()),
            ..get(path)
        }));
        assert_eq!(
            (status_of, field(&head, "Content-Range")),
            (416, Some(&format!("bytes */{size}")[..]))
        );

        let nine = b"bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16";
        assert_eq!(
            status(&site.ask(&FileRequest {
                range: Some(nine),
                ..get(path)
            })),
            200
        );
        let conditions = Conditions {
            if_range: Some(b"\"other\""),
            ..Conditions::default()
        };
        let reply = site.ask(&FileRequest {
            range: Some(b"bytes=0-1"),
            conditions,
            ..get(path)
        });
        assert_eq!(status(&reply), 200);
    }
}

#[test]
fn an_empty_file_has_no_ranges() {
    let mut site = Site::new();
    site.scratch.write("public/nothing.txt", "");
    let (status, head, body) = seen(&site.ask(&FileRequest {
        range: Some(b"bytes=0-"),
        ..get("/static/nothing.txt")
    }));
    assert_eq!(
        (status, field(&head, "Content-Length"), body.len()),
        (200, Some("0"), 0)
    );
}

#[test]
fn a_neighbour_is_sent_to_those_who_want_it() {
    let mut site = Site::new();
    for (name, time) in [
        ("a.css", 1000),
        ("a.css.gz", 1000),
        ("a.css.br", 999),
        ("a.css.zst", 2000),
    ] {
        site.scratch.write(&format!("public/{name}"), name);
        site.scratch.touch(&format!("public/{name}"), time);
    }
    let mut tags = Vec::new();
    for (accept, expected, coding) in [
        (None, "a.css", None),
        (Some("gzip"), "a.css.gz", Some("gzip")),
        (Some("gzip, br"), "a.css.gz", Some("gzip")), // the .br is older than the file
        (Some("gzip, br, zstd"), "a.css.zst", Some("zstd")),
        (Some("gzip;q=0"), "a.css", None),
    ] {
        let request = FileRequest {
            accept_encoding: accept.map(str::as_bytes),
            ..get("/static/a.css")
        };
        let (status, head, body) = seen(&site.ask(&request));
        assert_eq!(
            (status, &body[..]),
            (200, expected.as_bytes()),
            "{accept:?}"
        );
        assert_eq!(field(&head, "Content-Encoding"), coding);
        assert_eq!(field(&head, "Vary"), Some("Accept-Encoding"));
        assert_eq!(
            field(&head, "Content-Type"),
            Some("text/css; charset=utf-8")
        );
        tags.push(field(&head, "ETag").unwrap().to_owned());
        let conditions = Conditions {
            if_none_match: Some(tags.last().unwrap().as_bytes()),
            ..Conditions::default()
        };
        let (status, head, _) = seen(&site.ask(&FileRequest {
            conditions,
            ..request
        }));
        assert_eq!(
            (status, field(&head, "Vary")),
            (304, Some("Accept-Encoding"))
        );
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 3, "every representation has its own tag");
    // By its own name it is a file like any other.
    let (_, head, _) = seen(&site.get("/static/a.css.gz"));
    assert_eq!(
        (
            field(&head, "Content-Type"),
            field(&head, "Content-Encoding")
        ),
        (Some("application/gzip"), None)
    );
    // And one that goes away is not remembered.
    std::fs::remove_file(site.scratch.path("public/a.css.gz")).unwrap();
    site.pass(cache::BELIEVED_FOR);
    let reply = site.ask(&FileRequest {
        accept_encoding: Some(b"gzip"),
        ..get("/static/a.css")
    });
    assert_eq!(seen(&reply).2, b"a.css");
}
