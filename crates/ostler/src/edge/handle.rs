//! The request line: what happens to a request, step by step, from its whole head to its last byte.

use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use ostler_wire::{BACKLOG_FRAME, BodyKind, RequestEncoder, RequestHead};

use crate::logs::request_id;
use crate::pool::{Asks, Fault, Grant, Lease, Refused, Rest};

use super::body::{Body, BodyReader, Collector, IN_MEMORY};
use super::connection::{Connection, Sign, poll_sign};
use super::deadline::Elapsed;
use super::engineio;
use super::forwarded::Sender;
use super::h1::head::Framing;
use super::h1::names;
use super::policy::Asked;
use super::reason::Reason;
use super::relay::{Failure, Relay, Relayed};
use super::row::Row;
use super::sending::After;
use super::site::{App, Behind};
use super::trace::{self, Trace};
use super::upload::Upload;

impl Connection {
    /// One request, whose head is in `self.head`, to its end.
    pub async fn exchange(&mut self) -> After {
        self.row = Row {
            id: self.edge.request_id(),
            ..Row::default()
        };
        self.body_read = false;
        (self.body_is_left, self.told_end) = (false, false);
        let after = match self.line().await {
            Ok(after) => after,
            Err(reason) => self.answer(reason).await,
        };
        if after == After::Gone {
            // It had its line in the log when it became a tunnel.
            return after;
        }
        if after != After::Abort {
            // An answer of ours may be large. Where there is no room for it, it waits in memory.
            let _ = self.out.settle(&self.edge.spool);
            self.out.finish(&mut self.io);
        }
        let after = match self.flush().await {
            Ok(()) => after,
            Err(_gone) => After::Abort,
        };
        self.log();
        self.out.shrink();
        match after {
            // Not what holds by now: a client that was told otherwise may have sent its next request.
            After::KeepAlive if self.told_end => After::Close,
            after => after,
        }
    }

    /// connection → head → site → forwarded → ACME? → redirect? → clients → limits → preflight? → caller → static file? → app or upstream.
    async fn line(&mut self) -> Result<After, Reason> {
        self.find_site();
        let sender = self.edge.forwarding.resolve(&self.peer, &self.head)?;
        self.https = sender.https(self.io.is_tls());
        let kept = self.access.is_some() || self.thread.requests.is_some();
        self.row.remote = kept.then(|| sender.address().into());
        if let Some(after) = self.answer_ca().await? {
            return Ok(after);
        }
        if let Some(after) = self.redirect(&sender).await? {
            return Ok(after);
        }
        self.check_clients()?;
        self.admit(&sender)?;
        if let Some(after) = self.preflight().await? {
            return Ok(after);
        }
        let caller = match self.caller(&sender).await? {
            Asked::In(caller) => caller,
            Asked::Answered(after) => return Ok(after),
        };
        if let Some(after) = self.serve_static(&caller).await? {
            return Ok(after);
        }
        let behind = self.site.behind(&caller)?;
        self.check_handshake(&behind)?;
        let reader = BodyReader::new(self.head.framing(), self.site.body_limit, self.row.started)?;
        self.invite_body(&reader).await?;
        self.begin_trace();
        match behind {
            Behind::App(app) => self.call(&app, &sender, reader).await,
            // Boxed: the exchanges with an app keep no room for it.
            Behind::Upstreams(group) => Box::pin(self.forward(&group, &sender, reader)).await,
        }
    }

    /// body → lease → worker → response.
    async fn call(
        &mut self,
        app: &App,
        sender: &Sender,
        mut reader: BodyReader,
    ) -> Result<After, Reason> {
        if self.streams_body(app) {
            return self.ask_streaming(app, sender, reader).await;
        }
        let body = self.collect(&mut reader).await?;
        self.ask(app, sender, body).await
    }

    fn find_site(&mut self) {
        let site = self.edge.routes.find(self.head.host(), self.head.path());
        if !Arc::ptr_eq(site, &self.site) {
            self.site = Arc::clone(site);
        }
    }

