//! Static files beneath a root.
