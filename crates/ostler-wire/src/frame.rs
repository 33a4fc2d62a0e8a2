//! The frame head, and writing a frame into a buffer.

use crate::WireError;

/// Bytes in a frame head.
pub const HEAD_LEN: usize = 12;

/// The longest payload either end accepts, in bytes. A request head is at most 64 KiB and an inline
/// body as much again; body frames are cut at 256 KiB, which is what one response may hold in memory.
pub const MAX_PAYLOAD: u32 = 1 << 20;

/// The longest request frame in a backlog, in bytes, head and body: all that most clients ever send.
/// Larger ones wait for a slot.
pub const BACKLOG_FRAME: usize = 16 * 1024;

/// Flag: this frame ends its direction of the exchange. On `ReqHead`/`RespHead`: the payload's rest
/// is the whole body. On `ReqBody`/`RespBody`: no more follows.
pub const END: u8 = 1;

/// Flag: one file descriptor travels with this frame (SCM_RIGHTS on the frame's first byte).
pub const FD: u8 = 2;

/// What a frame carries, and which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Server → worker: a request ([`crate::RequestHead`]), the whole small body behind it.
    ReqHead = 1,
    /// Server → worker: a piece of a streamed request body, raw bytes.
    ReqBody = 2,
    /// Server → worker: the client is gone or the request is over its time. On a slot `stream` is the
    /// request's ticket. No payload.
    Cancel = 3,
    /// Server → worker, ASGI only: the client sends nothing more, and may be gone. No payload.
    ClientEof = 8,
    /// Both ways, ASGI only: the receiver may take `u32` more body bytes of this stream.
    Credit = 4,
    /// Both ways, ASGI only: is your loop alive? Answered by `Pong` with the same payload (`u64`).
    Ping = 5,
    /// The answer to `Ping`.
    Pong = 6,
    /// Server → worker, ASGI only: no new stream will come on this channel. No payload.
    Drain = 7,
    /// Worker → server: an interim response (100 or 103), laid out as `RespHead`.
    RespInfo = 16,
    /// Worker → server: status and headers ([`crate::ResponseHead`]), the whole small body behind
    /// them when `END` is set, the first piece of it otherwise (may be empty).
    RespHead = 17,
    /// Worker → server: a piece of the response body, raw bytes.
    RespBody = 18,
    /// Worker → server: a regular file's bytes as the body ([`crate::FileHead`], flag `FD`).
    RespFile = 19,
    /// Worker → server: trailers, laid out as the header list of `RespHead`; ends the response.
    RespTrailers = 20,
    /// Worker → server: the app failed after its head was sent; the text is for the log. The client
    /// must see an unclean end.
    RespAbort = 21,
    /// Worker → server: the app wants the raw connection (flag `FD` absent: the server keeps the
    /// slot's socket as the tunnel). No payload. WSGI only: `environ["werkzeug.socket"]` was used.
    Hijack = 22,
    /// Worker → server, WSGI only: before the frame that ends a response: the request with the ticket
    /// `stream` was taken from the backlog and is served next. No payload.
    Taken = 23,
    /// Worker → server: the app accepted the WebSocket, laid out as `RespHead` (status 101).
    WsAccept = 32,
    /// Both ways: a WebSocket message: one [`crate::Opcode`] byte, then the message.
    WsMessage = 33,
    /// Both ways: a WebSocket close ([`crate::CloseFrame`]).
    WsClose = 34,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::ReqHead,
            2 => Self::ReqBody,
            3 => Self::Cancel,
            8 => Self::ClientEof,
            4 => Self::Credit,
            5 => Self::Ping,
            6 => Self::Pong,
            7 => Self::Drain,
            16 => Self::RespInfo,
            17 => Self::RespHead,
            18 => Self::RespBody,
            19 => Self::RespFile,
            20 => Self::RespTrailers,
            21 => Self::RespAbort,
            22 => Self::Hijack,
            23 => Self::Taken,
            32 => Self::WsAccept,
            33 => Self::WsMessage,
            34 => Self::WsClose,
            _ => return None,
        })
    }
}

/// The first 12 bytes of a frame: `{u32 payload length, u8 kind, u8 flags, u16 zero, u32 stream}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Payload bytes that follow the head.
    pub len: u32,
    pub kind: Kind,
    /// [`END`] and [`FD`]; other bits are refused.
    pub flags: u8,
    /// On a WSGI slot the ticket of a request that came through the backlog, 0 otherwise.
    pub stream: u32,
}

impl FrameHead {
    /// Decodes the head at the start of `bytes`; `None` when fewer than [`HEAD_LEN`] bytes are there.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(head) = bytes.first_chunk::<HEAD_LEN>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, kind, flags, z0, z1, s0, s1, s2, s3] = *head;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len > MAX_PAYLOAD {
            return Err(WireError::TooLong(len));
        }
        let kind = Kind::from_u8(kind).ok_or(WireError::UnknownKind(kind))?;
        if flags & !(END | FD) != 0 || z0 != 0 || z1 != 0 {
            return Err(WireError::Invalid("flags"));
        }
        Ok(Some(Self {
            len,
            kind,
            flags,
            stream: u32::from_le_bytes([s0, s1, s2, s3]),
        }))
    }

    pub fn encode(self) -> [u8; HEAD_LEN] {
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        let [s0, s1, s2, s3] = self.stream.to_le_bytes();
        [
            l0,
            l1,
            l2,
            l3,
            self.kind as u8,
            self.flags,
            0,
            0,
            s0,
            s1,
            s2,
            s3,
        ]
    }

    pub fn is_end(self) -> bool {
        self.flags & END != 0
    }

    pub fn has_fd(self) -> bool {
        self.flags & FD != 0
    }
}

/// A whole frame: its head, its payload, and how many bytes both took.
pub type Whole<'a> = (FrameHead, &'a [u8], usize);

/// Splits the first whole frame off `bytes`: its head, its payload, and how many bytes it took.
/// `None` when more bytes are needed.
pub fn frame(bytes: &[u8]) -> Result<Option<Whole<'_>>, WireError> {
    let Some(head) = FrameHead::decode(bytes)? else {
        return Ok(None);
    };
    let end = HEAD_LEN + head.len as usize;
    Ok(bytes.get(HEAD_LEN..end).map(|payload| (head, payload, end)))
}

/// Starts a frame at the end of `out`; returns where it starts, for [`finish`].
pub fn begin(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32) -> usize {
    let start = out.len();
    out.extend_from_slice(
        &FrameHead {
            len: 0,
            kind,
            flags,
            stream,
        }
        .encode(),
    );
    start
}

/// Writes the length of the frame that starts at `start` and ends `extra` bytes behind `out`'s end
/// (the part of its payload that is sent from elsewhere without a copy).
pub fn finish(out: &mut [u8], start: usize, extra: usize) {
    let len = (out.len() - start - HEAD_LEN + extra) as u32;
    debug_assert!(len <= MAX_PAYLOAD, "a frame of {len} bytes");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Writes another stream into the head of a finished frame.
pub fn set_stream(frame: &mut [u8], stream: u32) {
    frame[HEAD_LEN - 4..HEAD_LEN].copy_from_slice(&stream.to_le_bytes());
}
