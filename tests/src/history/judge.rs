//! The judge. One pass over the events gathers what each message, session and device went through; then each
//! clause is asked about.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{Conversation, Event, Judgement, Parties, Row, SessionId, Stored};

/// The refusal that says that the store failed.
const STORE_FAILED: u32 = 1;

/// What a message went through.
#[derive(Debug)]
struct Sent {
    /// The place of the first sending among all events.
    at: usize,
    to: Conversation,
    user: u32,
    device: u32,
    /// Where the first ack came, and which number it named.
    acked: Option<(usize, u32)>,
    refused: Option<u32>,
    /// The places of all sendings. What nobody had answered was sent again, and either may be the one that is
    /// stored: the first may have been refused, and the refusal lost with its connection.
    sendings: Vec<usize>,
}

#[derive(Debug)]
struct Session {
    at: usize,
    device: u32,
    user: u32,
    open: bool,
    /// What was delivered, in order.
    copies: BTreeMap<Conversation, Vec<u32>>,
}

/// Everything, sorted by whom it concerns.
#[derive(Debug, Default)]
struct Gathered<'a> {
    messages: HashMap<Arc<str>, Sent>,
    /// In the order in which they first left.
    order: Vec<Arc<str>>,
    sessions: BTreeMap<SessionId, Session>,
    /// What each device was shown, in either way.
    seen: HashMap<u32, HashSet<(Conversation, u32)>>,
    shown: Vec<(Conversation, &'a Row)>,
    pages: Vec<Page<'a>>,
    acks: Vec<(Arc<str>, u32)>,
}

#[derive(Debug)]
struct Page<'a> {
    /// Where it was asked for.
    at: usize,
    conversation: Conversation,
    begin: u32,
    count: u32,
    rows: &'a [Row],
}

fn gather(events: &[Event]) -> Gathered<'_> {
    let mut all = Gathered::default();
    let mut asked: HashMap<u64, (usize, SessionId, Conversation, u32, u32)> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Came { session, device, user } => {
                let copies = BTreeMap::new();
                all.sessions.insert(*session, Session { at, device: *device, user: *user, open: true, copies });
            }
            Event::Left { session } => {
                if let Some(session) = all.sessions.get_mut(session) {
                    session.open = false;
                }
            }
            Event::Sent { session: id, to, text } => {
                let Some(session) = all.sessions.get(id) else { continue };
                let (user, device) = (session.user, session.device);
                if let Some(sent) = all.messages.get_mut(text) {
                    sent.sendings.push(at);
                } else {
                    all.order.push(Arc::clone(text));
                    let (acked, refused, sendings) = (None, None, vec![at]);
                    let sent = Sent { at, to: *to, user, device, acked, refused, sendings };
                    all.messages.insert(Arc::clone(text), sent);
                }
            }
            Event::Acked { text, msg_id, .. } => {
                all.acks.push((Arc::clone(text), *msg_id));
                let Some(sent) = all.messages.get_mut(text) else { continue };
                sent.acked.get_or_insert((at, *msg_id));
                all.seen.entry(sent.device).or_default().insert((sent.to, *msg_id));
            }
            Event::Refused { text, result, .. } => {
                if let Some(sent) = all.messages.get_mut(text) {
                    sent.refused.get_or_insert(*result);
                }
            }
            Event::Delivered { session, conversation, row } => {
                all.shown.push((*conversation, row));
                let Some(session) = all.sessions.get_mut(session) else { continue };
                session.copies.entry(*conversation).or_default().push(row.msg_id);
                all.seen.entry(session.device).or_default().insert((*conversation, row.msg_id));
            }
            Event::Asked { session, page, conversation, begin, count } => {
                asked.insert(*page, (at, *session, *conversation, *begin, *count));
            }
            Event::Page { page, rows } => {
                let Some((at, session, conversation, begin, count)) = asked.remove(page) else { continue };
                all.shown.extend(rows.iter().map(|row| (conversation, row)));
                if let Some(session) = all.sessions.get(&session) {
                    let seen = all.seen.entry(session.device).or_default();
                    seen.extend(rows.iter().map(|row| (conversation, row.msg_id)));
                }
                all.pages.push(Page { at, conversation, begin, count, rows });
            }
            Event::Marked { .. } | Event::Unread { .. } => {}
        }
    }
    all
}

