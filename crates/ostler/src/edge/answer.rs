//! Answers that do not come from a worker: files, and our own words.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::Phase;
use super::connection::Connection;
use super::disk::{self, Reach, Stored};
use super::files::{
    self, Conditions, FileReply, FileRequest, Given, Lookup, Miss, Named, Part, Plan, Refusal,
};
use super::h1::response::{Private, reason_phrase};
use super::outgoing::ClientGone;
use super::patience::Patience;
use super::policy::Instead;
use super::reason::Reason;
use super::reply::{self, Answer, Field};
use super::sending::After;
use crate::auth::Caller;

/// Bytes of a file sent in one step, so that one download does not hold an edge thread.
const FILE_STEP: u64 = 512 * 1024;

/// The same for a stream of HTTP/2, of which a connection may have a hundred: each step is in memory.
const STREAM_STEP: u64 = 64 * 1024;

impl Connection {
    /// Sends a static file when the path lies below a static prefix; `None` when it does not.
    pub async fn serve_static(&mut self, _asked: &Caller) -> Result<Option<After>, Reason> {
        if self.site.statics.is_empty() {
            return Ok(None);
        }
        let reply = match self.file_at(None) {
            None => return Ok(None),
            Some(Plan::Send(reply)) => reply,
            Some(Plan::Wait(lookup)) => self.wait_for(lookup, None).await,
        };
        let reply = match self.instead(reply).await {
            Instead::Reply(reply) => reply,
            Instead::App => return Ok(None),
        };
        self.pass_over_body().await?;
        self.send_file(reply, b"").await.map(Some)
    }

    /// Looks for the file of the request, or of another path in its place.
    pub fn file_at(&self, path: Option<&[u8]>) -> Option<Plan> {
        let mut cache = self.site.files(&self.thread);
        let request = self.file_request(path);
        self.site.statics.plan(&mut cache, &request, Instant::now())
    }

    /// Has a path looked up on the disk: that of the request, or the other one it was looked for with.
    pub async fn wait_for(&mut self, lookup: Lookup, path: Option<&[u8]>) -> FileReply {
        match self.thread.disk.run(move || lookup.run()).await {
            Ok(found) => {
                let mut cache = self.site.files(&self.thread);
                files::reply(&mut cache, &self.file_request(path), found, Instant::now())
            }
            Err(_late) => FileReply::Refused(Refusal::Slow),
        }
    }

    /// Sends the file an app named in `X-Accel-Redirect` or `X-Sendfile`.
    pub async fn serve_internal(&mut self, private: Private) -> Result<After, Reason> {
        if private.page {
            return Ok(self.show_page(&private));
        }
        let named = match (&private.accel_redirect, &private.sendfile) {
            (Some(uri), _) => self.site.statics.accel_redirect(uri),
            (None, Some(file)) => self.site.statics.sendfile(file),
            (None, None) => return Err(Reason::BadResponse),
        };
        let private = Arc::new(private);
        let reply = match named {
            Ok(named) => self.named(named, &private).await,
            Err(refusal) => FileReply::Refused(refusal),
        };
        self.send_file(reply, &private.kept).await
    }

    /// What to send for a file an app named. The app's status stands: unless it is 200, the whole
    /// file is sent with it, whatever the request's conditions and ranges.
    async fn named(&self, named: Named, private: &Arc<Private>) -> FileReply {
        let mut found = named.find(given(private), Reach::Memory);
        if matches!(found, Err(Miss::WouldWait)) {
            let private = Arc::clone(private);
            let find = move || named.find(given(&private), Reach::Disk);
            let late = Err(Miss::Refused(Refusal::Slow));
            found = self.thread.disk.run(find).await.unwrap_or(late);
        }
        match found {
            Ok(found) => files::send(&found, &self.file_request(None), private.status),
            Err(miss) => FileReply::Refused(miss.refusal()),
        }
    }

    fn file_request<'r>(&'r self, path: Option<&'r [u8]>) -> FileRequest<'r> {
        let head = &self.head;
        let target = head.target();
        let query = memchr::memchr(b'?', target);
        FileRequest {
            method: head.method(),
            path: path.unwrap_or(head.path()),
            raw_path: &target[..query.unwrap_or(target.len())],
            query: query.map(|at| &target[at + 1..]),
            accept_encoding: head.field(b"accept-encoding"),
            press: self.site.policy.press.as_ref(),
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

    /// A request body that nobody wants is read and dropped before the answer, within bounds. What is left of it ends the
    /// connection.
    pub async fn pass_over_body(&mut self) -> Result<(), Reason> {
        let reader = super::body::BodyReader::new(self.head.framing(), 0, Instant::now())?;
        self.body_is_left =
            !reader.is_done() && (self.head.expect_continue() || !self.drop_rest(reader).await);
        Ok(())
    }

    /// `kept` are field lines of the app whose body the file replaces.
    async fn send_file(&mut self, reply: FileReply, kept: &[u8]) -> Result<After, Reason> {
        let head_only = self.head.method() == b"HEAD";
        match reply {
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
                    false => Ok(self.send_parts(parts, &file).await),
                }
            }
            FileReply::Refused(refusal) => Ok(self.refuse_file(refusal)),
        }
    }

