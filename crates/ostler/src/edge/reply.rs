//! Answers that ostler makes itself: an HTML page for a browser, JSON when asked for, text otherwise.
//!
//! They say which layer answered, why (a code that the log has too), and which request it was. They hold
//! nothing of the request: what a stranger typed is never shown to anyone. This file must not know about
//! connections, nor who found the reason.

use std::fmt::Write as _;

use super::h1::weight::weighted;
use crate::logs::request_id;

/// Why ostler answers in the place of the application.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// The reason in one word, as the log has it: `line_full`.
    pub code: &'a str,
    /// Who answered: `edge`, `static`, `pool`, `worker`, ...
    pub layer: &'a str,
    /// One sentence for a person.
    pub text: &'a str,
    /// A field that belongs to the reason.
    pub field: Option<Field>,
}

/// Response fields that belong to a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Seconds.
    RetryAfter(u32),
    /// Methods, separated by a comma and a space.
    Allow(&'static str),
    /// For 426: the version of the WebSocket protocol that is spoken (RFC 6455 section 4.4).
    WebSocketVersion(u8),
    /// For 416: the size of what there is, in bytes.
    UnsatisfiedRange(u64),
}

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Response fields, each with its CRLF, without `Date` and `Connection`; `Content-Length` is there.
    pub head: Vec<u8>,
    /// To be left out for HEAD.
    pub body: Vec<u8>,
}

/// Writes the answer to one request in the form its `Accept` field prefers.
pub fn answer(answer: &Answer<'_>, request: u64, accept: Option<&[u8]>) -> Reply {
    let form = Form::preferred(accept);
    let body = match form {
        Form::Html => html(answer, request),
        Form::Json | Form::Problem => json(answer, request),
        Form::Text => text(answer, request),
    };
    let mut head = String::with_capacity(320);
    let _ = write!(
        head,
        "Content-Length: {}\r\nContent-Type: {}\r\n",
        body.len(),
        form.content_type()
    );
    head.push_str("Cache-Control: no-store\r\nVary: Accept\r\nX-Content-Type-Options: nosniff\r\n");
    if form == Form::Html {
        head.push_str("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n");
    }
    let _ = match answer.field {
        Some(Field::RetryAfter(seconds)) => write!(head, "Retry-After: {seconds}\r\n"),
        Some(Field::Allow(methods)) => write!(head, "Allow: {methods}\r\n"),
        Some(Field::WebSocketVersion(version)) => {
            write!(head, "Sec-WebSocket-Version: {version}\r\n")
        }
        Some(Field::UnsatisfiedRange(size)) => write!(head, "Content-Range: bytes */{size}\r\n"),
        None => Ok(()),
    };
    Reply {
        status: answer.status,
        head: head.into_bytes(),
        body: body.into_bytes(),
    }
}

/// Whether who asks would be given JSON.
pub fn wants_json(accept: Option<&[u8]>) -> bool {
    matches!(Form::preferred(accept), Form::Json | Form::Problem)
}

/// Whether who asks would be given a page, as a browser that follows a link.
pub fn wants_html(accept: Option<&[u8]>) -> bool {
    Form::preferred(accept) == Form::Html
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    /// JSON too, under the name of RFC 9457.
    Problem,
    Text,
}

impl Form {
    /// The form with the highest weight, of equals the one named first. A wildcard asks for nothing in
    /// particular (curl sends `*/*`), so it gets text.
    fn preferred(accept: Option<&[u8]>) -> Form {
        let mut best = (0, Form::Text);
        for element in accept.unwrap_or_default().split(|&b| b == b',') {
            let (media, weight) = weighted(element);
            if weight > best.0
                && let Some(form) = Form::of(media)
            {
                best = (weight, form);
            }
        }
        best.1
    }

