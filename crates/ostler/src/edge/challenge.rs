//! A CA that comes to see whether a name is ours (RFC 8555 section 8.3): the one request that is answered without TLS
//! whatever its host.

use super::connection::Connection;
use super::reason::Reason;
use super::sending::After;

/// Where a CA looks.
const FOLDER: &[u8] = b"/.well-known/acme-challenge/";

impl Connection {
    /// Answers a CA. A token that is not ours belongs to the app, which may speak ACME itself.
    pub async fn answer_ca(&mut self) -> Result<Option<After>, Reason> {
        let Some(token) = self.head.path().strip_prefix(FOLDER) else {
            return Ok(None);
        };
        let token = std::str::from_utf8(token).unwrap_or_default();
        let read = matches!(self.head.method(), b"GET" | b"HEAD");
        let Some(text) = self.edge.certs.token(token).filter(|_| read) else {
            return Ok(None);
        };
        self.pass_over_body().await?;
        let length = text.len();
        let fields =
            format!("Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n");
        self.begin_answer(200, &[fields.as_bytes()], false);
        if self.head.method() != b"HEAD" {
            self.out.bytes().extend_from_slice(text.as_bytes());
            self.row.sent = length as u64;
        }
        Ok(Some(After::KeepAlive))
    }
}
