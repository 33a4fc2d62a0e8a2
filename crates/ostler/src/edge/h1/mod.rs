//! HTTP/1.1: the strict parser of requests and the encoder of responses. Pure: bytes in, values out;
//! no I/O, no clock, no knowledge of routes or workers.
//!
//! In call order: [`head`] turns the bytes before the empty line into a checked [`head::Head`] (with
//! [`target`] and [`host`] for its two addresses), [`chunked`] takes a chunked body apart, and
//! [`response`] frames what the app answered (with [`date`]). [`names`], [`bytes`], [`weight`] and
//! [`cookie`] hold the header names, byte classes, weights and cookies that others share. [`coding`] says which content
//! coding a client gets, and [`recode`] what that changes in a response head.

pub mod bytes;
pub mod chunked;
pub mod coding;
pub mod compressible;
pub mod cookie;
#[cfg(test)]
mod corpus;
pub mod date;
pub mod head;
pub mod host;
#[cfg(test)]
pub mod invariants;
pub mod left_out;
pub mod names;
pub mod recode;
pub mod response;
pub mod target;
pub mod weight;
