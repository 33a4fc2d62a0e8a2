//! What an exchange does otherwise on a stream than on a connection of its own.

use crate::edge::connection::Connection;
use crate::edge::h1::head::Head;
use crate::edge::io::Io;
use crate::edge::sending::After;

use super::head::Refusal;

impl Connection {
    /// Serves one stream to its end. Its head was read, or there is a reason to refuse it.
    pub async fn stream(mut self, head: Result<Head, Refusal>) {
        let after = match head {
            Ok(head) => {
                self.head = head;
                self.exchange().await
            }
            Err(Refusal::Bad(reason)) => self.refuse_head(reason).await,
            Err(Refusal::Malformed(reason)) => {
                self.note_refusal(reason);
                self.log();
                if let Io::Stream(stream) = &mut self.io {
                    stream.refuse();
                }
                return;
            }
        };
        if after == After::Abort {
            self.io.end_by_reset();
        }
    }

    /// An interim response was written from `mark` on; a stream sends it now.
    pub fn interim(&mut self, mark: usize) {
        if let Io::Stream(stream) = &mut self.io {
            stream.interim(self.out.bytes().split_off(mark));
        }
    }

    /// Trailers were written from `mark` on; a stream ends with them.
    pub fn trailers(&mut self, mark: usize) {
        if let Io::Stream(stream) = &mut self.io {
            stream.set_trailers(self.out.bytes().split_off(mark));
        }
    }

    /// The status by which a connection or stream becomes a WebSocket (RFC 8441 section 5).
    pub fn switched(&self) -> u16 {
        if self.io.is_stream() { 200 } else { 101 }
    }
}
