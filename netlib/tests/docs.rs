//! What the pages under `docs/` say about the code, compared with the code.

use std::fs;
use std::path::{Path, PathBuf};

/// The page would otherwise go on naming tests that were renamed or dropped.
#[test]
fn every_trap_names_a_test_that_exists() {
    let root = root();
    let page = fs::read_to_string(root.join("docs/traps.md")).expect("docs/traps.md");
    let mut named = 0;
    let mut faults = Vec::new();
    for section in page.split("\n### ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let tests: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`')).collect();
        if tests.is_empty() {
            faults.push(format!("{title}: no test"));
        }
        for test in tests {
            named += 1;
            if let Err(why) = find(&root, test) {
                faults.push(format!("{title}: {test}: {why}"));
            }
        }
    }
    assert!(named >= 40, "only {named} tests are named: has the page another form?");
    assert!(faults.is_empty(), "docs/traps.md:\n{}", faults.join("\n"));
}

#[test]
fn a_name_without_a_test_is_found_out() {
    let root = root();
    for (name, why) in [
        ("netlib/tests/docs.rs", "not of the form"),
        ("netlib/tests/none.rs: anything", "no such file"),
        ("netlib/tests/docs.rs: not_written", "no such function"),
        ("netlib/tests/docs.rs: root", "not run as a test"),
    ] {
        let fault = find(&root, name).expect_err(name);
        assert!(fault.contains(why), "{name}: {fault}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Finds `file: test`, which must be a function that some harness runs: by `#[test]`, or by its
/// name in a list that is instantiated per back end.
fn find(root: &Path, named: &str) -> Result<(), String> {
    let (file, test) = named.split_once(": ").ok_or("not of the form `file: test`")?;
    let path = root.join(file);
    let source = fs::read_to_string(&path).map_err(|error| format!("no such file ({error})"))?;
    let lines: Vec<_> = source.lines().collect();
    let function = format!("fn {test}(");
    let at = lines.iter().position(|line| line.contains(&function)).ok_or("no such function")?;
    let attributes = lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with("#["));
    if attributes.into_iter().any(|line| line.trim() == "#[test]") {
        return Ok(());
    }
    // The list stands in the file itself, or in the head of the suite that the file belongs to.
    let suite = fs::read_to_string(path.with_file_name("main.rs")).unwrap_or_default();
    if is_listed(&source, test) || is_listed(&suite, test) { Ok(()) } else { Err("it is not run as a test".into()) }
}

/// Whether the name stands on a line that holds nothing but names, as macros that instantiate
/// tests are given them.
fn is_listed(source: &str, test: &str) -> bool {
    let of_names = |line: &&str| line.chars().all(|c| c.is_ascii_alphanumeric() || " _,:".contains(c));
    source.lines().filter(of_names).any(|line| line.split([' ', ',', ':']).any(|name| name == test))
}
