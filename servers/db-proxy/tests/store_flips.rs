//! Bits flipped anywhere in the files of a store that is closed or has crashed (G7). Whatever they
//! hit, the store refuses to open, or what it serves is what was stored: never another text, never
//! to another pair, never an id twice, and nothing missing without a word.

mod embedded;
#[path = "suite/helpers.rs"]
mod helpers;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use embedded::{ALICE, BOB, home, store};
use helpers::{apply, ids, send, text, user};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tt_db_proxy::store::embedded::{DATABASE, Embedded, MARKS};
use tt_db_proxy::store::{Applied, NewMessage, Peer, Store, StoreError, Write};

const CAROL: u32 = 3;
/// Has an account and talks to nobody.
const DAVE: u32 = 4;
const PAIRS: [(u32, u32); 3] = [(ALICE, BOB), (ALICE, CAROL), (BOB, CAROL)];
/// Messages of each pair.
const EACH: u32 = 12;

/// How often a file is damaged. More by `TT_TEST_FLIPS`.
const FLIPS: u32 = 150;

fn content(pair: (u32, u32), msg_id: u32) -> String {
    format!("message {msg_id} of {pair:?}")
}

/// A directory with the messages of every pair, as a crash leaves it: most of it in the journal.
fn crashed() -> TempDir {
    let home = home();
    let store = store(home.path());
    assert_eq!(user(&store, "carol"), CAROL);
    assert_eq!(user(&store, "dave"), DAVE);
    for msg_id in 1..=EACH {
        for pair in PAIRS {
            let (from, to) = if msg_id % 2 == 0 { pair } else { (pair.1, pair.0) };
            let client_msg_id = Some(format!("{pair:?} {msg_id}"));
            let message = NewMessage { client_msg_id, ..text(from, to, &content(pair, msg_id)) };
            assert_eq!(send(&store, message), msg_id);
        }
        apply(&store, Write::Read { user: ALICE, peer: Peer::User(BOB), up_to: Some(5) }).expect("read");
    }
    copy(home.path())
}

/// The same after a clean stop: everything in the database file.
fn closed() -> TempDir {
    let home = crashed();
    drop(Embedded::open(home.path()).expect("open"));
    home
}

/// A copy without the journal's index, which is mapped while a store is open and rebuilt at start.
fn copy(home: &Path) -> TempDir {
    let copy = self::home();
    for entry in fs::read_dir(home).expect("list") {
        let entry = entry.expect("entry");
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copy");
        }
    }
    copy
}

/// Flips one bit in a byte that is used: most of the pages of a small database are empty. Not in
/// the first page: it holds the schema as text, and nearly all damage there is refused.
fn flip(path: &Path, random: &mut StdRng) -> String {
    let mut bytes = fs::read(path).expect("read");
    let first = if path.ends_with(MARKS) { 0 } else { 4_096 };
    let used: Vec<_> = (first..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let at = used[random.random_range(0..used.len())];
    let bit = random.random_range(0..8);
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).expect("write");
    format!("bit {bit} of byte {at} of {}", path.display())
}

fn flip_often(pristine: &TempDir, file: &str, seed: u64) {
    let flips = std::env::var("TT_TEST_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(FLIPS);
    let mut random = StdRng::seed_from_u64(seed);
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..flips {
        let home = copy(pristine.path());
        let place = flip(&home.path().join(file), &mut random);
        let outcome = match Embedded::open(home.path()) {
            Ok(store) => examine(&store, &place),
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "{place}: {error}");
                "refused"
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{file}: {outcomes:?}");
}

/// Holds everything that the store serves against what was stored.
fn examine(store: &Embedded, place: &str) -> &'static str {
    let mut missing = 0;
    let mut failed = 0;
    for pair in PAIRS {
        for (user, peer) in [pair, (pair.1, pair.0)] {
            match store.history(user, Peer::User(peer), 0, 100) {
                Ok(page) => {
                    missing += (1..=EACH).filter(|id| !ids(&page).contains(id)).count();
                    for message in page {
                        let from = if message.msg_id % 2 == 0 { pair.0 } else { pair.1 };
                        assert_eq!(message.content, content(pair, message.msg_id), "{place}");
                        assert_eq!(message.from, from, "{place}");
                    }
                }
                Err(_) => failed += 1,
            }
        }
    }
    for user in [ALICE, BOB, CAROL, DAVE] {
        for peer in 0..20 {
            let talked = PAIRS.contains(&(user.min(peer), user.max(peer)));
            if !talked && let Ok(page) = store.history(user, Peer::User(peer), 0, 100) {
                assert!(page.is_empty(), "{place}: #{user} reads what is not theirs, with #{peer}");
            }
        }
        for session in store.recent_sessions(user, 0, 100).unwrap_or_default() {
            let Peer::User(peer) = session.peer else { panic!("{place}: #{user} has a session with a group") };
            let pair = (user.min(peer), user.max(peer));
            assert_eq!(session.latest.text, content(pair, session.latest.msg_id), "{place}");
        }
    }
    let said = store.stats();
    let reported = said.damaged_rows + said.lost_messages + said.damaged_marks + said.damaged_records > 0;
    assert!(missing == 0 || reported, "{place}: {missing} messages are missing without a word");
    for (from, to) in PAIRS {
        match apply(store, Write::Message(text(from, to, "new"))) {
            Ok(Applied::Message { msg_id, .. }) => assert!(msg_id > EACH, "{place}: id {msg_id} again"),
            Err(StoreError::Refused(_) | StoreError::Damaged(_) | StoreError::Failed(_) | StoreError::Uncertain(_)) => {
                failed += 1;
            }
            other => panic!("{place}: {other:?}"),
        }
    }
    if failed > 0 {
        "partly unusable"
    } else if reported {
        "reported"
    } else {
        "harmless"
    }
}

#[test]
fn g7_no_flipped_bit_of_a_closed_database_is_served() {
    flip_often(&closed(), DATABASE, 1);
}

#[test]
fn g7_no_flipped_bit_of_a_journal_is_served() {
    flip_often(&crashed(), &format!("{DATABASE}-wal"), 2);
}

#[test]
fn g7_no_flipped_bit_of_the_marks_is_served() {
    flip_often(&closed(), MARKS, 3);
}
