//! Starts `bench/run.py`, which does the measuring. It is a Python program because the peers are, and
//! needs the standard library only.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// Runs the comparison with `arguments`; it writes `bench/RESULTS.md`.
pub fn run(root: &Path, arguments: Vec<String>) -> anyhow::Result<()> {
    let status = Command::new("python3")
        .arg(root.join("bench/run.py"))
        .args(arguments)
        .status()
        .context("python3 could not be started")?;
    ensure!(status.success(), "bench/run.py: {status}");
    Ok(())
}
