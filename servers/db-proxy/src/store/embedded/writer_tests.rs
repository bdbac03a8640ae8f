//! The writer after failures that only its own module can bring about.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::{Embedded, directory};
use super::*;
use crate::store::{Accounts, MessageKind, NewMessage, NewUser, Peer, Refusal, Store};

fn store(home: &Path) -> Embedded {
    let store = Embedded::open(home).expect("open");
    for name in ["alice", "bob"] {
        let user = NewUser { name: name.to_owned(), wire_digest: "0".repeat(32), ..NewUser::default() };
        store.add_user(&user).expect("add");
    }
    store
}

fn message(text: &'static str) -> Write {
    Write::Message(NewMessage {
        from: 1,
        to: Peer::User(2),
        created: 7,
        kind: MessageKind::Text,
        content: Bytes::from_static(text.as_bytes()),
        client_msg_id: None,
    })
}

fn send(store: &Embedded, text: &'static str) -> Result<Applied, StoreError> {
    store.apply(&[message(text)]).remove(0)
}

fn fail(store: &Embedded) {
    let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None);
    let failed = store.writer().with(&store.counters, |_| Err::<(), _>(error));
    assert!(matches!(failed, Err(StoreError::Uncertain(_))), "{failed:?}");
}

#[test]
fn g7_after_a_failed_sync_the_store_reopens_with_everything_there() {
    let home = tempfile::tempdir().expect("a directory");
    let store = store(home.path());
    send(&store, "before").expect("stored");
    fail(&store);
    let Ok(Applied::Message { msg_id, .. }) = send(&store, "after") else {
        panic!("the store did not come back");
    };
    assert_eq!(msg_id, 2);
    assert_eq!(store.stats().reopened, 1);
    let journal = home.path().join(format!("{}-wal", directory::DATABASE));
    assert!(journal.exists());
    let history = store.history(2, Peer::User(1), 0, 10).expect("history");
    assert_eq!(history.len(), 2);
    assert!(history.iter().all(|message| message.kind == MessageKind::Text));
}

#[test]
fn g7_a_reopened_store_that_lost_rows_says_so_and_does_not_reuse_their_ids() {
    let home = tempfile::tempdir().expect("a directory");
    let store = store(home.path());
    send(&store, "one").expect("stored");
    // As if two more had been acknowledged that the disk does not have.
    let marks = Marks::new(directory::open_file(home.path(), directory::MARKS).expect("marks"));
    let (low, high, msg_id) = (1, 2, 3);
    marks.write(1, Mark { low, high, msg_id }).expect("write");
    fail(&store);
    let Ok(Applied::Message { msg_id, .. }) = send(&store, "four") else {
        panic!("the store did not come back");
    };
    assert_eq!(msg_id, 4);
    assert_eq!(store.stats().lost_messages, 2);
}

#[test]
fn a_member_that_only_the_database_refuses_fails_alone() {
    let home = tempfile::tempdir().expect("a directory");
    let store = store(home.path());
    // What recovery leaves when an account was lost together with its conversation.
    store
        .writer()
        .with(&store.counters, |db| {
            db.execute_batch(
                "INSERT INTO conversation (kind, low, high, last_msg_id, created)
                 VALUES (1, 1, 99, 3, 0)",
            )
        })
        .expect("a conversation without one of its users");
    let read = Write::Read { user: 99, peer: Peer::User(1), up_to: None };
    let answers = store.apply(&[message("before"), read, message("after")]);
    assert!(matches!(answers[1], Err(StoreError::Refused(Refusal::Rejected(_)))));
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_eq!(store.history(1, Peer::User(2), 0, 10).expect("history").len(), 2);
}

/// Two readers that each see two commits come, by turns: after each commit one of them still reads
/// what was before it.
#[test]
fn a_journal_stays_small_under_reads_without_a_break() {
    let home = tempfile::tempdir().expect("a directory");
    let store = store(home.path());
    let (commits, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let reader = |turn: u64| {
        while !stop.load(Ordering::Relaxed) {
            let read = store.read(|db| {
                db.query_row("SELECT count(*) FROM conversation", [], |_| Ok(()))?;
                let begun = commits.load(Ordering::Relaxed);
                let patience = Instant::now() + Duration::from_millis(100);
                let is_over = |now: u64| now > begun && now % 2 == turn;
                while !is_over(commits.load(Ordering::Relaxed)) && Instant::now() < patience {
                    thread::yield_now();
                }
                Ok(())
            });
            read.expect("read");
        }
    };
    let text: &'static str = "x".repeat(4_096).leak();
    let batch = vec![message(text); 500];
    let longest = thread::scope(|scope| {
        scope.spawn(|| reader(0));
        scope.spawn(|| reader(1));
        let longest = (0..24).map(|_| {
            assert!(store.apply(&batch).iter().all(Result::is_ok));
            commits.fetch_add(1, Ordering::Relaxed);
            store.tend();
            let journal = home.path().join(format!("{}-wal", directory::DATABASE));
            journal.metadata().expect("a journal").len()
        });
        let longest = longest.max();
        stop.store(true, Ordering::Relaxed);
        longest
    });
    let limit = (JOURNAL_PAGES as u64 * 4_096) + 2 * CHECKPOINT_AFTER as u64;
    assert!(longest < Some(limit), "{longest:?}");
}
