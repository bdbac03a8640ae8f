//! Power cuts (G1, G3, G7). A process writes to a store while everything that it writes and syncs is recorded; then
//! the directory is made as a cut at some moment leaves it, and the store that is opened there must have everything
//! that had been acknowledged by then, under dense ids, and nothing that was not sent. A kill proves none of this:
//! it leaves the page cache alone.
//!
//! `TT_TEST_POWER_CUTS` sets the number of moments; each is cut in three ways.

mod embedded;
#[path = "suite/helpers.rs"]
mod helpers;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use embedded::{ALICE, BOB, home, store};
use helpers::{apply, text, user};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tt_db_proxy::store::embedded::{DATABASE, Embedded};
use tt_db_proxy::store::{Applied, GroupKind, GroupLimits, NewGroup, NewMessage, Peer, Store, StoreError, Write};
use tt_tests::faults::{CUTS, Cut, Disk, FaultyDisk, Recording, Step};
use tt_tests::{Random, report};

const CAROL: u32 = 3;
const GROUP: u32 = 1;
/// Where messages go: a user and a peer who may read the conversation.
const CONVERSATIONS: [(u32, Peer); 4] =
    [(ALICE, Peer::User(BOB)), (CAROL, Peer::User(ALICE)), (BOB, Peer::User(CAROL)), (ALICE, Peer::Group(GROUP))];
/// Batches of a recorded run: more than two foldings of the journal.
const BATCHES: u32 = 420;
/// Moments at which the power is cut.
const MOMENTS: u64 = 60;

/// What happens to the disk during a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Syncs fail now and then, and there is no space now and then.
    Faults,
    /// Syncs are not made.
    Lazy,
}

/// A recorded run in a directory of its own.
struct Run {
    recording: Recording,
    acked: Vec<Ack>,
}

struct Ack {
    /// How long the record was when it was certain.
    at: u64,
    conversation: usize,
    msg_id: u32,
    text: String,
}

fn record(weather: Weather) -> Result<Run, String> {
    let home = home();
    let disk = FaultyDisk::at(home.path());
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["--ignored", "--exact", "child_that_writes_on_a_watched_disk", "--nocapture"])
        .env("TT_TEST_HOME", home.path())
        .env("TT_TEST_ACKS", disk.control().join("acks"))
        .stdout(Stdio::null());
    disk.preload(&mut command)?;
    match weather {
        Weather::Fair => {}
        Weather::Faults => {
            command.env("TT_TEST_FAULTS", disk.control());
        }
        Weather::Lazy => {
            command.env("TT_DISK_LAZY", "1");
        }
    }
    let status = command.status().map_err(|error| error.to_string())?;
    assert!(status.success(), "the writer: {status}");
    Ok(Run::of(&disk))
}

impl Run {
    fn of(disk: &FaultyDisk) -> Self {
        let acks = std::fs::read_to_string(disk.control().join("acks")).expect("acks");
        let acked = acks.lines().map(|line| {
            let mut words = line.splitn(4, ' ');
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
            let (at, conversation, msg_id) = (number(), number() as usize, number() as u32);
            Ack { at, conversation, msg_id, text: words.next().expect("a text").to_owned() }
        });
        Self { recording: disk.recording(), acked: acked.collect() }
    }
}

