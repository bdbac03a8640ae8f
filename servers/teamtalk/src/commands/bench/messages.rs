//! `teamtalk bench messages`: pairs of users (or groups) of whom one talks and the others listen.
//!
//! Without `--rate` each sender keeps `--depth` messages unanswered and sends the next one with each
//! answer: what comes out is the system's throughput at that depth. With it, messages are due at
//! fixed times whatever the system does, and latency counts from when a message was due, so that a
//! system that stalls cannot hide it by being asked less (no coordinated omission).
//!
//! When the sending has ended and what was under way is answered, every conversation's history is
//! read back and held against the books (`ledger.rs`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clap::Args;
use netlib::Context;
use serde_json::{Map, Value, json};
use tt_client::request::{CreateGroup, History, SendText};
use tt_client::{ClientClass, Error, Event, Message, Peer, SendLimit, Session};

use super::disk::{self, Bare};
use super::latency::{Latency, rounded};
use super::ledger::{Counts, Fate, Ledger};
use super::scrape::{Pages, Role};
use super::{System, Target, allow_descriptors, client_failed, cpu, crowd};
use crate::failure::{Failure, Kind, Outcome};

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Conversations, each with one sender
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pairs: u32,

    /// Messages that each sender has unanswered at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    depth: u32,

    /// How long to measure, after a second of warming up
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// Messages a second over all senders, due at fixed times [default: as many as there are answers]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,

    /// Talk in groups of so many members instead of pairs of users
    #[arg(long, value_name = "G", value_parser = clap::value_parser!(u32).range(2..=2_000))]
    group_size: Option<u32>,

    /// Bytes of each text
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(40..=3_000))]
    size: u32,

    /// Leave out the disk's own figures: one fdatasync, and the bare writer
    #[arg(long)]
    no_disk: bool,

    #[command(flatten)]
    target: Target,
}

const WARM_UP: Duration = Duration::from_secs(1);
/// How long one message may stay unanswered before its fate counts as unknown.
const ANSWER: Duration = Duration::from_secs(30);
/// How long copies are awaited once all is answered; what has not come by then is looked for in the history.
const COPIES: Duration = Duration::from_secs(5);
/// How long everybody may take to sign in.
const SIGN_IN: Duration = Duration::from_mins(2);
/// Between two looks at the clock when messages are due at fixed times.
const TICK: Duration = Duration::from_millis(1);
/// Messages of one page of history.
const PAGE: u32 = 200;

pub(crate) fn run(plan: &Plan) -> Outcome {
    let members = plan.group_size.unwrap_or(2) as usize;
    let count = plan.pairs as usize * members;
    allow_descriptors(count)?;
    let system = plan.target.prepare(count)?;
    let sync = match system.place().filter(|_| !plan.no_disk) {
        Some(place) => Some(disk::fdatasync(place)?),
        None => None,
    };
    let scouted = crowd::scout(&system)?;
    let before = system.pages();
    let mut load = Load::new(plan, members);
    crowd::run(&mut load, |load, cx| load.begin(cx, &system))?;
    if let Some(failure) = load.failure.take() {
        return Err(failure);
    }
    let after = load.pages_at_end.take().unwrap_or_else(|| system.pages());
    let mut report = load.report(scouted.limit, &before, &after);
    if let Some(sync) = sync {
        report.insert("fdatasync".to_owned(), sync.report());
    }
    let batch = mean_batch(&before, &after);
    if let (Some(place), Some(batch), false) = (system.place(), batch, plan.no_disk) {
        let bare = Bare {
            pairs: plan.pairs,
            batch: (batch.round() as usize).max(1),
            body: load.body,
            time: Duration::from_secs(plan.seconds.min(5)),
        };
        let (rate, mut told) = bare.run(place)?;
        told["acks_of_it_percent"] = json!((100.0 * load.rate() / rate).round());
        report.insert("bare_writer".to_owned(), told);
    }
    plan.target.tell(report)
}

/// Writes that shared a transaction, on average.
fn mean_batch(before: &Pages, after: &Pages) -> Option<f64> {
    let growth = |name| after.growth(before, Role::DbProxy, name);
    let (sum, count) = (growth("teamtalk_store_batch_size_sum")?, growth("teamtalk_store_batch_size_count")?);
    (count > 0.0).then_some(sum / count)
}

/// A conversation: the first of its people sends.
struct Talk {
    people: Vec<Member>,
    peer: Option<Peer>,
    ledger: Ledger,
    /// When each message was due, by number.
    due_at: Vec<Instant>,
    /// Those that are due and wait for room under `--depth`.
    waiting: VecDeque<Instant>,
    in_flight: u32,
    /// The history as far as it is read, newest first: id and number.
    history: Vec<(u32, u32)>,
}

#[derive(Default)]
struct Member {
    session: Option<Session<Load>>,
    id: u32,
}

