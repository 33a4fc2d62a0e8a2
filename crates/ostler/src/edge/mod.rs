//! A network connection → a request with a known route → a response.

pub mod files;
pub mod h1;
pub mod reply;
pub mod websocket;
