//! One text of `ostler.toml`, anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::{Account, config};

static ACCOUNT: Account = Account::new("config");

fuzz_target!(|data: &[u8]| ACCOUNT.book(config::serve::invariants::check_config(data)));