    /// A client that came in for a host whose clients show other certificates, or none, is not answered for this one
    /// (RFC 9110 section 15.5.20).
    fn check_clients(&self) -> Result<(), Reason> {
        match self.peer.policy == self.site.clients {
            true => Ok(()),
            false => Err(Reason::Misdirected),
        }
    }

    /// A body streams to an event loop, unless it is small and complete soon anyway.
    fn streams_body(&self, app: &App) -> bool {
        let small = match self.head.framing() {
            Framing::None => true,
            Framing::Length(length) => length <= IN_MEMORY as u64,
            Framing::Chunked | Framing::UntilEnd => false,
        };
        let none = matches!(self.head.framing(), Framing::None | Framing::Length(0));
        !none && (!app.request_buffering || (!small && app.pool.streams()))
    }

    /// Tells a client that asked first to send its body (RFC 9110 section 10.1.1).
    async fn invite_body(&mut self, reader: &BodyReader) -> Result<(), Reason> {
        if self.head.expect_continue() && !reader.is_done() && self.buffer.is_empty() {
            self.out
                .bytes()
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.interim(0);
            self.flush().await.map_err(|_| Reason::ClientGone)?;
        }
        Ok(())
    }

    /// Reads the whole body before an app is called: a slow client never holds a worker.
    pub async fn collect(&mut self, reader: &mut BodyReader) -> Result<Body, Reason> {
        if reader.is_done() {
            self.body_read = true;
            return Ok(Body::None);
        }
        let collected = self.collect_all(reader).await;
        self.row.received = reader.received();
        collected
    }

    async fn collect_all(&mut self, reader: &mut BodyReader) -> Result<Body, Reason> {
        let mut collector = Collector::new(&self.edge.spool, self.place.share());
        while !reader.is_done() {
            self.deadline.set(reader.deadline(&self.edge.times));
            let (io, buffer) = (&mut self.io, &mut self.buffer);
            let piece = poll_fn(|cx| reader.poll_piece(cx, io, buffer, collector.space()));
            match self.deadline.bound(piece).await {
                Ok(piece) => piece?,
                Err(Elapsed) => return Err(Reason::BodyTooSlow),
            }
            collector.settle()?;
        }
        self.body_read = true;
        collector.finish()
    }

    /// Asks a worker, once more when the first one died and nothing is lost by it.
    async fn ask(&mut self, app: &App, sender: &Sender, body: Body) -> Result<After, Reason> {
        let mut retried = false;
        loop {
            // Before the lease: a request that cannot be sent costs no slot.
            let file = body.readable()?;
            let asks = self.asks(app, sender, &body);
            let (mut lease, frame) = match self.lease(app, asks).await {
                Err(Reason::WorkerDied) if !retried && self.may_ask_again(app) => {
                    retried = true;
                    continue;
                }
                leased => leased?,
            };
            let sent = self.send(&mut lease, frame, sender, &body, file).await;
            let mut relay = Relay::new(self, app, None);
            let relayed = match sent {
                Err(_closed) => Relayed::Failed(Failure::Lost(Fault::Closed)),
                Ok(()) => relay.run(&mut lease).await,
            };
            let (rest, _) = relay.into_rest();
            let failure = match relayed {
                Relayed::Failed(failure) => failure,
                relayed => return self.finish(app, relayed, lease, rest).await,
            };
            match self.after_failure(app, failure, lease, rest, retried).await {
                Some(reason) => return Err(reason),
                None => retried = true,
            }
        }
    }

