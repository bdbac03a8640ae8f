//! The client before it has signed in. This handler knows two commands, sign-in and
//! heartbeat, and closes the connection on any other: there is no path from here to
//! the commands of a member but a valid name and password (spec/flows.md §3).

use std::rc::Rc;

use netlib::{CloseReason, Conn, Context, FrameHandler, Framed, Handler, TimerId};
use tt_common::link::{CAPABILITY_PRESENCE, PduFraming};
use tt_common::{CallError, Link};
use tt_proto::Command;
use tt_proto::im::base_define::{ClientType, KickReasonType, ResultType, UserStatType};
use tt_proto::im::login::{ImLoginReq, ImLoginRes};
use tt_proto::im::server::{ImValidateReq, ImValidateRsp};
use tt_proto::pdu::PduRef;

use crate::kick::{Kick, SignIn};
use crate::member::{self, Member};
use crate::peers::Half;
use crate::presence;
use crate::state::{Class, Device, Server};

/// Extensions of clients that this server has built, as bits of the capabilities
/// field (spec/gaps.md §0.6): explicit refusals of messages, presence v2, exact read
/// cursors.
pub(crate) const CAPABILITIES: u64 = CAPABILITY_REFUSALS | CAPABILITY_PRESENCE | CAPABILITY_EXACT_READS;
/// The client understands an ack with msg_id 0 and a result.
pub(crate) const CAPABILITY_REFUSALS: u64 = 1 << 1;
/// The client's read marks mean their message, not everything there is.
pub(crate) const CAPABILITY_EXACT_READS: u64 = 1 << 12;

/// What a client reads when a server is missing; the recorded text.
const UNAVAILABLE: &str = "服务端异常";
const FULL: &str = "服务器繁忙";
/// And when it, or its user, signs in too often.
const TOO_OFTEN: &str = "登录过于频繁，请稍后再试";

/// A client that has not signed in.
pub(crate) struct Visitor {
    /// Closes the connection when signing in takes too long.
    deadline: Option<TimerId>,
    /// A sign-in is under way: a second one is ignored.
    asked: bool,
}

/// The longest PDU taken before sign-in, in bytes: whoever has shown nothing yet may
/// not make the server hold as much as a member may.
const MAX_PDU: usize = 16 * 1024;

/// Longest name of a device, in bytes; with a longer one a device has none.
const MAX_DEVICE_ID: usize = 64;

impl Visitor {
    /// The handler of a new connection, framing in front.
    pub(crate) fn framed() -> Box<dyn Handler<Server>> {
        Box::new(Framed::new(PduFraming::new(MAX_PDU), Self { deadline: None, asked: false }))
    }

    fn sign_in(&mut self, server: &mut Server, cx: &mut Context<Server>, conn: &Conn, pdu: &PduRef<'_>) {
        if self.asked {
            return;
        }
        let request = pdu.decode::<ImLoginReq>().ok();
        // An unknown client type has no class to be kicked by: not a request we understand.
        let known = request.and_then(|request| Some((ClientType::try_from(request.client_type).ok()?, request)));
        let Some((client_type, request)) = known else {
            server.metrics.ignored("malformed");
            if let Some(unsaid) = server.noise.allow(cx.now()) {
                log::info!("{}: a malformed sign-in is ignored{unsaid}", conn.peer_addr());
            }
            return;
        };
        let seq = pdu.header.seq;
        let link = match db_link(server, cx.random()) {
            Ok(link) => link,
            Err((result, text)) => {
                refuse(server, cx, conn, seq, result, text);
                return;
            }
        };
        if !server.rates.address_may_sign_in(&server.config.limits, &conn.peer_addr(), cx.now()) {
            server.metrics.sign_ins_limited("address");
            refuse(server, cx, conn, seq, ResultType::RefuseReasonMsgServerFull, TOO_OFTEN);
            return;
        }
        self.asked = true;
        server.signing_in += 1;
        let candidate = Candidate {
            conn: conn.clone(),
            seq,
            deadline: self.deadline,
            client_type,
            online_status: UserStatType::try_from(request.online_status).unwrap_or(UserStatType::UserStatusOnline),
            capabilities: request.capabilities,
            device: request.device_id.filter(|id| (1..=MAX_DEVICE_ID).contains(&id.len())).map(Rc::from),
        };
        let validate = ImValidateReq { user_name: request.user_name, password: request.password, attach_data: None };
        server.call(cx, &link, seq, validate, move |server, cx, reply| {
            server.signing_in -= 1;
            candidate.finish(server, cx, reply);
        });
    }
}

impl FrameHandler<Server> for Visitor {
    fn on_open(&mut self, server: &mut Server, cx: &mut Context<Server>, conn: &Conn) {
        server.metrics.visitors.inc();
        self.deadline = Some(cx.conn_timer(conn, server.config.timeouts.login()));
    }

    fn on_frame(&mut self, server: &mut Server, cx: &mut Context<Server>, conn: &Conn, frame: &[u8]) {
        let Some(pdu) = member::parse(server, conn, frame) else { return };
        match Command::try_from(pdu.header.command) {
            Ok(Command::LoginReq) => self.sign_in(server, cx, conn, &pdu),
            Ok(Command::HeartBeat) => member::echo(server, conn, frame),
            _ => {
                if let Some(unsaid) = server.noise.allow(cx.now()) {
                    let command = pdu.header.command;
                    log::info!("{}: command {command:#06x} before sign-in, closing{unsaid}", conn.peer_addr());
                }
                conn.close_with(CloseReason::Refused("command before sign-in"));
            }
        }
    }

