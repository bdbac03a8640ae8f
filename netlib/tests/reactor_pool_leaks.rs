//! A pool leaves nothing behind. Alone in its file, that is in its process: descriptors and threads
//! are counted for the whole of it.

mod support;

use std::io::{self, Read};
use std::time::Instant;
use std::{fs, thread};

use netlib::backend::BackendKind;
use netlib::reactor_pool::{PoolOptions, Spread};
use netlib::{Conn, Context, Handler, ListenOptions, ReactorPool};
use support::{DEADLINE, local, peer};

struct Greets;

impl Handler<()> for Greets {
    fn on_open(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn) {
        conn.send_slice(b"!").unwrap();
    }

    fn on_data(&mut self, (): &mut (), _: &mut Context<()>, _: &Conn, input: &[u8]) -> usize {
        input.len()
    }
}

fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

/// The kernel lists a thread for a moment after it was joined.
fn wait_for_threads(expected: usize) {
    let start = Instant::now();
    while count("task") != expected {
        assert!(start.elapsed() < DEADLINE, "{} threads instead of {expected}", count("task"));
        thread::yield_now();
    }
}

#[test]
fn stopping_joins_every_thread_and_closes_every_descriptor() {
    let threads = count("task");
    // What is made once per process is made now.
    one_life(BackendKind::EpollEt, Spread::HandOff);
    let descriptors = count("fd");
    for kind in BackendKind::ALL {
        for spread in Spread::ALL {
            one_life(kind, spread);
            assert_eq!(count("fd"), descriptors, "{kind}, {spread}");
            wait_for_threads(threads);
        }
        let options = PoolOptions { threads: 3, backend: Some(kind), fallback: false, ..PoolOptions::default() };
        let failed =
            ReactorPool::<()>::start(
                options,
                |number, _, _| {
                    if number == 1 { Err(io::Error::other("not today")) } else { Ok(()) }
                },
            );
        assert_eq!(failed.unwrap_err().to_string(), "not today");
        assert_eq!(count("fd"), descriptors, "{kind}, failed");
        wait_for_threads(threads);
    }
}

fn one_life(kind: BackendKind, spread: Spread) {
    let options = PoolOptions { threads: 3, backend: Some(kind), fallback: false, ..PoolOptions::default() };
    let pool = ReactorPool::<()>::start(options, |_, _, _| Ok(())).unwrap();
    let before = count("fd");
    let listener = pool.listen(local(), spread, ListenOptions::default(), |(), _, _| Some(Box::new(Greets))).unwrap();
    let mut clients: Vec<_> = (0..12).map(|_| peer(listener.local_addr())).collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    assert!(count("fd") > before + 24, "there is something to leak");
    // Some are on their way to a loop when it ends.
    let late: Vec<_> = (0..12).map(|_| peer(listener.local_addr())).collect();
    pool.stop().unwrap();
    drop(late);
}