struct Load {
    /// Tells this run's messages from those of others in the same conversations.
    run: u32,
    depth: u32,
    rate: Option<u32>,
    members: usize,
    grouped: bool,
    size: usize,
    /// Bytes of a body on the wire.
    body: usize,
    seconds: Duration,
    talks: Vec<Talk>,
    metrics: Vec<std::net::SocketAddr>,
    pages_at_end: Option<Pages>,
    missing: usize,
    begun: Option<Instant>,
    ended: Option<Instant>,
    /// Messages handed out by the clock so far.
    scheduled: u64,
    unread: usize,
    acks: u64,
    ack: Latency,
    delivery: Latency,
    reconnects: u64,
    failure: Option<Failure>,
}

impl Load {
    fn new(plan: &Plan, members: usize) -> Self {
        let talk = |_| Talk {
            people: (0..members).map(|_| Member::default()).collect(),
            peer: None,
            ledger: Ledger::new(members - 1),
            due_at: Vec::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            history: Vec::new(),
        };
        Self {
            run: rand::random(),
            depth: plan.depth,
            rate: plan.rate,
            members,
            grouped: plan.group_size.is_some(),
            size: plan.size as usize,
            body: 0,
            seconds: Duration::from_secs(plan.seconds),
            talks: (0..plan.pairs).map(talk).collect(),
            metrics: Vec::new(),
            pages_at_end: None,
            missing: plan.pairs as usize * members,
            begun: None,
            ended: None,
            scheduled: 0,
            unread: plan.pairs as usize,
            acks: 0,
            ack: Latency::new(),
            delivery: Latency::new(),
            reconnects: 0,
            failure: None,
        }
    }

    fn begin(&mut self, cx: &mut Context<Self>, system: &System) {
        self.metrics.clone_from(&system.metrics);
        for (number, person) in system.people.iter().enumerate() {
            let (talk, who) = (number / self.members, number % self.members);
            // Phones are told of nobody's coming and going, so that only messages are measured.
            let mut options = system.options(person, ClientClass::Mobile);
            options.login_timeout = SIGN_IN;
            let session = Session::open(cx, options.reconnecting(), move |load: &mut Self, cx, event| {
                load.happened(cx, talk, who, event);
            });
            self.talks[talk].people[who].session = Some(session);
        }
        cx.after(SIGN_IN, |load: &mut Self, cx| {
            if load.begun.is_none() {
                let text = format!("{} clients are not signed in after {SIGN_IN:?}", load.missing);
                load.fail(cx, Failure::new(Kind::Other, text));
            }
        });
    }

    fn happened(&mut self, cx: &mut Context<Self>, talk: usize, who: usize, event: Event) {
        match event {
            Event::Online { me } => {
                let member = &mut self.talks[talk].people[who];
                if std::mem::replace(&mut member.id, me.id) == 0 {
                    self.missing -= 1;
                    if self.missing == 0 {
                        self.introduce(cx);
                    }
                }
            }
            Event::Message(message) => self.heard(cx, talk, who, &message),
            Event::Offline { .. } => self.reconnects += 1,
            Event::Closed(error) => self.fail(cx, client_failed(&error)),
            _ => {}
        }
    }

    /// Everybody is here: groups are made, then the talk begins.
    fn introduce(&mut self, cx: &mut Context<Self>) {
        if !self.grouped {
            for talk in &mut self.talks {
                talk.peer = Some(Peer::User(talk.people[1].id));
            }
            self.start(cx);
            return;
        }
        self.missing = self.talks.len();
        for number in 0..self.talks.len() {
            let members = self.talks[number].people.iter().map(|member| member.id).collect();
            let name = format!("bench {:08x} {number}", self.run);
            let create = CreateGroup { name, avatar: String::new(), members };
            let Some(session) = self.talks[number].people[0].session.clone() else { continue };
            session.ask(cx, create, ANSWER, move |load: &mut Self, cx, group| match group {
                Ok(group) => {
                    load.talks[number].peer = Some(Peer::Group(group));
                    load.missing -= 1;
                    if load.missing == 0 {
                        load.start(cx);
                    }
                }
                Err(error) => load.fail(cx, client_failed(&error)),
            });
        }
    }

    fn start(&mut self, cx: &mut Context<Self>) {
        self.begun = Some(cx.now());
        cx.after(WARM_UP + self.seconds, |load: &mut Self, cx| load.stop_sending(cx));
        if self.rate.is_some() {
            Self::tick(cx);
        } else {
            for talk in 0..self.talks.len() {
                self.pump(cx, talk);
            }
        }
    }

