//! Answers that do not come from a worker: files, and our own words.

use std::future::poll_fn;
use std::os::fd::AsFd;
use std::task::Poll;
use std::time::Instant;

use super::connection::Connection;
use super::files::{Conditions, FileReply, FileRequest, Given, Part, Refusal};
use super::h1::response::{Private, reason_phrase};
use super::patience::Patience;
use super::reason::Reason;
use super::reply::{self, Answer, Field};
use super::sending::After;

/// Bytes of a file sent in one step, so that one download does not hold an edge thread.
const FILE_STEP: u64 = 512 * 1024;

impl Connection {
    /// Sends a static file when the path lies below a static prefix; `None` when it does not.
    pub async fn serve_static(&mut self) -> Result<Option<After>, Reason> {
        if self.edge.statics.is_empty() {
            return Ok(None);
        }
        let plan = {
            let mut cache = self.edge.files(&self.thread);
            self.edge
                .statics
                .plan(&mut cache, &self.file_request(), Instant::now())
        };
        let Some(plan) = plan else { return Ok(None) };
        let after = self.body_after_answer().await?;
        self.send_plan(plan, b"")
            .await
            .map(|sent| Some(sent.max(after)))
    }

    /// Sends the file an app named in `X-Accel-Redirect` or `X-Sendfile`.
    pub async fn serve_internal(&mut self, private: Private) -> Result<After, Reason> {
        let given = Given {
            content_type: private.content_type.as_deref(),
            etag: private.etag.as_deref(),
            last_modified: private.last_modified.as_deref(),
        };
        let plan = match (&private.accel_redirect, &private.sendfile) {
            (Some(uri), _) => {
                self.edge
                    .statics
                    .accel_redirect(uri, &self.file_request(), private.status, given)
            }
            (None, Some(file)) => {
                self.edge
                    .statics
                    .sendfile(file, &self.file_request(), private.status, given)
            }
            (None, None) => return Err(Reason::BadResponse),
        };
        self.send_plan(plan, &private.kept).await
    }

