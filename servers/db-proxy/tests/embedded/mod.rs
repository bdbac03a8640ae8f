//! What the tests of the embedded store begin with.

use std::path::Path;

use tempfile::TempDir;
use tt_db_proxy::store::embedded::Embedded;

use crate::helpers::user;

pub(crate) const ALICE: u32 = 1;
pub(crate) const BOB: u32 = 2;

/// A store with two accounts.
pub(crate) fn store(home: &Path) -> Embedded {
    let store = Embedded::open(home).expect("open");
    assert_eq!(user(&store, "alice"), ALICE);
    assert_eq!(user(&store, "bob"), BOB);
    store
}

pub(crate) fn home() -> TempDir {
    tempfile::tempdir().expect("a directory")
}
