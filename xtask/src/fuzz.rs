//! `cargo xtask fuzz`: libFuzzer on stable Rust over the targets of `fuzz/`, and a proof that they find
//! something.
//!
//! What `cargo fuzz run -s none` does, without the tool: coverage instrumentation is an LLVM pass that
//! every rustc has; only the sanitizers need nightly, and safe code has no use for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

const TARGETS: [&str; 8] = [
    "head", "chunked", "frame", "config", "host", "proxy", "range", "cookie",
];

/// How long each target runs when nothing is said, in seconds.
const SECONDS: u64 = 60;

/// How long a target may look for a planted fault, in seconds.
const PATIENCE: u64 = 120;

const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Copt-level=2 -Cdebug-assertions";

/// A fault to plant: in which file which text becomes which, and the target that must find it.
struct Plant {
    target: &'static str,
    file: &'static str,
    good: &'static str,
    bad: &'static str,
}

const PLANTS: [Plant; 8] = [
    Plant {
        target: "head",
        file: "crates/ostler/src/edge/h1/head.rs",
        good: "let from = head.searched.min(buf.len()).saturating_sub(3);",
        bad: "let from = head.searched.min(buf.len()).saturating_sub(2);",
    },
    Plant {
        target: "chunked",
        file: "crates/ostler/src/edge/h1/chunked.rs",
        good: "self.size -= count as u64;",
        bad: "self.size = self.size.saturating_sub(1 + count as u64) + u64::from(count < 2);",
    },
    Plant {
        target: "frame",
        file: "crates/ostler-wire/src/cursor.rs",
        good: "self.0 = rest;\n        Ok(taken)\n    }\n\n    fn array",
        bad: "self.0 = &rest[usize::from(len == 5 && !rest.is_empty())..];\n        Ok(taken)\n    }\n\n    fn array",
    },
    Plant {
        target: "config",
        file: "crates/ostler/src/config/serve/read.rs",
        good: "rest = behind.get(name.len() + 1..).unwrap_or(\"\");",
        bad: "rest = &behind[name.len() + 1..];",
    },
    Plant {
        target: "host",
        file: "crates/ostler/src/edge/h1/host.rs",
        good: "digits.len() > 5",
        bad: "digits.len() > 6",
    },
    Plant {
        target: "proxy",
        file: "crates/ostler/src/edge/proxy_protocol.rs",
        good: "(address(16)?, port(34)?)",
        bad: "(address(16)?, port(33)?)",
    },
    Plant {
        target: "range",
        file: "crates/ostler/src/edge/files/range.rs",
        good: "let apart = new.offset > old.offset + old.len",
        bad: "let apart = new.offset >= old.offset + old.len",
    },
    Plant {
        target: "cookie",
        file: "crates/ostler/src/edge/h1/cookie.rs",
        good: "field.split(|&byte| byte == b';')",
        bad: "field.split(|&byte| byte == b';' || byte == b',')",
    },
];

/// `[--seconds N] [TARGET…]`, or `--planted`.
pub fn run(root: &Path, arguments: Vec<String>) -> Result<()> {
    let (mut seconds, mut targets, mut planted) = (SECONDS, Vec::new(), false);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--planted" => planted = true,
            "--seconds" => {
                let value = arguments.next().context("--seconds needs a number")?;
                seconds = value.parse().context("--seconds")?;
            }
            name => {
                ensure!(TARGETS.contains(&name), "no target {name:?}: {TARGETS:?}");
                targets.push(name.to_owned());
            }
        }
    }
    if planted {
        return PLANTS.iter().try_for_each(|plant| prove(root, plant));
    }
    if targets.is_empty() {
        targets = TARGETS.map(str::to_owned).to_vec();
    }
    let built = build(root, &root.join("target/fuzz"))?;
    for target in targets {
        let found = fuzz(&built, root, &target, seconds)?;
        ensure!(
            !found,
            "{target}: found an input; see above and target/fuzz/found"
        );
    }
    Ok(())
}

/// Builds all targets of the tree at `root`; gives the folder they are in.
fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    // With a target named, the flags are not for build scripts.
    let host = host()?;
    let built = Command::new("cargo")
        .args(["build", "--locked", "--quiet", "--bins", "--target", &host])
        .current_dir(root.join("fuzz"))
        .env("RUSTFLAGS", INSTRUMENTED)
        .env("CARGO_TARGET_DIR", target)
        .status()
        .context("cargo")?;
    ensure!(
        built.success(),
        "the fuzz targets do not build; hint: they need a C++ compiler (g++)"
    );
    Ok(target.join(host).join("debug"))
}

/// The platform this runs on, as rustc calls it.
fn host() -> Result<String> {
    let told = Command::new("rustc").arg("-vV").output().context("rustc")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Runs one target over a copy of its kept inputs; true when it found a fault.
fn fuzz(built: &Path, root: &Path, target: &str, seconds: u64) -> Result<bool> {
    let work = built.join("../corpus").join(target);
    let found = built.join("../found");
    fs::create_dir_all(&work)?;
    fs::create_dir_all(&found)?;
    let status = Command::new(built.join(target))
        .arg(&work)
        .arg(root.join("fuzz/corpus").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{target}-", found.display()))
        .args([
            "-max_len=4096",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        ])
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {target}"))?;
    Ok(!status.success())
}

/// Plants a fault in a copy of the sources and has it found.
fn prove(root: &Path, plant: &Plant) -> Result<()> {
    let copy = root.join("target/fuzz-planted/tree");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    for part in [
        "Cargo.toml",
        "fuzz",
        "crates/ostler/src/config",
        "crates/ostler/src/edge",
        "crates/ostler-wire",
    ] {
        copy_tree(&root.join(part), &copy.join(part))?;
    }
    let file = copy.join(plant.file);
    let source = fs::read_to_string(&file)?;
    ensure!(
        source.matches(plant.good).count() == 1,
        "{} has changed: there is no one place for the fault",
        plant.file
    );
    fs::write(&file, source.replace(plant.good, plant.bad))?;
    let built = build(&copy, &root.join("target/fuzz-planted/build"))?;
    let corpus = built.join("../corpus").join(plant.target);
    if corpus.exists() {
        fs::remove_dir_all(&corpus)?;
    }
    if !fuzz(&built, &copy, plant.target, PATIENCE)? {
        bail!(
            "{} did not find the fault planted in {}",
            plant.target,
            plant.file
        );
    }
    println!(
        "{}: found the fault planted in {}",
        plant.target, plant.file
    );
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        fs::create_dir_all(to.parent().context("a parent")?)?;
        fs::copy(from, to)?;
        return Ok(());
    }
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let name = entry?.file_name();
        if name != "target" {
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}