    /// Asks a worker while the body is still coming in. Nothing can be sent twice.
    async fn ask_streaming(
        &mut self,
        app: &App,
        sender: &Sender,
        reader: BodyReader,
    ) -> Result<After, Reason> {
        let (mut lease, _no_frame) = self.lease(app, Asks::default()).await?;
        let stream = lease.grant().stream_id();
        let frame = self.request_frame(stream, sender, &Body::None, BodyKind::Stream);
        if lease.grant().send(&frame, None).await.is_err() {
            return Err(Reason::WorkerDied);
        }
        let mut relay = Relay::new(self, app, Some(Upload::new(reader)));
        let relayed = relay.run(&mut lease).await;
        let (rest, body) = relay.into_rest();
        self.row.received = body.as_ref().map_or(0, BodyReader::received);
        let after = match relayed {
            Relayed::Failed(failure) => {
                return Err(self
                    .after_failure(app, failure, lease, rest, true)
                    .await
                    .unwrap_or(Reason::WorkerDied));
            }
            relayed => self.finish(app, relayed, lease, rest).await?,
        };
        match body {
            Some(body) if !body.is_done() && after == After::KeepAlive => {
                self.flush().await.map_err(|_| Reason::ClientGone)?;
                Ok(if self.drop_rest(body).await {
                    after
                } else {
                    After::Close
                })
            }
            _ => Ok(after),
        }
    }

    /// Waits for a slot.
    async fn lease(&mut self, app: &App, asks: Asks) -> Result<(Lease, Vec<u8>), Reason> {
        let asked = Instant::now();
        let asks = Asks {
            since: Some(asked),
            ..asks
        };
        let session = engineio::session(self.head.query());
        let mut lease = pin!(app.pool.lease(self.thread.index, asks, session));
        self.deadline.set(asked + app.line);
        let (io, buffer) = (&mut self.io, &mut self.buffer);
        let deadline = &mut self.deadline;
        // Who leaves the line is not served. A client that only closed its sending side is not told
        // apart from one that left, and goes as well: others wait.
        let lease = poll_fn(|cx| match lease.as_mut().poll(cx) {
            Poll::Ready(lease) => Poll::Ready(Ok(lease)),
            Poll::Pending => match poll_sign(cx, io, buffer) {
                Poll::Ready(Sign::End | Sign::Gone) => Poll::Ready(Err(Reason::ClientGone)),
                Poll::Ready(Sign::More) | Poll::Pending => {
                    deadline.poll(cx).map(|Elapsed| Err(Reason::LineTimeout))
                }
            },
        });
        let (lease, frame) = lease.await?.map_err(|refused| match refused {
            Refused::LineFull => Reason::LineFull,
            Refused::LineBytes => Reason::LineBytes,
            Refused::Overloaded => Reason::Overloaded,
            Refused::WorkerLost => Reason::WorkerDied,
            Refused::CrashLooping { retry_after } => {
                self.retry_after = Some(retry_after);
                Reason::CrashLooping
            }
            Refused::Stopping => Reason::Stopping,
        })?;
        self.row.line_ended(asked, lease.worker().pid);
        Ok((lease, frame))
    }

    /// A request whose body is here, as it waits in line. Its frame comes along when a worker may take
    /// it by itself: it has no descriptor and takes no connection over. (On event loops a frame carries
    /// the number of a stream, which is known later.)
    fn asks(&mut self, app: &App, sender: &Sender, body: &Body) -> Asks {
        let held = body.memory();
        let small = held <= BACKLOG_FRAME && body.kind() != BodyKind::File;
        let may_be_taken = small && !self.head.is_websocket() && !app.pool.streams();
        let mut frame = Vec::new();
        if may_be_taken {
            frame = self.request_frame(0, sender, body, body.kind());
        }
        if frame.len() > BACKLOG_FRAME {
            self.frame = std::mem::take(&mut frame);
        }
        let bytes = held + frame.len();
        Asks {
            frame,
            bytes,
            since: None,
        }
    }

    /// Sends the whole request to the worker, unless that has taken it; `file` is a spooled body.
    async fn send(
        &mut self,
        lease: &mut Lease,
        mut frame: Vec<u8>,
        sender: &Sender,
        body: &Body,
        file: Option<OwnedFd>,
    ) -> std::io::Result<()> {
        let grant = lease.grant();
        if frame.is_empty() || matches!(grant, Grant::Stream(_)) {
            frame = self.request_frame(grant.stream_id(), sender, body, body.kind());
        }
        let sent = match grant.is_begun() {
            true => Ok(()),
            false => grant.send(&frame, file.as_ref().map(AsFd::as_fd)).await,
        };
        self.frame = frame;
        sent
    }

