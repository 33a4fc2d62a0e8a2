//! The request line behind the body, where other HTTP servers answer: body → upstream → connection → exchange, again
//! where that is allowed.

mod answer_head;
mod exchange;
mod head;
mod memory;

pub use head::target;
pub use memory::Memory;

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use crate::upstream::{Group, Lease, Link, One, Refused, Stream, Trouble};

use super::body::{Body, BodyReader};
use super::connection::{Connection, Sign, poll_sign};
use super::deadline::Elapsed;
use super::forwarded::Sender;
use super::h1::cookie;
use super::h1::head::Framing;
use super::h1::response;
use super::reason::Reason;
use super::sending::After;
use super::tunnel::Carry;
use super::websocket;

use answer_head::AnswerHead;
use exchange::{Exchange, Failure, Forwarded, Source};
use head::Ends;

/// How far a request that may be sent several times is.
struct Tries<'g> {
    group: &'g Arc<Group>,
    /// Those that failed.
    tried: Vec<Arc<One>>,
    left: u32,
    /// A reused connection was gone: the next one is new.
    fresh: bool,
    /// How long the lines of the row were before an upstream was chosen.
    lines: usize,
}

/// What an exchange leaves behind.
struct Done {
    forwarded: Forwarded,
    stream: Stream,
    /// What is left to read of the request's body.
    rest: Option<BodyReader>,
    /// What came from the upstream; [`Forwarded::Switched`] says how much of it was used.
    input: Vec<u8>,
}

impl Connection {
    /// Sends a request on, and its answer back.
    pub async fn forward(
        &mut self,
        group: &Arc<Group>,
        sender: &Sender,
        mut reader: BodyReader,
    ) -> Result<After, Reason> {
        group.earn();
        if group.said.request_buffering || reader.is_done() {
            let body = self.collect(&mut reader).await?;
            self.forward_body(group, sender, body).await
        } else {
            // Boxed, as everything is that few requests need: the others keep no room for it.
            Box::pin(self.forward_stream(group, sender, reader)).await
        }
    }

    /// The body goes on while it comes in. Nothing can be sent twice.
    async fn forward_stream(
        &mut self,
        group: &Arc<Group>,
        sender: &Sender,
        reader: BodyReader,
    ) -> Result<After, Reason> {
        let ends = match self.head.framing() {
            Framing::Length(length) => Ends::Length(length),
            Framing::None | Framing::Chunked | Framing::UntilEnd => Ends::Chunked,
        };
        let mut tries = Tries::new(group, self.row.lines.len());
        let (mut lease, link) = self.reach(&mut tries, true).await?;
        let source = (Source::Stream(reader), None);
        let mut done = self.exchange_with(&lease, link, sender, source, ends).await;
        self.row.received = done.rest.as_ref().map_or(0, BodyReader::received);
        if let Forwarded::Failed(failure) = done.forwarded {
            self.row.lines.truncate(tries.lines);
            return Err(self.blame(&mut lease, &failure));
        }
        let rest = done.rest.take();
        let after = self.forwarded(lease, done).await?;
        match rest {
            Some(body) if !body.is_done() && after == After::KeepAlive => {
                self.flush().await.map_err(|_| Reason::ClientGone)?;
                let dropped = self.drop_rest(body).await;
                Ok(if dropped { after } else { After::Close })
            }
            _ => Ok(after),
        }
    }

    /// As long as nothing was answered, a request whose body is here can be sent again.
    async fn forward_body(
        &mut self,
        group: &Arc<Group>,
        sender: &Sender,
        body: Body,
    ) -> Result<After, Reason> {
        let idempotent = self.head.is_idempotent();
        let mut tries = Tries::new(group, self.row.lines.len());
        loop {
            let file = body.readable()?;
            let (mut lease, link) = self.reach(&mut tries, !idempotent).await?;
            let reused = link.reused;
            let source = (Source::Body(&body), file);
            let ends = Ends::Length(body.len());
            let done = self.exchange_with(&lease, link, sender, source, ends).await;
            let Forwarded::Failed(failure) = &done.forwarded else {
                return self.forwarded(lease, done).await;
            };
            self.row.lines.truncate(tries.lines);
            if let Failure::Closed { wrote } = failure
                && reused
                && (idempotent || !wrote)
            {
                // It was closed while it was idle, and nobody has read the request (RFC 9112 section 9.3.1).
                tries.fresh = true;
                continue;
            }
            let reason = self.blame(&mut lease, failure);
            let unanswered = matches!(failure, Failure::Closed { .. } | Failure::TimedOut);
            if !(unanswered && idempotent && tries.left > 0 && group.may_retry()) {
                return Err(reason);
            }
            tries.failed(&lease);
        }
    }

