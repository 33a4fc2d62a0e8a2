//! Why ostler itself refuses or ends a request, in one enum, and what each reason means on the wire
//! and in the log. It knows nothing of connections, templates or log formats.

use std::fmt;

/// One reason for an answer, or an end, that the app did not give. The variants are ordered by who
/// must act; the table in [`Reason::facts`] says everything else about each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    // The visitor: bytes that no HTTP/1.1 client sends in a head (RFC 9112 sections 2.2, 3 and 5).
    BareLf,
    BareCr,
    Nul,
    Control,
    TlsOnPlain,
    PlainOnTls,
    RequestLine,
    MethodToken,
    Version,
    Http2Preface,
    FieldLine,
    FieldName,
    SpaceBeforeColon,
    ObsFold,
    FieldValue,
    ConnectionField,
    Protocol,

    // The visitor: the head is too large.
    RequestLineTooLong,
    FieldTooLong,
    TooManyFields,
    HeadTooLarge,

    // The visitor: the method and the target (RFC 9112 section 3.2).
    Method,
    Target,
    Fragment,
    Escape,
    EscapedNul,
    Traversal,

    // The visitor: whom the request is for.
    HostMissing,
    HostDuplicate,
    HostInvalid,
    HostMismatch,
    Misdirected,

    // The visitor: where the body ends (RFC 9112 section 6.3).
    ClAndTe,
    ClDuplicate,
    ClInvalid,
    TeDuplicate,
    TeInvalid,
    TeUnsupported,
    TeInOldVersion,

    // The visitor: other fields.
    ConnectionInvalid,
    ConnectionNames,
    UnderscoreName,
    FieldDuplicate,
    Expect,
    UpgradeInvalid,
    WebSocketVersion,
    SchemeConflict,

    // The visitor: the body.
    ChunkSize,
    ChunkExtension,
    ChunkExtensionTooLong,
    ChunkEnd,
    TrailerInvalid,
    TrailerForbidden,
    TrailerTooLarge,
    BodyTooLarge,
    BodyTooSlow,
    BodyIncomplete,

    // The visitor: time and presence.
    HeadTimeout,
    HeadIncomplete,
    WriteTimeout,
    ClientGone,
    TooManyConnections,

    // The visitor: who it is.
    AddressDenied,
    CertificateMissing,
    RateLimited,
    CorsOrigin,
    Credentials,
    Token,
    KeyMissing,
    KeyUnknown,

    // The author of the app.
    AppError,
    BadResponse,
    ResponseShort,
    ResponseAborted,
    WorkerDied,
    WorkerTimeout,
    CrashLooping,

    // The operator of an upstream.
    UpstreamDown,
    UpstreamsUnwell,
    UpstreamClosed,
    UpstreamAnswer,
    UpstreamTimeout,
    UpstreamShort,
    UpstreamBusy,

    // The operator.
    NoRoute,
    LineFull,
    LineBytes,
    LineTimeout,
    Stopping,
    Overloaded,
    SpoolFull,
    AddressFull,
    AuthBusy,
    TokenKeys,
    AuthorityAway,
    AuthorityLate,
    AuthorityBad,
    Maintenance,

    // Us, or the machine below us.
    Internal,
}

/// Everything that is fixed about a reason.
struct Facts {
    status: u16,
    code: &'static str,
    layer: &'static str,
    closes: bool,
    retry_after: Option<u32>,
    text: &'static str,
}

/// The client's bytes cannot be trusted from here on, or it took too long: answer and close.
const fn refuse(status: u16, code: &'static str, text: &'static str) -> Facts {
    Facts {
        status,
        code,
        layer: "edge",
        closes: true,
        retry_after: None,
        text,
    }
}

/// The request was understood; ostler answers in the app's place and the connection lives on.
const fn answer(status: u16, code: &'static str, layer: &'static str, text: &'static str) -> Facts {
    Facts {
        layer,
        closes: false,
        ..refuse(status, code, text)
    }
}

