//! What the disk can do without any server: one `fdatasync`, and a bare writer that runs the
//! store's own statements in batches as large as the servers made them. Whoever reads a figure of
//! the servers can hold it against these two.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tt_db_proxy::store::embedded::Embedded;
use tt_db_proxy::store::{Accounts, MessageKind, NewMessage, NewUser, Peer, Store, Write as Change};
use tt_proto::password::wire_digest;

use super::latency::{Latency, rounded};
use crate::failure::{Failure, Kind, Outcome};

/// A place beside the data whose contents go with the value.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new directory in `parent`.
    pub(super) fn new(parent: &Path) -> Outcome<Self> {
        let path = parent.join(format!("teamtalk-bench-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        fs::create_dir_all(parent).and_then(|()| fs::create_dir(&path)).map_err(|error| failed(&path, &error))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever owns the place.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Kind::Data, format_args!("{}: {error}", path.display()))
}

/// Writes, each a page appended and forced to disk, as a journal's are.
const SYNCS: usize = 400;
const PAGE: [u8; 4_096] = [0x5a; 4_096];

/// How long the disk takes to force a page.
pub(super) fn fdatasync(place: &Path) -> Outcome<Latency> {
    let scratch = Scratch::new(place)?;
    let path = scratch.path().join("probe");
    let failed = |error: std::io::Error| failed(&path, &error);
    let mut file = File::create(&path).map_err(failed)?;
    let mut latency = Latency::new();
    for number in 0..SYNCS + 20 {
        file.write_all(&PAGE).map_err(failed)?;
        let begun = Instant::now();
        file.sync_data().map_err(failed)?;
        // The first ones find the file system's own tables.
        if number >= 20 {
            latency.record(begun.elapsed());
        }
    }
    Ok(latency)
}

/// What the bare writer is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bare {
    pub(super) pairs: u32,
    /// Messages in one transaction.
    pub(super) batch: usize,
    /// Bytes of a message's body on the wire.
    pub(super) body: usize,
    pub(super) time: Duration,
}

impl Bare {
    /// Messages a second that the store takes from one thread that does nothing else.
    pub(super) fn run(self, place: &Path) -> Outcome<(f64, Value)> {
        let scratch = Scratch::new(place)?;
        let store = Embedded::open(scratch.path())?;
        let digest = wire_digest("a bare writer signs in nowhere");
        let user =
            |number| NewUser { name: format!("bare-{number}"), wire_digest: digest.clone(), ..NewUser::default() };
        let users: Vec<NewUser> = (0..2 * self.pairs).map(user).collect();
        let ids = store.add_users(&users)?;
        let content = Bytes::from(vec![b'x'; self.body]);
        let (mut written, mut number) = (0_u64, 0_u64);
        let begun = Instant::now();
        while begun.elapsed() < self.time {
            let message = |_| {
                let pair = (number % u64::from(self.pairs)) as usize;
                number += 1;
                Change::Message(NewMessage {
                    from: ids[2 * pair],
                    to: Peer::User(ids[2 * pair + 1]),
                    created: 1_700_000_000,
                    kind: MessageKind::Text,
                    content: content.clone(),
                    // Of the length and order that clients' ids have.
                    client_msg_id: Some(format!("{number:016x}{:016x}", rand::random::<u64>())),
                })
            };
            let batch: Vec<Change> = (0..self.batch).map(message).collect();
            for answer in store.apply(&batch) {
                answer?;
                written += 1;
            }
            store.tend();
        }
        let rate = written as f64 / begun.elapsed().as_secs_f64();
        let report = json!({ "batch": self.batch, "messages_per_second": rounded(rate) });
        Ok((rate, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_and_nothing_is_left_behind() {
        let home = std::env::temp_dir().join(format!("teamtalk-disk-test-{}", std::process::id()));
        assert_eq!(fdatasync(&home).expect("a writable place").count(), SYNCS as u64);
        let bare = Bare { pairs: 2, batch: 3, body: 24, time: Duration::from_millis(1) };
        let (rate, _) = bare.run(&home).expect("a writable place");
        assert!(rate > 0.0);
        assert_eq!(fs::read_dir(&home).expect("it was made").count(), 0);
        fs::remove_dir(&home).expect("empty");
    }
}
