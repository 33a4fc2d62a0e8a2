//! The bytes of a message of the client, and what they cost as long as somebody has them.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::edge::share::Share;

/// A whole message on its way to the app.
#[derive(Debug)]
pub struct Data {
    bytes: Vec<u8>,
    /// Of the memory that the client's address may take. Given back before `_waits` is told.
    _share: Share,
    _waits: Waits,
}

/// Tells the reader that a message before is gone.
#[derive(Debug)]
struct Waits(Arc<Notify>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Data {
    pub fn new(bytes: Vec<u8>, share: Share, waits: Arc<Notify>) -> Self {
        Self {
            bytes,
            _share: share,
            _waits: Waits(waits),
        }
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Data {}
