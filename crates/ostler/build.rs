//! Builds the Python extension that the binary carries inside.
//!
//! A nested cargo with its own target folder, because the outer one holds the lock on its own while
//! this runs. The result is always a release build: a debug worker would make every test slow.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = package.join("../..");
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("worker");
    for path in [
        "crates/ostler-worker/src",
        "crates/ostler-worker/py",
        "crates/ostler-worker/Cargo.toml",
        "crates/ostler-wire/src",
        "crates/ostler-wire/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let library = build(&root, &target);
    println!("cargo::rustc-env=OSTLER_WORKER_SO={}", library.display());
}

/// Builds `ostler-worker` for the target of the outer build; gives the path of the `.so`.
fn build(root: &Path, target: &Path) -> PathBuf {
    let triple = env::var("TARGET").expect("cargo sets it");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .args(["build", "--release", "--lib", "--package", "ostler-worker"])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .args(["--target", &triple]);
    if root.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    // Flags and wrappers of the outer build (clippy's driver, coverage) are not for this one.
    for name in [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
    ] {
        cargo.env_remove(name);
    }
    // A shared build folder in cargo's configuration would make the two wait for each other.
    cargo.env("CARGO_BUILD_BUILD_DIR", target);
    // abi3 needs no interpreter; whichever is first on PATH must not have a say in the result.
    cargo.env("PYO3_NO_PYTHON", "1");
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let status = cargo.status().expect("cargo can be started, it started us");
    assert!(status.success(), "building ostler-worker failed: {status}");
    target.join(&triple).join("release").join("lib_ostler.so")
}
