//! The ostler binary: reads the command line, calls one function per command.

mod auth;
mod cli;
mod config;
mod edge;
mod keeper;
mod logs;
mod pool;
mod routes;
mod server;
mod supervise;
mod sys;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
