//! What the figures were measured on.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

const SYNCS: usize = 200;

/// The commit of the checkout that the benchmark is run in.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => format!("{head}+changes"),
        _ => head,
    }
}

/// Processor, cores, memory, kernel.
pub fn describe() -> String {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{processor}, {cores} cores, {memory}, Linux {}", kernel.trim())
}

/// Median in microseconds; none when the directory cannot be written.
pub fn fdatasync_us(dir: &Path) -> Option<f64> {
    let path = dir.join("fdatasync.probe");
    let mut times = Vec::with_capacity(SYNCS);
    let mut file: File = OpenOptions::new().create(true).truncate(true).write(true).open(&path).ok()?;
    for _ in 0..SYNCS {
        file.write_all(&[7; 4096]).ok()?;
        let began = Instant::now();
        file.sync_data().ok()?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let _ = std::fs::remove_file(path);
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}
