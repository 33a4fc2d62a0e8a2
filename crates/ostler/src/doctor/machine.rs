//! The kernel, memory, disks and descriptors.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::{Case, Finding, ok, problem, warning};
use crate::config::LogTarget;

/// Free bytes below which nothing can be kept soon, and below which somebody should look.
const LITTLE_DISK: u64 = 64 << 20;
const LOW_DISK: u64 = 1 << 30;

/// Free inodes below which somebody should look: each certificate, log and spooled body takes one.
const LOW_INODES: u64 = 1_000;

/// Thousandths of the memory that should be free.
const LITTLE_MEMORY: u64 = 20;
const LOW_MEMORY: u64 = 80;

/// Descriptors besides those of requests: logs, listeners, workers, files of the edge threads.
const OWN_DESCRIPTORS: u64 = 512;

/// Fewer hold up even a quiet server: browsers open six connections each.
const LEAST_DESCRIPTORS: u64 = 4096;

pub fn look(case: &Case, found: &mut Vec<Finding>) {
    found.push(kernel(&release()));
    found.extend(memory(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
    ));
    disks(case, found);
    found.push(descriptors(case));
}

fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return warning(
            "kernel",
            format!("`{release}` is no version that is understood"),
        );
    };
    let version: (u32, u32) = (major, minor);
    if version < (5, 10) {
        let text = format!("Linux {release}: ostler needs 5.10; hint: upgrade the system");
        return problem("kernel", text);
    }
    let lacks: Vec<&str> = [
        (
            (5, 12),
            "each file is looked up on a thread of its own (RESOLVE_CACHED is of 5.12)",
        ),
        (
            (6, 5),
            "who asks on the admin socket is known by its pid alone (SO_PEERPIDFD is of 6.5)",
        ),
    ]
    .into_iter()
    .filter(|(since, _)| version < *since)
    .map(|(_, text)| text)
    .collect();
    match lacks.is_empty() {
        true => ok("kernel", format!("Linux {release}")),
        false => ok("kernel", format!("Linux {release}; {}", lacks.join("; "))),
    }
}

fn memory(text: &str) -> Option<Finding> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':')
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    };
    let (free, all) = (field("MemAvailable")?, field("MemTotal")?);
    let seen = format!("{} MiB of {} MiB are free", free >> 10, all >> 10);
    let hint = "hint: fewer workers, `memory_hard` for those that grow, or a larger machine";
    Some(match free * 1000 / all.max(1) {
        ..LITTLE_MEMORY => problem("memory", format!("{seen}; {hint}")),
        LITTLE_MEMORY..LOW_MEMORY => warning("memory", format!("{seen}; {hint}")),
        _ => ok("memory", seen),
    })
}

/// Each disk once that we write to.
fn disks(case: &Case, found: &mut Vec<Finding>) {
    let settings = &case.serve.machine;
    let file = |target: &LogTarget| match target {
        LogTarget::File(path) => path.parent().map(Path::to_owned),
        LogTarget::Off | LogTarget::Standard => None,
    };
    let spool = settings.http.tmp_upload_dir.clone();
    let places: [(&str, Option<PathBuf>); 4] = [
        ("the state folder", Some(case.serve.state.clone())),
        ("the log", file(&settings.logs.error_log)),
        ("the access log", file(&settings.logs.access_log)),
        ("uploads", Some(spool.unwrap_or_else(std::env::temp_dir))),
    ];
    let mut seen = Vec::new();
    for (what, path) in places {
        let Some(path) = path else { continue };
        // What is not there yet will be made in the folder above.
        let Some(there) = path.ancestors().find(|path| path.is_dir()) else {
            continue;
        };
        let Ok(about) = fs::metadata(there) else {
            continue;
        };
        if !seen.contains(&about.dev()) {
            seen.push(about.dev());
            found.push(disk(what, there));
        }
    }
}

