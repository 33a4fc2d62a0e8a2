//! Host and path → where a request goes.
