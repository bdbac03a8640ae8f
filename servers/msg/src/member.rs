//! The client after it has signed in: one table says what each command does, and a
//! token bucket says when to stop reading. Everything a command needs comes to it as
//! one [`Request`].

use std::rc::Rc;

use bytes::Bytes;
use netlib::{CloseReason, Conn, Context, FrameHandler, Framed, Handler, TimerId};
use tt_common::link::PduFraming;
use tt_proto::im::base_define::ClientType;
use tt_proto::im::login::{ImLogoutReq, ImLogoutRsp};
use tt_proto::im::message::{ImClientTimeReq, ImClientTimeRsp};
use tt_proto::pdu::{MAX_FROM_CLIENT, MAX_TO_CLIENT, PduRef, encode};
use tt_proto::{Body, Command};

use crate::limits::TokenBucket;
use crate::recent::Sent;
use crate::state::{Class, Server};
use crate::visitor::{CAPABILITY_EXACT_READS, CAPABILITY_REFUSALS};
use crate::{account, buddy, file, group, kick, message, presence, signal};

/// Bytes that a client may send for one token: more than any text has.
const TOKEN_BYTES: usize = 8 * 1024;

/// Serves one request.
type Serve = fn(&mut Request<'_>);

/// What a signed-in client may ask for. Everything else is ignored, as a command
/// that does not exist (spec/wire.md §2).
const COMMANDS: &[(Command, Serve)] = &[
    (Command::MsgData, message::send),
    (Command::MsgDataAck, message::received),
    (Command::MsgDataReadAck, message::read),
    (Command::HeartBeat, heartbeat),
    (Command::ClientTimeReq, time),
    (Command::RecentContactSessionReq, buddy::recent_sessions),
    (Command::UsersInfoReq, buddy::users_info),
    (Command::RemoveSessionReq, buddy::remove_session),
    (Command::AllUserReq, buddy::all_users),
    (Command::UsersStatReq, buddy::users_status),
    (Command::DepartmentReq, buddy::departments),
    (Command::UnreadMsgCntReq, buddy::unread_counts),
    (Command::GetMsgListReq, buddy::message_list),
    (Command::GetLatestMsgIdReq, buddy::latest_message_id),
    (Command::GetMsgByIdReq, buddy::messages_by_id),
    (Command::NormalGroupListReq, group::list),
    (Command::GroupInfoListReq, group::info),
    (Command::GroupCreateReq, group::create),
    (Command::GroupChangeMemberReq, group::change),
    (Command::GroupShieldReq, group::shield),
    (Command::KickPcClientReq, kick::kick_pc),
    (Command::DeviceTokenReq, account::device_token),
    (Command::PushShieldReq, account::push_shield),
    (Command::QueryPushShieldReq, account::query_push_shield),
    (Command::ChangeSignInfoReq, account::sign_info),
    (Command::ChangeAvatarReq, account::avatar),
    (Command::P2pCmdMsg, signal::send),
    (Command::FileReq, file::open),
    (Command::FileHasOfflineReq, file::waiting),
    (Command::FileAddOfflineReq, file::left_for_later),
    (Command::FileDelOfflineReq, file::fetched),
    (Command::LogoutReq, log_out),
];

/// A client that has signed in.
pub(crate) struct Member {
    pub(crate) user: u32,
    pub(crate) client_type: ClientType,
    /// Understands an ack that says no.
    pub(crate) refusals: bool,
    /// Its read marks mean their message, not everything there is (G5).
    pub(crate) exact_reads: bool,
    /// What the client calls its device; none if it does not say.
    pub(crate) device: Option<Rc<str>>,
    messages: TokenBucket,
    requests: TokenBucket,
    /// Made with the first signal: few connections need it.
    signals: Option<Box<TokenBucket>>,
    /// Made with the first message: most connections of a large server only listen.
    sent: Option<Box<Sent>>,
}

/// One PDU of a member and all that serving it takes.
pub(crate) struct Request<'a> {
    pub(crate) server: &'a mut Server,
    pub(crate) cx: &'a mut Context<Server>,
    pub(crate) conn: &'a Conn,
    pub(crate) member: &'a mut Member,
    pub(crate) pdu: PduRef<'a>,
}

impl Member {
    pub(crate) fn new(
        server: &Server,
        cx: &Context<Server>,
        user: u32,
        client_type: ClientType,
        capabilities: u64,
        device: Option<Rc<str>>,
    ) -> Self {
        let limits = &server.config.limits;
        Self {
            user,
            client_type,
            refusals: capabilities & CAPABILITY_REFUSALS != 0,
            exact_reads: capabilities & CAPABILITY_EXACT_READS != 0,
            device,
            messages: TokenBucket::new(limits.messages_per_second, limits.messages_burst, cx.now()),
            requests: TokenBucket::new(limits.requests_per_second, limits.requests_burst, cx.now()),
            signals: None,
            sent: None,
        }
    }

    pub(crate) fn class(&self) -> Class {
        Class::of(self.client_type)
    }

    pub(crate) fn sent(&mut self) -> &mut Sent {
        self.sent.get_or_insert_with(|| Box::new(Sent::new()))
    }
}

