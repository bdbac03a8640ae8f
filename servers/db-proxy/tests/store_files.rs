//! The embedded store's directory: who may open it, what is said when it cannot be used, and what a
//! full disk does.

mod embedded;
#[path = "suite/helpers.rs"]
mod helpers;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use embedded::{ALICE, BOB, home, store};
use helpers::{apply, ids, send, text, user};
use tempfile::TempDir;
use tt_db_proxy::store::embedded::{DATABASE, Embedded, LOCK, OpenError, Operator};
use tt_db_proxy::store::{
    Accounts, Applied, GroupKind, GroupLimits, NewGroup, NewMessage, Peer, Store, StoreError, Validation, Write,
};
use tt_proto::password::wire_digest;

/// A test that needs what this machine does not grant says so instead of passing in silence.
fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
}

#[test]
fn a_full_disk_refuses_messages_and_loses_none() {
    let Some(disk) = SmallDisk::mount("4m") else {
        return skip("a_full_disk_refuses_messages_and_loses_none", "mount is not permitted");
    };
    let store = store(disk.path());
    let body = "x".repeat(4000);
    let mut stored = 0;
    let failure = loop {
        match apply(&store, Write::Message(text(ALICE, BOB, &body))) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 10_000, "4 MiB do not hold this");
    };
    assert!(matches!(failure, StoreError::Full(_)), "{failure:?}");
    assert!(failure.is_retryable());
    assert!(stored > 0);
    assert_eq!(ids(&store.history(ALICE, Peer::User(BOB), 0, 1).expect("reads go on")), [stored]);
    drop(store);
    disk.grow("16m");
    let store = Embedded::open(disk.path()).expect("open");
    assert_eq!(store.stats().lost_messages, 0);
    assert_eq!(send(&store, text(ALICE, BOB, "room again")), stored + 1);
}

#[test]
fn a_store_goes_on_by_itself_once_the_disk_has_room_again() {
    let Some(disk) = SmallDisk::mount("4m") else {
        return skip("a_store_goes_on_by_itself_once_the_disk_has_room_again", "mount is not permitted");
    };
    let store = store(disk.path());
    let body = "x".repeat(4000);
    let mut stored = 0;
    while apply(&store, Write::Message(text(ALICE, BOB, &body))).is_ok() {
        stored += 1;
        assert!(stored < 10_000, "4 MiB do not hold this");
    }
    disk.grow("16m");
    assert_eq!(send(&store, text(ALICE, BOB, "room again")), stored + 1);
}

#[test]
fn a_read_only_directory_is_one_clear_error() {
    let Some(disk) = SmallDisk::mount("4m") else {
        return skip("a_read_only_directory_is_one_clear_error", "mount is not permitted");
    };
    drop(store(disk.path()));
    disk.remount("ro");
    let serving = Embedded::open(disk.path()).expect_err("read-only");
    assert!(matches!(serving, OpenError::NotWritable { .. }), "{serving:?}");
    let operator = Operator::open(disk.path()).expect_err("read-only");
    assert!(matches!(operator, OpenError::NotWritable { .. }), "{operator:?}");
    assert_one_line(&serving, disk.path());
    assert_one_line(&operator, disk.path());
}

#[test]
fn a_missing_directory_and_a_file_in_its_place_are_clear_errors() {
    let home = home();
    let missing = home.path().join("missing");
    let error = Embedded::open(&missing).expect_err("missing");
    assert!(matches!(error, OpenError::Missing(_)), "{error:?}");
    assert_one_line(&error, &missing);
    let file = home.path().join("file");
    fs::write(&file, "").expect("write");
    for path in [file.clone(), file.join("below")] {
        let error = Operator::open(&path).expect_err("a file");
        assert!(matches!(error, OpenError::NotADirectory(_)), "{error:?}");
        assert_one_line(&error, &path);
    }
}