    /// Says what a failure means for its upstream and for the client.
    fn blame(&self, lease: &mut Lease<'_>, failure: &Failure) -> Reason {
        let (what, reason) = match failure {
            Failure::Closed { .. } => (
                "it closed the connection without an answer",
                Reason::UpstreamClosed,
            ),
            Failure::Torn => (
                "it closed the connection within the head of an answer",
                Reason::UpstreamClosed,
            ),
            Failure::TimedOut => ("no answer in time", Reason::UpstreamTimeout),
            Failure::Bad(what) => (*what, Reason::UpstreamAnswer),
            Failure::Upload(reason) | Failure::Ours(reason) => return *reason,
            Failure::ClientGone => return Reason::ClientGone,
        };
        self.accuse(lease, what);
        reason
    }

    fn accuse(&self, lease: &mut Lease<'_>, what: &str) {
        tracing::error!(
            method = %String::from_utf8_lossy(self.head.method()),
            path = %String::from_utf8_lossy(self.head.path()),
            request = %crate::logs::request_id(self.row.id),
            "upstream {} failed: {what}",
            lease.one().shown
        );
        lease.failed(what);
    }

    /// An upstream and a connection to it. One that cannot be reached is passed over, whatever the method: it has seen
    /// nothing of the request. `once`: the request cannot be sent twice.
    async fn reach<'g>(
        &mut self,
        tries: &mut Tries<'g>,
        once: bool,
    ) -> Result<(Lease<'g>, Link), Reason> {
        loop {
            let mut lease = self.lease_upstream(tries).await?;
            let now = self.row.dispatched;
            if !tries.fresh
                && let Some(link) = lease.idle(self.thread.index, now, once)
            {
                self.tell_mark(&lease);
                return Ok((lease, link));
            }
            self.deadline.set(now + lease.patience());
            let connecting = Box::pin(lease.connect());
            let why = match self.deadline.bound(connecting).await {
                Ok(Ok(link)) => {
                    self.tell_mark(&lease);
                    return Ok((lease, link));
                }
                Ok(Err(trouble)) => trouble,
                Err(Elapsed) => Trouble::Connect(std::io::ErrorKind::TimedOut.into()),
            };
            tracing::error!(
                request = %crate::logs::request_id(self.row.id),
                "upstream {} cannot be reached: {why}",
                lease.one().shown
            );
            lease.unreachable(&format!("cannot be reached: {why}"));
            if tries.left == 0 {
                return Err(Reason::UpstreamDown);
            }
            tries.failed(&lease);
        }
    }

    /// Waits for an upstream.
    async fn lease_upstream<'g>(&mut self, tries: &Tries<'g>) -> Result<Lease<'g>, Reason> {
        let asked = Instant::now();
        let group: &'g Group = tries.group;
        match group.lease_now(self.mark(group), &tries.tried) {
            Some(lease) => {
                self.row.dispatched = asked;
                Ok(lease)
            }
            None => Box::pin(self.wait_for_upstream(tries, asked)).await,
        }
    }

    async fn wait_for_upstream<'g>(
        &mut self,
        tries: &Tries<'g>,
        asked: Instant,
    ) -> Result<Lease<'g>, Reason> {
        let group: &'g Group = tries.group;
        let mark = self.mark(group).map(<[u8]>::to_vec);
        self.deadline.set(asked + group.said.line_time);
        let mut leasing = pin!(group.lease(mark.as_deref(), &tries.tried));
        let (io, buffer, deadline) = (&mut self.io, &mut self.buffer, &mut self.deadline);
        // As in line for a worker: who leaves is not served.
        let leased = poll_fn(|cx| match leasing.as_mut().poll(cx) {
            Poll::Ready(lease) => Poll::Ready(Ok(lease)),
            Poll::Pending => match poll_sign(cx, io, buffer) {
                Poll::Ready(Sign::End | Sign::Gone) => Poll::Ready(Err(Reason::ClientGone)),
                Poll::Ready(Sign::More) | Poll::Pending => {
                    deadline.poll(cx).map(|Elapsed| Err(Reason::UpstreamBusy))
                }
            },
        });
        let lease = leased.await?.map_err(|refused| match refused {
            Refused::NoAddress => Reason::UpstreamDown,
            Refused::AllUnwell => Reason::UpstreamsUnwell,
            Refused::LineFull => Reason::LineFull,
        })?;
        self.row.upstream_found(asked);
        Ok(lease)
    }

    /// What the client's cookie says about where it was before.
    fn mark(&self, group: &Group) -> Option<&[u8]> {
        let name = group.said.sticky.as_deref()?;
        let mut fields = self.head.fields_named(b"cookie");
        fields.find_map(|field| cookie::value(field, name.as_bytes()))
    }

    /// Has a client stay with its upstream.
    fn tell_mark(&mut self, lease: &Lease<'_>) {
        let group = lease.group();
        let Some(name) = &group.said.sticky else {
            return;
        };
        let mark = &lease.one().mark;
        if self.mark(group) == Some(mark.as_bytes()) {
            return;
        }
        let secure = if self.https { "; Secure" } else { "" };
        let line = format!("Set-Cookie: {name}={mark}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n");
        self.row.lines.extend_from_slice(line.as_bytes());
    }

    async fn exchange_with(
        &mut self,
        lease: &Lease<'_>,
        link: Link,
        sender: &Sender,
        source: (Source<'_>, Option<OwnedFd>),
        ends: Ends,
    ) -> Done {
        let group = lease.group();
        let mut stream = link.stream;
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.clear();
        let host = group.said.own_host.then(|| lease.one().authority.as_str());
        self.forward_head(sender, host, ends, &mut bytes);
        let mut exchange = Exchange::new(self, group, &mut stream, bytes, source, ends);
        let forwarded = exchange.run().await;
        let (bytes, rest, input) = exchange.into_rest();
        if bytes.capacity() <= KEEP {
            self.frame = bytes;
        }
        Done {
            forwarded,
            stream,
            rest,
            input,
        }
    }

    /// Ends an exchange in which something was answered.
    async fn forwarded(&mut self, mut lease: Lease<'_>, done: Done) -> Result<After, Reason> {
        let Done { stream, input, .. } = done;
        let thread = self.thread.index;
        match done.forwarded {
            Forwarded::Whole(after, clean) => {
                lease.succeeded(clean.then_some(stream), thread);
                Ok(after)
            }
            Forwarded::Page(private, clean) => {
                lease.succeeded(clean.then_some(stream), thread);
                Ok(self.show_page(&private))
            }
            Forwarded::Switched(head, at) => {
                if !self.agrees(&head) {
                    self.accuse(&mut lease, "its answer to a WebSocket handshake is wrong");
                    return Err(Reason::UpstreamAnswer);
                }
                lease.succeeded(None, thread);
                Ok(Box::pin(self.carry(lease, stream, &head, &input[at..])).await)
            }
            Forwarded::Broken(reason) => {
                match reason {
                    Reason::UpstreamShort => self.accuse(&mut lease, "its answer broke off"),
                    Reason::UpstreamTimeout => self.accuse(&mut lease, "it fell silent"),
                    _ => {}
                }
                Ok(self.cut(reason).await)
            }
            Forwarded::Failed(failure) => Err(self.blame(&mut lease, &failure)),
        }
    }

    /// An upgrade that the upstream has not agreed to must not become a tunnel (threats E-06).
    fn agrees(&self, head: &AnswerHead) -> bool {
        let key = self.head.field(b"sec-websocket-key").unwrap_or_default();
        let accept = websocket::accept_key(key);
        let said = head.said();
        let mut fields = said.iter().flat_map(|said| said.fields());
        fields.any(|(name, value)| {
            name.eq_ignore_ascii_case(b"sec-websocket-accept") && value == accept.as_bytes()
        })
    }

    /// Becomes a tunnel; `behind` is what the upstream has sent behind its head.
    async fn carry(
        &mut self,
        lease: Lease<'_>,
        stream: Stream,
        head: &AnswerHead,
        behind: &[u8],
    ) -> After {
        let Some(said) = head.said() else {
            return After::Abort;
        };
        let ours = [("Connection", &b"Upgrade"[..]), ("Upgrade", b"websocket")];
        let agreed = said.fields().filter_map(|(name, value)| {
            let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
            let names = ["Sec-WebSocket-Accept", "Sec-WebSocket-Extensions"];
            let name = names.into_iter().find(|known| is(known))?;
            Some((name, value))
        });
        let mark = self.out.bytes().len();
        let lines = ours.into_iter().chain(agreed);
        if response::encode_switch(&said, lines, self.out.bytes()).is_err() {
            return After::Abort;
        }
        self.note_head(mark);
        self.out.bytes().extend_from_slice(behind);
        self.row.status = self.switched();
        self.row.head_came();
        if self.flush().await.is_err() {
            return After::Abort;
        }
        self.log();
        self.become_socket();
        let farewell = lease.group().farewell();
        Carry::new(self, stream).run(farewell).await;
        After::Gone
    }
}

/// Memory that is kept for the next request's head, in bytes.
const KEEP: usize = 16 * 1024;

impl<'g> Tries<'g> {
    fn new(group: &'g Arc<Group>, lines: usize) -> Self {
        Self {
            group,
            tried: Vec::new(),
            left: group.said.retries,
            fresh: false,
            lines,
        }
    }

    fn failed(&mut self, lease: &Lease<'_>) {
        self.tried.push(Arc::clone(lease.one()));
        self.left -= 1;
        self.fresh = false;
    }
}