/// Not a test of its own: the process that is recorded. It writes to a new store, and after each acknowledgement
/// notes how long the record is.
#[test]
#[ignore = "started by the tests beside it"]
fn child_that_writes_on_a_watched_disk() {
    let home = std::env::var_os("TT_TEST_HOME").expect("started by a test");
    let mut acks = File::create(std::env::var_os("TT_TEST_ACKS").expect("started by a test")).expect("a file");
    let log = std::env::var_os("TT_DISK_LOG").expect("a watched disk");
    let switches = std::env::var_os("TT_TEST_FAULTS").map(std::path::PathBuf::from);
    let switch = |name: &str, on: bool| {
        let Some(switches) = &switches else { return };
        let file = switches.join(name);
        if on {
            std::fs::write(file, "").expect("a switch");
        } else {
            std::fs::remove_file(file).expect("a switch");
        }
    };
    let store = prepared(Path::new(&home));
    let mut random = StdRng::seed_from_u64(4);
    let (mut refused, mut faults) = (0, 0);
    for number in 0..BATCHES {
        let fault = match number % 40 {
            13 => Some("sync-fails"),
            31 => Some("full"),
            _ => None,
        };
        if let Some(name) = fault {
            switch(name, true);
            faults += 1;
        }
        let members: Vec<(usize, String)> = (0..random.random_range(1..10))
            .map(|member| {
                let filler = "x".repeat(random.random_range(1..4_000));
                (random.random_range(0..CONVERSATIONS.len()), format!("{number}.{member} {filler}"))
            })
            .collect();
        let mut batch = messages(&members);
        batch.push(Write::Read { user: BOB, peer: Peer::User(ALICE), up_to: Some(number) });
        let answers = store.apply(&batch);
        let at = std::fs::metadata(&log).expect("the record").len();
        for ((conversation, content), answer) in members.iter().zip(answers) {
            match answer {
                Ok(Applied::Message { msg_id, .. }) => {
                    writeln!(acks, "{at} {conversation} {msg_id} {content}").expect("noted");
                }
                Err(StoreError::Failed(_) | StoreError::Uncertain(_) | StoreError::Full(_)) if switches.is_some() => {
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        store.tend();
        if let Some(name) = fault {
            switch(name, false);
        }
    }
    if switches.is_some() {
        assert!(faults > 0 && refused > 0, "the faults were felt");
        assert!(store.stats().reopened > 0, "a failed sync is followed by a look at what is there");
    }
    // No last folding: the record ends with a full journal.
    std::process::exit(0);
}

/// A store with what the conversations need.
fn prepared(home: &Path) -> Embedded {
    let store = store(home);
    assert_eq!(user(&store, "carol"), CAROL);
    let group = NewGroup {
        kind: GroupKind::Temporary,
        creator: ALICE,
        name: "all".to_owned(),
        avatar: String::new(),
        members: vec![ALICE, BOB, CAROL],
        limits: GroupLimits { members: 3, created: 1 },
    };
    assert!(matches!(apply(&store, Write::CreateGroup(group)), Ok(Applied::CreatedGroup { id: GROUP, .. })));
    store
}

/// A batch of messages by conversation and text; the text's first word is the client's id.
fn messages(members: &[(usize, String)]) -> Vec<Write> {
    let message = |(conversation, content): &(usize, String)| {
        let (from, to) = CONVERSATIONS[*conversation];
        let id = content.split(' ').next().expect("a number").to_owned();
        Write::Message(NewMessage { to, client_msg_id: Some(id), ..text(from, 0, content) })
    };
    members.iter().map(message).collect()
}

/// A directory in memory where there is one: what a cut leaves is written often and synced by its store.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| home())
}

/// Cuts the power at many moments; returns what was wrong afterwards.
fn cut_often(run: &Run, name: &str) -> Vec<String> {
    let mut random = Random::seeded(name);
    let moments = std::env::var("TT_TEST_POWER_CUTS").ok().and_then(|count| count.parse().ok()).unwrap_or(MOMENTS);
    let steps = &run.recording.steps;
    // From the first account on: before that there is nothing to lose.
    let begin = run.recording.ends.partition_point(|end| *end < run.acked[0].at) as u64;
    let mut at: Vec<usize> = (0..moments).map(|_| random.between(begin, steps.len() as u64 - 1) as usize).collect();
    // And around syncs, where it is decided: right before and right after.
    let syncs: Vec<usize> = (begin as usize..steps.len()).filter(|at| matches!(steps[*at], Step::Synced(_))).collect();
    for moment in at.iter_mut().step_by(3) {
        *moment = syncs[random.between(0, syncs.len() as u64 - 1) as usize] + random.between(0, 1) as usize - 1;
    }
    at.sort_unstable();
    let mut wrong = Vec::new();
    let mut disk = Disk::new();
    let mut done = 0;
    for moment in at {
        while done <= moment {
            disk.step(&steps[done]);
            done += 1;
        }
        let certain = run.acked.iter().take_while(|ack| ack.at <= run.recording.ends[moment]);
        let certain: Vec<&Ack> = certain.collect();
        for cut in CUTS {
            let left = scratch();
            disk.cut(cut, &mut random, left.path());
            if let Err(error) = examine(left.path(), &certain, run) {
                wrong.push(format!("step {moment} of {}, {cut:?}: {error}", steps.len()));
            }
        }
    }
    report::say(&format!(
        "{name}: {moments} moments of {} steps with {} syncs and {} acks, {} cuts: {} wrong",
        steps.len(),
        syncs.len(),
        run.acked.len(),
        moments * CUTS.len() as u64,
        wrong.len()
    ));
    wrong
}

/// Opens what is left and holds it against what had been acknowledged.
fn examine(directory: &Path, certain: &[&Ack], run: &Run) -> Result<(), String> {
    let store = Embedded::open(directory).map_err(|error| error.to_string())?;
    let sent: BTreeMap<(usize, u32), &str> =
        run.acked.iter().map(|ack| ((ack.conversation, ack.msg_id), ack.text.as_str())).collect();
    for (place, (user, peer)) in CONVERSATIONS.into_iter().enumerate() {
        let mut rows = Vec::new();
        let mut begin = 0;
        loop {
            let page = store.history(user, peer, begin, 200).map_err(|error| error.to_string())?;
            let Some(oldest) = page.last().map(|message| message.msg_id) else { break };
            rows.extend(page);
            if oldest == 1 {
                break;
            }
            if rows.len() > sent.len() + certain.len() + 1_000 {
                return Err(format!("the history of {peer:?} has no end"));
            }
            begin = oldest - 1;
        }
        rows.reverse();
        if !rows.iter().map(|row| row.msg_id).eq(1..=rows.len() as u32) {
            return Err(format!("the ids of {peer:?} have a hole"));
        }
        for row in &rows {
            // What was stored and not acknowledged in time may be there, as it was sent.
            if sent.get(&(place, row.msg_id)).is_some_and(|text| *text != row.content) {
                return Err(format!("message {} of {peer:?} is not what was stored", row.msg_id));
            }
        }
        let newest = certain.iter().filter(|ack| ack.conversation == place).map(|ack| ack.msg_id).max();
        if newest.is_some_and(|newest| newest as usize > rows.len()) {
            return Err(format!("acked up to {newest:?} of {peer:?}, stored {}", rows.len()));
        }
        match apply(&store, Write::Message(NewMessage { to: peer, ..text(user, 0, "after the cut") })) {
            Ok(Applied::Message { msg_id, .. }) if msg_id as usize == rows.len() + 1 => {}
            other => return Err(format!("after {} messages to {peer:?}: {other:?}", rows.len())),
        }
    }
    let stats = store.stats();
    if stats.lost_messages + stats.damaged_rows + stats.damaged_marks + stats.damaged_records > 0 {
        return Err(format!("damage where there is none: {stats:?}"));
    }
    Ok(())
}

fn recorded(name: &str, weather: Weather) -> Option<Run> {
    record(weather).map_err(|reason| report::skipped(name, &reason)).ok()
}

#[test]
fn g7_a_power_cut_at_any_moment_leaves_every_acked_message() {
    let name = "g7_a_power_cut_at_any_moment_leaves_every_acked_message";
    let Some(run) = recorded(name, Weather::Fair) else { return };
    let folded = run.recording.steps.iter().filter(|step| **step == Step::Synced("teamtalk.db".to_owned())).count();
    assert!(folded >= 2, "the journal was folded into the database on the way");
    let wrong = cut_often(&run, name);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn g7_a_power_cut_after_failed_syncs_and_full_disks_leaves_every_acked_message() {
    let name = "g7_a_power_cut_after_failed_syncs_and_full_disks_leaves_every_acked_message";
    let Some(run) = recorded(name, Weather::Faults) else { return };
    assert!(run.recording.steps.iter().any(|step| matches!(step, Step::SyncFailed(_))), "syncs failed");
    let wrong = cut_often(&run, name);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// How a journal without its last sync comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The process is killed before the sync of its last batch.
    Killed,
    /// The sync of the last batch fails, and then the process ends.
    FailedSync,
    /// The sync of the last batch fails, and the process goes on.
    SurvivedFailedSync,
}

/// Batches before it, of five messages each.
const BATCHES_BEFORE: usize = 20;

/// The batch whose sync is never made.
fn last_batch() -> Vec<(usize, String)> {
    (0..12).map(|number| (number % CONVERSATIONS.len(), format!("last.{number} {}", "y".repeat(900)))).collect()
}

/// Not a test of its own: the process that is recorded up to its last batch.
#[test]
#[ignore = "started by the test beside it"]
fn child_that_leaves_a_journal_without_its_sync() {
    let home = std::env::var_os("TT_TEST_HOME").expect("started by a test");
    let switches = std::path::PathBuf::from(std::env::var_os("TT_DISK_FAULTS").expect("started by a test"));
    let mut acks = Acks::open();
    let store = prepared(Path::new(&home));
    for number in 0..BATCHES_BEFORE {
        // The last ones touch few pages: what a journal with a hole still has then hides only these.
        let of = if number < BATCHES_BEFORE - 2 { CONVERSATIONS.len() } else { 1 };
        if of == 1 {
            let other = rusqlite::Connection::open(Path::new(&home).join(DATABASE)).expect("a database");
            other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("folded");
        }
        let members: Vec<_> = (0..5).map(|at| (at % of, format!("{number}.{at} {}", "x".repeat(2_000)))).collect();
        acks.note(&members, store.apply(&messages(&members)));
    }
    let how = std::env::var("TT_TEST_LEFT").expect("started by a test");
    // Only one sync fails: what follows it, such as the closing of the connection, must not take it for made.
    let fault = if how == "Killed" { "sync-kills" } else { "sync-fails-once" };
    std::fs::write(switches.join(fault), "").expect("a switch");
    let answers = store.apply(&messages(&last_batch()));
    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Uncertain(_)))), "{answers:?}");
    if how == "SurvivedFailedSync" {
        let _other = Reader::of_env(Path::new(&home));
        acks.note(&last_batch(), store.apply(&messages(&last_batch())));
    }
    std::process::exit(0);
}