    /// Sends a file's parts; a file that got shorter meanwhile breaks the connection, because its
    /// length is said already.
    async fn send_parts(&mut self, parts: Vec<Part>, file: &Arc<Stored>) -> After {
        let mut patience = Patience::default();
        for part in parts {
            self.out.bytes().extend_from_slice(&part.prefix);
            let (mut at, end) = (part.offset, part.offset + part.len);
            if self.site.sendfile && at < end {
                self.out.send_ahead(&mut self.io);
            }
            while at < end {
                if self.flush_part(&mut patience).await.is_err() {
                    return After::Abort;
                }
                let step = (end - at).min(self.file_step());
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

    pub fn file_step(&self) -> u64 {
        if self.io.is_stream() {
            STREAM_STEP
        } else {
            FILE_STEP
        }
    }

    /// One step by `sendfile(2)`, or through memory under TLS. `None` when the client, the file or
    /// its disk fails.
    async fn send_step(
        &mut self,
        file: &Arc<Stored>,
        at: u64,
        step: u64,
        patience: &mut Patience,
    ) -> Option<usize> {
        loop {
            let step = self.thread.disk.fetch(file, at, step).await.ok()? as usize;
            if !self.site.sendfile || !self.io.sends_files() {
                let step = self.out.room(step);
                return Some(self.read_step(file, at, step));
            }
            match self.io.send_file(file.as_fd(), at, step) {
                // Looked at again afterwards: what was in memory may be gone by then.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable(patience).await.ok()?;
                }
                sent => return sent.ok(),
            }
        }
    }

    fn read_step(&mut self, file: &Stored, at: u64, step: usize) -> usize {
        let out = self.out.bytes();
        let start = out.len();
        out.resize(start + step, 0);
        let count = disk::read(file, at, &mut out[start..], Reach::Disk).unwrap_or(0);
        out.truncate(start + count);
        count
    }

    /// Waits until the client takes more.
    async fn writable(&mut self, patience: &mut Patience) -> Result<(), ClientGone> {
        let (io, times, deadline) = (&self.io, &self.edge.times, &mut self.deadline);
        poll_fn(|cx| match io.poll_writable(cx) {
            Poll::Ready(writable) => Poll::Ready(writable.map_err(|_| ClientGone)),
            Poll::Pending => patience.poll(cx, io, times, deadline).map(Err),
        })
        .await
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
        self.note_refusal(reason);
        self.answer(reason).await;
        self.out.finish(&mut self.io);
        let _ = self.flush().await;
        self.log();
        After::Close
    }

    /// Begins the row of a head that was refused.
    pub fn note_refusal(&mut self, reason: Reason) {
        self.row = super::row::Row {
            id: self.edge.request_id(),
            status: reason.status(),
            reason: Some(reason),
            ..Default::default()
        };
        self.head = Default::default();
        self.site = Arc::clone(self.edge.routes.nowhere());
    }

    /// Some of the request's body has not been read.
    pub fn body_may_follow(&self) -> bool {
        use super::h1::head::Framing;
        !matches!(self.head.framing(), Framing::None | Framing::Length(0)) && !self.body_read
    }

    fn write_answer(&mut self, answer: &Answer<'_>, close: bool) {
        let accept = self.head.field(b"accept");
        let mut reply = reply::answer(answer, self.row.id, accept);
        let pages = &self.site.policy.pages;
        let maintenance = pages.maintenance.as_ref();
        let maintenance = maintenance.filter(|_| answer.code == Reason::Maintenance.code());
        if let Some(page) = maintenance.or(pages.of(answer.status))
            && !reply::wants_json(accept)
        {
            page.dress(&mut reply);
        }
        self.begin_answer(reply.status, &[&reply.head], close);
        if self.head.method() != b"HEAD" {
            self.out.bytes().extend_from_slice(&reply.body);
            self.row.sent = reply.body.len() as u64;
        }
    }

    /// Writes the status line and the head of an answer of ours, which has its length.
    pub fn begin_answer(&mut self, status: u16, fields: &[&[u8]], close: bool) {
        let date = self.thread.date();
        // A stream has no Connection field (RFC 9113 section 8.2.2).
        let is_stream = self.io.is_stream();
        let close = (close || !self.keeps_alive()) && !is_stream;
        self.told_end = close;
        let old = self.head.version() < 11 && !is_stream;
        let secure_lines = self.secure_lines();
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
        if let Some(lines) = secure_lines {
            out.extend_from_slice(&lines);
        }
        match &self.site.policy.fields.drops {
            Some(drops) => fields.iter().for_each(|lines| drops.sift(lines, out)),
            None => fields.iter().for_each(|lines| out.extend_from_slice(lines)),
        }
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if old {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.note_head(mark);
    }

    /// What the site has said in every response, and what the request makes us say.
    pub fn secure_lines(&self) -> Option<Arc<[u8]>> {
        let lines = match self.https {
            true => &self.site.secure_lines,
            false => &self.site.plain_lines,
        };
        if self.row.lines.is_empty() {
            return lines.clone();
        }
        let both = [lines.as_deref().unwrap_or_default(), &self.row.lines].concat();
        Some(both.into())
    }

    /// The next request may come on this connection, as far as the request says. To be asked once for each answer: what
    /// it says must hold, and a server may begin to leave in between.
    pub fn keeps_alive(&self) -> bool {
        let kept_open = !self.edge.times.idle.is_zero();
        let serving = self.edge.phase() == Phase::Serving;
        self.head.keep_alive() && !self.body_is_left && kept_open && serving
    }
}

/// What an app has said itself about the file that takes its body's place.
fn given(private: &Private) -> Given<'_> {
    Given {
        content_type: private.content_type.as_deref(),
        etag: private.etag.as_deref(),
        last_modified: private.last_modified.as_deref(),
    }
}
