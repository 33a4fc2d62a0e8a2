//! Access rows and the error log.
