//! What the commands print, as lines for people or as JSON for scripts. The JSON keys are part of
//! the command's interface and listed in `tt --help`.

use std::io::{self, Write};

use serde_json::{Value, json};
use tt_client::{Content, Conversation, Event, Group, GroupChange, Message, Peer, Presence, Sent, Signal, User};

use crate::directory::Directory;
use crate::text::{content, local_time, presence, printable};

/// Where and how to print. Every line is flushed: the reader may wait for just this one.
pub(crate) struct Output<W> {
    to: W,
    json: bool,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(to: W, json: bool) -> Self {
        Self { to, json }
    }

    fn line(&mut self, human: impl FnOnce() -> String, machine: impl FnOnce() -> Value) -> io::Result<()> {
        let line = if self.json { machine().to_string() } else { human() };
        writeln!(self.to, "{line}")?;
        self.to.flush()
    }

    /// A message that the server has stored.
    pub(crate) fn sent(&mut self, sent: &Sent, from: &User, to: Peer, names: &Directory) -> io::Result<()> {
        self.line(
            || sent.msg_id.to_string(),
            || {
                let mut object = json!({
                    "msg_id": sent.msg_id,
                    "from": person(from.id, &from.name),
                    "to": Value::Null,
                    "client_msg_id": sent.client_msg_id,
                });
                match to {
                    Peer::User(id) => object["to"] = person(id, names.name(id)),
                    Peer::Group(id) => object["group"] = id.into(),
                }
                object
            },
        )
    }

    /// A group.
    pub(crate) fn group(&mut self, group: &Group) -> io::Result<()> {
        self.line(
            || {
                let kind = if group.fixed { ", fixed" } else { "" };
                let muted = if group.shielded { ", muted" } else { "" };
                let members: Vec<String> = group.members.iter().map(|id| format!("#{id}")).collect();
                format!("#g{} {}{kind}{muted}: {}", group.id, printable(&group.name, false), members.join(" "))
            },
            || {
                json!({
                    "id": group.id,
                    "name": group.name,
                    "creator": group.creator,
                    "fixed": group.fixed,
                    "members": group.members,
                    "muted": group.shielded,
                })
            },
        )
    }

    /// A recording that was saved.
    pub(crate) fn saved(&mut self, msg_id: u32, seconds: u32, bytes: usize) -> io::Result<()> {
        self.line(
            || format!("{bytes} bytes, {seconds} s"),
            || json!({ "msg_id": msg_id, "seconds": seconds, "bytes": bytes }),
        )
    }

    /// A setting of one's own, under its JSON key.
    pub(crate) fn setting(&mut self, key: &str, value: &str) -> io::Result<()> {
        self.line(|| printable(value, false), || json!({ key: value }))
    }

    /// Whether a setting is on, under its JSON key.
    pub(crate) fn switch(&mut self, key: &str, on: bool) -> io::Result<()> {
        self.line(|| if on { "on".to_owned() } else { "off".to_owned() }, || json!({ key: on }))
    }