    /// Hands out what has become due, in turns.
    fn tick(cx: &mut Context<Self>) {
        cx.after(TICK, |load: &mut Self, cx| {
            let (Some(begun), Some(rate), None) = (load.begun, load.rate, load.ended) else { return };
            let due = (cx.now() - begun).as_secs_f64() * f64::from(rate);
            while (load.scheduled as f64) < due {
                let at = begun + Duration::from_secs_f64(load.scheduled as f64 / f64::from(rate));
                let talk = (load.scheduled % load.talks.len() as u64) as usize;
                load.scheduled += 1;
                load.talks[talk].waiting.push_back(at);
                load.pump(cx, talk);
            }
            Self::tick(cx);
        });
    }

    /// Sends what a conversation has room for.
    fn pump(&mut self, cx: &mut Context<Self>, talk: usize) {
        while self.ended.is_none() && self.talks[talk].in_flight < self.depth {
            let due = match self.rate {
                None => Instant::now(),
                Some(_) => match self.talks[talk].waiting.pop_front() {
                    Some(due) => due,
                    None => return,
                },
            };
            self.send(cx, talk, due);
        }
    }

    fn send(&mut self, cx: &mut Context<Self>, at: usize, due: Instant) {
        let talk = &mut self.talks[at];
        let (Some(peer), Some(session)) = (talk.peer, talk.people[0].session.clone()) else { return };
        let number = talk.ledger.send();
        talk.due_at.push(due);
        talk.in_flight += 1;
        let text = text(self.run, number, self.size);
        let message = match SendText::new(peer, &text) {
            Ok(message) => message,
            Err(error) => return self.fail(cx, client_failed(&error)),
        };
        self.body = message.body_len();
        session.ask(cx, message, ANSWER, move |load: &mut Self, cx, sent| {
            let fate = match sent {
                Ok(sent) => {
                    if load.is_measured(due) {
                        load.ack.record(due.elapsed());
                    }
                    load.acks += u64::from(load.is_measured(Instant::now()));
                    Fate::Acked(sent.msg_id)
                }
                Err(Error::Refused { .. }) => Fate::Refused,
                Err(_) => Fate::Unknown,
            };
            let talk = &mut load.talks[at];
            talk.ledger.settle(number, fate);
            talk.in_flight -= 1;
            load.pump(cx, at);
        });
    }

    fn heard(&mut self, _: &mut Context<Self>, at: usize, who: usize, message: &Message) {
        let number = message.text().and_then(|text| number_of(text, self.run));
        let Some(number) = number.filter(|_| who > 0) else { return };
        let talk = &mut self.talks[at];
        talk.ledger.hear(who - 1, number);
        let Some(due) = talk.due_at.get(number as usize).copied() else { return };
        if self.is_measured(due) {
            self.delivery.record(due.elapsed());
        }
    }

    fn is_measured(&self, at: Instant) -> bool {
        self.begun.is_some_and(|begun| at >= begun + WARM_UP && at < begun + WARM_UP + self.seconds)
    }

    fn stop_sending(&mut self, cx: &mut Context<Self>) {
        self.ended = Some(cx.now());
        self.pages_at_end = Some(Pages::read(&self.metrics));
        self.settle(cx, None);
    }

    /// Waits until everything is answered, and a while longer until every copy has come.
    fn settle(&mut self, cx: &mut Context<Self>, answered: Option<Instant>) {
        let under_way = self.talks.iter().any(|talk| talk.in_flight > 0);
        let answered = answered.or_else(|| (!under_way).then(|| cx.now()));
        let all_heard = self.talks.iter().all(|talk| talk.ledger.heard_by_all() >= talk.ledger.acked());
        match answered {
            Some(at) if all_heard || cx.now() - at >= COPIES => {
                for talk in 0..self.talks.len() {
                    self.read_history(cx, talk, 0);
                }
            }
            answered => {
                cx.after(Duration::from_millis(50), move |load: &mut Self, cx| load.settle(cx, answered));
            }
        }
    }

    /// Reads a conversation from its end back to where this run began, as its first receiver sees it.
    fn read_history(&mut self, cx: &mut Context<Self>, at: usize, from_msg_id: u32) {
        let talk = &self.talks[at];
        let Some(session) = talk.people[1].session.clone() else { return };
        let peer = match talk.peer {
            Some(Peer::User(_)) | None => Peer::User(talk.people[0].id),
            Some(group) => group,
        };
        session.ask(cx, History { peer, from_msg_id, count: PAGE }, ANSWER, move |load: &mut Self, cx, page| {
            let page = match page {
                Ok(page) => page,
                Err(error) => return load.fail(cx, client_failed(&error)),
            };
            let ours = page.iter().filter_map(|message| {
                let number = message.text().and_then(|text| number_of(text, load.run));
                number.map(|number| (message.msg_id, number))
            });
            let talk = &mut load.talks[at];
            let before = talk.history.len();
            talk.history.extend(ours);
            let oldest = page.last().map_or(0, |message| message.msg_id);
            if talk.history.len() > before && oldest > 1 {
                load.read_history(cx, at, oldest - 1);
                return;
            }
            load.unread -= 1;
            if load.unread == 0 {
                cx.stop();
            }
        });
    }

