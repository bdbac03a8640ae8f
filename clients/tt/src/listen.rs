//! `tt listen`: prints what arrives, each message once and in order, across lost connections.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::{Duration, Instant};

use tt_client::{Client, Error, Event, Events, Message, Options, Peer};

use crate::directory::Directory;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::printable;

/// How many missed messages to ask for at once.
const PAGE: u32 = 200;

/// Listens, with or without the notices besides, until `count` messages are printed, `timeout` has passed, or the session ends.
pub(crate) fn listen(
    options: Options,
    output: &mut Output<impl Write>,
    count: Option<u64>,
    timeout: Option<Duration>,
    notices: bool,
) -> Result<(), Failure> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut options = options.reconnecting();
    options.login_timeout = timeout.map_or(options.login_timeout, |timeout| timeout.min(options.login_timeout));
    let (client, events) = Client::login(options)?;
    let mut listener = Listener {
        names: Directory::new(&client.users()?),
        newest: newest_numbers(&client)?,
        client,
        output,
        caught_up: HashSet::new(),
        left: count,
    };
    while listener.left != Some(0) {
        match next(&events, deadline)? {
            Some(Event::Message(message)) => listener.arrived(&message)?,
            Some(Event::Offline { error, retry_in }) => {
                let error = printable(&error.to_string(), false);
                eprintln!("tt: {error}; trying again in {:.0} s", retry_in.as_secs_f32());
            }
            Some(Event::Online { .. }) => {
                eprintln!("tt: connected again");
                listener.catch_up()?;
            }
            Some(Event::Closed(error)) => return Err(error.into()),
            Some(event) => {
                if notices {
                    listener.noticed(&event)?;
                }
            }
            None => {
                return match (count, timeout) {
                    (Some(count), Some(after)) => {
                        let left = listener.left.unwrap_or(0);
                        let text = format!("{} of {count} messages within {} s", count - left, after.as_secs_f32());
                        Err(Failure::late(text))
                    }
                    _ => Ok(()),
                };
            }
        }
    }
    Ok(())
}

struct Listener<'a, W> {
    client: Client,
    output: &'a mut Output<W>,
    names: Directory,
    /// Per conversation the number up to which nothing needs to be caught up.
    newest: HashMap<Peer, u32>,
    /// Printed from the history; if they also arrive, that is the second time.
    caught_up: HashSet<(Peer, u32)>,
    /// How many more to print.
    left: Option<u64>,
}

impl<W: Write> Listener<'_, W> {
    fn arrived(&mut self, message: &Message) -> Result<(), Failure> {
        if self.caught_up.remove(&(message.conversation, message.msg_id)) {
            return Ok(());
        }
        self.print(message)
    }

    fn print(&mut self, message: &Message) -> Result<(), Failure> {
        if self.left == Some(0) {
            return Ok(());
        }
        match message.conversation {
            Peer::User(_) => self.meet(&[message.from, message.to]),
            Peer::Group(_) => self.meet(&[message.from]),
        }
        self.output.message(message, &self.names)?;
        let newest = self.newest.entry(message.conversation).or_default();
        *newest = message.msg_id.max(*newest);
        self.left = self.left.map(|left| left - 1);
        Ok(())
    }

    /// Somebody new. If the server does not say who, the id must do.
    fn meet(&mut self, ids: &[u32]) {
        let unknown: Vec<u32> = ids.iter().copied().filter(|id| *id != 0 && !self.names.knows(*id)).collect();
        if !unknown.is_empty() {
            self.names.add(self.client.users_by_id(&unknown).iter().flatten());
        }
    }

    /// Counts as no message.
    fn noticed(&mut self, event: &Event) -> Result<(), Failure> {
        if let Event::Group(change) = event {
            self.meet(&[&[change.by], &change.changed[..]].concat());
        }
        self.output.notice(event, &self.names)?;
        Ok(())
    }

    /// Prints what came while there was no connection. Events that arrive meanwhile wait, so the
    /// order stays.
    fn catch_up(&mut self) -> Result<(), Failure> {
        // What was caught up before has either arrived by now or never will.
        self.caught_up.clear();
        match self.missed() {
            Ok(missed) => {
                for message in missed {
                    self.caught_up.insert((message.conversation, message.msg_id));
                    self.print(&message)?;
                }
                Ok(())
            }
            // Lost again: the next time will do.
            Err(Error::Unreachable { .. } | Error::Timeout { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The messages above the known numbers, conversation by conversation, each in order.
    fn missed(&self) -> Result<Vec<Message>, Error> {
        let mut missed = Vec::new();
        for (peer, latest) in newest_numbers(&self.client)? {
            let known = self.newest.get(&peer).copied().unwrap_or(0);
            let mut from = latest;
            let mut newest_first = Vec::new();
            while from > known {
                let page = self.client.history(peer, from, PAGE.min(from - known))?;
                let Some(oldest) = page.last().map(|message| message.msg_id) else { break };
                newest_first.extend(page.into_iter().filter(|message| message.msg_id > known));
                from = oldest.saturating_sub(1);
            }
            missed.extend(newest_first.into_iter().rev());
        }
        Ok(missed)
    }
}

/// The number of the newest message of each recent conversation.
fn newest_numbers(client: &Client) -> Result<HashMap<Peer, u32>, Error> {
    Ok(client.sessions()?.into_iter().map(|session| (session.peer, session.latest_msg_id)).collect())
}

/// The next event, or None when the time is over.
fn next(events: &Events, deadline: Option<Instant>) -> Result<Option<Event>, Error> {
    /// Without a deadline the wait is only cut into pieces.
    const LONG: Duration = Duration::from_hours(24);
    loop {
        let left = deadline.map_or(LONG, |deadline| deadline.saturating_duration_since(Instant::now()));
        match events.next(left) {
            Ok(event) => return Ok(Some(event)),
            Err(Error::Timeout { .. }) if deadline.is_none() => {}
            Err(Error::Timeout { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