    /// A request that was lost with its worker may be asked once more: nothing is lost by it.
    fn may_ask_again(&self, app: &App) -> bool {
        self.head.is_idempotent() && app.pool.may_retry()
    }

    /// Builds the request frame in the connection's spare buffer, for an event loop when `stream` is not 0.
    fn request_frame(
        &mut self,
        stream: u32,
        sender: &Sender,
        body: &Body,
        kind: BodyKind,
    ) -> Vec<u8> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        let content_length = match (kind, self.head.framing()) {
            (BodyKind::Stream, Framing::Length(length)) => Some(length),
            (BodyKind::Stream | BodyKind::None, _) => None,
            (BodyKind::Inline | BodyKind::File, _) => Some(body.len()),
        };
        let https = sender.https(self.io.is_tls());
        let (server, server_port) = sender.server(&self.head, &self.peer, https);
        let mut head = RequestHead::EMPTY;
        head.version = self.head.version();
        head.body = kind;
        head.https = https;
        head.websocket = self.head.is_websocket();
        head.content_length = content_length;
        head.id = self.row.id;
        head.client_port = sender.port();
        head.server_port = server_port;
        head.client = sender.address();
        head.server = &server;
        head.method = self.head.method();
        head.raw_target = self.head.target();
        (head.root, head.path) = self.below_root(sender);
        head.query = self.head.query();
        head.user = self.row.user.as_deref().unwrap_or("").as_bytes();
        let mut encoder = RequestEncoder::new(&mut frame, stream, &head);
        // Not what the pool says: a reload may be on its way from one interface to the other.
        let streams = stream != 0;
        let fields = &self.site.policy.fields;
        sender.fields(
            &self.head,
            https,
            !streams,
            &fields.request_drops,
            |id, name, value| encoder.field_with_id(id, name, value),
        );
        fields.tell_app(|name, value| encoder.field(name, value));
        self.tell_id(sender, |id| {
            encoder.field_with_id(names::X_REQUEST_ID, b"x-request-id", id);
        });
        self.tell_trace(|name, value| encoder.field(name, value));
        self.tell_claims(|name, value| encoder.field(name, value));
        if let (Some(user), true) = (&self.row.user, streams) {
            // As above: a client's own is not passed on.
            encoder.field(b"x-ostler-user", user.as_bytes());
        }
        if let Some(length) = content_length
            && streams
        {
            // WSGI has a variable of its own for it; an ASGI scope has only the headers.
            let name = b"content-length";
            encoder.field_with_id(names::CONTENT_LENGTH, name, length.to_string().as_bytes());
        }
        encoder.finish(body.inline());
        frame
    }

    /// Finds the trace that the request belongs to. One that is asked again, or framed anew, is the same request.
    fn begin_trace(&mut self) {
        if self.site.policy.traces {
            let said = self.head.fields_named(b"traceparent");
            let trace = Trace::of(said, &self.thread.ids);
            self.row.told.get_or_insert_default().trace = Some(trace);
        }
    }

    /// What an app or upstream is told the request is called: as in every log of ours, unless a trusted proxy or a rule
    /// of the site has said another.
    pub(super) fn tell_id(&self, sender: &Sender, field: impl FnOnce(&[u8])) {
        if self.site.policy.fields.request_drops.has(b"x-request-id") {
            return;
        }
        match sender.request_id(&self.head) {
            Some(id) => field(id),
            None => field(request_id(self.row.id).as_str().as_bytes()),
        }
    }

    /// What an app or upstream is told of the trace.
    pub(super) fn tell_trace(&self, mut field: impl FnMut(&[u8], &[u8])) {
        let Some(trace) = self.row.trace() else {
            return;
        };
        field(b"traceparent", trace.text());
        if trace.goes_on(self.head.fields_named(b"traceparent"))
            && let Some(state) = trace::state(self.head.fields_named(b"tracestate"))
        {
            field(b"tracestate", &state);
        }
    }

    /// What a token, or who was asked for us, says of the client. A client's own fields of these names are not passed on.
    pub(super) fn tell_claims(&self, mut field: impl FnMut(&[u8], &[u8])) {
        for (name, value) in self.row.bearer.iter().flat_map(|bearer| &bearer.claims) {
            let name = format!("x-ostler-claim-{name}");
            field(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in self.row.told.iter().flat_map(|told| &told.granted) {
            field(name.as_bytes(), value);
        }
    }

    /// `SCRIPT_NAME` and `PATH_INFO`: the path below the root when it lies there (as gunicorn).
    fn below_root(&self, sender: &Sender) -> (&[u8], &[u8]) {
        let said = sender.script_name(&self.head, self.edge.forwarding.script_name);
        let root = said.unwrap_or(self.site.root.as_bytes());
        let path = self.head.path();
        match path.strip_prefix(root) {
            Some(below) if below.is_empty() || below[0] == b'/' => (root, below),
            _ => (root, path),
        }
    }

    /// Ends an exchange whose response has begun or became something else.
    async fn finish(
        &mut self,
        app: &App,
        relayed: Relayed,
        lease: Lease,
        rest: Rest,
    ) -> Result<After, Reason> {
        match relayed {
            Relayed::Whole(after) => {
                self.release(lease, rest);
                Ok(after)
            }
            Relayed::File(file, sending) => {
                self.release(lease, rest);
                Ok(Box::pin(self.send_worker_file(file, sending)).await)
            }
            Relayed::Internal(private) => {
                self.release(lease, rest);
                Box::pin(self.serve_internal(private)).await
            }
            // What few exchanges become is boxed: each one would keep room for it.
            Relayed::Hijacked => Ok(Box::pin(self.tunnel(lease, app.response)).await),
            Relayed::WebSocket(accept) => match self.handshake(app)? {
                Some(handshake) => {
                    Ok(Box::pin(self.websocket(app, lease, &handshake, &accept)).await)
                }
                None => {
                    self.release(lease, rest);
                    Err(Reason::BadResponse)
                }
            },
            Relayed::Broken(reason) => {
                match reason {
                    Reason::WorkerDied => drop(self.mourn(&lease, &Fault::Closed).await),
                    _ => self.release(lease, rest),
                }
                Ok(self.cut(reason).await)
            }
            Relayed::Failed(_) => Ok(After::Abort),
        }
    }

    /// Decides what follows when a worker gave no response: `None` is to ask another one.
    async fn after_failure(
        &mut self,
        app: &App,
        failure: Failure,
        lease: Lease,
        rest: Rest,
        retried: bool,
    ) -> Option<Reason> {
        match failure {
            Failure::TimedOut => {
                self.log_timeout(&lease, app.response);
                lease.timed_out();
                Some(Reason::WorkerTimeout)
            }
            Failure::App => {
                self.release(lease, rest);
                Some(Reason::AppError)
            }
            Failure::BadResponse(reason) => {
                tracing::error!(
                    reason = reason.code(),
                    path = %String::from_utf8_lossy(self.head.path()),
                    "the app's response cannot be sent: {}", reason.text()
                );
                self.release(lease, rest);
                Some(reason)
            }
            Failure::Upload(reason) => {
                self.release(lease, rest);
                Some(reason)
            }
            Failure::ClientGone => {
                self.release(lease, rest);
                Some(Reason::ClientGone)
            }
            Failure::Lost(fault) => {
                let alone = lease.worker().in_flight() == 1;
                let crashed = self.mourn(&lease, &fault).await;
                let again = !(retried || crashed && alone) && self.may_ask_again(app);
                if again {
                    None
                } else {
                    Some(Reason::WorkerDied)
                }
            }
        }
    }
}
