//! Directories that a file system refuses to write to. They need a mount of their own, which not
//! every machine permits; then there is no such directory and the test says that it was skipped.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A mounted file system; unmounted with the value.
#[derive(Debug)]
pub struct Mounted {
    at: TempDir,
}

impl Mounted {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// Turns the whole file system read-only.
    pub fn make_read_only(&self) {
        mount(&["-o", "remount,ro"], self.path()).expect("what was mounted can be remounted");
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// An empty file system in memory of `kib` KiB, or why there is none.
pub fn small_disk(kib: u32) -> Result<Mounted, String> {
    let at = TempDir::new().expect("a temporary directory");
    mount(&["-t", "tmpfs", "-o", &format!("size={kib}k,mode=0700"), "tmpfs"], at.path())?;
    Ok(Mounted { at })
}

fn mount(options: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(options).arg(at).output().map_err(|error| format!("mount: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