#[test]
fn a_second_serving_process_is_told_who_holds_the_directory() {
    let home = home();
    let first = store(home.path());
    let error = Embedded::open(home.path()).expect_err("in use");
    let OpenError::InUse { pid, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*pid, std::process::id().to_string());
    assert_one_line(&error, home.path());
    drop(first);
    Embedded::open(home.path()).expect("free again");
}

#[test]
fn a_damaged_database_file_is_a_clear_error() {
    let home = home();
    fs::write(home.path().join(DATABASE), "this is no database, ".repeat(100)).expect("write");
    let error = Embedded::open(home.path()).expect_err("no database");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert_one_line(&error, home.path());
}

#[test]
fn a_damaged_schema_is_one_line_and_not_quoted() {
    let home = home();
    drop(store(home.path()));
    let database = home.path().join(DATABASE);
    let mut bytes = fs::read(&database).expect("read");
    // All of them: where the schema has grown over a page, old copies of its text lie about.
    let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"STRICT")).collect();
    assert!(!found.is_empty(), "the schema is text");
    for at in found {
        bytes[at] ^= 1;
    }
    fs::write(&database, bytes).expect("write");
    let error = Embedded::open(home.path()).expect_err("damaged");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert_one_line(&error, &database);
}

#[test]
fn a_database_of_a_newer_program_is_refused_and_left_alone() {
    let home = home();
    drop(store(home.path()));
    let path = home.path().join(DATABASE);
    {
        // user_version is the big-endian word at offset 60 of the header.
        let file = File::options().write(true).open(&path).expect("open");
        file.write_all_at(&999_u32.to_be_bytes(), 60).expect("write");
    }
    let before = fs::read(&path).expect("read");
    let error = Embedded::open(home.path()).expect_err("too new");
    assert!(matches!(error, OpenError::TooNew { found: 999, .. }), "{error:?}");
    assert!(Operator::open(home.path()).is_err());
    assert_eq!(fs::read(&path).expect("read"), before);
}

#[test]
fn the_files_are_for_their_owner_alone() {
    let parent = home();
    let home = parent.path().join("a").join("data");
    tt_db_proxy::store::embedded::create(&home).expect("create");
    let store = store(&home);
    send(&store, text(ALICE, BOB, "private"));
    let mode = |path: &Path| path.metadata().expect("metadata").mode() & 0o777;
    assert_eq!(mode(&home), 0o700);
    for entry in fs::read_dir(&home).expect("list") {
        let path = entry.expect("entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert!(home.join(LOCK).exists());
}

#[test]
fn an_operator_changes_accounts_beside_a_writer() {
    let home = home();
    let store = store(home.path());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 1..=50 {
                assert_eq!(send(&store, text(ALICE, BOB, &format!("{number}"))), number);
            }
        });
        let operator = Operator::open(home.path()).expect("open beside the server");
        let carol = user(&operator, "carol");
        operator.set_password("bob", &wire_digest("new")).expect("set");
        writer.join().expect("the writer is not disturbed");
        let seen = store.validate("carol", &wire_digest("carol")).expect("answer");
        assert!(matches!(seen, Validation::Accepted(card) if card.id == carol));
        let old = store.validate("bob", &wire_digest("bob")).expect("answer");
        assert_eq!(old, Validation::Refused);
    });
    assert_eq!(send(&store, text(3, ALICE, "from the new account")), 1);
}

#[test]
fn an_operator_works_without_a_server() {
    let home = home();
    let operator = Operator::open(home.path()).expect("an empty directory is fine");
    user(&operator, "alice");
    drop(operator);
    let store = Embedded::open(home.path()).expect("open");
    assert_eq!(store.list_users().expect("users")[0].name, "alice");
}

#[test]
fn an_operator_is_refused_in_another_users_directory() {
    let home = home();
    drop(store(home.path()));
    if chown(home.path(), Some(12345), None).is_err() {
        return skip("an_operator_is_refused_in_another_users_directory", "chown is not permitted");
    }
    let error = Operator::open(home.path()).expect_err("another owner");
    assert!(matches!(error, OpenError::NotTheOwner { owner: 12345, .. }), "{error:?}");
    assert_one_line(&error, home.path());
}

