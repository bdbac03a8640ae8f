//! What a test says even when it passes: skips with their reason, and counts. Written past
//! libtest's capture (which only sees the print macros), so that a run always shows them.

use std::io::Write;

/// Says that `test` did not run and why. The caller returns right after.
pub fn skipped(test: &str, reason: &str) {
    say(&format!("SKIPPED {test}: {reason}"));
}

/// One line of the run's own report.
pub fn say(line: &str) {
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "{line}");
}