fn disk(what: &str, path: &Path) -> Finding {
    let shown = format!("{what}, {}", path.display());
    let seen = match statvfs(path) {
        Ok(seen) => seen,
        Err(error) => return problem("disk", format!("{shown}: {error}")),
    };
    let free = seen.f_bavail.saturating_mul(seen.f_frsize);
    let mut text = format!("{shown}: {} MiB are free", free >> 20);
    // File systems without a table of inodes say that they have none.
    let inodes = (seen.f_files > 0).then_some(seen.f_favail);
    if let Some(inodes) = inodes {
        text.push_str(&format!(", and {inodes} inodes"));
    }
    let hint = "hint: make room: old logs, `keep_requests_size` of [server]";
    match (free, inodes.unwrap_or(u64::MAX)) {
        (..LITTLE_DISK, _) | (_, 0) => problem("disk", format!("{text}; {hint}")),
        (..LOW_DISK, _) | (_, ..LOW_INODES) => warning("disk", format!("{text}; {hint}")),
        _ => ok("disk", text),
    }
}

/// What may be open, beside what the apps can serve at once.
fn descriptors(case: &Case) -> Finding {
    let of_server = case.running.as_ref().ok().and_then(|status| {
        let limits = fs::read_to_string(format!("/proc/{}/limits", status.server)).ok()?;
        let open = fs::read_dir(format!("/proc/{}/fd", status.server))
            .ok()?
            .count();
        Some((limit(&limits)?, open as u64))
    });
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let most = of_server.map_or(own, |(most, _)| most);
    let projects = case
        .projects
        .iter()
        .filter_map(|(_, settings)| settings.as_ref().ok());
    let at_once = projects.map(|settings| {
        let workers = &settings.workers;
        u64::from(workers.count) * u64::from(workers.threads.max(1))
    });
    // A request has its client's connection, and may have a spool file.
    let needed = (2 * at_once.sum::<u64>() + OWN_DESCRIPTORS).max(LEAST_DESCRIPTORS);
    let hint = "hint: LimitNOFILE= in the unit, or `ulimit -Hn` where it is started";
    match of_server {
        Some((most, open)) if open * 10 > most * 8 => problem(
            "descriptors",
            format!("the server has {open} of {most} open; {hint}"),
        ),
        _ if most < needed => warning(
            "descriptors",
            format!("{most} may be open, and {needed} or more are needed at full load; {hint}"),
        ),
        Some((most, open)) => ok(
            "descriptors",
            format!("the server has {open} of {most} open"),
        ),
        None => ok("descriptors", format!("{most} may be open")),
    }
}

/// The hard limit, from `/proc/PID/limits`.
fn limit(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_versions() {
        for (release, grade, word) in [
            ("4.19.0-26-amd64", Grade::Problem, "needs 5.10"),
            ("5.10.0", Grade::Ok, "RESOLVE_CACHED"),
            ("6.1.0-13-amd64", Grade::Ok, "SO_PEERPIDFD"),
            ("6.12.3", Grade::Ok, "Linux 6.12.3"),
            ("strange", Grade::Warning, "no version"),
        ] {
            let found = kernel(release);
            assert_eq!(found.grade, grade, "{release}");
            assert!(found.text.contains(word), "{}", found.text);
        }
        assert!(!kernel("6.12.3").text.contains("5.12"));
    }

    #[test]
    fn memory_and_limits_are_read() {
        let text = |free: u64| {
            format!("MemTotal:  1000000 kB\nMemFree: 1 kB\nMemAvailable:   {free} kB\n")
        };
        let grade = |free| memory(&text(free)).map(|found| found.grade);
        assert_eq!(grade(10_000), Some(Grade::Problem));
        assert_eq!(grade(50_000), Some(Grade::Warning));
        assert_eq!(grade(500_000), Some(Grade::Ok));
        assert!(memory("").is_none());
        let limits = "Limit    Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(limit(limits), Some(524_288));
    }
}
