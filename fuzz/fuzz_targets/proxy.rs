//! What a connection with a PROXY header begins with, anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::{Account, edge};

static ACCOUNT: Account = Account::new("proxy");

fuzz_target!(|data: &[u8]| ACCOUNT.book(edge::proxy_invariants::check_proxy(data, data.len() as u64)));
