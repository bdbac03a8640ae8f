//! Result files: what machine, which commit, and every sample, as JSON under `benches/results/`. A file holds the
//! benchmarks of one machine and day by name, each with its own commit and load.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Outcome;

/// The hardware line and the commit that every result carries.
pub(crate) fn machine() -> Value {
    json!({
        "cpu": cpu_model(),
        "cores": cores(),
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "load_average": first_line("/proc/loadavg"),
        "rustc": said("rustc", &["--version"]),
        "cc": said("cc", &["--version"]),
        "commit": said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        "date": date(),
    })
}

/// Puts the result of one benchmark into `benches/results/<date>-<cpu>.json`, or into `path`, beside the others.
pub(crate) fn write(bench: &str, path: Option<&Path>, body: Value) -> Outcome<PathBuf> {
    let path = path.map_or_else(default_path, Path::to_owned);
    let mut whole = match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(error.into()),
    };
    whole[bench] = json!({ "machine": machine(), "result": body });
    fs::write(&path, format!("{whole:#}\n"))?;
    Ok(path)
}

/// The result files, newest first by name, which begins with the date.
pub(crate) fn newest_first() -> Outcome<Vec<PathBuf>> {
    let files = fs::read_dir(directory())?.flatten().map(|file| file.path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    if files.is_empty() { Err("no result file yet".into()) } else { Ok(files) }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

fn default_path() -> PathBuf {
    let cpu: String = cpu_model().to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    directory().join(format!("{}-{}.json", date(), cpu.trim_matches('-')))
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").to_owned()
}

/// Of the machine: `available_parallelism` would count those this process is pinned to.
fn cores() -> usize {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines().filter(|line| line.starts_with("processor")).count()
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map_or_else(
        |_| "missing".to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned(),
    )
}

/// Today in UTC, as `2026-01-31`.
fn date() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    civil(days)
}

/// The civil date of a day since 1970-01-01: years counted from March, so that the leap day comes last.
fn civil(days: u64) -> String {
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), "1970-01-01");
        assert_eq!(civil(19_782), "2024-02-29");
        assert_eq!(civil(19_783), "2024-03-01");
        assert_eq!(civil(20_453), "2025-12-31");
    }
}