    fn on_timer(&mut self, _: &mut Server, _: &mut Context<Server>, conn: &Conn, _: TimerId) {
        conn.close_with(CloseReason::Refused("no sign-in in time"));
    }

    fn on_close(&mut self, server: &mut Server, cx: &mut Context<Server>, _: &Conn, reason: &CloseReason) {
        server.metrics.visitors.dec();
        server.metrics.closed("visitor", reason);
        server.drain_on(cx);
    }
}

/// A sign-in whose name and password are with db-proxy.
struct Candidate {
    conn: Conn,
    seq: u16,
    deadline: Option<TimerId>,
    client_type: ClientType,
    online_status: UserStatType,
    /// What the client announced; none for a client that does not know the field.
    capabilities: Option<u64>,
    /// What the client calls its device.
    device: Option<Rc<str>>,
}

impl Candidate {
    fn finish(self, server: &mut Server, cx: &mut Context<Server>, reply: Result<ImValidateRsp, CallError>) {
        if !self.conn.is_open() {
            return;
        }
        let mut reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                log::warn!("sign-in of {} not answered by db-proxy: {error}", self.conn.peer_addr());
                refuse(server, cx, &self.conn, self.seq, ResultType::RefuseReasonNoDbServer, UNAVAILABLE);
                return;
            }
        };
        let text = reply.result_string.take().unwrap_or_default();
        let card = match reply.user_info.take() {
            // User 0 would stand for the servers themselves in later requests.
            Some(card) if reply.result_code == 0 && card.user_id != 0 => card,
            _ => {
                refuse(server, cx, &self.conn, self.seq, ResultType::RefuseReasonDbValidateFailed, &text);
                return;
            }
        };
        if server.is_full() {
            refuse(server, cx, &self.conn, self.seq, ResultType::RefuseReasonMsgServerFull, FULL);
            return;
        }
        if !server.rates.user_may_sign_in(&server.config.limits, card.user_id, cx.now()) {
            server.metrics.sign_ins_limited("user");
            refuse(server, cx, &self.conn, self.seq, ResultType::RefuseReasonMsgServerFull, TOO_OFTEN);
            return;
        }
        // The order is what old clients and servers see (spec/flows.md §3.1): kicks and
        // presence go out before the reply.
        let user = card.user_id;
        let class = Class::of(self.client_type);
        let signed_in = SignIn::now(cx);
        let reason = KickReasonType::KickReasonDuplicateUser;
        Kick { user, class, reason, newest: None }.here(server, cx);
        Kick { user, class, reason, newest: Some(signed_in) }.elsewhere(server);
        let device = Device {
            away: self.online_status == UserStatType::UserStatusLeave,
            details: self.capabilities.unwrap_or(0) & CAPABILITY_PRESENCE != 0,
            name: self.device.clone(),
            ..Device::new(self.conn.clone(), self.client_type, signed_in, cx.now())
        };
        presence::signed_in(server, user, &device);
        server.clients.add(user, device);
        let answer = ImLoginRes {
            server_time: member::unix_seconds(cx),
            result_code: ResultType::RefuseReasonNone.into(),
            result_string: Some(text),
            online_status: Some(self.online_status.into()),
            user_info: Some(card),
            capabilities: self.capabilities.map(|bits| bits & CAPABILITIES),
            messages_per_second: self.capabilities.map(|_| server.config.limits.messages_per_second),
            messages_burst: self.capabilities.map(|_| server.config.limits.messages_burst),
            ..ImLoginRes::default()
        };
        member::reply(server, &self.conn, self.seq, &answer);
        if let Some(deadline) = self.deadline {
            cx.cancel(deadline);
        }
        server.metrics.visitors.dec();
        server.metrics.sign_in(ResultType::RefuseReasonNone);
        server.metrics.show(&server.clients);
        self.conn.set_idle_timeout(Some(server.config.timeouts.idle(class)));
        let member = Member::new(server, cx, user, self.client_type, self.capabilities.unwrap_or(0), self.device);
        cx.replace_handler(&self.conn, member::framed(member));
        log::debug!("user {user} signed in from {} as {:?}", self.conn.peer_addr(), self.client_type);
    }
}

/// The db link that checks a sign-in, or why nobody can sign in now. The order of
/// the reasons is the recorded one (spec/flows.md §3.1).
fn db_link(server: &Server, random: u64) -> Result<Link<Server>, (ResultType, &'static str)> {
    let peers = &server.peers;
    let link = peers.db.choose(Half::Login, random).ok_or((ResultType::RefuseReasonNoDbServer, UNAVAILABLE))?;
    if peers.login.usable() == 0 {
        return Err((ResultType::RefuseReasonNoLoginServer, UNAVAILABLE));
    }
    if peers.route.usable() == 0 {
        return Err((ResultType::RefuseReasonNoRouteServer, UNAVAILABLE));
    }
    if server.is_full() {
        return Err((ResultType::RefuseReasonMsgServerFull, FULL));
    }
    Ok(link)
}

/// Answers a sign-in with a refusal and closes.
fn refuse(server: &mut Server, cx: &mut Context<Server>, conn: &Conn, seq: u16, result: ResultType, text: &str) {
    if let Some(unsaid) = server.noise.allow(cx.now()) {
        log::info!("sign-in from {} refused: {result:?}{unsaid}", conn.peer_addr());
    }
    server.metrics.sign_in(result);
    let answer = ImLoginRes {
        server_time: member::unix_seconds(cx),
        result_code: result.into(),
        result_string: Some(text.to_owned()),
        ..ImLoginRes::default()
    };
    member::reply(server, conn, seq, &answer);
    conn.close_with(CloseReason::Refused("sign-in refused"));
}
