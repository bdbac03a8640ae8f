//! The writer on a store whose commits wait for the test.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;

use super::*;
use crate::lanes::{Access, Conversation, Lanes};
use crate::store::{
    Accounts, Department, Device, Group, MemberChange, Message, MessageKind, NewDepartment, NewGroup, NewMessage,
    NewUser, Page, Peer, Refusal, Session, Stats, Unread, User, UserStatus, Validation,
};

/// Says when a batch has come, and commits it when it is told to.
struct Gate {
    came: Mutex<Sender<usize>>,
    commit: Mutex<Receiver<()>>,
}

impl Store for Gate {
    fn apply(&self, batch: &[Write]) -> Vec<Result<Applied, StoreError>> {
        self.came.lock().expect("one thread").send(batch.len()).expect("the test listens");
        self.commit.lock().expect("one thread").recv().expect("the test answers");
        let answer = |write: &Write| match write {
            Write::Message(message) if message.content.is_empty() => Err(Refusal::Empty.into()),
            _ => Ok(Applied::Read { cursor: 1 }),
        };
        batch.iter().map(answer).collect()
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn validate(&self, _: &str, _: &str) -> Result<Validation, StoreError> {
        Ok(Validation::Refused)
    }

    fn users_changed_since(&self, latest: u32, _: usize) -> Result<Page<User>, StoreError> {
        Ok(Page { items: Vec::new(), latest })
    }

    fn users_by_ids(&self, _: &[u32]) -> Result<Vec<User>, StoreError> {
        Ok(Vec::new())
    }

    fn push_shield(&self, _: u32) -> Result<Option<bool>, StoreError> {
        Ok(None)
    }

    fn devices(&self, _: &[u32]) -> Result<Vec<Device>, StoreError> {
        Ok(Vec::new())
    }

    fn departments_changed_since(&self, latest: u32, _: usize) -> Result<Page<Department>, StoreError> {
        Ok(Page { items: Vec::new(), latest })
    }

    fn recent_sessions(&self, _: u32, _: u32, _: u32) -> Result<Vec<Session>, StoreError> {
        Ok(Vec::new())
    }

    fn unread(&self, _: u32) -> Result<Vec<Unread>, StoreError> {
        Ok(Vec::new())
    }

    fn history(&self, _: u32, _: Peer, _: u32, _: u32) -> Result<Vec<Message>, StoreError> {
        Ok(Vec::new())
    }

    fn messages_by_id(&self, _: u32, _: Peer, _: &[u32]) -> Result<Vec<Message>, StoreError> {
        Ok(Vec::new())
    }

    fn latest_msg_id(&self, _: u32, _: Peer) -> Result<u32, StoreError> {
        Ok(0)
    }

    fn fixed_groups(&self, _: u32) -> Result<Vec<(u32, u32)>, StoreError> {
        Ok(Vec::new())
    }

    fn groups(&self, _: u32, _: &[(u32, u32)]) -> Result<Vec<Group>, StoreError> {
        Ok(Vec::new())
    }

    fn group_shields(&self, _: u32, _: &[u32]) -> Result<Vec<(u32, bool)>, StoreError> {
        Ok(Vec::new())
    }
}

impl Accounts for Gate {
    fn add_user(&self, _: &NewUser) -> Result<u32, StoreError> {
        Ok(1)
    }

    fn list_users(&self) -> Result<Vec<User>, StoreError> {
        Ok(Vec::new())
    }