    /// What is told in passing; false for an event that is no notice.
    pub(crate) fn notice(&mut self, event: &Event, names: &Directory) -> io::Result<bool> {
        let who = |id: u32| label(id, names);
        let object = |id: u32| person(id, names.name(id));
        match event {
            Event::Signal { from, to, signal } => {
                let (kind, words, data) = match signal {
                    Signal::Typing => ("typing", "is typing", None),
                    Signal::StoppedTyping => ("stopped", "has stopped typing", None),
                    Signal::Shake => ("shake", "shakes", None),
                    Signal::Other(data) => ("signal", "signals", Some(data)),
                };
                self.line(
                    || {
                        let data = data.map_or(String::new(), |data| format!(": {}", printable(data, false)));
                        format!("* {} -> {} {words}{data}", who(*from), who(*to))
                    },
                    || {
                        let mut notice = json!({ "notice": kind, "from": object(*from), "to": object(*to) });
                        if let Some(data) = data {
                            notice["data"] = data.as_str().into();
                        }
                        notice
                    },
                )?;
            }
            Event::Signature { user_id, text } => self.line(
                || format!("* {} signs: {}", who(*user_id), printable(text, false)),
                || json!({ "notice": "signature", "user": object(*user_id), "text": text }),
            )?,
            Event::Avatar { user_id, url } => self.line(
                || format!("* {} has a new picture: {}", who(*user_id), printable(url, false)),
                || json!({ "notice": "avatar", "user": object(*user_id), "url": url }),
            )?,
            Event::OwnPc { online } => self.line(
                || format!("* your desktop client is {}", if *online { "online" } else { "offline" }),
                || json!({ "notice": "own_pc", "online": online }),
            )?,
            Event::Group(change) => self.group_change(change, names)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A change of a group's members.
    pub(crate) fn group_change(&mut self, change: &GroupChange, names: &Directory) -> io::Result<()> {
        let (happened, place) = if change.added { ("added", "to") } else { ("removed", "from") };
        self.line(
            || {
                let who: Vec<String> = change.changed.iter().map(|id| label(*id, names)).collect();
                format!("* {happened} {place} group #g{}: {}", change.group, who.join(" "))
            },
            || {
                let who: Vec<Value> = change.changed.iter().map(|id| person(*id, names.name(*id))).collect();
                let mut object = json!({
                    "notice": "group",
                    "group": change.group,
                    "by": person(change.by, names.name(change.by)),
                    "members": change.members,
                });
                object[happened] = who.into();
                object
            },
        )
    }

    /// A message, live or from history.
    pub(crate) fn message(&mut self, message: &Message, names: &Directory) -> io::Result<()> {
        let group = match message.conversation {
            Peer::Group(id) => Some(id),
            Peer::User(_) => None,
        };
        self.line(
            || {
                let time = local_time(message.time, "%Y-%m-%d %H:%M:%S");
                let to = group.map_or_else(|| label(message.to, names), |id| format!("group #g{id}"));
                format!("{time} {} -> {to}: {}", label(message.from, names), content(&message.content, false))
            },
            || {
                let kind = match message.content {
                    Content::Text(_) => "text",
                    Content::Voice { .. } => "voice",
                    Content::Unreadable => "unreadable",
                };
                let mut object = json!({
                    "msg_id": message.msg_id,
                    "from": person(message.from, names.name(message.from)),
                    "to": if group.is_none() { person(message.to, names.name(message.to)) } else { Value::Null },
                    "time": message.time,
                    "text": message.text(),
                    "kind": kind,
                });
                if let Some(id) = group {
                    object["group"] = id.into();
                }
                object
            },
        )
    }

    /// An address book entry.
    pub(crate) fn user(&mut self, user: &User, is: Presence) -> io::Result<()> {
        self.line(
            || {
                let nick =
                    if user.nick.is_empty() { String::new() } else { format!(" ({})", printable(&user.nick, false)) };
                format!("#{} {}{nick} {}", user.id, printable(&user.name, false), presence(is))
            },
            || {
                json!({
                    "id": user.id,
                    "name": user.name,
                    "nick": user.nick,
                    "email": user.email,
                    "phone": user.phone,
                    "department": user.department,
                    "signature": user.signature,
                    "presence": presence(is),
                })
            },
        )
    }

    /// A recent conversation.
    pub(crate) fn session(&mut self, session: &Conversation, unread: u32, names: &Directory) -> io::Result<()> {
        self.line(
            || {
                let time = local_time(session.updated, "%Y-%m-%d %H:%M");
                let unread = if unread == 0 { String::new() } else { format!(" ({unread} unread)") };
                let who = match session.peer {
                    Peer::User(id) => label(id, names),
                    Peer::Group(id) => format!("group #g{id}"),
                };
                format!("{time} {who}{unread}: {}", content(&session.latest, false))
            },
            || {
                let peer = match session.peer {
                    Peer::User(id) => person(id, names.name(id)),
                    Peer::Group(id) => json!({ "group": id }),
                };
                json!({
                    "peer": peer,
                    "unread": unread,
                    "latest_msg_id": session.latest_msg_id,
                    "time": session.updated,
                    "text": session.latest.text(),
                })
            },
        )
    }

    /// Whether somebody is online.
    pub(crate) fn status(&mut self, user: &User, is: Presence) -> io::Result<()> {
        self.line(
            || format!("{} {}", printable(&user.name, false), presence(is)),
            || json!({ "user": person(user.id, &user.name), "presence": presence(is) }),
        )
    }
}

fn person(id: u32, name: &str) -> Value {
    json!({ "id": id, "name": name })
}

/// What to call a user: the login name, or the id of somebody unknown.
fn label(id: u32, names: &Directory) -> String {
    match names.name(id) {
        "" => format!("#{id}"),
        name => printable(name, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u32, name: &str) -> User {
        User { id, name: name.to_owned(), ..User::default() }
    }

    fn message(content: Content) -> Message {
        Message { conversation: Peer::User(1), from: 1, to: 2, msg_id: 7, time: 1_700_000_000, content }
    }

    fn printed(json: bool, message: &Message) -> String {
        let mut bytes = Vec::new();
        let names = Directory::new([&user(1, "alice"), &user(2, "bob")]);
        Output::new(&mut bytes, json).message(message, &names).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_message_has_the_promised_keys_on_one_line() {
        let line = printed(true, &message(Content::Text("a\nb\u{1b}".to_owned())));
        assert_eq!(
            line,
            "{\"msg_id\":7,\"from\":{\"id\":1,\"name\":\"alice\"},\"to\":{\"id\":2,\"name\":\"bob\"},\
             \"time\":1700000000,\"text\":\"a\\nb\\u001b\",\"kind\":\"text\"}\n"
        );
    }

    #[test]
    fn an_unreadable_message_is_a_line_like_any_other() {
        let line = printed(true, &message(Content::Unreadable));
        assert!(line.contains("\"text\":null,\"kind\":\"unreadable\""), "{line}");
        let line = printed(false, &message(Content::Unreadable));
        assert!(line.ends_with(" alice -> bob: (unreadable message)\n"), "{line}");
    }

    #[test]
    fn a_line_for_people_is_one_line_and_harmless() {
        let line = printed(false, &message(Content::Text("a\nb\u{1b}[2J".to_owned())));
        assert!(line.ends_with(" alice -> bob: a⏎b\u{fffd}[2J\n"), "{line}");
    }
}