    fn fail(&mut self, cx: &mut Context<Self>, failure: Failure) {
        self.failure.get_or_insert(failure);
        cx.stop();
    }

    /// Acknowledged messages a second.
    fn rate(&self) -> f64 {
        self.acks as f64 / self.seconds.as_secs_f64()
    }

    fn report(&mut self, limit: Option<SendLimit>, before: &Pages, after: &Pages) -> Map<String, Value> {
        let mut counts = Counts::default();
        for talk in &mut self.talks {
            talk.history.reverse();
            talk.ledger.balance(&talk.history, &mut counts);
        }
        let Counts { sent, acked, refused, unknown, stored, delivered, fetched, violations } = counts;
        let mut report = Map::new();
        report.insert("acks_per_second".to_owned(), json!(rounded(self.rate())));
        report.insert("limited_by".to_owned(), json!(self.limited_by(limit, before, after)));
        report.insert("latency_to_ack".to_owned(), self.ack.report());
        report.insert("latency_to_delivery".to_owned(), self.delivery.report());
        report.insert(
            "conservation".to_owned(),
            json!({
                "sent": sent, "acked": acked, "refused": refused, "unknown": unknown,
                "stored": stored, "copies_delivered": delivered, "copies_only_in_history": fetched,
                "reconnects": self.reconnects,
            }),
        );
        report.insert("violations".to_owned(), json!(violations));
        if !after.is_empty() {
            let growth =
                |role, name| after.growth(before, role, name).map_or(Value::Null, |number| json!(rounded(number)));
            let commits = after.growth(before, Role::DbProxy, "teamtalk_store_commit_seconds_count");
            let seconds = after.growth(before, Role::DbProxy, "teamtalk_store_commit_seconds_sum");
            let commit = commits.zip(seconds).filter(|(commits, _)| *commits > 0.0);
            report.insert(
                "store".to_owned(),
                json!({
                    "commits": commits,
                    "messages_in_a_commit": mean_batch(before, after).map(rounded),
                    "commit_ms": commit.map(|(commits, seconds)| rounded(1e3 * seconds / commits)),
                    "rate_pauses": growth(Role::Msg, "teamtalk_rate_pauses_total"),
                }),
            );
            report.insert("processor_seconds".to_owned(), cpu(before, after));
        }
        report
    }

    /// Whether senders were held back by the msg server's rate limit, and not by what the system can do. A
    /// sender that has used up all that the limit gave it in this time was.
    fn limited_by(&self, limit: Option<SendLimit>, before: &Pages, after: &Pages) -> Option<String> {
        let (limit, begun, ended) = (limit?, self.begun?, self.ended?);
        let time = (ended - begun).as_secs_f64();
        let given = f64::from(limit.burst) + f64::from(limit.per_second) * time;
        let held = self.talks.iter().filter(|talk| is_held(talk.ledger.sent(), given)).count();
        if held == 0 {
            return None;
        }
        let pauses = after.growth(before, Role::Msg, "teamtalk_rate_pauses_total");
        let pauses = pauses.map_or_else(String::new, |count| format!(", which paused reading {count} times"));
        Some(format!(
            "limits.messages_per_second = {} (burst {}) of the msg server held {held} of {} senders{pauses}: \
             take more --pairs, or raise it there",
            limit.per_second,
            limit.burst,
            self.talks.len()
        ))
    }
}

/// A sender that came this close to what it was given was waiting for more.
fn is_held(sent: usize, given: f64) -> bool {
    sent as f64 >= 0.97 * given
}

/// A text that says which message it is, filled up to its size.
fn text(run: u32, number: u32, size: usize) -> String {
    let mut text = format!("bench {run:08x} {number} ");
    text.extend(std::iter::repeat_n('x', size.saturating_sub(text.len())));
    text
}

fn number_of(text: &str, run: u32) -> Option<u32> {
    let rest = text.strip_prefix("bench ")?.strip_prefix(&*format!("{run:08x} "))?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_which_message_of_which_run_it_is() {
        let text = text(0xab, 70_000, 64);
        assert_eq!(text.len(), 64);
        assert_eq!(number_of(&text, 0xab), Some(70_000));
        assert_eq!(number_of(&text, 0xac), None, "another run's");
        assert_eq!(number_of("hello", 0xab), None);
    }

    #[test]
    fn a_sender_that_used_up_its_rate_was_held_and_one_that_did_not_was_not() {
        let given = 1_000.0 + 500.0 * 11.0;
        assert!(is_held(6_500, given));
        assert!(is_held(6_320, given), "the last pause is never quite over");
        assert!(!is_held(5_000, given));
    }
}
