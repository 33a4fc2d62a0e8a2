//! The name of a cookie up to the first `:`, then a `Cookie` field, anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::{Account, invariants};

static ACCOUNT: Account = Account::new("cookie");

fuzz_target!(|data: &[u8]| ACCOUNT.book(invariants::check_cookie(data, data.len() as u64)));
