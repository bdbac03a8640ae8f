//! The way of a chat message through this server: from the sender's socket to the
//! store, and once it is stored, the ack to the sender and the copies to everybody
//! else (spec/flows.md §5). `docs/` tells the whole way across the servers.
//!
//! What keeps the promises: nothing is acked or delivered before the store has
//! answered (G1); each accepted PDU has an id of the sender's or our making, so a
//! repetition is the same row (G2); a conversation's messages are at the store over
//! one link at a time, and the store answers in order (G3); whoever can be told no
//! is told no (G6).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use netlib::{Conn, Context, Token};
use tt_common::{CallError, Link};
use tt_proto::content::{self, Kind, Unfit};
use tt_proto::im::base_define::SessionType;
use tt_proto::im::message::{ImMsgData, ImMsgDataAck, ImMsgDataReadAck, ImMsgDataReadNotify};
use tt_proto::pdu::encode;

use crate::buddy;
use crate::catch_up;
use crate::conversation::{Conversation, Turn};
use crate::fan_out::{self, Copy, Recovered};
use crate::member::{self, Request};
use crate::state::Server;

/// `IMMsgDataAck.result` when a message is not accepted (spec/gaps.md §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotStored = 1,
    Policy = 3,
    TooLarge = 5,
    Overloaded = 7,
}

/// Longest client_msg_id, in bytes: room for a UUID in any spelling.
const MAX_CLIENT_MSG_ID: usize = 64;

/// A message on its way to the store, and where its ack goes.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    message: ImMsgData,
    origin: Origin,
    /// Until when it is repeated if its link fails.
    until: Instant,
    /// Whether the store may have it.
    sent: bool,
    /// The order in which messages came: a closing link fails what it refused before what it had taken.
    number: u64,
}

#[derive(Clone, Debug)]
struct Origin {
    conn: Conn,
    seq: u16,
    /// The client understands an ack that says no.
    refusals: bool,
    from: u32,
    to: u32,
    /// To a user or to a group.
    session: SessionType,
}

impl Origin {
    fn conversation(&self) -> Conversation {
        Conversation::of_session(self.from, self.session, self.to)
    }

    fn ack(&self, server: &Server, msg_id: u32, result: Option<u32>) {
        let ack =
            ImMsgDataAck { user_id: self.from, session_id: self.to, msg_id, session_type: self.session.into(), result };
        member::reply(server, &self.conn, self.seq, &ack);
    }

    /// Says no, to a client that can take it. An old client crashes on an ack with
    /// msg_id 0: it gets silence, and the reason is counted and logged here.
    fn refuse(&self, server: &mut Server, cx: &Context<Server>, result: u32, why: &'static str) {
        server.metrics.refused(why);
        if let Some(unsaid) = server.noise.allow(cx.now()) {
            log::info!("message of user {} refused: {why}{unsaid}", self.from);
        }
        if self.refusals {
            self.ack(server, 0, Some(result));
        }
    }
}

/// Ids for messages whose client makes none: unlike any other server's or start's.
#[derive(Debug)]
pub(crate) struct MessageIds {
    start: u64,
    last: u64,
    accepted: u64,
}

