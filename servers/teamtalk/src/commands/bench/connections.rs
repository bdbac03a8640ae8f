//! `teamtalk bench connections`: clients that sign in and then say nothing. Tells how fast they came,
//! whether all of them stayed, and what one costs in the memory of the msg and the route server: the
//! growth of the processes between the first few and all, over their number.

use std::time::{Duration, Instant};

use clap::Args;
use netlib::Context;
use serde_json::{Map, Value, json};
use tt_client::{ClientClass, Event, Session};

use super::crowd::{self, Scouted};
use super::latency::{Latency, rounded};
use super::scrape::{Pages, Role};
use super::{System, Target, allow_descriptors, client_failed};
use crate::failure::{Failure, Kind, Outcome};

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// How many
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,

    /// How long all of them stay
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// Sign in as desktop clients, which are told of everybody's coming and going
    #[arg(long)]
    pc: bool,

    #[command(flatten)]
    target: Target,
}

/// Clients that sign in at the same time.
const AT_ONCE: usize = 256;
/// Signed in before memory is looked at for the first time: what a server allocates once is there then.
const FIRST: usize = 200;
/// How long presence may take to reach everybody before memory is looked at.
const REST: Duration = Duration::from_secs(3);

pub(crate) fn run(plan: &Plan) -> Outcome {
    let first = FIRST.min(plan.clients as usize / 2);
    let count = plan.clients as usize + first;
    allow_descriptors(count)?;
    let system = plan.target.prepare(count)?;
    let scouted = crowd::scout(&system)?;
    let mut load = Load {
        class: if plan.pc { ClientClass::Pc } else { ClientClass::Mobile },
        clients: count,
        first,
        seconds: Duration::from_secs(plan.seconds),
        system,
        scouted,
        sessions: Vec::new(),
        online: 0,
        lost: 0,
        began: None,
        ramp: None,
        before: Pages::default(),
        after: Pages::default(),
        latency: Latency::new(),
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
    class: ClientClass,
    clients: usize,
    first: usize,
    seconds: Duration,
    system: System,
    scouted: Scouted,
    sessions: Vec<Session<Load>>,
    online: usize,
    lost: usize,
    /// When the first few were there, and how long the others took.
    began: Option<Instant>,
    ramp: Option<Duration>,
    before: Pages,
    after: Pages,
    latency: Latency,
    failure: Option<Failure>,
}

impl Load {
    /// Begins as many sign-ins as may be under way.
    fn more(&mut self, cx: &mut Context<Self>) {
        let target = if self.began.is_some() { self.clients } else { self.first };
        while self.sessions.len() < target && self.sessions.len() - self.online < AT_ONCE {
            let number = self.sessions.len();
            let options = crowd::member(&self.system, &self.scouted, number, self.class);
            let begun = Instant::now();
            let session = Session::open(cx, options, move |load: &mut Self, cx, event| match event {
                Event::Online { .. } => {
                    load.latency.record(begun.elapsed());
                    load.online += 1;
                    load.arrived(cx);
                }
                Event::Closed(error) => {
                    load.lost += 1;
                    let text = client_failed(&error).text;
                    load.failure.get_or_insert_with(|| {
                        Failure::new(Kind::Other, format_args!("client {number} of {}: {text}", load.clients))
                    });
                    cx.stop();
                }
                _ => {}
            });
            self.sessions.push(session);
        }
        if self.first == 0 && self.began.is_none() {
            self.measure_before(cx);
        }
    }

    fn arrived(&mut self, cx: &mut Context<Self>) {
        if self.began.is_none() && self.online == self.first {
            cx.after(REST, |load: &mut Self, cx| load.measure_before(cx));
        } else if self.online == self.clients {
            self.ramp = self.began.map(|began| began.elapsed());
            cx.after(REST.max(self.seconds), |load: &mut Self, cx| {
                load.after = load.system.pages();
                cx.stop();
            });
        } else {
            self.more(cx);
        }
    }

    fn measure_before(&mut self, cx: &mut Context<Self>) {
        self.before = self.system.pages();
        self.began = Some(Instant::now());
        self.more(cx);
    }

    fn report(&self) -> Map<String, Value> {
        let added = (self.clients - self.first) as f64;
        let mut report = Map::new();
        report.insert("connections".to_owned(), json!(self.clients - self.first));
        report
            .insert("sign_ins_per_second".to_owned(), json!(self.ramp.map(|ramp| rounded(added / ramp.as_secs_f64()))));
        report.insert("latency_of_sign_ins".to_owned(), self.latency.report());
        report.insert("lost".to_owned(), json!(self.lost));
        let each = |role| {
            let growth = self.after.growth(&self.before, role, "teamtalk_process_memory_bytes");
            growth.map_or(Value::Null, |bytes| json!((bytes / added).round()))
        };
        if !self.after.is_empty() {
            report.insert(
                "bytes_for_each".to_owned(),
                json!({ "msg": each(Role::Msg), "route": each(Role::Route), "login": each(Role::Login) }),
            );
        }
        report
    }
}
