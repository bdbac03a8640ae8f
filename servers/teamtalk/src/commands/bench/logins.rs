//! `teamtalk bench logins`: clients that sign in, leave, and sign in again. A login is the connect,
//! the password check at db-proxy and the answer; with `--discover` also the question to the login
//! server for a msg server, which is one HTTP connection more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use netlib::Context;
use serde_json::{Map, Value, json};
use tt_client::{ClientClass, Error, Event, Session};

use super::crowd::{self, Scouted};
use super::latency::{Latency, rounded};
use super::scrape::Pages;
use super::{Person, System, Target, allow_descriptors, cpu};
use crate::failure::Outcome;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Clients that sign in at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,

    /// Accounts that they take turns with: a user who signs in too often is refused
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: u32,

    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// Ask the login server for a msg server before each login
    #[arg(long)]
    discover: bool,

    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    allow_descriptors(2 * plan.clients as usize)?;
    let users = plan.users.max(plan.clients) as usize;
    let system = plan.target.prepare(users)?;
    let scouted = crowd::scout(&system)?;
    let before = system.pages();
    let mut load = Load {
        system,
        scouted,
        discover: plan.discover,
        next: 0,
        open: 0,
        sessions: (0..plan.clients).map(|_| None).collect(),
        begun: Instant::now(),
        seconds: Duration::from_secs(plan.seconds),
        done: 0,
        latency: Latency::new(),
        refused: BTreeMap::new(),
    };
    crowd::run(&mut load, |load, cx| {
        load.begun = cx.now();
        for slot in 0..load.sessions.len() {
            load.sign_in(cx, slot);
        }
    })?;
    let after = load.system.pages();
    let report = load.report(&before, &after);
    plan.target.tell(report)
}

struct Load {
    system: System,
    scouted: Scouted,
    discover: bool,
    /// Counts the logins begun; the next one takes the account that has rested longest.
    next: usize,
    open: usize,
    sessions: Vec<Option<Session<Load>>>,
    begun: Instant,
    seconds: Duration,
    done: u64,
    latency: Latency,
    refused: BTreeMap<String, u64>,
}

impl Load {
    fn sign_in(&mut self, cx: &mut Context<Self>, slot: usize) {
        let person: &Person = &self.system.people[self.next % self.system.people.len()];
        let mut options = self.system.options(person, ClientClass::Mobile);
        options.message_server = (!self.discover).then_some(self.scouted.server);
        options.local_address = crowd::address(self.scouted.server, self.next);
        self.next += 1;
        self.open += 1;
        let begun = Instant::now();
        self.sessions[slot] = Some(Session::open(cx, options, move |load: &mut Self, cx, event| match event {
            Event::Online { .. } => {
                if load.is_on() {
                    load.done += 1;
                    load.latency.record(begun.elapsed());
                }
                if let Some(session) = load.sessions[slot].clone() {
                    session.close(cx);
                }
            }
            Event::Closed(error) => load.closed(cx, slot, error),
            _ => {}
        }));
    }

    fn closed(&mut self, cx: &mut Context<Self>, slot: usize, error: Error) {
        if error != Error::Closed {
            *self.refused.entry(error.to_string()).or_default() += 1;
        }
        self.open -= 1;
        self.sessions[slot] = None;
        if self.is_on() {
            self.sign_in(cx, slot);
        } else if self.open == 0 {
            cx.stop();
        }
    }

    fn is_on(&self) -> bool {
        self.begun.elapsed() < self.seconds
    }

    fn report(&self, before: &Pages, after: &Pages) -> Map<String, Value> {
        let mut report = Map::new();
        report.insert("logins_per_second".to_owned(), json!(rounded(self.done as f64 / self.seconds.as_secs_f64())));
        report.insert("latency".to_owned(), self.latency.report());
        report.insert("refused".to_owned(), json!(self.refused.values().sum::<u64>()));
        if !self.refused.is_empty() {
            // In the servers' words, which name the limit if one was hit.
            report.insert("limited_by".to_owned(), json!(self.refused));
        }
        if !after.is_empty() {
            report.insert("processor_seconds".to_owned(), cpu(before, after));
        }
        report
    }
}