impl MessageIds {
    pub(crate) fn new() -> Self {
        Self { start: rand::random(), last: 0, accepted: 0 }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The place of the next message among all.
    fn accepted(&mut self) -> u64 {
        self.accepted += 1;
        self.accepted
    }

    fn text(&self, number: u64) -> String {
        format!("{:016x}-{number:x}", self.start)
    }
}

/// 0x0301 from a client.
pub(crate) fn send(request: &mut Request<'_>) {
    let Some(mut message) = request.body::<ImMsgData>() else {
        refuse_unreadable(request);
        return;
    };
    let session = Kind::from_wire(message.msg_type).map_or(SessionType::SessionTypeSingle, |kind| kind.session);
    let origin = Origin {
        conn: request.conn.clone(),
        seq: request.pdu.header.seq,
        refusals: request.member.refusals,
        from: request.member.user,
        to: message.to_session_id,
        session,
    };
    if let Err((refusal, why)) = check(&message, origin.from) {
        origin.refuse(request.server, request.cx, refusal as u32, why);
        return;
    }
    message.from_user_id = origin.from;
    message.msg_id = 0;
    message.create_time = 0;
    message.refusal = None;
    message.group_version = None;
    if message.client_msg_id.as_ref().is_none_or(String::is_empty) {
        let ids = &mut request.server.message_ids;
        let (now, seq) = (request.cx.now(), origin.seq);
        let number = request.member.sent().number(now, seq, origin.to, &message.msg_data, || ids.next());
        message.client_msg_id = Some(ids.text(number));
    }
    let number = request.server.message_ids.accepted();
    let until = request.cx.now() + request.server.config.timeouts.call();
    forward(request.server, request.cx, Outgoing { message, origin, until, sent: false, number });
}

/// No to what does not parse (and is counted as that), for who can take one: it names no session, so the client
/// knows it by its number.
fn refuse_unreadable(request: &Request<'_>) {
    if request.member.refusals {
        let session_type = SessionType::SessionTypeSingle.into();
        let result = Some(Refusal::Policy as u32);
        request.reply(&ImMsgDataAck { user_id: request.member.user, session_id: 0, msg_id: 0, session_type, result });
    }
}

/// Whether this server takes the message, and what kind it is.
fn check(message: &ImMsgData, from: u32) -> Result<Kind, (Refusal, &'static str)> {
    let kind = content::check(message.msg_type, &message.msg_data).map_err(|unfit| {
        let refusal = if unfit == Unfit::TooLarge { Refusal::TooLarge } else { Refusal::Policy };
        (refusal, unfit.label())
    })?;
    if kind.session == SessionType::SessionTypeSingle && message.to_session_id == from {
        return Err((Refusal::Policy, "to oneself"));
    }
    if message.client_msg_id.as_ref().is_some_and(|id| id.len() > MAX_CLIENT_MSG_ID) {
        return Err((Refusal::Policy, "message id too long"));
    }
    Ok(kind)
}

/// Gives the message its turn at the store.
fn forward(server: &mut Server, cx: &mut Context<Server>, outgoing: Outgoing) {
    let conversation = outgoing.origin.conversation();
    let db = &server.peers.db;
    let turn = server.lanes.turn(conversation, outgoing, Link::accepts_requests, || db.of(conversation));
    match turn {
        Turn::Held => {}
        Turn::Refused(Outgoing { origin, .. }) => {
            origin.refuse(server, cx, Refusal::Overloaded as u32, "no db link takes it");
        }
        Turn::Go(mut outgoing, link) => {
            outgoing.sent = true;
            // Not when it came: it may have waited for a link, and who signed in meanwhile has not seen it (G4).
            outgoing.message.create_time = member::unix_seconds(cx);
            // The text is shared.
            let message = outgoing.message.clone();
            server.call(cx, &link, outgoing.origin.seq, message, move |server, cx, reply| {
                let waiting = if matches!(reply, Err(CallError::LinkDown)) && cx.now() < outgoing.until {
                    // The store may have it: repeated under the same id it is the same row (G2).
                    server.metrics.repeats.inc();
                    server.lanes.failed(conversation, outgoing)
                } else {
                    answered(server, cx, &outgoing.origin, reply);
                    server.lanes.done(conversation)
                };
                resume(server, cx, conversation, waiting);
            });
        }
    }
}

/// Gives messages that waited their turn again, in order; without any db link they
/// wait on, each until its time is up.
fn resume(server: &mut Server, cx: &mut Context<Server>, conversation: Conversation, mut waiting: VecDeque<Outgoing>) {
    waiting.make_contiguous().sort_by_key(|outgoing| outgoing.number);
    if server.peers.db.is_open() {
        for outgoing in waiting {
            forward(server, cx, outgoing);
        }
        return;
    }
    let now = cx.now();
    let (late, waiting): (VecDeque<_>, VecDeque<_>) = waiting.into_iter().partition(|message| message.until <= now);
    for Outgoing { origin, sent, .. } in late {
        if sent {
            answered(server, cx, &origin, Err(CallError::LinkDown));
        } else {
            origin.refuse(server, cx, Refusal::Overloaded as u32, "no db link takes it");
        }
    }
    if let Some(until) = waiting.iter().map(|message| message.until).min() {
        server.lanes.park(conversation, waiting);
        cx.after(until.saturating_duration_since(now), move |server: &mut Server, cx| {
            let waiting = server.lanes.unpark(conversation);
            resume(server, cx, conversation, waiting);
        });
    }
}

/// A db link is there: what waited for one goes on.
pub(crate) fn resume_all(server: &mut Server, cx: &mut Context<Server>) {
    for conversation in server.lanes.parked() {
        let waiting = server.lanes.unpark(conversation);
        resume(server, cx, conversation, waiting);
    }
}

/// The store has answered, or will not.
fn answered(server: &mut Server, cx: &mut Context<Server>, origin: &Origin, reply: Result<ImMsgData, CallError>) {
    match reply {
        Ok(message) if message.msg_id != 0 => stored(server, cx, origin, message),
        Ok(message) => {
            let result = message.refusal.filter(|result| *result != 0).unwrap_or(Refusal::NotStored as u32);
            origin.refuse(server, cx, result, "by the store");
        }
        // It never left this server.
        Err(CallError::TooMany) => origin.refuse(server, cx, Refusal::Overloaded as u32, "too many at the store"),
        // Whether it is stored is not known: no word to anybody. The client asks again.
        Err(error) => {
            server.metrics.unanswered(error.label());
            if let Some(unsaid) = server.noise.allow(cx.now()) {
                log::warn!("message of user {} without answer: {error}{unsaid}", origin.from);
            }
        }
    }
}

/// Ack first, then the other servers, then the devices here (spec/flows.md §5.1).
fn stored(server: &mut Server, cx: &mut Context<Server>, origin: &Origin, mut message: ImMsgData) {
    origin.ack(server, message.msg_id, None);
    server.metrics.acked.inc();
    message.from_user_id = origin.from;
    message.to_session_id = origin.to;
    let conversation = origin.conversation();
    let gap = server.delivered.gap(conversation, message.msg_id);
    let first = server.delivered.newest(conversation).is_none() && message.msg_id > 1;
    if !is_new(server, conversation, &message) {
        return;
    }
    let pdu = copy(&message);
    match conversation {
        Conversation::Single(..) => server.relay(&pdu),
        // There too it is asked by version who is in the group.
        Conversation::Group(_) => server.relay(&encode(0, &bare(&message, message.group_version))),
    }
    hand_out(server, cx, conversation, (gap, first), message, pdu, Some(origin.conn.id()));
}

/// 0x0301 that another msg server has stored and route has relayed.
pub(crate) fn relayed(server: &mut Server, cx: &mut Context<Server>, message: ImMsgData) {
    let kind = check(&message, message.from_user_id).ok().filter(|_| message.msg_id != 0);
    let Some(kind) = kind else {
        server.metrics.ignored("relayed message");
        return;
    };
    let conversation = Conversation::of_message(&message, kind);
    let gap = server.delivered.gap(conversation, message.msg_id);
    let first = server.delivered.newest(conversation).is_none() && message.msg_id > 1;
    if !is_new(server, conversation, &message) {
        return;
    }
    let pdu = copy(&message);
    hand_out(server, cx, conversation, (gap, first), message, pdu, None);
}

/// Delivers a message once everything before it is delivered (G3, G4).
fn hand_out(
    server: &mut Server,
    cx: &mut Context<Server>,
    conversation: Conversation,
    (gap, first): (Range<u32>, bool),
    message: ImMsgData,
    pdu: Bytes,
    except: Option<Token>,
) {
    if gap.is_empty() && !first && !server.catch_up.holds(conversation) {
        deliver(server, cx, conversation, &message, &pdu, except);
        return;
    }
    let head = ImMsgData { msg_data: Bytes::new(), ..message.clone() };
    catch_up::in_order(server, cx, conversation, &head, gap, first, move |server, cx| {
        deliver(server, cx, conversation, &message, &pdu, except);
    });
}

/// A message fetched from the store because its relay was lost: for devices that were
/// signed in when it was sent. The others find it in their history.
pub(crate) fn deliver_recovered(server: &mut Server, cx: &mut Context<Server>, message: ImMsgData) {
    let pdu = copy(&message);
    let now = cx.now();
    // The second in which it was sent counts as before it.
    let sent = (u64::from(message.create_time) + 1) * 1_000_000;
    if let Some(Kind { session: SessionType::SessionTypeGroup, .. }) = Kind::from_wire(message.msg_type) {
        let recovered = Some(Recovered { msg_id: message.msg_id, signed_in_by: sent });
        let copy = Copy { pdu, except: None, recovered };
        fan_out::deliver(server, cx, message.to_session_id, None, copy);
        return;
    }
    for user in [message.from_user_id, message.to_session_id] {
        for device in server.clients.devices_mut(user).filter(|device| device.signed_in.at <= sent) {
            device.send(&server.metrics, &pdu);
            let missed = device.copies.push(message.msg_id, message.from_user_id, now);
            server.metrics.copies.inc();
            server.metrics.copies_missed.inc_by(missed as u64);
        }
    }
}

/// Whether this message has not gone out from here before.
fn is_new(server: &mut Server, conversation: Conversation, message: &ImMsgData) -> bool {
    let new = server.delivered.insert(conversation, message.msg_id);
    if !new {
        server.metrics.repeated.inc();
    }
    new
}

/// The one PDU that all receivers share: seq 0, nothing of the servers' in it.
fn copy(message: &ImMsgData) -> Bytes {
    encode(0, &bare(message, None))
}

/// A message without what is between its first server and the store.
fn bare(message: &ImMsgData, group_version: Option<u32>) -> ImMsgData {
    ImMsgData { attach_data: None, client_msg_id: None, refusal: None, group_version, ..message.clone() }
}

/// Copies to all devices of both users, or of all members, but the one that sent it.
fn deliver(
    server: &mut Server,
    cx: &mut Context<Server>,
    conversation: Conversation,
    message: &ImMsgData,
    pdu: &Bytes,
    except: Option<Token>,
) {
    if let Conversation::Group(group) = conversation {
        let copy = Copy { pdu: pdu.clone(), except, recovered: None };
        fan_out::deliver(server, cx, group, message.group_version, copy);
        return;
    }
    let now = cx.now();
    for user in [message.from_user_id, message.to_session_id] {
        for device in server.clients.devices_mut(user).filter(|device| Some(device.conn.id()) != except) {
            device.send(&server.metrics, pdu);
            let missed = device.copies.push(message.msg_id, message.from_user_id, now);
            server.metrics.copies.inc();
            server.metrics.copies_missed.inc_by(missed as u64);
        }
    }
}

/// 0x0302 from a client: a copy has arrived. Statistics, no more.
pub(crate) fn received(request: &mut Request<'_>) {
    let Some(ack) = request.body::<ImMsgDataAck>() else { return };
    if ack.session_type == SessionType::SessionTypeSingle as i32 {
        acknowledge(request, ack.msg_id, ack.session_id);
    }
}

/// 0x0303 from a client: the cursor moves in the store, which does not answer, and
/// the reader's other devices are told. The sender of the message is not.
pub(crate) fn read(request: &mut Request<'_>) {
    let Some(mut ack) = request.body::<ImMsgDataReadAck>() else { return };
    let user = request.member.user;
    let Some(conversation) = buddy::conversation(request, ack.session_type, ack.session_id) else { return };
    ack.user_id = user;
    ack.exact = request.member.exact_reads.then_some(true);
    let link = request.server.peers.db.of(conversation);
    if link.is_none_or(|link| link.send(request.pdu.header.seq, &ack).is_err()) {
        request.ignore("no db link", &"read cursor not moved");
        return;
    }
    let notice = ImMsgDataReadNotify {
        user_id: user,
        session_id: ack.session_id,
        msg_id: ack.msg_id,
        session_type: ack.session_type,
    };
    request.tell_others(&encode(0, &notice));
    // Copies of group messages are not awaited.
    if let Conversation::Single(..) = conversation {
        acknowledge(request, ack.msg_id, ack.session_id);
    }
}

fn acknowledge(request: &mut Request<'_>, msg_id: u32, from: u32) {
    let (now, conn) = (request.cx.now(), request.conn.id());
    let mut devices = request.server.clients.devices_mut(request.member.user);
    let Some(device) = devices.find(|device| device.conn.id() == conn) else { return };
    let missed = device.copies.expire(now);
    device.copies.acknowledge(msg_id, from);
    drop(devices);
    request.server.metrics.copies_missed.inc_by(missed as u64);
}

impl Request<'_> {
    /// Sends a notice to the user's other connections, here and on other servers.
    pub(crate) fn tell_others(&mut self, notice: &Bytes) {
        self.server.tell_others(self.member.user, self.conn.id(), notice);
    }
}

impl Server {
    /// Sends a notice to a user's connections but one, here and on other servers.
    pub(crate) fn tell_others(&mut self, user: u32, except: Token, notice: &Bytes) {
        for device in self.clients.devices_mut(user).filter(|device| device.conn.id() != except) {
            device.send(&self.metrics, notice);
        }
        self.relay(notice);
    }
}
