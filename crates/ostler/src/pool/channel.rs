//! An ASGI channel: one socket between an edge thread and a worker's event loop, many requests at
//! once, told apart by stream ids and held back by byte credits.
//!
//! Frames that several requests write in one turn of the edge thread leave in one system call: a
//! writer appends to the common buffer and wakes the flusher, which runs after the tasks that are
//! ready now.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ostler_wire::{END, FrameHead, HEAD_LEN, Kind, begin, finish};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::Worker;
use super::slot::{Fault, Frame, recv_now, send_now};

/// Body bytes each side may send on a stream before the other grants more.
pub const STREAM_CREDIT: u32 = 256 * 1024;

/// Bytes asked of the kernel per read.
const READ: usize = 64 * 1024;

/// Bytes that may wait for the worker's socket before a request body waits for its turn.
const OUT_LIMIT: usize = 1024 * 1024;

/// A loop that has not answered for this long is stuck.
pub const DEAF: Duration = Duration::from_secs(3);

/// How often a loop with streams is asked whether it is alive.
const PING_EVERY: Duration = Duration::from_secs(1);

/// One channel; its edge thread is fixed.
pub struct Channel {
    pub worker: Arc<Worker>,
    fd: AsyncFd<OwnedFd>,
    next_stream: AtomicU32,
    closed: AtomicBool,
    /// The last stream to end closes the channel. Written and read under the lock of `streams`.
    draining: AtomicBool,
    /// Guards what is to be written.
    out: Mutex<Out>,
    /// Guards the streams by id.
    streams: Mutex<HashMap<u32, Arc<StreamShared>>>,
    flush: Notify,
    end: Notify,
    /// Milliseconds without an answer to a ping.
    silent_ms: AtomicU32,
}

#[derive(Default)]
struct Out {
    bytes: BytesMut,
    /// Descriptors and how many bytes of `bytes` go out before the one each travels with.
    fds: VecDeque<(usize, OwnedFd)>,
}

/// What the reader task and one request share.
#[derive(Default)]
struct StreamShared {
    /// Guards the frames that came and were not taken, and who waits for what.
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    frames: VecDeque<(FrameHead, Bytes, Option<OwnedFd>)>,
    /// Body bytes that the worker lets us send.
    credit: u32,
    closed: bool,
    waits_for_frame: Option<Waker>,
    waits_for_credit: Option<Waker>,
}

impl Inbox {
    fn wake_all(&mut self) {
        let wakers = [self.waits_for_frame.take(), self.waits_for_credit.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while one of these is held leaves plain data in a usable state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    /// Takes a non-blocking socket and registers it with the calling thread's reactor. The caller
    /// then runs [`Channel::read_loop`] and [`Channel::write_loop`] on that thread.
    pub fn new(worker: Arc<Worker>, socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            worker,
            fd: crate::sys::fds::watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            next_stream: AtomicU32::new(1),
            closed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            out: Mutex::default(),
            streams: Mutex::default(),
            flush: Notify::new(),
            end: Notify::new(),
            silent_ms: AtomicU32::new(0),
        })
    }

    /// Opens a stream for one request.
    pub fn open(self: &Arc<Self>) -> Stream {
        let shared = Arc::new(StreamShared::default());
        let mut streams = lock(&self.streams);
        // Under the lock: a close that is not seen here finds the stream in the table.
        {
            let mut inbox = lock(&shared.inbox);
            inbox.credit = STREAM_CREDIT;
            inbox.closed = self.closed.load(Ordering::Acquire);
        }
        // The numbers come round again, and a WebSocket may still hold its own by then.
        let id = loop {
            let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
            if id != 0 && !streams.contains_key(&id) {
                break id;
            }
        };
        streams.insert(id, Arc::clone(&shared));
        drop(streams);
        Stream {
            id,
            channel: Arc::clone(self),
            shared,
            payload: Bytes::new(),
            taken: 0,
            begun: false,
            ended: false,
            overdue: false,
        }
    }

