//! Bodies in a content coding: the encoders, what an edge thread keeps of them, and the copies of static files that
//! are made once. Which coding a client gets is decided in `h1`; how a body is framed is `sending`'s affair.
//!
//! [`engine`] codes bytes, [`spare`] bounds how many engines there are, [`answer`] decides for one response of an app,
//! [`press`] makes copies of files.

mod answer;
mod engine;
mod press;
mod spare;

pub use answer::{Prepared, SLICE};
pub use press::{Charge, Kept, Press};
pub use spare::{Encoder, Spare};
