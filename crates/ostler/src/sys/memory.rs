//! Memory of this process that its allocator keeps for later.

/// Gives memory back to the system that this thread has freed.
pub fn give_back() {
    // SAFETY: `mi_collect` takes no pointer and may be called at any time by a thread that allocates
    // with mimalloc, as all of ours do (`main.rs`).
    unsafe { libmimalloc_sys::mi_collect(true) };
}
