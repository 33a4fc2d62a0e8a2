//! What a static folder gives for a page that it does not have: the one page of an app that runs in the browser.

use crate::edge::connection::Connection;
use crate::edge::files::{FileReply, Plan, Refusal};
use crate::edge::reply;

/// What follows when a static folder has no file.
pub enum Instead {
    Reply(FileReply),
    /// The app is asked.
    App,
}

impl Connection {
    /// Takes the place of a refusal, where the site has something else for it.
    pub async fn instead(&mut self, reply: FileReply) -> Instead {
        let missing = matches!(
            reply,
            FileReply::Refused(Refusal::NotFound | Refusal::Method)
        );
        let Some(fallback) = self.site.policy.fallback.clone().filter(|_| missing) else {
            return Instead::Reply(reply);
        };
        let reads = matches!(self.head.method(), b"GET" | b"HEAD");
        if !reads || !reply::wants_html(self.head.field(b"accept")) {
            return match self.site.behind.is_some() {
                true => Instead::App,
                false => Instead::Reply(reply),
            };
        }
        let Some(prefix) = self.site.statics.prefix_of(self.head.path()) else {
            return Instead::Reply(reply);
        };
        let path = [prefix, b"/", fallback.as_bytes()].concat();
        Instead::Reply(match self.file_at(Some(&path)) {
            Some(Plan::Send(found)) => found,
            Some(Plan::Wait(lookup)) => self.wait_for(lookup, Some(&path)).await,
            None => reply,
        })
    }
}