pub(super) fn undelivered(events: &[Event], parties: &Parties) -> Vec<String> {
    missed(&gather(events), parties)
}

/// G4 for sessions that are still open: what was sent since they began came to them.
fn missed(all: &Gathered<'_>, parties: &Parties) -> Vec<String> {
    let mut missed = Vec::new();
    for (id, session) in all.sessions.iter().filter(|(_, session)| session.open) {
        let had: HashSet<(Conversation, u32)> =
            session.copies.iter().flat_map(|(conversation, ids)| ids.iter().map(|id| (*conversation, *id))).collect();
        for text in &all.order {
            let sent = &all.messages[text];
            let Some((_, msg_id)) = sent.acked else { continue };
            let concerned = parties.get(&sent.to).is_some_and(|users| users.contains(&session.user));
            let wanted = concerned && sent.at > session.at && sent.device != session.device;
            if wanted && !had.contains(&(sent.to, msg_id)) {
                let user = session.user;
                missed.push(format!("G4: {text} ({:?} #{msg_id}) never came to session {id} of user {user}", sent.to));
            }
        }
    }
    missed
}

pub(super) fn judge(events: &[Event], parties: &Parties, stored: &Stored) -> Judgement {
    let all = gather(events);
    let mut verdict = Judgement { delivered: delivered(&all), ..Judgement::default() };
    verdict.pulled = all.pages.iter().map(|page| page.rows.len()).sum();
    let rows = of_the_store(&all, stored, &mut verdict);
    of_the_senders(events, &all, &rows, &mut verdict);
    of_the_receivers(&all, parties, stored, &mut verdict);
    of_the_pages(&all, stored, &mut verdict);
    of_the_cursors(events, &all, stored, &mut verdict);
    verdict
}

fn delivered(all: &Gathered<'_>) -> usize {
    all.sessions.values().flat_map(|session| session.copies.values()).map(Vec::len).sum()
}

/// G2 and G3 of the rows: dense, each message once, and where it was sent to. Returns them by text.
fn of_the_store<'a>(
    all: &Gathered<'_>,
    stored: &'a Stored,
    verdict: &mut Judgement,
) -> HashMap<&'a str, (Conversation, u32)> {
    let mut by_text = HashMap::new();
    for (conversation, rows) in stored {
        verdict.stored += rows.len();
        for (row, wanted) in rows.iter().zip(1..) {
            if row.msg_id != wanted {
                let found = row.msg_id;
                verdict.find(|v| &mut v.order, format!("G3: {conversation:?} has #{found} where #{wanted} belongs"));
                break;
            }
        }
        for row in rows {
            if by_text.insert(&*row.text, (*conversation, row.msg_id)).is_some() {
                verdict.find(|v| &mut v.duplicates, format!("G2: {} is stored twice", row.text));
            }
            let as_sent = all.messages.get(&row.text).is_some_and(|m| m.to == *conversation && m.user == row.from);
            if !as_sent {
                verdict.find(|v| &mut v.damaged, format!("G7: nobody sent {row:?} to {conversation:?}"));
            }
        }
    }
    by_text
}

