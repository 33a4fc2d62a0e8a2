//! Frames both ways between server and worker, on anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::{Account, wire};

static ACCOUNT: Account = Account::new("frame");

fuzz_target!(|data: &[u8]| ACCOUNT.book(wire::check_frames(data, data.len() as u64)));
