//! An operator's own pages in the place of errors: read when a site is made, in memory from then on.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::serve::Errors;
use crate::edge::connection::Connection;
use crate::edge::h1::response::Private;
use crate::edge::reply::{self, Reply};
use crate::edge::sending::After;

/// Largest page, in bytes. They stay in memory, and an attacker is sent one with every error.
const LARGEST: u64 = 256 * 1024;

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    kind: &'static str,
    body: Arc<[u8]>,
}

/// The pages of one site.
#[derive(Debug, Default)]
pub struct Pages {
    /// The most exact first.
    by_status: Vec<(String, Page)>,
    pub maintenance: Option<Page>,
    /// Also for errors of the app without a body.
    pub app: bool,
}

impl Pages {
    /// # Errors
    /// A file, and why it cannot be read.
    pub fn read(errors: &Errors) -> Result<Self, (PathBuf, io::Error)> {
        let page = |path: &Path| Page::read(path).map_err(|error| (path.to_owned(), error));
        let mut by_status = Vec::new();
        for (status, path) in &errors.pages {
            by_status.push((status.clone(), page(path)?));
        }
        by_status.sort_by_key(|(status, _)| status.matches('x').count());
        Ok(Self {
            by_status,
            maintenance: errors.maintenance.as_deref().map(page).transpose()?,
            app: errors.app,
        })
    }

    pub fn of(&self, status: u16) -> Option<&Page> {
        let fits = |pattern: &str| {
            let digits = [status / 100, status / 10 % 10, status % 10];
            let mut both = pattern.bytes().zip(digits);
            both.all(|(sign, digit)| sign == b'x' || u16::from(sign) == u16::from(b'0') + digit)
        };
        let mut pages = self.by_status.iter();
        pages
            .find(|(pattern, _)| fits(pattern))
            .map(|(_, page)| page)
    }
}

impl Page {
    fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut body = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut body)?;
        if body.len() as u64 > LARGEST {
            return Err(io::Error::other("it is larger than 256 KiB"));
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        let kind = match extension {
            Some("txt") => "text/plain; charset=utf-8",
            Some("json") => "application/json",
            _ => "text/html; charset=utf-8",
        };
        Ok(Self {
            kind,
            body: body.into(),
        })
    }

    /// The fields that describe it, with their CRLF.
    pub fn fields(&self) -> Vec<u8> {
        let (length, kind) = (self.body.len(), self.kind);
        format!("Content-Length: {length}\r\nContent-Type: {kind}\r\n").into_bytes()
    }

    /// Takes the place of what a reply shows; what it says besides stays.
    pub fn dress(&self, reply: &mut Reply) {
        let mut head = self.fields();
        keep(&reply.head, &mut head);
        reply.head = head;
        reply.body = self.body.to_vec();
    }
}

/// Appends the lines that are not about the body they came with.
fn keep(lines: &[u8], out: &mut Vec<u8>) {
    const ABOUT: [&[u8]; 6] = [
        b"content-length",
        b"content-type",
        b"content-security-policy",
        b"etag",
        b"last-modified",
        b"content-encoding",
    ];
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let name = &line[..memchr::memchr(b':', line).unwrap_or(0)];
        if !ABOUT.iter().any(|about| name.eq_ignore_ascii_case(about)) {
            out.extend_from_slice(line);
        }
    }
}

impl Connection {
    /// A page takes the place of an error of the app that has no body.
    pub fn shows_page(&self, status: u16) -> bool {
        let pages = &self.site.policy.pages;
        pages.app
            && pages.of(status).is_some()
            && self.head.method() != b"HEAD"
            && !reply::wants_json(self.head.field(b"accept"))
    }

    pub fn show_page(&mut self, private: &Private) -> After {
        let site = Arc::clone(&self.site);
        let Some(page) = site.policy.pages.of(private.status) else {
            return After::Abort;
        };
        let mut fields = page.fields();
        keep(&private.kept, &mut fields);
        self.begin_answer(private.status, &[&fields], false);
        self.out.bytes().extend_from_slice(&page.body);
        self.row.sent = page.body.len() as u64;
        After::KeepAlive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page {
            kind: "text/html",
            body: text.as_bytes().into(),
        }
    }

    #[test]
    fn the_most_exact_page_is_shown() {
        let folder = std::env::temp_dir().join(format!("ostler-pages-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let pages = ["5xx", "50x", "503"].map(|name| {
            let path = folder.join(format!("{name}.html"));
            std::fs::write(&path, name).expect("written");
            (name.to_owned(), path)
        });
        let errors = Errors {
            pages: pages.to_vec(),
            ..Errors::default()
        };
        let pages = Pages::read(&errors).expect("all are there");
        for (status, name) in [
            (503, Some("503")),
            (502, Some("50x")),
            (599, Some("5xx")),
            (404, None),
        ] {
            let found = pages.of(status).map(|page| page.body.to_vec());
            assert_eq!(found.as_deref(), name.map(str::as_bytes), "{status}");
        }
        std::fs::write(&errors.pages[0].1, vec![b'x'; LARGEST as usize + 1]).expect("written");
        assert!(Pages::read(&errors).is_err(), "too large");
        std::fs::remove_dir_all(&folder).expect("removed");
        assert!(Pages::read(&errors).is_err(), "not there");
    }

    #[test]
    fn a_page_takes_the_place_of_what_is_shown_alone() {
        let mut reply = Reply {
            status: 503,
            head: b"Content-Length: 9\r\nContent-Type: x\r\nRetry-After: 5\r\nETag: \"a\"\r\n"
                .to_vec(),
            body: b"ours".to_vec(),
        };
        page("<p>").dress(&mut reply);
        assert_eq!(
            reply.head,
            b"Content-Length: 3\r\nContent-Type: text/html\r\nRetry-After: 5\r\n"
        );
        assert_eq!(reply.body, b"<p>");
    }
}