    fn of(media: &[u8]) -> Option<Form> {
        let media = media.to_ascii_lowercase();
        match &media[..] {
            b"text/html" | b"application/xhtml+xml" => Some(Form::Html),
            b"application/problem+json" => Some(Form::Problem),
            b"application/json" | b"text/json" => Some(Form::Json),
            b"text/plain" | b"text/*" => Some(Form::Text),
            _ if media.ends_with(b"+json") => Some(Form::Json),
            _ => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Html => "text/html; charset=utf-8",
            Form::Json => "application/json",
            Form::Problem => "application/problem+json",
            Form::Text => "text/plain; charset=utf-8",
        }
    }
}

fn text(answer: &Answer<'_>, request: u64) -> String {
    let Answer {
        status,
        code,
        layer,
        text,
        ..
    } = *answer;
    let (title, advice, id) = (title(status), advice(status), request_id(request));
    format!("{status} {title}\n{text}\n{advice}\nlayer: {layer}\nreason: {code}\nrequest: {id}\n")
}

/// Members as RFC 9457 names them, and ours.
fn json(answer: &Answer<'_>, request: u64) -> String {
    let mut body = serde_json::json!({
        "status": answer.status,
        "title": title(answer.status),
        "detail": answer.text,
        "layer": answer.layer,
        "code": answer.code,
        "request_id": request_id(request).as_str(),
    })
    .to_string();
    body.push('\n');
    body
}

fn html(answer: &Answer<'_>, request: u64) -> String {
    let (status, title) = (answer.status, title(answer.status));
    let mut page = String::with_capacity(PAGE_HEAD.len() + 1024);
    page.push_str(PAGE_HEAD);
    let _ = write!(
        page,
        "<title>{status} {title}</title>\n<main>\n<p class=\"status\">{status}</p>\n<h1>{title}</h1>\n<p>"
    );
    escape(&mut page, answer.text);
    let _ = write!(
        page,
        "</p>\n<p class=\"quiet\">{}</p>\n<dl>\n<dt>Answered by<dd>",
        advice(status)
    );
    escape(&mut page, answer.layer);
    page.push_str("\n<dt>Reason<dd><code>");
    escape(&mut page, answer.code);
    let _ = write!(
        page,
        "</code>\n<dt>Request<dd><code>{}</code>\n</dl>\n</main>\n</html>\n",
        request_id(request)
    );
    page
}

fn escape(page: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            other => page.push(other),
        }
    }
}

/// What a person who sees the page can do about it.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "If you should have access, ask the people who run this site.",
        404 | 410 => "Check the address, or start again from the first page of this site.",
        405 => {
            "If you did not write the program that sent this request, there is nothing for you to do."
        }
        408 => "Check the network connection, then try again.",
        412 => "Load it again, then repeat what you wanted to do.",
        413 => "Send something smaller, or ask the people who run this site to raise the limit.",
        416 => "Start the download again from its beginning.",
        429 => "Wait a moment before the next try.",
        400..=499 => {
            "Try again from a freshly typed address. If a program sent this request, show its author the reason below."
        }
        502..=504 => {
            "Try again in a moment. If it stays like this, tell the people who run this site the request below."
        }
        _ => "The fault is not yours. Tell the people who run this site the request below.",
    }
}

/// The reason phrase of a status that ostler answers with (RFC 9110 section 15, RFC 6585).
#[allow(
    clippy::match_overlapping_arm,
    reason = "the last arms are for whatever is not named"
)]
fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        400..=499 => "Request Refused",
        _ => "Server Error",
    }
}

