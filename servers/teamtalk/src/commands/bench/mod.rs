//! `teamtalk bench …`: puts load on a running system, measures what its clients see, and checks
//! that every promise was kept meanwhile. It is a client among others: it stands on the client
//! library and needs nothing of the servers but accounts to sign in with.
//!
//! | to read about | see |
//! |---|---|
//! | the loads | `messages.rs`, `logins.rs`, `connections.rs`, `presence.rs` |
//! | the books that must balance | `ledger.rs` |
//! | who signs in, and where from | `people.rs`, `crowd.rs` |
//! | a system of its own to measure | `own.rs` |
//! | what the figures are held against | `disk.rs`, `scrape.rs` |
//! | how they are told | `latency.rs`, `report.rs` |

mod connections;
mod crowd;
mod disk;
mod latency;
mod ledger;
mod logins;
mod messages;
mod own;
mod people;
mod presence;
mod report;
mod scrape;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tt_client::{ClientClass, Options, ServerUrl};

use self::latency::rounded;
use self::own::OwnSystem;
use self::people::Person;
use self::scrape::{Pages, Role};
use crate::commands::{DEFAULT_DATA, say};
use crate::failure::{EXIT_CODES, Failure, Kind, Outcome};
use crate::ports;

#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Send messages in pairs of users, or in groups, and check that every promise was kept
    #[command(after_help = EXIT_CODES)]
    Messages(messages::Plan),
    /// Sign in, leave, and sign in again, as fast as the system takes it
    #[command(after_help = EXIT_CODES)]
    Logins(logins::Plan),
    /// Keep many clients signed in and idle, and tell what one of them costs
    #[command(after_help = EXIT_CODES)]
    Connections(connections::Plan),
    /// Come and go while others watch, and tell when they learn of it
    #[command(after_help = EXIT_CODES)]
    Presence(presence::Plan),
}

/// Which system is measured, and how the outcome is told.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The login server of the system
    #[arg(long, value_name = "URL", default_value = ServerUrl::DEFAULT, help_heading = "The system")]
    server: ServerUrl,

    /// The system's data directory: accounts bench-1, bench-2, … are made there, as `teamtalk user
    /// add` would, and the disk that it lies on is measured
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA, help_heading = "The system")]
    data: PathBuf,

    /// Sign in with these accounts and make none: a file with a name, a blank and a password on
    /// each line
    #[arg(long, value_name = "FILE", help_heading = "The system")]
    accounts: Option<PathBuf>,

    /// Where the servers' /metrics are, to tell batches, memory and pauses from [default: those of
    /// `teamtalk dev` if --server is not given]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', help_heading = "The system")]
    metrics: Vec<SocketAddr>,

    /// Measure a fresh system instead, each role a process of its own, with its data in DIR (which
    /// says which disk is measured) [default: the directory for temporary files]; both are gone afterwards
    #[arg(
        long = "self",
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = ["server", "data", "accounts", "metrics"],
        help_heading = "The system"
    )]
    #[allow(clippy::option_option)] // not given, given, given with a directory
    own: Option<Option<PathBuf>>,

    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// A system that serves, and how to sign in to it.
#[derive(Debug)]
struct System {
    server: ServerUrl,
    metrics: Vec<SocketAddr>,
    people: Vec<Person>,
    /// The disk under the store, if it is this machine's.
    disk: Option<PathBuf>,
    /// What ends when the measurement does.
    _own: Option<OwnSystem>,
}

pub(crate) fn run(load: &Load) -> Outcome {
    match load {
        Load::Messages(plan) => messages::run(plan),
        Load::Logins(plan) => logins::run(plan),
        Load::Connections(plan) => connections::run(plan),
        Load::Presence(plan) => presence::run(plan),
    }
}

impl Target {
    /// Finds or starts the system and has `count` accounts ready.
    fn prepare(&self, count: usize) -> Outcome<System> {
        if let Some(place) = &self.own {
            let place = place.clone().unwrap_or_else(std::env::temp_dir);
            let own = OwnSystem::start(&place)?;
            return Ok(System {
                server: own.login().into(),
                metrics: own.metrics(),
                people: people::in_directory(own.data(), count)?,
                disk: Some(place),
                _own: Some(own),
            });
        }
        let people = match &self.accounts {
            Some(file) => people::in_file(file, count)?,
            None if self.data.is_dir() => people::in_directory(&self.data, count)?,
            None => {
                let text = format!(
                    "no data directory {} to make accounts in: name the system's with --data, or accounts with \
                     --accounts, or measure a fresh system with --self",
                    self.data.display()
                );
                return Err(Failure::new(Kind::Usage, text));
            }
        };
        let by_default = self.metrics.is_empty() && self.server.to_string() == ServerUrl::DEFAULT;
        let metrics = if by_default {
            [&ports::METRICS_LOGIN, &ports::METRICS_MSG, &ports::METRICS_ROUTE, &ports::METRICS_DB_PROXY]
                .map(|port| SocketAddr::from(([127, 0, 0, 1], port.published)))
                .to_vec()
        } else {
            self.metrics.clone()
        };
        let disk = (self.accounts.is_none()).then(|| self.data.clone());
        Ok(System { server: self.server.clone(), metrics, people, disk, _own: None })
    }

    /// Prints the outcome; one with a violation is a failure.
    fn tell(&self, report: Map<String, Value>) -> Outcome {
        let violated = report.get("violations").and_then(Value::as_object).is_some_and(|found| !found.is_empty());
        if self.json {
            say(format_args!("{:#}", Value::Object(report)));
        } else {
            say(report::text(&report).trim_end());
        }
        if violated {
            return Err(Failure::new(Kind::Violation, "a promise was broken; the violations above say which"));
        }
        Ok(())
    }
}

impl System {
    /// How a person signs in.
    fn options(&self, person: &Person, class: ClientClass) -> Options {
        Options::new(self.server.clone(), &person.name, &person.password, class)
    }

    fn pages(&self) -> Pages {
        Pages::read(&self.metrics)
    }

    fn place(&self) -> Option<&Path> {
        self.disk.as_deref()
    }
}

/// What each kind of server has used of the processor while a measurement ran, in seconds; in
/// `teamtalk dev` all of them share a process.
fn cpu(before: &Pages, after: &Pages) -> Value {
    let used = |role| {
        after.growth(before, role, "teamtalk_process_cpu_seconds").map_or(Value::Null, |time| json!(rounded(time)))
    };
    json!({
        "login": used(Role::Login),
        "msg": used(Role::Msg),
        "route": used(Role::Route),
        "db_proxy": used(Role::DbProxy),
    })
}

/// The file descriptors that many connections take.
fn allow_descriptors(count: usize) -> Outcome {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = count as u64 + 200;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if maximum.is_some_and(|maximum| maximum < wanted) {
        let text = format!(
            "{wanted} file descriptors are needed, and this user may have {}: raise `ulimit -n`",
            maximum.unwrap_or(0)
        );
        return Err(Failure::new(Kind::Usage, text));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .map_err(|error| Failure::new(Kind::Other, format_args!("more file descriptors: {error}")))
}

/// An error of the client library that ends a measurement.
fn client_failed(error: &tt_client::Error) -> Failure {
    Failure::new(Kind::Other, error)
}
