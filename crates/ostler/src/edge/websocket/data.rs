//! The bytes of a message of the client, and what they cost as long as somebody has them.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::edge::share::Share;
use crate::sys::memory;

/// A message of so many bytes gets the room for the largest at once: pages to which nothing is written take no memory,
/// while a buffer that doubles has all of it twice, and holds an edge thread up for as long as 16 MiB are copied.
pub const LARGE: usize = 1 << 20;

/// A whole message on its way to the app.
#[derive(Debug)]
pub struct Data {
    bytes: Vec<u8>,
    /// Of the memory that the client's address may take. Given back after the bytes and before `_waits` is told.
    share: Share,
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
            share,
            _waits: Waits(waits),
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        free(std::mem::take(&mut self.bytes), &self.share);
    }
}

/// Drops the bytes of a message. Where the address holds much, the room of a large one goes back to the system at once:
/// the allocator would keep it, and the address may have as much again beside it. Others are spared this: to take
/// pages anew for each message costs three times what the message does.
pub fn free(bytes: Vec<u8>, share: &Share) {
    let goes_back = bytes.capacity() >= LARGE && share.is_much();
    drop(bytes);
    if goes_back {
        memory::give_back();
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