impl Request<'_> {
    /// The body; None, counted and logged, if it does not parse.
    pub(crate) fn body<M: Body>(&mut self) -> Option<M> {
        match self.pdu.decode() {
            Ok(body) => Some(body),
            Err(error) => {
                self.ignore("malformed", &error);
                None
            }
        }
    }

    /// Whether the user may change the card again so soon. A change is told to everybody who is
    /// signed in anywhere, so nobody must make many.
    pub(crate) fn may_change_card(&mut self) -> bool {
        let Server { rates, config, .. } = &mut *self.server;
        let may = rates.user_may_change_card(&config.limits, self.member.user, self.cx.now());
        if !may {
            self.server.metrics.card_changes_refused.inc();
        }
        may
    }

    /// Answers the request.
    pub(crate) fn reply<M: Body>(&self, answer: &M) {
        reply(self.server, self.conn, self.pdu.header.seq, answer);
    }

    /// Counts and logs a PDU that gets no answer. `why` is a metric's label.
    pub(crate) fn ignore(&mut self, why: &'static str, detail: &dyn std::fmt::Display) {
        self.server.metrics.ignored(why);
        if let Some(unsaid) = self.server.noise.allow(self.cx.now()) {
            let (user, command) = (self.member.user, self.pdu.header.command);
            log::info!("user {user}: command {command:#06x} ignored, {why}: {detail}{unsaid}");
        }
    }
}

impl FrameHandler<Server> for Member {
    fn on_frame(&mut self, server: &mut Server, cx: &mut Context<Server>, conn: &Conn, frame: &[u8]) {
        let Some(pdu) = parse(server, conn, frame) else { return };
        let command = Command::try_from(pdu.header.command).ok();
        let bucket = match command {
            Some(Command::MsgData) => Some(&mut self.messages),
            // Receipts come as fast as copies go out, and cost next to nothing.
            Some(Command::MsgDataAck) => None,
            Some(Command::P2pCmdMsg) => {
                let limits = &server.config.limits;
                let new = || TokenBucket::new(limits.signals_per_second, limits.signals_burst, cx.now());
                Some(&mut **self.signals.get_or_insert_with(|| Box::new(new())))
            }
            _ => Some(&mut self.requests),
        };
        // A recording weighs as much as many texts do, so it costs as much.
        let tokens = 1 + (frame.len() / TOKEN_BYTES) as u32;
        // This request is served; the next one is not read before there is a token for it.
        if let Some(wait) = bucket.and_then(|bucket| bucket.take(cx.now(), tokens)) {
            server.metrics.paused.inc();
            conn.pause();
            cx.conn_timer(conn, wait);
        }
        server.metrics.requests.inc();
        let run = COMMANDS.iter().find(|(known, _)| Some(*known) == command).map(|(_, run)| run);
        let mut request = Request { server, cx, conn, member: self, pdu };
        match run {
            Some(run) => run(&mut request),
            None => request.ignore("unknown", &"no such command here"),
        }
    }

    fn on_timer(&mut self, server: &mut Server, _: &mut Context<Server>, conn: &Conn, _: TimerId) {
        // A stopping server reads no more requests.
        if !server.drain.is_on() {
            conn.resume();
        }
    }

    fn on_close(&mut self, server: &mut Server, cx: &mut Context<Server>, conn: &Conn, reason: &CloseReason) {
        leave(server, cx, conn, self.user, reason);
    }
}

/// A signed-in connection has ended: its user's other devices, the login servers and
/// the route servers are told.
pub(crate) fn leave(server: &mut Server, cx: &mut Context<Server>, conn: &Conn, user: u32, reason: &CloseReason) {
    if let Some(mut device) = server.clients.remove(user, conn.id()) {
        server.metrics.copies_missed.inc_by(device.copies.expire(cx.now()) as u64);
        presence::signed_out(server, user, &device);
    }
    server.metrics.closed("member", reason);
    server.metrics.show(&server.clients);
    log::debug!("user {user} left from {}: {reason}", conn.peer_addr());
    server.drain_on(cx);
}

fn heartbeat(request: &mut Request<'_>) {
    echo(request.server, request.conn, &request.pdu.to_bytes());
}

fn time(request: &mut Request<'_>) {
    if request.body::<ImClientTimeReq>().is_some() {
        request.reply(&ImClientTimeRsp { server_time: unix_seconds(request.cx) });
    }
}

/// Log-out: only a phone has a push token to forget (spec/flows.md §4.1).
fn log_out(request: &mut Request<'_>) {
    if request.body::<ImLogoutReq>().is_none() {
        return;
    }
    if request.member.class() == Class::Mobile {
        account::forget_device_token(request);
    }
    request.reply(&ImLogoutRsp { result_code: 0 });
    request.conn.close();
}

/// Puts the PDU framing of a signed-in client in front of a handler.
pub(crate) fn framed(handler: impl FrameHandler<Server>) -> Box<dyn Handler<Server>> {
    Box::new(Framed::new(PduFraming::new(MAX_FROM_CLIENT), handler))
}

/// The PDU in a frame that the framing has cut, counted; anything else is our mistake
/// and ends the connection.
pub(crate) fn parse<'a>(server: &Server, conn: &Conn, frame: &'a [u8]) -> Option<PduRef<'a>> {
    let Ok(pdu) = PduRef::parse(frame) else {
        conn.close_with(CloseReason::Refused("not a PDU"));
        return None;
    };
    server.metrics.received(&pdu);
    Some(pdu)
}

/// Queues an answer. One that is too long for a client, which no server makes that is in its right
/// mind, is counted and goes nowhere.
pub(crate) fn reply<M: Body>(server: &Server, conn: &Conn, seq: u16, answer: &M) {
    let pdu = encode(seq, answer);
    if pdu.len() > MAX_TO_CLIENT {
        server.metrics.ignored("answer too long");
        return;
    }
    server.metrics.send(conn, pdu);
}

/// Sends a frame back as it came, whatever its unused header fields say.
pub(crate) fn echo(server: &Server, conn: &Conn, frame: &[u8]) {
    server.metrics.send(conn, Bytes::copy_from_slice(frame));
}

/// The server's time in PDUs.
pub(crate) fn unix_seconds(cx: &Context<Server>) -> u32 {
    u32::try_from(cx.unix_time().as_secs()).unwrap_or(u32::MAX)
}
