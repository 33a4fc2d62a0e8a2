//! Developer commands. What CI runs is what a person runs.

mod bench;
mod fuzz;
mod lookup;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use lookup::config;

const HELP: &str = "\
cargo xtask tidy            the rules of the house that a compiler does not know
cargo xtask fuzz [ARGS]     libFuzzer on stable: [--seconds N] [head|chunked|frame|config…], or --planted
cargo xtask bench [ARGS]    measure ostler beside its peers (bench/run.py --help)
cargo xtask lookup          routes in the table, and nanoseconds to find one (with --release)";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let done = match command.as_deref() {
        Some("tidy") => tidy::run(&root()),
        Some("fuzz") => fuzz::run(&root(), arguments.collect()),
        Some("lookup") => lookup::run(),
        Some("bench") => bench::run(&root(), arguments.collect()),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the repository.
fn root() -> PathBuf {
    let mut here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.pop();
    here
}
