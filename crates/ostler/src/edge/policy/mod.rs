//! What holds for requests of a site before its app sees them. Each check is a function of the request line that
//! gives a value or a reason; read `handle.rs` for their order.

mod caller;

use std::sync::Arc;

use crate::auth::Keys;

/// The rules of one site, ready for use.
#[derive(Default)]
pub struct Policy {
    /// One of these is asked for.
    pub keys: Option<Arc<Keys>>,
}
