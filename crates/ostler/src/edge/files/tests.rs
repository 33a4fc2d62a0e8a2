//! Static files against a real directory: links, hidden names, ranges, neighbours, changes on disk.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;
use crate::logs::scratch::Scratch;

mod fields;

/// A site with its cache and a clock of its own. Every request is answered a second time from
/// directories of which nothing is known without a look to the disk.
struct Site {
    scratch: Scratch,
    statics: Statics,
    cache: FileCache,
    silent: Statics,
    silent_cache: FileCache,
    now: Instant,
}

impl Site {
    fn new() -> Site {
        let scratch = Scratch::new("site");
        scratch.write("public/a.css", "body{}");
        scratch.write("public/big.bin", pattern(200_000));
        scratch.write("public/docs/index.html", "<p>docs");
        scratch.write("public/empty/only.txt", "x");
        scratch.write("private/report.pdf", pattern(100_000));
        scratch.write("outside.txt", "outside");
        let route = |prefix: Option<&str>, directory: &str, public| Route {
            prefix: prefix.map(str::to_owned),
            directory: scratch.path(directory),
            public,
        };
        let routes = vec![
            route(Some("/static/"), "public", true),
            route(Some("/static/private"), "private", false),
            route(None, "private", false),
        ];
        let mut silent = Statics::open(routes.clone()).unwrap();
        for mounted in &mut silent.roots {
            Arc::get_mut(&mut mounted.root).unwrap().never_tell();
        }
        Site {
            scratch,
            statics: Statics::open(routes).unwrap(),
            cache: FileCache::new(TOTAL_BYTES),
            silent,
            silent_cache: FileCache::new(TOTAL_BYTES),
            now: Instant::now(),
        }
    }

    fn ask(&mut self, request: &FileRequest<'_>) -> FileReply {
        let (reply, _) = ask(&self.statics, &mut self.cache, request, self.now);
        let (waited, _) = ask(&self.silent, &mut self.silent_cache, request, self.now);
        same(&reply, &waited);
        reply
    }

