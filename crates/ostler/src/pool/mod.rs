//! A request → a free slot.