/// Not a test of its own: the process that finds that journal, and repeats the last batch.
#[test]
#[ignore = "started by the test beside it"]
fn child_that_answers_from_what_it_finds() {
    let home = std::env::var_os("TT_TEST_HOME").expect("started by a test");
    let mut acks = Acks::open();
    let _other = Reader::of_env(Path::new(&home));
    // The disk still fails at first. An attempt that ends there must not have made it worse.
    let switches = std::path::PathBuf::from(std::env::var_os("TT_DISK_FAULTS").expect("started by a test"));
    std::fs::write(switches.join("sync-fails-once"), "").expect("a switch");
    Embedded::open(Path::new(&home)).expect_err("it cannot be made certain");
    assert!(!switches.join("sync-fails-once").exists(), "a sync has failed");
    let store = Embedded::open(Path::new(&home)).expect("opens");
    acks.note(&last_batch(), store.apply(&messages(&last_batch())));
    std::process::exit(0);
}

/// Notes what a child has been promised.
struct Acks(File);

impl Acks {
    fn open() -> Self {
        let path = std::env::var_os("TT_TEST_ACKS").expect("started by a test");
        Self(File::options().append(true).create(true).open(path).expect("a file"))
    }

    fn note(&mut self, members: &[(usize, String)], answers: Vec<Result<Applied, StoreError>>) {
        let log = std::env::var_os("TT_DISK_LOG").expect("a watched disk");
        let at = std::fs::metadata(log).expect("the record").len();
        for ((conversation, content), answer) in members.iter().zip(answers) {
            let Ok(Applied::Message { msg_id, .. }) = answer else { panic!("{answer:?}") };
            writeln!(self.0, "{at} {conversation} {msg_id} {content}").expect("noted");
        }
    }
}

