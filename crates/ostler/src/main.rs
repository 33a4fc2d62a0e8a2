//! The ostler binary: reads the command line, calls one function per command.

mod admin;
mod auth;
mod certs;
mod cli;
mod client;
mod config;
mod doctor;
mod edge;
mod keeper;
mod logs;
mod pool;
mod routes;
mod runs;
mod server;
mod store;
mod supervise;
mod sys;
mod upstream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
