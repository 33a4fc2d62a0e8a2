//! HTTP/1.1: the strict parser of requests and the encoder of responses. No I/O.
