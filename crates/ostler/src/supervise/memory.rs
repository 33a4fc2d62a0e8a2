//! How much memory a worker has for itself. Pages it shares with its zygote cost nothing, so a limit
//! on resident size would punish preloading.

use std::fs;

/// Private memory of a process, in bytes (`Private_Clean` + `Private_Dirty` of smaps_rollup, proc(5)).
/// `None` when the process is gone.
pub fn private(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(sum_private(&text))
}

fn sum_private(text: &str) -> u64 {
    let kilobytes = |line: &str| -> Option<u64> {
        let value = line
            .strip_prefix("Private_Clean:")
            .or(line.strip_prefix("Private_Dirty:"))?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    };
    text.lines().filter_map(kilobytes).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_pages_count() {
        let text = "Rss:  900 kB\nShared_Clean: 500 kB\nPrivate_Clean:  12 kB\nPrivate_Dirty:   30 kB\nPrivate_Hugetlb: 7 kB\n";
        assert_eq!(sum_private(text), 42 * 1024);
    }

    #[test]
    fn our_own_memory_can_be_read() {
        assert!(private(std::process::id()).expect("we are alive") > 0);
        assert_eq!(private(u32::MAX), None);
    }
}