    fn get(&mut self, path: &str) -> FileReply {
        self.ask(&get(path))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

/// Whether the answer had to wait is told, too.
fn ask(
    statics: &Statics,
    cache: &mut FileCache,
    request: &FileRequest<'_>,
    now: Instant,
) -> (FileReply, bool) {
    match statics.plan(cache, request, now).expect("below the prefix") {
        Plan::Send(reply) => (reply, false),
        Plan::Wait(lookup) => (reply(cache, request, lookup.run(), now), true),
    }
}

/// Two replies are alike up to the boundary between ranges, which is drawn anew each time.
fn same(one: &FileReply, other: &FileReply) {
    let (one, other) = (seen(one), seen(other));
    if one.1.contains("multipart/") {
        assert_eq!((one.0, one.2.len()), (other.0, other.2.len()));
    } else {
        assert_eq!(one, other);
    }
}

fn get(path: &str) -> FileRequest<'_> {
    FileRequest {
        method: b"GET",
        path: path.as_bytes(),
        raw_path: path.as_bytes(),
        ..FileRequest::default()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

/// Status, head and the whole body that a client would see.
fn seen(reply: &FileReply) -> (u16, String, Vec<u8>) {
    match reply {
        FileReply::Memory { status, head, body } => (*status, text(head), body.to_vec()),
        FileReply::Empty { status, head } => (*status, text(head), Vec::new()),
        FileReply::Refused(refusal) => {
            let reply = crate::edge::reply::answer(&refusal.answer(), 1, None);
            (reply.status, text(&reply.head), Vec::new())
        }
        FileReply::File {
            status,
            head,
            parts,
            file,
        } => {
            let mut body = Vec::new();
            for part in parts {
                body.extend_from_slice(&part.prefix);
                let mut slice = vec![0; usize::try_from(part.len).unwrap()];
                let read = rustix::io::pread(&**file, &mut slice[..], part.offset).unwrap();
                assert_eq!(read, slice.len());
                body.extend_from_slice(&slice);
            }
            (*status, text(head), body)
        }
    }
}

fn text(head: &[u8]) -> String {
    let head = String::from_utf8(head.to_vec()).unwrap();
    assert!(head.is_empty() || head.ends_with("\r\n"));
    head
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value)
}

fn status(reply: &FileReply) -> u16 {
    seen(reply).0
}

#[test]
fn a_small_file_comes_from_memory_and_a_large_one_from_its_descriptor() {
    let mut site = Site::new();
    let small = site.get("/static/a.css");
    assert!(matches!(small, FileReply::Memory { .. }));
    let (status, head, body) = seen(&small);
    assert_eq!((status, &body[..]), (200, &b"body{}"[..]));
    assert_eq!(field(&head, "Content-Length"), Some("6"));
    assert_eq!(
        field(&head, "Content-Type"),
        Some("text/css; charset=utf-8")
    );
    assert_eq!(field(&head, "X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(field(&head, "Accept-Ranges"), Some("bytes"));
    assert_eq!(field(&head, "Vary"), None);
    assert_eq!(field(&head, "Cache-Control"), None);
    assert!(field(&head, "Last-Modified").is_some_and(|date| date.ends_with(" GMT")));

    let large = site.get("/static/big.bin");
    assert!(matches!(large, FileReply::File { .. }));
    let (status, head, body) = seen(&large);
    assert_eq!((status, body), (200, pattern(200_000)));
    assert_eq!(
        field(&head, "Content-Type"),
        Some("application/octet-stream")
    );
}

#[test]
fn a_look_that_would_wait_is_left_to_who_may() {
    let mut site = Site::new();
    for path in ["/static/a.css", "/static/big.bin", "/static/missing"] {
        for expected in [true, false] {
            let cache = &mut site.silent_cache;
            let (_, waited) = ask(&site.silent, cache, &get(path), site.now);
            assert_eq!(waited, expected, "{path}");
        }
    }
}

#[test]
fn a_file_that_did_not_change_is_kept_over_a_wait() {
    let mut site = Site::new();
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    let file = std::fs::File::options()
        .write(true)
        .open(site.scratch.path("public/a.css"))
        .unwrap();
    file.set_modified(old).unwrap();
    let body = |site: &mut Site| {
        site.pass(cache::BELIEVED_FOR);
        let request = get("/static/a.css");
        match ask(&site.silent, &mut site.silent_cache, &request, site.now) {
            (FileReply::Memory { body, .. }, true) => body,
            other => panic!("{other:?}"),
        }
    };
    let first = body(&mut site);
    assert!(Arc::ptr_eq(&first, &body(&mut site)));
}

#[test]
fn head_tells_the_length_and_sends_nothing() {
    let mut site = Site::new();
    for path in ["/static/a.css", "/static/big.bin"] {
        let full = seen(&site.get(path)).1;
        let reply = site.ask(&FileRequest {
            method: b"HEAD",
            range: Some(b"bytes=0-1"),
            ..get(path)
        });
        assert!(matches!(reply, FileReply::Empty { .. }));
        assert_eq!(seen(&reply), (200, full, Vec::new()));
    }
}

#[test]
fn other_methods_are_told_which_ones_are_allowed() {
    let mut site = Site::new();
    for method in ["POST", "PUT", "DELETE", "get", "TRACE", ""] {
        let reply = site.ask(&FileRequest {
            method: method.as_bytes(),
            ..get("/static/a.css")
        });
        let (status, head, _) = seen(&reply);
        assert_eq!(
            (status, field(&head, "Allow")),
            (405, Some("GET, HEAD, OPTIONS"))
        );
    }
    let reply = site.ask(&FileRequest {
        method: b"OPTIONS",
        ..get("/static/a.css")
    });
    assert_eq!(
        seen(&reply),
        (204, "Allow: GET, HEAD, OPTIONS\r\n".to_owned(), Vec::new())
    );
}

#[test]
fn a_prefix_ends_at_a_slash() {
    let mut site = Site::new();
    for path in ["/statics/a.css", "/stati", "/", "/STATIC/a.css"] {
        assert!(
            site.statics
                .plan(&mut site.cache, &get(path), site.now)
                .is_none(),
            "{path}"
        );
    }
}

#[test]
fn names_that_are_never_served() {
    let mut site = Site::new();
    for name in [
        ".env",
        ".git/config",
        "sub/.hidden",
        "auth-keys.csv",
        "x.sqlite",
        "x.sqlite3",
        "x.db",
        "m.pyc",
    ] {
        site.scratch.write(&format!("public/{name}"), "secret");
        assert_eq!(status(&site.get(&format!("/static/{name}"))), 404, "{name}");
    }
    site.scratch
        .write("public/.well-known/security.txt", "Contact: me");
    assert_eq!(status(&site.get("/static/.well-known/security.txt")), 200);
    for (path, expected) in [
        ("/static/../outside.txt", 404),
        ("/static//a.css", 404),
        ("/static/a.css/", 404),
        ("/static/a\\b", 400),
        ("/static/a\0.css", 400),
        ("/static/a.css\n", 400),
        ("/static/missing", 404),
    ] {
        assert_eq!(status(&site.get(path)), expected, "{path:?}");
    }
    for raw in [
        "/static%2fa.css",
        "/static/x%2F../a.css",
        "/static/a.css%00",
        "/static/%5ca.css",
    ] {
        let reply = site.ask(&FileRequest {
            raw_path: raw.as_bytes(),
            ..get("/static/a.css")
        });
        assert_eq!(status(&reply), 404, "{raw}");
    }
    let long = format!("/static/{}", "a".repeat(5000));
    assert_eq!(status(&site.get(&long)), 404);
}

#[test]
fn links_are_followed_inside_and_not_outside() {
    let mut site = Site::new();
    let public = site.scratch.path("public");
    site.scratch.write("public/.env", "secret");
    symlink("a.css", public.join("link.css")).unwrap();
    symlink("../outside.txt", public.join("out.txt")).unwrap();
    symlink(
        site.scratch.path("outside.txt"),
        public.join("absolute.txt"),
    )
    .unwrap();
    symlink("..", public.join("up")).unwrap();
    symlink(".env", public.join("settings.txt")).unwrap();
    // The shape of a mounted ConfigMap: names behind a hidden directory, reached through links.
    site.scratch.write("public/..2026/config.js", "config");
    symlink("..2026", public.join("..data")).unwrap();
    symlink("..data/config.js", public.join("config.js")).unwrap();

    assert_eq!(seen(&site.get("/static/link.css")).2, b"body{}");
    assert_eq!(seen(&site.get("/static/config.js")).2, b"config");
    for name in [
        "out.txt",
        "absolute.txt",
        "up/outside.txt",
        "settings.txt",
        "..data/config.js",
    ] {
        assert_eq!(status(&site.get(&format!("/static/{name}"))), 404, "{name}");
    }
}

#[test]
fn only_regular_files_are_sent() {
    let mut site = Site::new();
    let fifo = site.scratch.path("public/fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let _listener =
        std::os::unix::net::UnixListener::bind(site.scratch.path("public/socket")).unwrap();
    for name in ["fifo", "socket", "empty", "empty/"] {
        assert_eq!(status(&site.get(&format!("/static/{name}"))), 404, "{name}");
    }
}

#[test]
fn a_directory_shows_its_index_in_the_slash_form() {
    let mut site = Site::new();
    let (status_of, head, body) = seen(&site.get("/static/docs/"));
    assert_eq!((status_of, &body[..]), (200, &b"<p>docs"[..]));
    assert_eq!(
        field(&head, "Content-Type"),
        Some("text/html; charset=utf-8")
    );

    let reply = site.ask(&FileRequest {
        query: Some(b"a=1"),
        ..get("/static/docs")
    });
    let (status_of, head, _) = seen(&reply);
    assert_eq!(
        (status_of, field(&head, "Location")),
        (308, Some("/static/docs/?a=1"))
    );
    assert_eq!(field(&head, "Content-Length"), Some("0"));

    assert_eq!(status(&site.get("/static")), 404);
    site.scratch.write("public/index.html", "home");
    site.pass(cache::BELIEVED_FOR);
    assert_eq!(
        field(&seen(&site.get("/static")).1, "Location"),
        Some("/static/")
    );
    assert_eq!(seen(&site.get("/static/")).2, b"home");
}

#[test]
fn an_unreadable_file_says_so() {
    if rustix::process::geteuid().is_root() {
        return; // Root reads everything: nothing to see.
    }
    let mut site = Site::new();
    let path = site.scratch.path("public/a.css");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o0)).unwrap();
    assert_eq!(status(&site.get("/static/a.css")), 403);
}

#[test]
fn a_replaced_file_is_noticed_within_a_second() {
    let mut site = Site::new();
    for name in ["a.css", "big.bin"] {
        let path = format!("/static/{name}");
        site.scratch.touch(&format!("public/{name}"), 1_700_000_000);
        let before = seen(&site.get(&path));
        site.scratch
            .replace(&format!("public/{name}"), pattern(before.2.len()));
        site.scratch.touch(&format!("public/{name}"), 1_700_000_000);
        // Believed for a second, whatever the disk says.
        site.pass(Duration::from_millis(900));
        assert_eq!(seen(&site.get(&path)), before);
        site.pass(Duration::from_millis(100));
        let after = seen(&site.get(&path));
        assert_eq!(after.2, pattern(before.2.len()));
        // Same size, same time, another file: still another tag.
        assert_ne!(field(&after.1, "ETag"), field(&before.1, "ETag"));
    }
}

#[test]
fn a_file_written_twice_within_one_tick_is_read_again() {
    let mut site = Site::new();
    for round in 0..50 {
        let content = format!("round {round:02}");
        site.scratch.write("public/a.css", &content);
        site.pass(cache::BELIEVED_FOR);
        assert_eq!(seen(&site.get("/static/a.css")).2, content.as_bytes());
    }
}

#[test]
fn a_file_that_appears_and_disappears() {
    let mut site = Site::new();
    assert_eq!(status(&site.get("/static/new.txt")), 404);
    site.scratch.write("public/new.txt", "new");
    assert_eq!(status(&site.get("/static/new.txt")), 404);
    site.pass(cache::BELIEVED_FOR);
    assert_eq!(status(&site.get("/static/new.txt")), 200);
    std::fs::remove_file(site.scratch.path("public/new.txt")).unwrap();
    assert_eq!(status(&site.get("/static/new.txt")), 200);
    site.pass(cache::BELIEVED_FOR);
    assert_eq!(status(&site.get("/static/new.txt")), 404);
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let mut site = Site::new();
    site.scratch.touch("public/a.css", 1_700_000_000);
    let FileReply::Memory { body: first, .. } = site.get("/static/a.css") else {
        panic!("small")
    };
    site.pass(cache::BELIEVED_FOR * 5);
    let FileReply::Memory { body: second, .. } = site.get("/static/a.css") else {
        panic!("small")
    };
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn an_internal_prefix_is_for_the_application_only() {
    let mut site = Site::new();
    let request = get("/download/7");
    // The internal prefix hides what the public directory around it has there.
    site.scratch.write("public/private/report.pdf", "decoy");
    assert_eq!(status(&site.get("/static/private/report.pdf")), 404);
    let accel = |uri: &str| {
        let named = |statics: &Statics| statics.accel_redirect(uri.as_bytes());
        answer_named(&site, named, &request, 200, Given::default())
    };
    let (status_of, head, body) = seen(&accel("/static/private/report.pdf?x=1"));
    assert_eq!((status_of, body), (200, pattern(100_000)));
    assert_eq!(field(&head, "Content-Type"), Some("application/pdf"));
    assert_eq!(status(&accel("/static/a%2Ecss")), 200);
    assert_eq!(status(&accel("/elsewhere/x")), 502);
    assert_eq!(status(&accel("/static/.env")), 404);
    assert_eq!(status(&accel("/static/a%2fb")), 502);
    assert_eq!(status(&accel("http://evil/static/a.css")), 502);
}

fn send(
    site: &Site,
    path: &str,
    request: &FileRequest<'_>,
    status: u16,
    given: Given<'_>,
) -> FileReply {
    let path = site.scratch.path(path);
    let named = |statics: &Statics| statics.sendfile(path.as_os_str().as_encoded_bytes());
    answer_named(site, named, request, status, given)
}

/// The reply with a file an application named: from memory, where it is there, and from the disk.
fn answer_named(
    site: &Site,
    named: impl Fn(&Statics) -> Result<Named, Refusal>,
    request: &FileRequest<'_>,
    status: u16,
    given: Given<'_>,
) -> FileReply {
    let found = |statics: &Statics, reach| match named(statics) {
        Ok(named) => named.find(given, reach),
        Err(refusal) => Err(Miss::Refused(refusal)),
    };
    let reply = |found: Result<Representation, Miss>| match found {
        Ok(found) => super::send(&found, request, status),
        Err(miss) => FileReply::Refused(miss.refusal()),
    };
    let from_disk = reply(found(&site.statics, Reach::Disk));
    let from_memory = found(&site.statics, Reach::Memory);
    if !matches!(from_memory, Err(Miss::WouldWait)) {
        same(&from_disk, &reply(from_memory));
    }
    let silent = found(&site.silent, Reach::Memory);
    assert!(silent.is_err(), "{silent:?}");
    from_disk
}

#[test]
fn sendfile_takes_absolute_paths_beneath_the_directories() {
    let site = Site::new();
    symlink("../outside.txt", site.scratch.path("private/out.txt")).unwrap();
    site.scratch
        .write("private/.hidden", "chosen by the application");
    for (path, expected) in [
        ("private/report.pdf", 200),
        ("private/.hidden", 200),
        ("outside.txt", 502),
        ("private/../outside.txt", 502),
        ("private/out.txt", 404),
        ("private/missing", 404),
        ("private", 502),
        ("private/", 404),
        ("privateer", 502),
    ] {
        assert_eq!(
            status(&send(&site, path, &get("/7"), 200, Given::default())),
            expected,
            "{path}"
        );
    }
    let relative = site.statics.sendfile(b"private/report.pdf");
    assert_eq!(relative.unwrap_err().status(), 502);
}

#[test]
fn sendfile_says_nothing_the_application_has_said() {
    let site = Site::new();
    let report = "private/report.pdf";
    let request = FileRequest {
        range: Some(b"bytes=0-9"),
        ..get("/download/7")
    };
    let (status_of, head, body) = seen(&send(&site, report, &request, 200, Given::default()));
    assert_eq!((status_of, &body[..]), (206, &pattern(10)[..]));
    assert_eq!(field(&head, "Content-Type"), Some("application/pdf"));
    assert_eq!(field(&head, "X-Content-Type-Options"), Some("nosniff"));

    let given = Given {
        content_type: Some(b"text/x-report"),
        etag: Some(b"\"v7\""),
        last_modified: None,
    };
    let (_, head, _) = seen(&send(&site, report, &request, 200, given));
    assert_eq!(
        (field(&head, "Content-Type"), field(&head, "ETag")),
        (None, None)
    );
    let empty = Given {
        content_type: Some(b""),
        ..given
    };
    let (_, head, _) = seen(&send(&site, report, &request, 200, empty));
    assert_eq!(field(&head, "Content-Type"), Some("application/pdf"));
    let many = FileRequest {
        range: Some(b"bytes=0-1,5-6"),
        ..request
    };
    assert_eq!(
        status(&send(&site, report, &many, 200, given)),
        200,
        "no second Content-Type"
    );
    let posted = FileRequest {
        method: b"POST",
        ..request
    };
    assert_eq!(
        status(&send(&site, report, &posted, 200, given)),
        200,
        "a POST asks for no range"
    );

    let conditions = Conditions {
        if_none_match: Some(b"\"v7\""),
        ..Conditions::default()
    };
    let known = FileRequest {
        conditions,
        ..request
    };
    assert_eq!(status(&send(&site, report, &known, 200, given)), 304);
    assert_eq!(
        status(&send(&site, report, &known, 404, given)),
        404,
        "the application's status stands"
    );
}

#[test]
fn a_missing_directory_is_told_at_start() {
    let scratch = Scratch::new("missing");
    let route = Route {
        prefix: Some("/".to_owned()),
        directory: scratch.path("nowhere"),
        public: true,
    };
    let error = Statics::open(vec![route]).unwrap_err().to_string();
    assert!(
        error.contains("nowhere") && error.contains("hint:"),
        "{error}"
    );
}