    fn file_request(&self) -> FileRequest<'_> {
        let head = &self.head;
        let target = head.target();
        let query = memchr::memchr(b'?', target);
        FileRequest {
            method: head.method(),
            path: head.path(),
            raw_path: &target[..query.unwrap_or(target.len())],
            query: query.map(|at| &target[at + 1..]),
            accept_encoding: head.field(b"accept-encoding"),
            range: head.field(b"range"),
            conditions: Conditions {
                if_match: head.field(b"if-match"),
                if_none_match: head.field(b"if-none-match"),
                if_modified_since: head.field(b"if-modified-since"),
                if_unmodified_since: head.field(b"if-unmodified-since"),
                if_range: head.field(b"if-range"),
            },
        }
    }

    /// A request body that nobody wants is read and dropped before the answer, within bounds.
    async fn body_after_answer(&mut self) -> Result<After, Reason> {
        let reader = super::body::BodyReader::new(self.head.framing(), 0, Instant::now())?;
        if reader.is_done() {
            return Ok(After::KeepAlive);
        }
        if self.head.expect_continue() {
            return Ok(After::Close);
        }
        Ok(if self.drop_rest(reader).await {
            After::KeepAlive
        } else {
            After::Close
        })
    }

    /// `kept` are field lines of the app whose body the file replaces.
    async fn send_plan(&mut self, plan: FileReply, kept: &[u8]) -> Result<After, Reason> {
        let head_only = self.head.method() == b"HEAD";
        match plan {
            FileReply::Memory { status, head, body } => {
                self.begin_answer(status, &[&head, kept], false);
                if !head_only {
                    self.out.bytes().extend_from_slice(&body);
                    self.row.sent = body.len() as u64;
                }
                Ok(After::KeepAlive)
            }
            FileReply::Empty { status, head } => {
                self.begin_answer(status, &[&head, kept], false);
                Ok(After::KeepAlive)
            }
            FileReply::File {
                status,
                head,
                parts,
                file,
            } => {
                self.begin_answer(status, &[&head, kept], false);
                match head_only {
                    true => Ok(After::KeepAlive),
                    false => Ok(Box::pin(self.send_parts(parts, file.as_fd())).await),
                }
            }
            FileReply::Refused(refusal) => Ok(self.refuse_file(refusal)),
        }
    }

    /// Sends a file's parts; a file that got shorter meanwhile breaks the connection, because its
    /// length is said already.
    async fn send_parts(&mut self, parts: Vec<Part>, file: std::os::fd::BorrowedFd<'_>) -> After {
        let mut patience = Patience::default();
        for part in parts {
            self.out.bytes().extend_from_slice(&part.prefix);
            let (mut at, end) = (part.offset, part.offset + part.len);
            if self.edge.sendfile && at < end {
                self.out.send_ahead(&mut self.io);
            }
            while at < end {
                if self.flush_part(&mut patience).await.is_err() {
                    return After::Abort;
                }
                let step = (end - at).min(FILE_STEP) as usize;
                match self.send_step(file, at, step, &mut patience).await {
                    Some(count @ 1..) => {
                        at += count as u64;
                        self.row.sent += count as u64;
                    }
                    _ => return After::Abort,
                }
            }
        }
        After::KeepAlive
    }

    /// One step by `sendfile(2)`, or through memory under TLS. `None` when the client or file fails.
    async fn send_step(
        &mut self,
        file: std::os::fd::BorrowedFd<'_>,
        at: u64,
        step: usize,
        patience: &mut Patience,
    ) -> Option<usize> {
        if self.edge.sendfile && !self.io.is_tls() {
            let (io, times, deadline) = (&mut self.io, &self.edge.times, &mut self.deadline);
            let sent = poll_fn(|cx| match io.poll_send_file(cx, file, at, step) {
                Poll::Ready(sent) => Poll::Ready(sent.ok()),
                Poll::Pending => patience.poll(cx, io, times, deadline).map(|_gone| None),
            });
            return sent.await;
        }
        let out = self.out.bytes();
        let start = out.len();
        out.resize(start + step, 0);
        let count = rustix::io::pread(file, &mut out[start..], at).unwrap_or(0);
        out.truncate(start + count);
        Some(count)
    }

    fn refuse_file(&mut self, refusal: Refusal) -> After {
        self.row.refusal = Some(refusal.code());
        self.write_answer(&refusal.answer(), false);
        After::KeepAlive
    }

    /// Answers a request in our own words. The bytes are in `out` afterwards.
    pub async fn answer(&mut self, reason: Reason) -> After {
        self.row.reason = Some(reason);
        if reason == Reason::ClientGone {
            self.row.status = reason.status();
            return After::Abort;
        }
        // What is left of the request's body would be read as the next request.
        let close = reason.closes() || self.body_may_follow();
        let answer = Answer {
            status: reason.status(),
            code: reason.code(),
            layer: reason.layer(),
            text: reason.text(),
            field: self
                .retry_after
                .take()
                .or(reason.retry_after())
                .map(Field::RetryAfter)
                .or((reason == Reason::WebSocketVersion).then_some(Field::WebSocketVersion(13))),
        };
        self.write_answer(&answer, close);
        if close {
            After::Close
        } else {
            After::KeepAlive
        }
    }

    /// Answers a head that was refused. Nothing in it can be believed, so the connection ends.
    pub async fn refuse_head(&mut self, reason: Reason) -> After {
        self.row = super::row::Row {
            id: self.edge.request_id(),
            ..Default::default()
        };
        self.head = Default::default();
        self.answer(reason).await;
        let _ = self.flush().await;
        self.log();
        After::Close
    }

    /// Some of the request's body has not been read.
    fn body_may_follow(&self) -> bool {
        use super::h1::head::Framing;
        !matches!(self.head.framing(), Framing::None | Framing::Length(0)) && !self.body_read
    }

    fn write_answer(&mut self, answer: &Answer<'_>, close: bool) {
        let reply = reply::answer(answer, self.row.id, self.head.field(b"accept"));
        self.begin_answer(reply.status, &[&reply.head], close);
        if self.head.method() != b"HEAD" {
            self.out.bytes().extend_from_slice(&reply.body);
            self.row.sent = reply.body.len() as u64;
        }
    }

    /// Writes the status line and the head of an answer of ours, which has its length.
    fn begin_answer(&mut self, status: u16, fields: &[&[u8]], close: bool) {
        let date = self.thread.date();
        let close = close || !self.keeps_alive();
        let old = self.head.version() < 11;
        self.row.status = status;
        let out = self.out.bytes();
        let mark = out.len();
        out.extend_from_slice(b"HTTP/1.1 ");
        super::h1::bytes::push_decimal(out, status.into());
        out.push(b' ');
        out.extend_from_slice(reason_phrase(status).as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(&date);
        out.extend_from_slice(b"\r\n");
        fields.iter().for_each(|lines| out.extend_from_slice(lines));
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if old {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.note_head(mark);
    }

    /// The next request may come on this connection, as far as the request says.
    pub fn keeps_alive(&self) -> bool {
        let kept_open = !self.edge.times.idle.is_zero();
        self.head.keep_alive() && kept_open && !self.edge.is_stopping()
    }
}