    /// Ends the channel: the worker sees its end, every stream a [`Fault::Closed`].
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = rustix::net::shutdown(self.fd.get_ref(), rustix::net::Shutdown::Both);
        for stream in lock(&self.streams).values() {
            let mut inbox = lock(&stream.inbox);
            inbox.closed = true;
            inbox.wake_all();
        }
        self.flush.notify_one();
        self.end.notify_one();
    }

    /// Lets the streams end, then closes the channel.
    pub fn drain(self: &Arc<Self>) {
        let idle = {
            let streams = lock(&self.streams);
            self.draining.store(true, Ordering::Relaxed);
            streams.is_empty()
        };
        if idle {
            return self.close();
        }
        let mut frame = Vec::with_capacity(HEAD_LEN);
        begin(&mut frame, Kind::Drain, 0, 0);
        let _ = self.write(&frame, None);
    }

    fn ended(&self, stream: u32) {
        let last = {
            let mut streams = lock(&self.streams);
            streams.remove(&stream);
            streams.is_empty() && self.draining.load(Ordering::Relaxed)
        };
        if last {
            self.close();
        }
    }

    /// For how long the worker's event loop has not answered.
    pub fn silent(&self) -> Duration {
        Duration::from_millis(self.silent_ms.load(Ordering::Relaxed).into())
    }

    fn write(&self, frames: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut out = lock(&self.out);
        if let Some(fd) = fd {
            let at = out.bytes.len();
            out.fds.push_back((at, fd.try_clone_to_owned()?));
        }
        out.bytes.extend_from_slice(frames);
        self.flush.notify_one();
        Ok(())
    }

    /// Sends what streams wrote, until the channel closes.
    pub async fn write_loop(self: Arc<Self>) {
        while !self.closed.load(Ordering::Acquire) {
            self.flush.notified().await;
            let backed_up = lock(&self.out).bytes.len() > OUT_LIMIT;
            loop {
                match self.flush_once() {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        match self.fd.writable().await {
                            Ok(mut guard) => guard.clear_ready(),
                            Err(_) => return self.close(),
                        }
                        // The readiness was cleared after the failed attempt; ask once more
                        // before waiting, for an edge that came in between.
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return self.close(),
                }
            }
            if backed_up {
                self.wake_writers();
            }
        }
    }

    /// Lets request bodies that waited for the buffer go on.
    fn wake_writers(&self) {
        for stream in lock(&self.streams).values() {
            if let Some(waker) = lock(&stream.inbox).waits_for_credit.take() {
                waker.wake();
            }
        }
    }

    /// One send; true when nothing is left.
    fn flush_once(&self) -> io::Result<bool> {
        let mut out = lock(&self.out);
        if out.bytes.is_empty() {
            return Ok(true);
        }
        let first = out.fds.front().map(|(at, _)| *at);
        let sent = match first {
            Some(0) => {
                let end = out.fds.get(1).map_or(out.bytes.len(), |(at, _)| *at);
                let fd = out.fds.front().map(|(_, fd)| fd.as_fd());
                let sent = send_now(self.fd.get_ref(), &out.bytes[..end], fd)?;
                out.fds.pop_front();
                sent
            }
            Some(at) => send_now(self.fd.get_ref(), &out.bytes[..at], None)?,
            None => send_now(self.fd.get_ref(), &out.bytes, None)?,
        };
        out.bytes.advance(sent);
        for (at, _) in &mut out.fds {
            *at -= sent.min(*at);
        }
        Ok(out.bytes.is_empty())
    }

    /// Takes frames from the worker and hands them to their streams, until the channel closes.
    pub async fn read_loop(self: Arc<Self>) -> Fault {
        let fault = match self.read_frames().await {
            Ok(()) => Fault::Closed,
            Err(fault) => fault,
        };
        self.close();
        fault
    }

    async fn read_frames(&self) -> Result<(), Fault> {
        let mut bytes = BytesMut::new();
        let mut fds = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                () = self.end.notified() => return Ok(()),
                read = self.read(&mut bytes, &mut fds) => read?,
            }
            while let Some(head) = FrameHead::decode(&bytes).map_err(Fault::Wire)? {
                let whole = HEAD_LEN + head.len as usize;
                if bytes.len() < whole {
                    bytes.reserve(whole - bytes.len());
                    break;
                }
                let payload = bytes.split_to(whole).freeze().slice(HEAD_LEN..);
                let fd = match head.has_fd() {
                    true => Some(fds.pop_front().ok_or(Fault::Descriptor)?),
                    false => None,
                };
                self.dispatch(head, payload, fd)?;
            }
        }
    }

    async fn read(&self, bytes: &mut BytesMut, fds: &mut VecDeque<OwnedFd>) -> Result<(), Fault> {
        loop {
            let mut guard = self.fd.readable().await.map_err(|_| Fault::Closed)?;
            let filled = bytes.len();
            bytes.resize(filled + READ, 0);
            let had = fds.len();
            let result = guard.try_io(|fd| recv_now(fd.get_ref(), &mut bytes[filled..], fds));
            let count = match &result {
                Ok(Ok(count)) => *count,
                _ => 0,
            };
            bytes.truncate(filled + count);
            match result {
                Ok(Ok(0)) => return Err(Fault::Closed),
                Ok(Ok(count)) => {
                    if count < READ && fds.len() == had {
                        guard.clear_ready();
                    }
                    return Ok(());
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return Err(Fault::Closed),
                Err(_would_block) => {}
            }
        }
    }

    fn dispatch(&self, head: FrameHead, payload: Bytes, fd: Option<OwnedFd>) -> Result<(), Fault> {
        if head.kind == Kind::Pong {
            self.silent_ms.store(0, Ordering::Relaxed);
            return Ok(());
        }
        // A frame for a stream that has ended crossed our Cancel on the way: it is dropped.
        let Some(stream) = lock(&self.streams).get(&head.stream).cloned() else {
            return Ok(());
        };
        let mut inbox = lock(&stream.inbox);
        if head.kind == Kind::Credit {
            let granted = payload
                .first_chunk()
                .map(|bytes| u32::from_le_bytes(*bytes));
            let granted = granted.ok_or(Fault::Wire(ostler_wire::WireError::Truncated))?;
            inbox.credit = inbox.credit.saturating_add(granted);
            if let Some(waker) = inbox.waits_for_credit.take() {
                waker.wake();
            }
        } else {
            // The worker may hold at most its credit in body frames here; a worker that sends
            // more, or floods heads, is cut off.
            if inbox.frames.len() > MAX_INBOX_FRAMES {
                return Err(Fault::Wire(ostler_wire::WireError::Invalid("credit")));
            }
            inbox.frames.push_back((head, payload, fd));
            if let Some(waker) = inbox.waits_for_frame.take() {
                waker.wake();
            }
        }
        Ok(())
    }

    /// Asks the loop for a sign of life while it has streams.
    pub async fn ping_loop(self: Arc<Self>) {
        let mut every = tokio::time::interval(PING_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ping = Vec::with_capacity(HEAD_LEN + 8);
        let start = begin(&mut ping, Kind::Ping, 0, 0);
        ping.extend_from_slice(&0u64.to_le_bytes());
        finish(&mut ping, start, 0);
        while !self.closed.load(Ordering::Acquire) {
            every.tick().await;
            if lock(&self.streams).is_empty() {
                self.silent_ms.store(0, Ordering::Relaxed);
            } else {
                self.silent_ms
                    .fetch_add(PING_EVERY.as_millis() as u32, Ordering::Relaxed);
                let _ = self.write(&ping, None);
            }
        }
    }
}

/// Frames of one stream that may wait for a slow client: its credit in small pieces, and heads.
const MAX_INBOX_FRAMES: usize = 64 * 1024;

/// One request on a channel.
pub struct Stream {
    id: u32,
    channel: Arc<Channel>,
    shared: Arc<StreamShared>,
    payload: Bytes,
    /// Body bytes taken since credit was last given back.
    taken: u32,
    /// A frame was sent, so the worker knows of the stream.
    begun: bool,
    /// The worker has said its last word.
    ended: bool,
    /// The request is over its time.
    overdue: bool,
}

impl Stream {
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn worker(&self) -> &Arc<Worker> {
        &self.channel.worker
    }

    /// The worker has said its last word on this stream.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The request is over its time: its task is cancelled when the stream is dropped.
    pub fn set_overdue(&mut self) {
        self.overdue = true;
    }

    /// Milliseconds for which the worker's event loop has not answered.
    pub fn silent(&self) -> Duration {
        self.channel.silent()
    }

    /// Queues whole frames that carry no body bytes.
    pub fn send(&mut self, frames: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.begun = true;
        self.channel.write(frames, fd)
    }

    /// Takes up to `wanted` body bytes of credit; ready with 1 or more.
    pub fn poll_credit(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Fault>> {
        let mut inbox = lock(&self.shared.inbox);
        if inbox.closed {
            return Poll::Ready(Err(Fault::Closed));
        }
        let backed_up = lock(&self.channel.out).bytes.len() > OUT_LIMIT;
        let granted = wanted.min(inbox.credit as usize);
        if granted == 0 || backed_up {
            inbox.waits_for_credit = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inbox.credit -= granted as u32;
        Poll::Ready(Ok(granted))
    }

    /// Ready when a frame of this stream is there; [`Stream::take`] then gives it.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let mut inbox = lock(&self.shared.inbox);
        if !inbox.frames.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if inbox.closed {
            return Poll::Ready(Err(Fault::Closed));
        }
        inbox.waits_for_frame = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The frame that [`Stream::poll_frame`] announced.
    pub fn take(&mut self) -> Result<Frame<'_>, Fault> {
        let next = lock(&self.shared.inbox).frames.pop_front();
        let (head, payload, fd) = next.ok_or(Fault::Closed)?;
        self.payload = payload;
        match head.kind {
            Kind::RespBody | Kind::WsMessage => self.consumed(head.len),
            Kind::RespAbort | Kind::WsClose | Kind::RespTrailers => self.ended = true,
            _ => {}
        }
        self.ended |= head.is_end() && head.kind != Kind::WsMessage;
        Ok(Frame {
            head,
            payload: &self.payload,
            fd,
        })
    }

    /// Gives body credit back in steps, so that not every frame costs one the other way.
    fn consumed(&mut self, bytes: u32) {
        self.taken += bytes;
        if self.taken >= STREAM_CREDIT / 4 {
            let mut frame = Vec::with_capacity(HEAD_LEN + 4);
            let start = begin(&mut frame, Kind::Credit, 0, self.id);
            frame.extend_from_slice(&self.taken.to_le_bytes());
            finish(&mut frame, start, 0);
            let _ = self.channel.write(&frame, None);
            self.taken = 0;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.begun && !self.ended {
            let mut frame = Vec::with_capacity(HEAD_LEN);
            // With END the app's task is cancelled; else it is told that its client left.
            let flags = if self.overdue { END } else { 0 };
            begin(&mut frame, Kind::Cancel, flags, self.id);
            let _ = self.channel.write(&frame, None);
        }
        self.channel.ended(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::supervise::WorkerId;

    #[tokio::test]
    async fn a_stream_in_use_keeps_its_number() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        let worker = Arc::new(Worker::new(WorkerId(1), 1));
        let channel = Arc::new(Channel::new(worker, ours.into()).expect("a channel"));
        let first = channel.open();
        channel.next_stream.store(u32::MAX, Ordering::Relaxed);
        let (last, next) = (channel.open(), channel.open());
        assert_eq!((first.id(), last.id(), next.id()), (1, u32::MAX, 2));
        drop(next);
        assert!(Arc::ptr_eq(&lock(&channel.streams)[&1], &first.shared));
    }
}