/// The same request may succeed in `seconds`.
const fn later(seconds: u32, code: &'static str, layer: &'static str, text: &'static str) -> Facts {
    Facts {
        retry_after: Some(seconds),
        ..answer(503, code, layer, text)
    }
}

/// A response that was begun cannot be ended cleanly: the connection is cut, so that the client can
/// see that bytes are missing.
const fn cut(status: u16, code: &'static str, layer: &'static str, text: &'static str) -> Facts {
    Facts {
        layer,
        ..refuse(status, code, text)
    }
}

impl Reason {
    /// HTTP status of the answer. 499 marks a request whose client was gone, so that none was sent.
    pub const fn status(self) -> u16 {
        self.facts().status
    }

    /// A stable, machine-readable name for logs, counters and JSON answers.
    pub const fn code(self) -> &'static str {
        self.facts().code
    }

    /// Which part of the line stopped the request: `edge`, `line`, `worker`, `app` or `upstream`.
    pub const fn layer(self) -> &'static str {
        self.facts().layer
    }

    /// Whether the connection is closed after the answer. Where it is not, the rest of an unread
    /// request body still decides (`peers/threats.md` E-05).
    pub const fn closes(self) -> bool {
        self.facts().closes
    }

    /// Seconds for `Retry-After`, where trying again soon makes sense.
    pub const fn retry_after(self) -> Option<u32> {
        self.facts().retry_after
    }

    /// One sentence for the visitor. It never tells more than the visitor may know.
    pub const fn text(self) -> &'static str {
        self.facts().text
    }

    // One line per reason. It is longer than a function should be because it is a table.
    #[rustfmt::skip]
    const fn facts(self) -> Facts {
        match self {
            Self::BareLf => refuse(400, "bare_lf", "A line of the request head ends in LF without CR."),
            Self::BareCr => refuse(400, "bare_cr", "The request head holds a CR that is not followed by LF."),
            Self::Nul => refuse(400, "nul", "The request head holds a NUL byte."),
            Self::Control => refuse(400, "control_byte", "The request head holds a control byte."),
            Self::TlsOnPlain => refuse(400, "tls_on_plain", "A TLS handshake was sent to a port that speaks plain HTTP."),
            Self::PlainOnTls => refuse(400, "plain_on_tls", "A plain HTTP request was sent to a port that speaks TLS."),
            Self::RequestLine => refuse(400, "request_line", "The request line is not `METHOD target HTTP/1.1`."),
            Self::MethodToken => refuse(400, "method_token", "The method is not a name in upper case."),
            Self::Version => refuse(505, "version", "This server speaks HTTP/1.1 and HTTP/1.0 here."),
            Self::Http2Preface => refuse(505, "http2_preface", "This port does not speak HTTP/2 without TLS."),
            Self::FieldLine => refuse(400, "field_line", "A header line has no colon."),
            Self::FieldName => refuse(400, "field_name", "A header name holds a character that it cannot have."),
            Self::SpaceBeforeColon => refuse(400, "space_before_colon", "White space stands between a header name and its colon."),
            Self::ObsFold => refuse(400, "obs_fold", "A header value is folded over two lines."),

            Self::FieldValue => refuse(400, "field_value", "A header value begins or ends with white space."),
            Self::ConnectionField => refuse(400, "connection_field", "The request has a header field that HTTP/2 does not have."),
            Self::Protocol => refuse(501, "protocol", "The only protocol served over HTTP/2 CONNECT is `websocket`."),

            Self::RequestLineTooLong => refuse(414, "request_line_too_long", "The request line is too long."),
            Self::FieldTooLong => refuse(431, "field_too_long", "A header field is too long."),
            Self::TooManyFields => refuse(431, "too_many_fields", "The request has too many header fields."),
            Self::HeadTooLarge => refuse(431, "head_too_large", "The request head is too large."),

            Self::Method => refuse(405, "method", "This method is not served here."),
            Self::Target => refuse(400, "target", "The request target is not a path or an http URL."),
            Self::Fragment => refuse(400, "fragment", "The request target holds a `#`."),
            Self::Escape => refuse(400, "escape", "The path holds a `%` that is not followed by two hex digits."),
            Self::EscapedNul => refuse(400, "escaped_nul", "The path holds `%00`."),
            Self::Traversal => refuse(400, "traversal", "The path leads above its root."),

            Self::HostMissing => refuse(400, "host_missing", "The request names no host."),
            Self::HostDuplicate => refuse(400, "host_duplicate", "The request has more than one Host field."),
            Self::HostInvalid => refuse(400, "host_invalid", "The Host field is not a host name."),
            Self::HostMismatch => refuse(400, "host_mismatch", "The request target and the Host field name different hosts."),
            Self::Misdirected => refuse(421, "misdirected", "This connection is not for this host: its clients show other certificates."),

            Self::ClAndTe => refuse(400, "cl_and_te", "The request has both Content-Length and Transfer-Encoding."),
            Self::ClDuplicate => refuse(400, "cl_duplicate", "The request has more than one Content-Length field."),
            Self::ClInvalid => refuse(400, "cl_invalid", "The Content-Length is not a number."),
            Self::TeDuplicate => refuse(400, "te_duplicate", "The request has more than one Transfer-Encoding field."),
            Self::TeInvalid => refuse(400, "te_invalid", "The Transfer-Encoding is not `chunked`."),
            Self::TeUnsupported => refuse(501, "te_unsupported", "This transfer coding is not supported."),
            Self::TeInOldVersion => refuse(400, "te_in_old_version", "An HTTP/1.0 request cannot have a Transfer-Encoding."),

            Self::ConnectionInvalid => refuse(400, "connection_invalid", "The Connection field is not a list of names."),
            Self::ConnectionNames => refuse(400, "connection_names", "The Connection field names a field that is not the connection's."),
            Self::UnderscoreName => refuse(400, "underscore_name", "A header name holds an underscore."),
            Self::FieldDuplicate => refuse(400, "field_duplicate", "A header field that may occur once occurs twice."),
            Self::Expect => refuse(417, "expect", "The only expectation served is `100-continue`."),
            Self::UpgradeInvalid => refuse(400, "upgrade_invalid", "The WebSocket handshake is not complete."),
            Self::WebSocketVersion => refuse(426, "websocket_version", "The WebSocket version served is 13."),
            Self::SchemeConflict => refuse(400, "scheme_conflict", "The proxy's fields name two different schemes."),

            Self::ChunkSize => refuse(400, "chunk_size", "A chunk size is not a hexadecimal number."),
            Self::ChunkExtension => refuse(400, "chunk_extension", "A chunk extension holds a byte that it cannot have."),
            Self::ChunkExtensionTooLong => refuse(400, "chunk_extension_too_long", "The chunk extensions are too long."),
            Self::ChunkEnd => refuse(400, "chunk_end", "A chunk does not end where its size says."),
            Self::TrailerInvalid => refuse(400, "trailer_invalid", "A trailer line is not a header field."),
            Self::TrailerForbidden => refuse(400, "trailer_forbidden", "A trailer field may only occur in the head."),
            Self::TrailerTooLarge => refuse(431, "trailer_too_large", "The trailer section is too large."),
            Self::BodyTooLarge => refuse(413, "body_too_large", "The request body is too large."),
            Self::BodyTooSlow => refuse(408, "body_too_slow", "The request body came too slowly."),
            Self::BodyIncomplete => refuse(400, "body_incomplete", "The connection ended before the request body did."),

            Self::HeadTimeout => refuse(408, "head_timeout", "The request head took too long."),
            Self::HeadIncomplete => refuse(400, "head_incomplete", "The connection ended before the request head did."),
            Self::WriteTimeout => cut(499, "write_timeout", "edge", "The client stopped reading."),
            Self::ClientGone => cut(499, "client_gone", "edge", "The client closed the connection."),
            Self::TooManyConnections => refuse(503, "too_many_connections", "This address has too many open connections."),

            Self::AddressDenied => answer(403, "address_denied", "edge", "Your address is not let in here."),
            Self::CertificateMissing => answer(403, "certificate_missing", "edge", "This needs a certificate of yours."),
            Self::RateLimited => answer(429, "rate_limited", "edge", "Too many requests came from you."),
            Self::CorsOrigin => answer(403, "cors_origin", "edge", "Pages of this origin may not use this site."),
            Self::Credentials => answer(401, "credentials", "edge", "This needs a name and a password."),
            Self::Token => answer(401, "token", "edge", "This needs a token that is good now."),
            Self::KeyMissing => answer(403, "key_missing", "edge", "This needs an API key."),
            Self::KeyUnknown => answer(403, "key_unknown", "edge", "This API key is not known here."),

            Self::AppError => answer(500, "app_error", "app", "The app failed to answer this request."),
            Self::BadResponse => answer(500, "bad_response", "app", "The app gave an answer that cannot be sent."),
            Self::ResponseShort => cut(502, "response_short", "app", "The app sent less than it announced."),
            Self::ResponseAborted => cut(502, "response_aborted", "app", "The app failed while it was answering."),
            Self::WorkerDied => answer(502, "worker_died", "worker", "The process that served this request ended."),
            Self::WorkerTimeout => answer(504, "worker_timeout", "worker", "The app took too long to answer."),
            Self::CrashLooping => later(5, "crash_looping", "worker", "The app does not stay up; it is being restarted."),

            Self::UpstreamDown => answer(502, "upstream_down", "upstream", "The server behind this one cannot be reached."),
            Self::UpstreamsUnwell => later(5, "upstreams_unwell", "upstream", "No server behind this one is well."),
            Self::UpstreamClosed => answer(502, "upstream_closed", "upstream", "The server behind this one closed the connection."),
            Self::UpstreamAnswer => answer(502, "upstream_answer", "upstream", "The server behind this one gave an answer that cannot be sent."),
            Self::UpstreamTimeout => answer(504, "upstream_timeout", "upstream", "The server behind this one took too long to answer."),
            Self::UpstreamShort => cut(502, "upstream_short", "upstream", "The server behind this one failed while it was answering."),
            Self::UpstreamBusy => later(1, "upstream_busy", "line", "No server behind this one became free in time."),

            Self::NoRoute => answer(404, "no_route", "edge", "Nothing is served under this name and path."),
            Self::LineFull => later(1, "line_full", "line", "Too many requests are waiting."),
            Self::LineBytes => later(1, "line_bytes", "line", "Too much data is waiting."),
            Self::LineTimeout => later(1, "line_timeout", "line", "No worker became free in time."),
            Self::Stopping => Facts { closes: true, ..later(5, "stopping", "edge", "The server is stopping.") },
            Self::Overloaded => Facts { closes: true, ..later(5, "overloaded", "edge", "The server has too many open files and connections.") },
            Self::SpoolFull => Facts { closes: true, ..later(5, "spool_full", "edge", "The server has no room for this request body.") },
            Self::AddressFull => Facts { closes: true, ..later(5, "address_full", "edge", "Your address has too much under way.") },
            Self::Maintenance => later(60, "maintenance", "edge", "This site is being worked on and will be back."),
            Self::AuthBusy => later(1, "auth_busy", "edge", "Too many credentials are being checked."),
            Self::TokenKeys => later(5, "token_keys", "edge", "What tokens are checked with is not there yet."),
            Self::AuthorityAway => answer(502, "authority_away", "edge", "Who says who may come here cannot be reached."),
            Self::AuthorityLate => answer(504, "authority_late", "edge", "Who says who may come here took too long to answer."),
            Self::AuthorityBad => answer(502, "authority_bad", "edge", "Who says who may come here gave no answer that counts."),

            Self::Internal => Facts { closes: true, ..answer(500, "internal", "edge", "The server made a mistake.") },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Reason {}
