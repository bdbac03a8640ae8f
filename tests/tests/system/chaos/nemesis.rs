//! What goes wrong in a chaos run, and when. Everything is drawn from the seed.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tt_tests::{PATIENCE, Random};

use super::device::World;
use crate::cluster::Fleet;

pub(crate) struct Nemesis<'a> {
    fleet: &'a Fleet,
    world: &'a World,
    random: &'a mut Random,
    tally: &'a mut BTreeMap<String, usize>,
    /// The db-proxy that serves; the other stands by.
    serving: usize,
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(
        fleet: &'a Fleet,
        world: &'a World,
        random: &'a mut Random,
        tally: &'a mut BTreeMap<String, usize>,
    ) -> Self {
        Self { fleet, world, random, tally, serving: 0 }
    }

    /// Kills so many servers, one after the other, each with requests in flight, and starts them again. Beside
    /// half of the kills something else goes wrong.
    pub(crate) fn kill(mut self, kills: usize) {
        for _ in 0..kills {
            // For nothing in particular: the next fault hits whatever is going on then.
            self.pause(20, 400);
            if self.random.heads() {
                self.trouble();
            }
            let (role, place) = self.victim();
            let name = format!("{role}-{place}");
            self.wait_for_requests(role, place);
            let log = self.fleet.kill(&name);
            assert!(!log.contains("panicked at"), "{name}:\n{log}");
            self.count(&format!("{role} killed"));
            self.pause(0, 300);
            if role == "db-proxy" && place == self.serving {
                self.serving = 1 - place;
                self.fleet.wait_line(&format!("db-proxy-{}", self.serving), "Ready");
            }
            self.fleet.launch(role, place);
            self.fleet.wait_line(&name, if role == "db-proxy" { "Standing by" } else { "Ready" });
        }
    }

    fn pause(&mut self, low: u64, high: u64) {
        thread::sleep(Duration::from_millis(self.random.between(low, high)));
    }

    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    fn victim(&mut self) -> (&'static str, usize) {
        match self.random.between(0, 19) {
            0..9 => {
                // One that has something to do: the clients may all be elsewhere.
                self.wait_for_requests("any", 0);
                let busiest = (0..3).max_by_key(|place| self.in_flight("msg", *place));
                ("msg", busiest.expect("three of them"))
            }
            9..13 => ("route", self.random.between(0, 1) as usize),
            13..17 => ("db-proxy", self.serving),
            17 => ("db-proxy", 1 - self.serving),
            _ => ("login", self.random.between(0, 1) as usize),
        }
    }

    /// Requests on their way that need this server: a message passes its msg server, the db-proxy and a route server.
    fn in_flight(&self, role: &str, place: usize) -> usize {
        match role {
            "msg" => self.world.in_flight[place].load(Ordering::SeqCst),
            "login" => self.world.asked[place].load(Ordering::SeqCst),
            _ => self.world.in_flight.iter().map(|count| count.load(Ordering::SeqCst)).sum(),
        }
    }

    /// The kill that follows at once meets requests.
    fn wait_for_requests(&self, role: &str, place: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.in_flight(role, place) == 0 {
            assert!(Instant::now() < deadline, "nobody asks {role}-{place} for anything");
            thread::yield_now();
        }
    }

    /// Something short of a kill.
    fn trouble(&mut self) {
        let proxy = self.fleet.proxy.as_ref().expect("a fleet behind a proxy");
        let msg = self.random.between(0, 2);
        let other = self.random.between(0, 1);
        let way = match self.random.between(0, 3) {
            0 => format!(">msg-{msg}"),
            1 => format!("msg-{msg}>db-proxy-{}", self.serving),
            _ => format!("msg-{msg}>route-{other}"),
        };
        match self.random.between(0, 6) {
            0 | 1 => {
                let closed = self.random.between(0, 600);
                proxy.cut(&way, Duration::from_millis(closed));
                self.count("links cut");
            }
            2 => {
                let lasting = self.random.between(20, 800);
                proxy.stall(&way, Duration::from_millis(lasting));
                self.count("links stalled");
            }
            3 => {
                let by = self.random.between(0, 25);
                proxy.delay(&way, Duration::from_millis(by));
                self.count("links slowed");
            }
            4 | 5 => {
                let names = self.fleet.names();
                let name = &names[self.random.between(0, names.len() as u64 - 1) as usize];
                self.fleet.signal(name, Signal::STOP);
                self.pause(20, 900);
                self.fleet.signal(name, Signal::CONT);
                self.count("processes paused");
            }
            _ => {
                let Some(disk) = &self.fleet.disk else { return };
                if self.random.heads() {
                    disk.is_full(true);
                    self.pause(10, 200);
                    disk.is_full(false);
                    self.count("disks full");
                } else {
                    disk.syncs_fail(true);
                    self.pause(10, 200);
                    disk.syncs_fail(false);
                    self.count("syncs failing");
                }
            }
        }
    }
}
