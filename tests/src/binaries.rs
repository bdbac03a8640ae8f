//! The programs under test: built once per test process with the toolchain that built the tests,
//! in the target directory the tests came from.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Where the built programs lie.
#[derive(Debug)]
pub struct Binaries {
    /// The one server binary.
    pub teamtalk: PathBuf,
    /// The terminal client.
    pub tt: PathBuf,
}

/// The programs, built at the first call. `TT_TEST_PROFILE` names the cargo profile (`dev` when
/// absent; `release` measures what is shipped). `TT_TEST_BINARIES` names a directory that holds
/// them already; then nothing is built.
pub fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Option<Binaries>> = OnceLock::new();
    let built = BINARIES.get_or_init(|| {
        let directory = env::var_os("TT_TEST_BINARIES").map(PathBuf::from).or_else(build)?;
        Some(Binaries { teamtalk: directory.join("teamtalk"), tt: directory.join("tt") })
    });
    built.as_ref().expect("the programs under test build")
}

/// The directory with the programs just built, or `None` after cargo has said what is wrong.
fn build() -> Option<PathBuf> {
    let profile = env::var("TT_TEST_PROFILE").unwrap_or_else(|_| "dev".to_owned());
    let target = target_dir();
    // The same selection as `cargo test --workspace --all-features`, so that cargo finds every
    // dependency built already instead of building it anew with fewer features.
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--workspace", "--all-features", "--bins"])
        .args(["--profile", &profile])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .expect("cargo runs");
    let directory = target.join(if profile == "dev" { "debug" } else { &profile });
    built.success().then_some(directory)
}

/// `<target>/<profile>/deps/<this test>` → `<target>`.
fn target_dir() -> PathBuf {
    let test = env::current_exe().expect("a running program has a path");
    test.ancestors().nth(3).expect("cargo runs tests from <target>/<profile>/deps").to_owned()
}
