//! `check_chunked` of the edge's invariants on anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::{Account, invariants};

static ACCOUNT: Account = Account::new("chunked");

fuzz_target!(|data: &[u8]| ACCOUNT.book(invariants::check_chunked(data, data.len() as u64)));