/// Somebody who reads the database all the while, as a backup does, and so keeps the journal from being emptied.
struct Reader(#[expect(dead_code, reason = "kept open")] rusqlite::Connection);

impl Reader {
    fn of_env(home: &Path) -> Option<Self> {
        std::env::var_os("TT_TEST_READER")?;
        let db = rusqlite::Connection::open(home.join(DATABASE)).expect("a database");
        db.execute_batch("BEGIN; SELECT count(*) FROM message").expect("reads");
        Some(Self(db))
    }
}

fn left_and_found(left: Left, read: bool) -> Result<Run, String> {
    let home = home();
    let disk = FaultyDisk::at(home.path());
    let child = |name: &str| -> Result<std::process::ExitStatus, String> {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args(["--ignored", "--exact", name, "--nocapture"])
            .env("TT_TEST_HOME", home.path())
            .env("TT_TEST_ACKS", disk.control().join("acks"))
            .env("TT_TEST_LEFT", format!("{left:?}"))
            .stdout(Stdio::null());
        if read {
            command.env("TT_TEST_READER", "1");
        }
        disk.preload(&mut command)?;
        command.status().map_err(|error| error.to_string())
    };
    let ended = child("child_that_leaves_a_journal_without_its_sync")?;
    assert_eq!(ended.signal(), (left == Left::Killed).then_some(9), "{ended}");
    assert!(ended.success() || left == Left::Killed, "{ended}");
    if left != Left::SurvivedFailedSync {
        disk.syncs_kill(false);
        let ended = child("child_that_answers_from_what_it_finds")?;
        assert!(ended.success(), "{ended}");
    }
    Ok(Run::of(&disk))
}

/// What is answered from a journal that no sync covered is certain all the same: it is made so before. The power is
/// cut at every step from the last batch on.
#[test]
fn g7_what_a_kill_or_a_failed_sync_left_in_the_journal_is_on_disk_before_an_answer_rests_on_it() {
    let name = "g7_what_a_kill_or_a_failed_sync_left_in_the_journal_is_on_disk_before_an_answer_rests_on_it";
    let mut random = Random::seeded(name);
    let mut wrong = Vec::new();
    let mut cuts = 0;
    for left in [Left::Killed, Left::FailedSync, Left::SurvivedFailedSync] {
        for read in [false, true] {
            let run = match left_and_found(left, read) {
                Ok(run) => run,
                Err(reason) => return report::skipped(name, &reason),
            };
            assert_eq!(run.acked.len(), BATCHES_BEFORE * 5 + last_batch().len());
            let before = run.acked[BATCHES_BEFORE * 5 - 1].at;
            let mut disk = Disk::new();
            for (step, end) in run.recording.steps.iter().zip(&run.recording.ends) {
                disk.step(step);
                if *end < before {
                    continue;
                }
                let certain: Vec<&Ack> = run.acked.iter().filter(|ack| ack.at <= *end).collect();
                for cut in CUTS {
                    let directory = scratch();
                    disk.cut(cut, &mut random, directory.path());
                    cuts += 1;
                    if let Err(error) = examine(directory.path(), &certain, &run) {
                        let after = certain.len() == run.acked.len();
                        wrong.push(format!("{left:?}, with a reader: {read}, answered: {after}, {cut:?}: {error}"));
                    }
                }
            }
        }
    }
    report::say(&format!("{name}: {cuts} cuts, {} wrong", wrong.len()));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the first two are worth: with syncs left out, which is what `synchronous=OFF` does, they find it.
#[test]
fn g7_without_syncs_acked_messages_are_lost_and_it_shows() {
    let name = "g7_without_syncs_acked_messages_are_lost_and_it_shows";
    let Some(run) = recorded(name, Weather::Lazy) else { return };
    assert_eq!(run.recording.steps.iter().filter(|step| matches!(step, Step::Synced(_))).count(), 0);
    let mut disk = Disk::new();
    for step in &run.recording.steps {
        disk.step(step);
    }
    let certain: Vec<&Ack> = run.acked.iter().collect();
    let mut random = Random::of(1);
    for cut in [Cut::Nothing, Cut::Torn] {
        let left = scratch();
        disk.cut(cut, &mut random, left.path());
        let wrong = examine(left.path(), &certain, &run).expect_err("nothing was ever synced");
        report::say(&format!("{name}, {cut:?}: {wrong}"));
    }
    let left = scratch();
    disk.cut(Cut::Everything, &mut random, left.path());
    examine(left.path(), &certain, &run).expect("a kill would not have shown it");
}
