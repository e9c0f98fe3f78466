// SPDX-License-Identifier: GPL-3.0-or-later
//! How much memory a hook takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Runs `work`, and returns the most memory that a hook or its keeper, which are this program, had meanwhile, in bytes;
/// 0: there was none.
pub fn with_peak_memory<T>(program: &str, work: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(peak_of_hooks(program));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watch.join().expect("watching the hook"))
    })
}

/// The highest peak so far of the hooks and keepers that run now and are this program: `guix-offload`, or `guix` for
/// the script.
/// The farm's processes are all in this /proc.
pub fn peak_of_hooks(program: &str) -> u64 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let hooks = processes.filter(|process| {
        let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let mut arguments = command.split('\0');
        arguments.any(|argument| argument.rsplit('/').next() == Some(program))
            && matches!(arguments.next(), Some("offload" | "keeper"))
    });
    let peak = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let statuses = hooks.filter_map(|process| std::fs::read_to_string(process.join("status")).ok());
    statuses.filter_map(peak).max().unwrap_or(0) * 1024
}
