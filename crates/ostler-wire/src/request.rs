//! `ReqHead`: one request, checked and canonicalised by the edge, ready for an app.

use crate::cursor::{Cursor, put_short};
use crate::{FD, Kind, WireError, begin, finish, name, name_id};

/// How the request body reaches the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyKind {
    /// There is none.
    None = 0,
    /// It is the rest of the `ReqHead` payload.
    Inline = 1,
    /// It is a spooled file whose read-only descriptor travels with the frame (flag `FD`), read
    /// from offset 0; its length is `content_length`.
    File = 2,
    /// It follows in `ReqBody` frames; the last one has `END`. `content_length` is there when the
    /// client stated one.
    Stream = 3,
}

/// One request as the worker reads it. Strings are bytes as they came; none of them holds CR, LF or
/// NUL. `path` is percent-decoded and free of dot segments; `raw_target` is what the client sent.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// 10 for HTTP/1.0, 11 for 1.1, 20 for 2.
    pub version: u8,
    pub body: BodyKind,
    /// The client spoke TLS to us, or a trusted proxy says that it did.
    pub https: bool,
    /// The handshake asks for a WebSocket (RFC 6455 or 8441).
    pub websocket: bool,
    /// Bytes; known for every body but a streamed chunked one.
    pub content_length: Option<u64>,
    /// Unique per request, shown in logs and error pages.
    pub id: u64,
    pub client_port: u16,
    pub server_port: u16,
    /// Textual address of the client; empty for a client on a UNIX socket.
    pub client: &'a [u8],
    /// Host name or address by which the client reached us, without the port.
    pub server: &'a [u8],
    pub method: &'a [u8],
    pub raw_target: &'a [u8],
    /// The route's prefix (`SCRIPT_NAME`, `root_path`); empty for none.
    pub root: &'a [u8],
    /// The path below `root` (`PATH_INFO`).
    pub path: &'a [u8],
    pub query: &'a [u8],
    /// Who the server found the client to be (`REMOTE_USER`); empty when nobody was asked.
    pub user: &'a [u8],
    /// How many fields [`RequestHead::fields`] yields.
    pub field_count: u16,
    fields: &'a [u8],
    /// The inline body; empty unless `body` is [`BodyKind::Inline`].
    pub inline: &'a [u8],
}

/// One request header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Index into [`crate::NAMES`] plus one, or 0.
    pub id: u8,
    /// Lower case.
    pub name: &'a [u8],
    pub value: &'a [u8],
}

const HTTPS: u8 = 1;
const WEBSOCKET: u8 = 2;
/// A user follows the query.
const USER: u8 = 4;
const LENGTH_UNKNOWN: u64 = u64::MAX;

impl<'a> RequestHead<'a> {
    /// Decodes the payload of a `ReqHead` frame. Every field is walked once, so that iterating over
    /// them later cannot fail.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = Cursor(payload);
        let version = rest.u8()?;
        let body = match rest.u8()? {
            0 => BodyKind::None,
            1 => BodyKind::Inline,
            2 => BodyKind::File,
            3 => BodyKind::Stream,
            _ => return Err(WireError::Invalid("body")),
        };
        let flags = rest.u8()?;
        let content_length = rest.u64()?;
        let id = rest.u64()?;
        let client_port = rest.u16()?;
        let server_port = rest.u16()?;
        let client = rest.short()?;
        let server = rest.short()?;
        let method = rest.short()?;
        let raw_target = rest.short()?;
        let root = rest.short()?;
        let path = rest.short()?;
        let query = rest.short()?;
        let user = match flags & USER {
            0 => &[][..],
            _ => rest.short()?,
        };
        if flags & USER != 0 && user.is_empty() {
            return Err(WireError::Invalid("user"));
        }
        let field_count = rest.u16()?;
        let fields = rest.0;
        for _ in 0..field_count {
            field(&mut rest)?;
        }
        let fields = &fields[..fields.len() - rest.0.len()];
        Ok(Self {
            version,
            body,
            https: flags & HTTPS != 0,
            websocket: flags & WEBSOCKET != 0,
            content_length: (content_length != LENGTH_UNKNOWN).then_some(content_length),
            id,
            client_port,
            server_port,
            client,
            server,
            method,
            raw_target,
            root,
            path,
            query,
            user,
            field_count,
            fields,
            inline: rest.0,
        })
    }

    /// The header fields in the order of the request, duplicates joined, `Cookie` joined by `; `.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut rest = Cursor(self.fields);
        std::iter::from_fn(move || field(&mut rest).ok())
    }
}

