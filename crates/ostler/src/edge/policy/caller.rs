//! Who sends a request.

use crate::auth::{Busy, Caller, Shown};
use crate::edge::connection::Connection;
use crate::edge::reason::Reason;

impl Connection {
    /// Asks who is there, where the site wants to know. Files and the app are for those who were asked.
    pub async fn caller(&mut self) -> Result<Caller, Reason> {
        let Some(keys) = &self.site.policy.keys else {
            return Ok(Caller::Anyone);
        };
        let shown = Shown {
            authorization: self.head.field(b"authorization"),
            api_key: self.head.field(b"x-api-key"),
        };
        let user = keys.user(shown).await.map_err(|Busy| Reason::AuthBusy)?;
        let user = user.ok_or(match shown.keys().next() {
            None => Reason::KeyMissing,
            Some(_) => Reason::KeyUnknown,
        })?;
        self.row.user = Some(user.clone());
        Ok(Caller::User(user))
    }
}
