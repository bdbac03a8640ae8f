//! Disks that fail, and power cuts: what a kill cannot show, because a killed process leaves the page cache alone.
//!
//! `faults/disk.c`, built here and put before the C library of a process under test, logs everything that is
//! written below a directory and what is synced, and makes syncs and writes fail on command ([`FaultyDisk`]). A
//! [`Recording`] is that log; at any place of it [`Disk::cut`] makes the directory as a power cut at that
//! moment may leave it: of what no sync had completed nothing is there, or everything, or any part of it, down to
//! single sectors of a write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::Random;

/// The library, built at the first call; `Err` says why there is none.
pub fn library() -> Result<&'static Path, String> {
    static LIBRARY: OnceLock<Result<(TempDir, PathBuf), String>> = OnceLock::new();
    let built = LIBRARY.get_or_init(|| {
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let library = directory.path().join("libdisk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/disk.c");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok((directory, library))
    });
    built.as_ref().map(|(_, library)| library.as_path()).map_err(Clone::clone)
}

/// A directory whose writes are watched, in which syncs and writes fail on command.
#[derive(Debug)]
pub struct FaultyDisk {
    disk: PathBuf,
    control: TempDir,
}

impl FaultyDisk {
    /// Watches what a process will do below `disk`.
    pub fn at(disk: &Path) -> Self {
        Self { disk: disk.to_owned(), control: TempDir::new().expect("a temporary directory") }
    }

    /// Makes a process that is to be started use it.
    pub fn preload(&self, command: &mut Command) -> Result<(), String> {
        command
            .env("LD_PRELOAD", library()?)
            .env("TT_DISK", &self.disk)
            .env("TT_DISK_FAULTS", self.control.path())
            .env("TT_DISK_LOG", self.log());
        Ok(())
    }

    /// The same without a log, for long runs.
    pub fn preload_without_log(&self, command: &mut Command) -> Result<(), String> {
        self.preload(command)?;
        command.env_remove("TT_DISK_LOG");
        Ok(())
    }

    /// Syncs fail from now on, or succeed again.
    pub fn syncs_fail(&self, on: bool) {
        self.switch("sync-fails", on);
    }

    /// The next sync kills the process, or does not any more.
    pub fn syncs_kill(&self, on: bool) {
        self.switch("sync-kills", on);
    }

    /// Writes find no space from now on, or do again.
    pub fn is_full(&self, on: bool) {
        self.switch("full", on);
    }

    fn switch(&self, name: &str, on: bool) {
        let file = self.control.path().join(name);
        if on {
            fs::write(file, "").expect("a temporary file");
        } else {
            // It may be off.
            let _ = fs::remove_file(file);
        }
    }

    /// The directory whose files switch the faults, for a process that does it itself.
    pub fn control(&self) -> &Path {
        self.control.path()
    }

    fn log(&self) -> PathBuf {
        self.control.path().join("log")
    }

    /// Bytes of the log up to now: what was answered before is behind nothing that comes later.
    pub fn position(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |log| log.len())
    }

    /// What was logged up to now.
    pub fn recording(&self) -> Recording {
        Recording::read(&fs::read(self.log()).expect("the process has logged"))
    }
}

/// One step of a recorded run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Bytes written to a file.
    Wrote {
        /// Which.
        name: String,
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file has this length now.
    Sized {
        /// Which.
        name: String,
        /// Its length.
        length: u64,
    },
    /// A file is there that was not.
    Created(String),
    /// A file is gone.
    Removed(String),
    /// A file has another name.
    Renamed(String, String),
    /// A sync of a file is complete.
    Synced(String),
    /// A sync of a file has failed.
    SyncFailed(String),
    /// The names of the directory are on disk.
    DirectorySynced,
}

/// What a process did to a directory, step by step.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// The steps.
    pub steps: Vec<Step>,
    /// For each of them, how long the log was when it was complete.
    pub ends: Vec<u64>,
}

impl Recording {
    /// Reads a log. One that ends within a step, as that of a killed process may, ends before it.
    pub fn read(log: &[u8]) -> Self {
        let mut recording = Self::default();
        let mut at = 0;
        while let Some(end) = log[at..].iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&log[at..at + end]).expect("names are text");
            at += end + 1;
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            let name = || words[1].to_owned();
            let step = match words[0] {
                "W" => {
                    let length = number(3) as usize;
                    let Some(bytes) = log.get(at..at + length) else { break };
                    at += length;
                    Step::Wrote { name: name(), offset: number(2), bytes: bytes.to_vec() }
                }
                "T" => Step::Sized { name: name(), length: number(2) },
                "C" => Step::Created(name()),
                "U" => Step::Removed(name()),
                "R" => Step::Renamed(name(), words[2].to_owned()),
                "S" => Step::Synced(name()),
                "F" => Step::SyncFailed(name()),
                "D" => Step::DirectorySynced,
                other => panic!("{other} in the log"),
            };
            recording.steps.push(step);
            recording.ends.push(at as u64);
        }
        recording
    }
}

