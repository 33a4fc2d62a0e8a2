//! The size of a file, then a `Range` field, anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::{Account, edge};

static ACCOUNT: Account = Account::new("range");

fuzz_target!(|data: &[u8]| ACCOUNT.book(edge::range_invariants::check_range(data)));