    fn set_password(&self, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn set_status(&self, _: &str, _: UserStatus) -> Result<(), StoreError> {
        Ok(())
    }

    fn save_department(&self, _: &NewDepartment) -> Result<u32, StoreError> {
        Ok(1)
    }

    fn create_group(&self, _: &NewGroup) -> Result<u32, StoreError> {
        Ok(1)
    }

    fn change_members(&self, _: &MemberChange) -> Result<Vec<u32>, StoreError> {
        Ok(Vec::new())
    }

    fn list_groups(&self) -> Result<Vec<Group>, StoreError> {
        Ok(Vec::new())
    }
}

struct Bench {
    writer: Writer,
    lanes: Lanes<()>,
    came: Receiver<usize>,
    commit: Sender<()>,
    done: Receiver<Outcomes>,
}

fn bench(batch: usize, deadline: Duration) -> Bench {
    let ((came_in, came), (commit, commit_out), (done_in, done)) = (channel(), channel(), channel());
    let store: Arc<dyn Store> = Arc::new(Gate { came: Mutex::new(came_in), commit: Mutex::new(commit_out) });
    let metrics = Metrics::new(&tt_common::Metrics::new(), &store);
    let writer = Writer::start(store, Options { batch, deadline, metrics }, move |outcomes| {
        done_in.send(outcomes).expect("the test listens");
    });
    Bench { writer: writer.expect("a thread"), lanes: Lanes::new(), came, commit, done }
}

impl Bench {
    fn submit(&mut self, content: &'static str, arrived: Instant) -> Ticket {
        let (ticket, _) = self.lanes.arrive(Access::Write(Conversation::of(1, Peer::User(2))), ());
        let message = NewMessage {
            from: 1,
            to: Peer::User(2),
            created: 0,
            kind: MessageKind::Text,
            content: Bytes::from_static(content.as_bytes()),
            client_msg_id: None,
        };
        self.writer.submit(ticket, arrived, Claim::default(), Write::Message(message));
        ticket
    }
}

const LONG: Duration = Duration::from_hours(1);

#[test]
fn what_waits_during_a_commit_is_the_next_batch() {
    let mut bench = bench(100, LONG);
    let first = bench.submit("first", Instant::now());
    assert_eq!(bench.came.recv(), Ok(1), "a message that is alone waits for nothing");
    let waiting: Vec<_> = (0..5).map(|_| bench.submit("more", Instant::now())).collect();
    bench.commit.send(()).expect("the writer waits");
    let outcomes = bench.done.recv().expect("outcomes");
    assert_eq!(outcomes, [(first, Ok(Applied::Read { cursor: 1 }))]);
    assert_eq!(bench.came.recv(), Ok(5));
    bench.commit.send(()).expect("the writer waits");
    let tickets: Vec<_> = bench.done.recv().expect("outcomes").into_iter().map(|(ticket, _)| ticket).collect();
    assert_eq!(tickets, waiting, "in the order of arrival");
}

#[test]
fn a_batch_has_a_largest_size() {
    let mut bench = bench(2, LONG);
    bench.submit("first", Instant::now());
    assert_eq!(bench.came.recv(), Ok(1));
    for _ in 0..3 {
        bench.submit("more", Instant::now());
    }
    for size in [2, 1] {
        bench.commit.send(()).expect("the writer waits");
        assert_eq!(bench.came.recv(), Ok(size));
    }
    bench.commit.send(()).expect("the writer waits");
}

#[test]
fn one_refusal_is_its_own() {
    let mut bench = bench(10, LONG);
    bench.submit("first", Instant::now());
    bench.came.recv().expect("a batch");
    bench.submit("", Instant::now());
    bench.submit("fine", Instant::now());
    for _ in 0..2 {
        bench.commit.send(()).expect("the writer waits");
    }
    bench.done.recv().expect("the first batch");
    let outcomes: Vec<_> = bench.done.recv().expect("the second").into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes[0], Err(WriteError::Store(Refusal::Empty.into())));
    assert!(outcomes[1].is_ok());
}

#[test]
fn what_has_waited_past_its_deadline_is_refused_without_the_store() {
    let mut bench = bench(10, Duration::from_mins(1));
    let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(61)) else {
        println!("SKIPPED: this machine has been up for less than a minute");
        return;
    };
    let late = bench.submit("late", long_ago);
    let outcomes = bench.done.recv().expect("outcomes");
    assert_eq!(outcomes, [(late, Err(WriteError::Overloaded("waited too long")))]);
    assert!(bench.came.try_recv().is_err(), "the store was not asked");
}

#[test]
fn dropping_the_writer_finishes_what_waits() {
    let mut bench = bench(1, LONG);
    for _ in 0..3 {
        bench.submit("more", Instant::now());
        bench.commit.send(()).expect("the writer is there");
    }
    drop(bench.writer);
    assert_eq!(bench.done.iter().count(), 3);
}