/// No script, no font, no image, nothing fetched: the page has to work when everything else does not.
const PAGE_HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<style>
:root { --ground: #faf8f5; --card: #ffffff; --ink: #24211d; --quiet: #6f675d; --line: #e6e0d8; --mark: #9a4a1c }
@media (prefers-color-scheme: dark) {
  :root { --ground: #171513; --card: #211e1b; --ink: #ece7e1; --quiet: #a59b8f; --line: #38332e; --mark: #e59a63 }
}
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem;
  background: var(--ground); color: var(--ink); font: 1.0625rem/1.6 system-ui, sans-serif }
main { width: 100%; max-width: 34rem; padding: 2.25rem 2.5rem; background: var(--card);
  border: 1px solid var(--line); border-top: 3px solid var(--mark); border-radius: .5rem }
.status { margin: 0; color: var(--mark); font-weight: 600; letter-spacing: .08em }
h1 { margin: 0 0 1rem; font-size: 1.6rem; line-height: 1.25; font-weight: 650 }
p { margin: 0 0 .75rem }
.quiet, dt { color: var(--quiet) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 1.75rem 0 0;
  padding-top: 1.25rem; border-top: 1px solid var(--line); font-size: .9375rem }
dd { margin: 0; overflow-wrap: anywhere }
code { font: .9em ui-monospace, monospace }
</style>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Answer<'_> = Answer {
        status: 503,
        code: "line_full",
        layer: "pool",
        text: "Every worker is busy & the line is full.",
        field: Some(Field::RetryAfter(2)),
    };

    fn parts(accept: Option<&str>) -> (String, String) {
        let reply = answer(&FULL, 0xab, accept.map(str::as_bytes));
        assert_eq!(reply.status, 503);
        (
            String::from_utf8(reply.head).unwrap(),
            String::from_utf8(reply.body).unwrap(),
        )
    }

    #[test]
    fn everyone_gets_the_form_they_asked_for() {
        const HTML: &str = "text/html; charset=utf-8";
        const TEXT: &str = "text/plain; charset=utf-8";
        const JSON: &str = "application/json";
        for (accept, expected) in [
            (None, TEXT),
            (Some(""), TEXT),
            (Some("*/*"), TEXT),
            (
                Some("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"),
                HTML,
            ),
            (Some("application/json, text/plain, */*"), JSON),
            (Some("application/vnd.api+json"), JSON),
            (
                Some("application/problem+json, application/json"),
                "application/problem+json",
            ),
            (Some("text/html;q=0.5, application/json"), JSON),
            (Some("application/json;q=0.5, text/html"), HTML),
            (Some("application/json;q=0, */*"), TEXT),
            (Some("text/plain, application/json;q=0.9"), TEXT),
            (Some("image/png"), TEXT),
            (Some("TEXT/HTML"), HTML),
        ] {
            let (head, _) = parts(accept);
            assert!(
                head.contains(&format!("Content-Type: {expected}\r\n")),
                "{accept:?}: {head}"
            );
        }
    }

    #[test]
    fn every_form_names_layer_reason_and_request() {
        for accept in ["text/html", "application/json", "*/*"] {
            let (head, body) = parts(Some(accept));
            for needle in [
                "503",
                "pool",
                "line_full",
                "00000000000000ab",
                "Every worker is busy",
            ] {
                assert!(body.contains(needle), "{accept}: {needle}");
            }
            assert!(head.contains("Retry-After: 2\r\n") && head.contains("no-store"));
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        }
        let json: serde_json::Value =
            serde_json::from_str(&parts(Some("application/json")).1).unwrap();
        assert_eq!(json["detail"], FULL.text);
    }

    #[test]
    fn the_page_is_closed_in_itself() {
        let page = parts(Some("text/html")).1;
        assert!(page.contains("busy &amp; the line"));
        for outside in [
            "http:", "https:", "//", "<script", "url(", "@import", "<img", "<link",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.len() < 4096, "{}", page.len());
    }

    #[test]
    fn fields_follow_their_reason() {
        for (field, expected) in [
            (Field::Allow("GET, HEAD"), "Allow: GET, HEAD\r\n"),
            (Field::UnsatisfiedRange(7), "Content-Range: bytes */7\r\n"),
        ] {
            let reply = answer(
                &Answer {
                    field: Some(field),
                    ..FULL
                },
                1,
                None,
            );
            assert!(String::from_utf8(reply.head).unwrap().ends_with(expected));
        }
    }
}
