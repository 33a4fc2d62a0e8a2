//! A `Host` field, anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::{Account, invariants};

static ACCOUNT: Account = Account::new("host");

fuzz_target!(|data: &[u8]| ACCOUNT.book(invariants::check_host(data, data.len() as u64)));
