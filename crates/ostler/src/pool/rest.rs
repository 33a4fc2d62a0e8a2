//! The end of an exchange that nobody waits for any more, so that its slot can serve again.

use std::future::poll_fn;
use std::time::Duration;

use ostler_wire::{Kind, begin};

use super::lease::Lease;
use super::slot::Fault;

/// What a worker has not been told or has not said when its exchange is over.
#[derive(Debug, Default)]
pub struct Rest {
    /// Its last word was taken.
    pub answered: bool,
    /// It waits for more of the request body: first the rest of a frame that it has a part of.
    pub unsent: Option<Vec<u8>>,
    /// It may take the raw connection.
    pub may_hijack: bool,
}

impl Rest {
    /// The slot can be given back as it is.
    pub fn is_nothing(&self) -> bool {
        self.answered && self.unsent.is_none()
    }
}

impl Lease {
    /// Waits out a response that nobody will read. The app is told that its client left; one that does
    /// not end within `limit` loses its slot, and one that was to have answered by then (`overdue`) is
    /// cancelled.
    pub async fn wait_out(mut self, rest: Rest, limit: Duration, overdue: bool) {
        let stream = self.grant().stream_id();
        let ended = tokio::time::timeout(limit, async {
            let mut frames = rest.unsent.unwrap_or_default();
            // An app that has taken the connection meanwhile would read this frame as the client's
            // bytes. It finds its end, and that is enough.
            if !rest.may_hijack {
                begin(&mut frames, Kind::Cancel, 0, stream);
            }
            self.grant()
                .send(&frames, None)
                .await
                .map_err(|_| Fault::Closed)?;
            match rest.answered {
                true => Ok(true),
                false => self.last_word().await,
            }
        });
        match ended.await {
            Ok(Ok(true)) => self.give_back(),
            // The slot is the app's; its worker has another one instead.
            Ok(Ok(false)) => drop(self.into_tunnel()),
            Ok(Err(_lost)) => {}
            Err(_elapsed) if overdue => self.timed_out(),
            Err(_elapsed) => {}
        }
    }

    /// Takes the worker's frames to the last one; false when its app has taken the connection instead.
    async fn last_word(&mut self) -> Result<bool, Fault> {
        loop {
            poll_fn(|cx| self.grant().poll_frame(cx)).await?;
            let head = self.grant().take()?.head;
            match head.kind {
                Kind::Hijack => return Ok(false),
                Kind::RespAbort | Kind::RespTrailers | Kind::WsClose => return Ok(true),
                _ if head.is_end() => return Ok(true),
                _ => {}
            }
        }
    }
}