fn field<'a>(rest: &mut Cursor<'a>) -> Result<Field<'a>, WireError> {
    let id = rest.u8()?;
    let text = match id {
        0 => rest.short()?,
        known => name(known)
            .ok_or(WireError::Invalid("header name"))?
            .as_bytes(),
    };
    Ok(Field {
        id,
        name: text,
        value: rest.short()?,
    })
}

/// Writes a `ReqHead` frame. The order of calls is the order on the wire: [`RequestEncoder::new`],
/// then [`RequestEncoder::field`] for each header, then [`RequestEncoder::finish`].
pub struct RequestEncoder<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    count_at: usize,
    count: u16,
}

impl<'b> RequestEncoder<'b> {
    /// Starts the frame. `head.field_count` and `head.inline` are ignored: fields come one by one,
    /// and the body with `finish`.
    pub fn new(out: &'b mut Vec<u8>, stream: u32, head: &RequestHead<'_>) -> Self {
        let flags = if head.body == BodyKind::File { FD } else { 0 };
        let start = begin(out, Kind::ReqHead, flags, stream);
        let bits = u8::from(head.https) * HTTPS
            + u8::from(head.websocket) * WEBSOCKET
            + u8::from(!head.user.is_empty()) * USER;
        out.extend_from_slice(&[head.version, head.body as u8, bits]);
        out.extend_from_slice(&head.content_length.unwrap_or(LENGTH_UNKNOWN).to_le_bytes());
        out.extend_from_slice(&head.id.to_le_bytes());
        out.extend_from_slice(&head.client_port.to_le_bytes());
        out.extend_from_slice(&head.server_port.to_le_bytes());
        for text in [head.client, head.server, head.method, head.raw_target] {
            put_short(out, text);
        }
        for text in [head.root, head.path, head.query] {
            put_short(out, text);
        }
        if !head.user.is_empty() {
            put_short(out, head.user);
        }
        let count_at = out.len();
        out.extend_from_slice(&[0, 0]);
        Self {
            out,
            start,
            count_at,
            count: 0,
        }
    }

    /// Adds a header field; `name` is lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        self.field_with_id(name_id(name), name, value);
    }

    /// Adds a header field whose id ([`name_id`]) is known already.
    pub fn field_with_id(&mut self, id: u8, name: &[u8], value: &[u8]) {
        self.out.push(id);
        if id == 0 {
            put_short(self.out, name);
        }
        put_short(self.out, value);
        self.count += 1;
    }

    /// Ends the frame with the inline body (empty unless the kind is [`BodyKind::Inline`]).
    pub fn finish(self, inline: &[u8]) {
        self.out[self.count_at..self.count_at + 2].copy_from_slice(&self.count.to_le_bytes());
        self.out.extend_from_slice(inline);
        finish(self.out, self.start, 0);
    }
}

impl RequestHead<'_> {
    /// An empty HTTP/1.1 request, for filling in by field.
    pub const EMPTY: RequestHead<'static> = RequestHead {
        version: 11,
        body: BodyKind::None,
        https: false,
        websocket: false,
        content_length: None,
        id: 0,
        client_port: 0,
        server_port: 0,
        client: b"",
        server: b"",
        method: b"GET",
        raw_target: b"/",
        root: b"",
        path: b"/",
        query: b"",
        user: b"",
        field_count: 0,
        fields: b"",
        inline: b"",
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            path in proptest::collection::vec(any::<u8>(), 0..300),
            fields in proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,60}"), 0..20),
            body in proptest::collection::vec(any::<u8>(), 0..2000),
            length in proptest::option::of(0u64..u64::MAX),
            user in "[a-z]{0,5}",
        ) {
            let mut out = b"before".to_vec();
            let sent = RequestHead { path: &path, content_length: length, https: true, user: user.as_bytes(), body: BodyKind::Inline, ..RequestHead::EMPTY };
            let mut encoder = RequestEncoder::new(&mut out, 7, &sent);
            for (name, value) in &fields {
                encoder.field(name.as_bytes(), value.as_bytes());
            }
            encoder.finish(&body);
            let (head, payload, used) = frame(&out[6..]).expect("a good frame").expect("a whole frame");
            prop_assert_eq!((head.kind, head.stream, used), (Kind::ReqHead, 7, out.len() - 6));
            let got = RequestHead::decode(payload).expect("a good head");
            prop_assert_eq!(got.path, &path[..]);
            prop_assert_eq!(got.inline, &body[..]);
            prop_assert_eq!(got.user, user.as_bytes());
            prop_assert_eq!(got.content_length, length);
            prop_assert!(got.https && !got.websocket);
            let got: Vec<_> = got.fields().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
            let sent: Vec<_> = fields.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(head) = RequestHead::decode(&bytes) {
                prop_assert_eq!(head.fields().count(), usize::from(head.field_count));
            }
            let _ = frame(&bytes);
        }
    }
}