/// G1, G2, G3 and G6 as the senders see them.
fn of_the_senders(
    events: &[Event],
    all: &Gathered<'_>,
    rows: &HashMap<&str, (Conversation, u32)>,
    verdict: &mut Judgement,
) {
    verdict.sent = all.messages.len();
    let mut by_sender: BTreeMap<(u32, Conversation), BTreeMap<u32, &str>> = BTreeMap::new();
    for text in &all.order {
        let sent = &all.messages[text];
        let row = rows.get(&**text).copied();
        match (sent.acked, sent.refused) {
            (Some((_, msg_id)), _) => {
                verdict.acked += 1;
                match row {
                    None => {
                        verdict.find(|v| &mut v.lost, format!("G1: {text} was acknowledged as #{msg_id}, and is gone"));
                    }
                    Some(row) if row != (sent.to, msg_id) => {
                        verdict.find(
                            |v| &mut v.duplicates,
                            format!("G2: {text} was acknowledged as #{msg_id}, and is {row:?}"),
                        );
                    }
                    Some(_) => {}
                }
            }
            // The store failed, and what an earlier attempt had left in its journal turned up when it was back: to
            // the client its outcome was not known.
            (None, Some(STORE_FAILED)) if row.is_some() => {
                verdict.unknown += 1;
                verdict.unknown_stored += 1;
            }
            (None, Some(result)) => {
                verdict.refused += 1;
                if row.is_some() {
                    verdict.find(|v| &mut v.untrue, format!("G6: {text} was refused ({result}), and is stored"));
                }
            }
            (None, None) => {
                verdict.unknown += 1;
                verdict.unknown_stored += usize::from(row.is_some());
            }
        }
        // What is not stored has no place. What was refused has lost it.
        if let (Some((_, msg_id)), None) = (row, sent.refused) {
            by_sender.entry((sent.device, sent.to)).or_default().insert(msg_id, text);
        }
    }
    // In the order of the numbers each message has a sending behind that of the one before it.
    for messages in by_sender.values() {
        let mut last: Option<(usize, u32, &str)> = None;
        for (msg_id, text) in messages {
            let mut sendings = all.messages[*text].sendings.iter().copied();
            match (sendings.find(|at| last.is_none_or(|(before, ..)| *at > before)), last) {
                (Some(at), _) => last = Some((at, *msg_id, text)),
                (None, Some((_, before, earlier))) => {
                    let words = format!("G3: {earlier} (#{before}) was sent after {text} (#{msg_id})");
                    let story = story_of(events, [earlier, text]);
                    verdict.find(|v| &mut v.order, format!("{words}: {story:#?}"));
                }
                (None, None) => {}
            }
        }
    }
    let mut numbered: HashMap<&str, u32> = HashMap::new();
    for (text, msg_id) in &all.acks {
        let first = *numbered.entry(text).or_insert(*msg_id);
        if first != *msg_id {
            verdict.find(|v| &mut v.duplicates, format!("G2: {text} was acknowledged as #{first} and as #{msg_id}"));
        }
    }
}

/// What became of two messages, and of the connections that they left on.
fn story_of<'a>(events: &'a [Event], texts: [&str; 2]) -> Vec<(usize, &'a Event)> {
    let is_theirs = |text: &str| texts.contains(&text);
    let sessions: HashSet<SessionId> = events
        .iter()
        .filter_map(|event| match event {
            Event::Sent { session, text, .. } if is_theirs(text) => Some(*session),
            _ => None,
        })
        .collect();
    let concerns = |event: &Event| match event {
        Event::Sent { text, .. } | Event::Acked { text, .. } | Event::Refused { text, .. } => is_theirs(text),
        Event::Came { session, .. } | Event::Left { session } => sessions.contains(session),
        _ => false,
    };
    events.iter().enumerate().filter(|(_, event)| concerns(event)).collect()
}

/// G3, G4 and G7 as the receivers see them.
fn of_the_receivers(all: &Gathered<'_>, parties: &Parties, stored: &Stored, verdict: &mut Judgement) {
    for (id, session) in &all.sessions {
        for (conversation, ids) in &session.copies {
            for pair in ids.windows(2).filter(|pair| pair[0] >= pair[1]) {
                let words = format!("G3: {conversation:?} came to session {id} as #{} and then #{}", pair[0], pair[1]);
                if pair[0] == pair[1] {
                    verdict.find(|v| &mut v.duplicates, words);
                } else {
                    verdict.find(|v| &mut v.order, words);
                }
            }
            if !parties.get(conversation).is_some_and(|users| users.contains(&session.user)) {
                verdict.find(|v| &mut v.damaged, format!("{conversation:?} came to user {}", session.user));
            }
        }
    }
    for (conversation, row) in &all.shown {
        let kept = stored.get(conversation).and_then(|rows| rows.get(row.msg_id.checked_sub(1)? as usize));
        if kept != Some(*row) {
            verdict.find(|v| &mut v.damaged, format!("G7: {row:?} of {conversation:?} was shown, stored is {kept:?}"));
        }
    }
    for words in missed(all, parties) {
        verdict.find(|v| &mut v.unseen, words);
    }
    // A device that was away has found the rest.
    let devices: BTreeMap<u32, u32> = all.sessions.values().map(|session| (session.device, session.user)).collect();
    for (device, user) in devices {
        let seen = all.seen.get(&device);
        for (conversation, rows) in stored.iter().filter(|(of, _)| parties.get(of).is_some_and(|p| p.contains(&user))) {
            for row in rows {
                let acked = all.messages.get(&row.text).is_some_and(|sent| sent.acked.is_some());
                if acked && !seen.is_some_and(|seen| seen.contains(&(*conversation, row.msg_id))) {
                    let words =
                        format!("G4: device {device} of user {user} never saw #{} of {conversation:?}", row.msg_id);
                    verdict.find(|v| &mut v.unseen, words);
                }
            }
        }
    }
}

