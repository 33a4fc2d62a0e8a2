//! The command line: one file per subcommand; no logic of its own.

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
