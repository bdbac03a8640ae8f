//! Accepting when the process is out of descriptors (spec/netlib.md §14.10). Alone
//! in its file, that is in its process: the limit is the process's.

mod support;

use std::fs::File;
use std::io::{Read, Write};

use netlib::backend::BackendKind;
use netlib::{Conn, Context, Handler, ListenOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{drive, local, peer, reactor};

struct Echo;

impl Handler<usize> for Echo {
    fn on_open(&mut self, opened: &mut usize, _: &mut Context<usize>, _: &Conn) {
        *opened += 1;
    }

    fn on_data(&mut self, _: &mut usize, _: &mut Context<usize>, conn: &Conn, input: &[u8]) -> usize {
        conn.send(input.to_vec()).unwrap();
        input.len()
    }
}

#[test]
fn c10_accepting_rests_at_the_descriptor_limit_and_recovers() {
    let old = getrlimit(Resource::Nofile);
    for kind in BackendKind::ALL {
        let mut reactor = reactor::<usize>(kind);
        let mut opened = 0;
        let cx = reactor.context();
        let listener = cx.listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(Echo))).unwrap();
        // Clients first, while descriptors are left; they wait in the queue.
        let mut clients: Vec<_> = (0..3).map(|_| peer(listener.local_addr())).collect();
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: old.maximum }).unwrap();
        let mut hoard: Vec<File> = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hoard.push(file);
        }
        while reactor.context().stats().accept_rests < 2 {
            reactor.run_once(&mut opened, Some(std::time::Duration::from_millis(50))).unwrap();
        }
        assert_eq!(opened, 0, "{kind}: accepted beyond the limit");
        let ticks = reactor.context().stats().ticks;
        assert!(ticks < 50, "{kind}: it spins: {ticks} ticks");
        hoard.clear();
        setrlimit(Resource::Nofile, old).unwrap();
        drive(&mut reactor, &mut opened, "recovery", |opened| *opened >= 1);
        // Each rest told one peer by a close; the last one is served.
        let mut last = clients.pop().unwrap();
        last.write_all(b"still there?").unwrap();
        reactor.run_once(&mut opened, Some(std::time::Duration::from_millis(50))).unwrap();
        let mut answer = [0; 12];
        last.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"still there?");
    }
}