/// How a power cut treats what no sync has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing of it is there.
    Nothing,
    /// All of it is there.
    Everything,
    /// Any writes of it, and of any write any sectors.
    Torn,
}

/// Every way to cut.
pub const CUTS: [Cut; 3] = [Cut::Nothing, Cut::Everything, Cut::Torn];

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A disk under a recorded run: what is certain to be on it, and what may be. Files that the run found there are
/// taken as they were.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    files: BTreeMap<String, File>,
    /// Names that are certain to be on the disk; the others come and go with a cut.
    named: BTreeSet<String>,
    /// Names that were there and may still be.
    unnamed: BTreeMap<String, File>,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What syncs have completed.
    certain: Vec<u8>,
    /// The same with what failed syncs had, which may have got there: no later sync says so.
    possible: Option<Vec<u8>>,
    /// What came after.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Wrote { offset: u64, bytes: Vec<u8> },
    Sized(u64),
}

impl File {
    fn apply(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Wrote { offset, bytes } => put(content, *offset as usize, bytes),
            Change::Sized(length) => content.resize(*length as usize, 0),
        }
    }

    /// What is there of the syncs that were complete and of those that failed.
    fn synced(&self, cut: Cut, random: &mut Random) -> Vec<u8> {
        let Some(possible) = &self.possible else { return self.certain.clone() };
        match cut {
            Cut::Nothing => self.certain.clone(),
            Cut::Everything => possible.clone(),
            Cut::Torn => {
                let mut content = if random.heads() { self.certain.clone() } else { possible.clone() };
                for (at, sector) in possible.chunks(SECTOR).enumerate().map(|(at, sector)| (at * SECTOR, sector)) {
                    if at + sector.len() <= content.len() && random.heads() {
                        put(&mut content, at, sector);
                    }
                }
                content
            }
        }
    }

    fn after(&self, cut: Cut, random: &mut Random) -> Vec<u8> {
        let mut content = self.synced(cut, random);
        for change in &self.pending {
            match (cut, change) {
                (Cut::Nothing, _) => {}
                (Cut::Everything, _) => Self::apply(&mut content, change),
                (Cut::Torn, Change::Sized(_)) => {
                    if random.heads() {
                        Self::apply(&mut content, change);
                    }
                }
                (Cut::Torn, Change::Wrote { offset, bytes }) => match random.bits() % 4 {
                    0 => {}
                    1 => Self::apply(&mut content, change),
                    _ => {
                        // Sectors lie where the disk has them, not where the write begins.
                        let mut at = 0;
                        while at < bytes.len() {
                            let end = (SECTOR - (*offset as usize + at) % SECTOR + at).min(bytes.len());
                            if random.heads() {
                                put(&mut content, *offset as usize + at, &bytes[at..end]);
                            }
                            at = end;
                        }
                    }
                },
            }
        }
        content
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Disk {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// One with everything that is in a directory now, on disk.
    pub fn of(directory: &Path) -> Self {
        let mut disk = Self::default();
        for entry in fs::read_dir(directory).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let name = entry.file_name().into_string().expect("UTF-8");
                let certain = fs::read(entry.path()).expect("readable");
                disk.files.insert(name.clone(), File { certain, ..File::default() });
                disk.named.insert(name);
            }
        }
        disk
    }

    /// Takes the next step.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Wrote { name, offset, bytes } => {
                self.file(name).pending.push(Change::Wrote { offset: *offset, bytes: bytes.clone() });
            }
            Step::Sized { name, length } => self.file(name).pending.push(Change::Sized(*length)),
            Step::Created(name) => {
                self.files.insert(name.clone(), File::default());
            }
            Step::Removed(name) => {
                if let Some(file) = self.files.remove(name)
                    && self.named.remove(name)
                {
                    self.unnamed.insert(name.clone(), file);
                }
            }
            Step::Renamed(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.named.remove(from);
                    self.files.insert(to.clone(), file);
                }
            }
            Step::Synced(name) => {
                let file = self.file(name);
                for change in std::mem::take(&mut file.pending) {
                    File::apply(&mut file.certain, &change);
                    if let Some(possible) = &mut file.possible {
                        File::apply(possible, &change);
                    }
                }
            }
            Step::SyncFailed(name) => {
                let file = self.file(name);
                let mut possible = file.possible.take().unwrap_or_else(|| file.certain.clone());
                for change in std::mem::take(&mut file.pending) {
                    File::apply(&mut possible, &change);
                }
                file.possible = Some(possible);
            }
            Step::DirectorySynced => {
                self.named = self.files.keys().cloned().collect();
                self.unnamed.clear();
            }
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        self.files.entry(name.to_owned()).or_default()
    }

    /// Makes, in an empty directory, what a cut of the power leaves now.
    pub fn cut(&self, cut: Cut, random: &mut Random, into: &Path) {
        let mut survives = |cut: Cut| match cut {
            Cut::Nothing => false,
            Cut::Everything => true,
            Cut::Torn => random.heads(),
        };
        let mut left: BTreeMap<&String, &File> = BTreeMap::new();
        for (name, file) in &self.files {
            if self.named.contains(name) || survives(cut) {
                left.insert(name, file);
            }
        }
        // What was removed and not forgotten yet: a cut that keeps everything keeps the removal.
        for (name, file) in &self.unnamed {
            if !self.files.contains_key(name) && !survives(cut) {
                left.insert(name, file);
            }
        }
        for (name, file) in left {
            fs::write(into.join(name), file.after(cut, random)).expect("a temporary file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote(offset: u64, bytes: &[u8]) -> Step {
        Step::Wrote { name: "file".to_owned(), offset, bytes: bytes.to_vec() }
    }

    fn left(steps: &[Step], cut: Cut) -> Option<Vec<u8>> {
        let mut disk = Disk::new();
        for step in steps {
            disk.step(step);
        }
        let directory = TempDir::new().expect("a temporary directory");
        disk.cut(cut, &mut Random::of(7), directory.path());
        fs::read(directory.path().join("file")).ok()
    }

    fn synced() -> Vec<Step> {
        let name = || "file".to_owned();
        vec![Step::Created(name()), wrote(0, b"certain"), Step::Synced(name()), Step::DirectorySynced]
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_there_or_not() {
        let steps = [synced(), vec![wrote(4, b"urban")]].concat();
        assert_eq!(left(&steps, Cut::Nothing).as_deref(), Some(&b"certain"[..]));
        assert_eq!(left(&steps, Cut::Everything).as_deref(), Some(&b"certurban"[..]));
    }

    #[test]
    fn a_file_whose_name_was_not_synced_is_there_or_not() {
        let steps = &synced()[..3];
        assert_eq!(left(steps, Cut::Nothing), None);
        assert_eq!(left(steps, Cut::Everything).as_deref(), Some(&b"certain"[..]));
        let removed = [synced(), vec![Step::Removed("file".to_owned())]].concat();
        assert_eq!(left(&removed, Cut::Nothing).as_deref(), Some(&b"certain"[..]));
        assert_eq!(left(&removed, Cut::Everything), None);
    }

    #[test]
    fn what_a_failed_sync_had_is_not_saved_by_the_next_one() {
        let name = || "file".to_owned();
        let later = vec![wrote(0, b"CER"), Step::SyncFailed(name()), wrote(6, b"N"), Step::Synced(name())];
        let steps = [synced(), later].concat();
        assert_eq!(left(&steps, Cut::Nothing).as_deref(), Some(&b"certaiN"[..]));
        assert_eq!(left(&steps, Cut::Everything).as_deref(), Some(&b"CERtaiN"[..]));
    }

    #[test]
    fn a_torn_write_keeps_whole_sectors() {
        let steps = [synced(), vec![wrote(100, &[b'x'; 3000])]].concat();
        let mut disk = Disk::new();
        for step in &steps {
            disk.step(step);
        }
        let mut random = Random::of(3);
        let mut some_in_part = false;
        for _ in 0..50 {
            let content = disk.files["file"].after(Cut::Torn, &mut random);
            for sector in content.chunks(SECTOR).skip(1) {
                assert!(sector.iter().all(|byte| *byte == b'x') || sector.iter().all(|byte| *byte == 0));
            }
            some_in_part |= content.contains(&b'x') && (content.len() < 3100 || content[100..3100].contains(&0));
        }
        assert!(some_in_part);
    }

    #[test]
    fn a_log_that_ends_within_a_step_ends_before_it() {
        let recording = Recording::read(b"C file\nW file 0 3\nabcS file\nW file 3 5\nde");
        let name = || "file".to_owned();
        assert_eq!(recording.steps, [Step::Created(name()), wrote(0, b"abc"), Step::Synced(name())]);
        assert_eq!(recording.ends, [7, 21, 28]);
    }
}