fn assert_one_line(error: &OpenError, path: &Path) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    assert!(text.contains(&path.display().to_string()), "{text}");
}

/// A file system of a few megabytes, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let place = home();
        let options = format!("size={size},mode=0700");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], place.path()).then_some(Self(place))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn grow(&self, size: &str) {
        self.remount(&format!("size={size}"));
    }

    fn remount(&self, option: &str) {
        assert!(run("mount", &["-o", &format!("remount,{option}")], self.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
    Command::new(program).args(arguments).arg(path).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_message_to_a_large_group_is_one_row() {
    let home = home();
    let store = Embedded::open(home.path()).expect("open");
    let members: Vec<u32> = (0..2_000).map(|number| user(&store, &format!("user{number}"))).collect();
    let group = NewGroup {
        kind: GroupKind::Temporary,
        creator: members[0],
        name: "everybody".to_owned(),
        avatar: String::new(),
        members: members.clone(),
        limits: GroupLimits { members: 2_000, created: 1 },
    };
    let Ok(Applied::CreatedGroup { id, .. }) = apply(&store, Write::CreateGroup(group)) else {
        panic!("not made");
    };
    let rows = || -> Vec<u32> {
        let db = rusqlite::Connection::open(home.path().join(DATABASE)).expect("the database");
        let count = |table| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        ["message", "session", "cursor", "conversation", "group_member", "chat_group"]
            .map(|table| count(table).expect(table))
            .to_vec()
    };
    assert_eq!(rows(), [0, 0, 0, 1, 2_000, 1]);
    for number in 1..=3 {
        send(&store, NewMessage { to: Peer::Group(id), ..text(members[1], 0, "hello") });
        assert_eq!(rows(), [number, 0, 0, 1, 2_000, 1]);
    }
    let last = *members.last().expect("2,000");
    assert_eq!(store.unread(last).expect("unread")[0].count, 3);
}

#[test]
fn a_directory_from_before_groups_is_brought_up_to_date() {
    let home = home();
    let store_before = store(home.path());
    send(&store_before, text(ALICE, BOB, "hello"));
    drop(store_before);
    let db = rusqlite::Connection::open(home.path().join(DATABASE)).expect("the database");
    db.execute_batch("DROP TABLE group_member; DROP TABLE chat_group; PRAGMA user_version = 2").expect("as it was");
    drop(db);
    let store = Embedded::open(home.path()).expect("open");
    assert_eq!(ids(&store.history(BOB, Peer::User(ALICE), 0, 10).expect("history")), [1]);
    let group = NewGroup {
        kind: GroupKind::Fixed,
        creator: 0,
        name: "new".to_owned(),
        avatar: String::new(),
        members: vec![ALICE, BOB],
        limits: GroupLimits { members: 2, created: 0 },
    };
    assert_eq!(store.create_group(&group), Ok(1));
}

#[test]
fn groups_survive_closing_and_their_marks_are_theirs() {
    let home = home();
    let before = store(home.path());
    let group = NewGroup {
        kind: GroupKind::Temporary,
        creator: ALICE,
        name: "kept".to_owned(),
        avatar: String::new(),
        members: vec![ALICE, BOB],
        limits: GroupLimits { members: 2, created: 1 },
    };
    apply(&before, Write::CreateGroup(group)).expect("made");
    let say = || NewMessage { to: Peer::Group(1), ..text(ALICE, 0, "hello") };
    send(&before, text(ALICE, BOB, "one to one"));
    send(&before, say());
    drop(before);
    let store = Embedded::open(home.path()).expect("open");
    let stats = store.stats();
    assert_eq!((stats.lost_messages, stats.damaged_marks, stats.damaged_records), (0, 0, 0));
    assert_eq!(send(&store, say()), 2);
    assert_eq!(ids(&store.history(BOB, Peer::Group(1), 0, 10).expect("history")), [2, 1]);
}
