//! `teamtalk bench presence`: some users come and go at a fixed rate while others watch. Tells how
//! long after a change its watchers learn of it, how many notices a watcher gets, and what it costs
//! the servers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clap::Args;
use netlib::Context;
use serde_json::{Map, Value, json};
use tt_client::{ClientClass, Error, Event, Options, Presence, Session};

use super::crowd::{self, Scouted};
use super::latency::{Latency, rounded};
use super::scrape::Pages;
use super::{System, Target, allow_descriptors, client_failed, cpu};
use crate::failure::{Failure, Outcome};

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Desktop clients that watch
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,

    /// Changes a second: a user comes or goes
    #[arg(long, value_name = "R", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,

    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    #[command(flatten)]
    target: Target,
}

/// Watchers that sign in at the same time.
const AT_ONCE: usize = 128;
/// How long the watchers' own coming may take to be told to all of them.
const REST: Duration = Duration::from_secs(3);
/// How long after the last change its notices are awaited.
const LAST: Duration = Duration::from_secs(3);

pub(crate) fn run(plan: &Plan) -> Outcome {
    let watchers = plan.watchers as usize;
    // Each of them stays and rests for a while, so that a user does not come too often.
    let walkers = (plan.rate as usize * 4).max(8);
    allow_descriptors(watchers + walkers)?;
    let system = plan.target.prepare(watchers + walkers)?;
    let scouted = crowd::scout(&system)?;
    let mut load = Load {
        watchers,
        period: Duration::from_secs(1) / plan.rate,
        seconds: Duration::from_secs(plan.seconds),
        system,
        scouted,
        sessions: Vec::new(),
        online: 0,
        walkers: (0..walkers).map(|_| None).collect(),
        next: 0,
        began: None,
        over: false,
        changed: HashMap::new(),
        changes: 0,
        notices: 0,
        heard: vec![None; watchers],
        arrivals: 0,
        latency: Latency::new(),
        before: Pages::default(),
        after: Pages::default(),
        watched: Duration::ZERO,
        failure: None,
    };
    crowd::run(&mut load, Load::more)?;
    if let Some(failure) = load.failure.take() {
        return Err(failure);
    }
    let report = load.report();
    plan.target.tell(report)
}

struct Load {
    watchers: usize,
    period: Duration,
    seconds: Duration,
    system: System,
    scouted: Scouted,
    sessions: Vec<Session<Load>>,
    online: usize,
    walkers: Vec<Option<Session<Load>>>,
    next: usize,
    began: Option<Instant>,
    over: bool,
    /// The latest change of each walker: when, and to what.
    changed: HashMap<u32, (Instant, Presence)>,
    changes: u64,
    notices: u64,
    /// When each watcher was last told something, and how often one was: what comes in one piece is one arrival.
    heard: Vec<Option<Instant>>,
    arrivals: u64,
    latency: Latency,
    before: Pages,
    after: Pages,
    /// Between the two looks at the servers' counts.
    watched: Duration,
    failure: Option<Failure>,
}

impl Load {
    fn options(&self, number: usize) -> Options {
        let mut options = crowd::member(&self.system, &self.scouted, number, ClientClass::Pc);
        // The costlier way, and what clients of 2015 get: everybody is told of everybody.
        options.presence_of_all = true;
        options
    }

    fn more(&mut self, cx: &mut Context<Self>) {
        while self.sessions.len() < self.watchers && self.sessions.len() - self.online < AT_ONCE {
            let number = self.sessions.len();
            let options = self.options(number);
            let session = Session::open(cx, options, move |load: &mut Self, cx, event| match event {
                Event::Online { .. } => {
                    load.online += 1;
                    load.more(cx);
                    if load.online == load.watchers {
                        cx.after(REST, |load: &mut Self, cx| load.begin(cx));
                    }
                }
                Event::Presence { user_id, presence } => load.told(cx.now(), number, user_id, presence),
                Event::Closed(error) => load.fail(cx, &error),
                _ => {}
            });
            self.sessions.push(session);
        }
    }

    fn begin(&mut self, cx: &mut Context<Self>) {
        self.before = self.system.pages();
        self.began = Some(cx.now());
        self.walk(cx);
        cx.after(self.seconds, |load: &mut Self, cx| {
            load.over = true;
            cx.after(LAST, |load: &mut Self, cx| {
                load.after = load.system.pages();
                load.watched = load.began.map(|began| began.elapsed()).unwrap_or_default();
                cx.stop();
            });
        });
    }

    /// The next walker comes, or goes if it is here.
    fn walk(&mut self, cx: &mut Context<Self>) {
        if self.over {
            return;
        }
        let at = self.next % self.walkers.len();
        self.next += 1;
        if let Some(session) = self.walkers[at].take() {
            if let Some(me) = session.me() {
                self.changed.insert(me.id, (Instant::now(), Presence::Offline));
                self.changes += 1;
            }
            session.close(cx);
        } else {
            let options = self.options(self.watchers + at);
            self.walkers[at] = Some(Session::open(cx, options, |load: &mut Self, cx, event| match event {
                Event::Online { me } => {
                    load.changed.insert(me.id, (Instant::now(), Presence::Online));
                    load.changes += 1;
                }
                Event::Closed(error) if error != Error::Closed => load.fail(cx, &error),
                _ => {}
            }));
        }
        cx.after(self.period, |load: &mut Self, cx| load.walk(cx));
    }

    fn told(&mut self, now: Instant, watcher: usize, user: u32, presence: Presence) {
        let Some((at, expected)) = self.changed.get(&user) else { return };
        self.notices += 1;
        if *expected == presence {
            self.latency.record(at.elapsed());
        }
        if self.heard[watcher].replace(now) != Some(now) {
            self.arrivals += 1;
        }
    }

    fn fail(&mut self, cx: &mut Context<Self>, error: &Error) {
        self.failure.get_or_insert_with(|| client_failed(error));
        cx.stop();
    }

    fn report(&self) -> Map<String, Value> {
        let seconds = self.seconds.as_secs_f64();
        let mut report = Map::new();
        report.insert("watchers".to_owned(), json!(self.watchers));
        report.insert("changes_per_second".to_owned(), json!(rounded(self.changes as f64 / seconds)));
        report.insert("notices_to_each_watcher".to_owned(), json!(rounded(self.notices as f64 / self.watchers as f64)));
        let arrivals = self.arrivals as f64 / self.watched.as_secs_f64() / self.watchers as f64;
        report.insert("arrivals_at_each_watcher_per_second".to_owned(), json!(rounded(arrivals)));
        report.insert("latency_to_notice".to_owned(), self.latency.report());
        if !self.after.is_empty() {
            report.insert("processor_seconds".to_owned(), cpu(&self.before, &self.after));
        }
        report
    }
}
