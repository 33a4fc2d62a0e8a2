//! How much memory a worker has for itself. Pages it shares with its zygote cost nothing, so a limit
//! on resident size would punish preloading.

use std::{fs, io};

/// Private memory of a process, in bytes: pages that only it maps (`Private_Clean`,
/// `Private_Dirty` of smaps_rollup, proc(5)), and its share of what was swapped out, since a leak
/// does not end where memory does. `None` when the process is gone.
///
/// # Errors
/// When the kernel does not let us look: the process has another user, or is not dumpable.
pub fn private(pid: u32) -> io::Result<Option<u64>> {
    match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Ok(text) => Ok(Some(sum_private(&text))),
        // ESRCH comes from a zombie, whose memory is gone already.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

fn sum_private(text: &str) -> u64 {
    const COUNTED: [&str; 3] = ["Private_Clean", "Private_Dirty", "SwapPss"];
    let kilobytes = |line: &str| -> Option<u64> {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().strip_suffix(" kB")?;
        COUNTED.contains(&name).then_some(())?;
        value.parse().ok()
    };
    text.lines().filter_map(kilobytes).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_pages_and_swapped_ones_count() {
        let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  900 kB\n\
                    Shared_Clean: 500 kB\nPrivate_Clean:  12 kB\nPrivate_Dirty:   30 kB\n\
                    Private_Hugetlb: 7 kB\nSwap: 99 kB\nSwapPss:   8 kB\n";
        assert_eq!(sum_private(text), 50 * 1024);
        assert_eq!(sum_private("Private_Dirty: many kB\n"), 0);
    }

    #[test]
    fn our_own_memory_can_be_read() {
        assert!(
            private(std::process::id())
                .expect("allowed")
                .expect("alive")
                > 0
        );
        assert_eq!(private(u32::MAX).expect("nobody"), None);
    }
}