/// G1 and G7 of what is read back: a page has everything that was acknowledged before it was asked for.
fn of_the_pages(all: &Gathered<'_>, stored: &Stored, verdict: &mut Judgement) {
    let mut acked: HashMap<(Conversation, u32), usize> = HashMap::new();
    for sent in all.messages.values() {
        if let Some((at, msg_id)) = sent.acked {
            acked.insert((sent.to, msg_id), at);
        }
    }
    for page in &all.pages {
        let conversation = page.conversation;
        if let Some(pair) = page.rows.windows(2).find(|pair| pair[0].msg_id != pair[1].msg_id + 1) {
            let words = format!("G7: a page of {conversation:?} goes from #{} to #{}", pair[0].msg_id, pair[1].msg_id);
            verdict.find(|v| &mut v.order, words);
        }
        let newest = stored.get(&conversation).map_or(0, |rows| rows.len() as u32);
        let from = if page.begin == 0 { newest } else { page.begin.min(newest) };
        // A page that is not full goes down to the first message.
        let last = page.rows.last().filter(|_| page.rows.len() >= page.count as usize).map_or(1, |row| row.msg_id);
        let first = page.rows.first().map_or(0, |row| row.msg_id);
        let above = (first + 1..=from).find(|id| acked.get(&(conversation, *id)).is_some_and(|at| *at < page.at));
        if let Some(id) = above {
            let words = format!("G1: #{id} of {conversation:?} was acknowledged, and a later page begins at #{first}");
            verdict.find(|v| &mut v.lost, words);
        }
        if first > 0 && page.rows.last().is_some_and(|row| row.msg_id > last) {
            verdict.find(|v| &mut v.order, format!("G7: a page of {conversation:?} ends above #{last}"));
        }
    }
}

/// G5: an unread count says between which ids the cursor stands; that place never moves back, and never beyond
/// what was marked.
fn of_the_cursors(events: &[Event], all: &Gathered<'_>, stored: &Stored, verdict: &mut Judgement) {
    let mut marked: HashMap<(u32, Conversation), u32> = HashMap::new();
    let mut floor: HashMap<(u32, Conversation), u32> = HashMap::new();
    for event in events {
        match event {
            Event::Marked { session, conversation, up_to } => {
                let Some(session) = all.sessions.get(session) else { continue };
                let mark = marked.entry((session.user, *conversation)).or_default();
                *mark = (*mark).max(*up_to);
            }
            Event::Unread { session, counts } => {
                let Some(session) = all.sessions.get(session) else { continue };
                let user = session.user;
                for (conversation, unread, latest) in counts {
                    let Some(rows) = stored.get(conversation) else { continue };
                    let key = (user, *conversation);
                    let Some((low, high)) = places(rows, user, *unread, *latest) else {
                        let words = format!("G5: user {user} has {unread} unread up to #{latest} of {conversation:?}");
                        verdict.find(|v| &mut v.cursors, words);
                        continue;
                    };
                    let before = floor.entry(key).or_default();
                    let limit = marked.get(&key).copied().unwrap_or(0);
                    if high < *before || low > limit {
                        let words = format!(
                            "G5: the cursor of user {user} in {conversation:?} is in {low}..={high}, was at {before} and may be at {limit}"
                        );
                        verdict.find(|v| &mut v.cursors, words);
                    }
                    *before = (*before).max(low);
                }
            }
            _ => {}
        }
    }
}

/// Where a cursor stands above which `unread` messages of others are, up to `latest`: the lowest and the highest
/// such place. None if there is none.
fn places(rows: &[Row], user: u32, unread: u32, latest: u32) -> Option<(u32, u32)> {
    let rows = rows.get(..latest as usize)?;
    let mut above = 0;
    let mut high = latest;
    for row in rows.iter().rev() {
        let counts = row.from != user;
        if above == unread && counts {
            // The cursor is at least on this one.
            return Some((row.msg_id, high));
        }
        if counts {
            above += 1;
            if above == unread {
                high = row.msg_id - 1;
            }
        }
    }
    (above == unread).then_some((0, high))
}
