//! What users change of their own accounts and devices: the signature line, the picture, quiet
//! nights, push tokens. db-proxy keeps all of it; whoever must know of a change is told once it is
//! kept (spec/flows.md §7, §11.1, §15).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use netlib::Context;
use tt_common::CallError;
use tt_proto::im::buddy::{
    ImAvatarChangedNotify, ImChangeAvatarReq, ImChangeAvatarRsp, ImChangeSignInfoReq, ImChangeSignInfoRsp,
    ImSignInfoChangedNotify,
};
use tt_proto::im::login::{
    ImDeviceTokenReq, ImDeviceTokenRsp, ImPushShieldReq, ImPushShieldRsp, ImQueryPushShieldReq, ImQueryPushShieldRsp,
};
use tt_proto::pdu::encode;
use tt_proto::{Attach, Body};

use crate::buddy;
use crate::member::Request;
use crate::parts::{self, Parts};
use crate::peers::Half;
use crate::state::{Class, Server};

/// Longest push token, in bytes.
const MAX_TOKEN: usize = 1_024;
/// A change was not made; the store says the same (spec/flows.md §15.4).
const FAILED: u32 = 1;
/// A change was not made because there were too many. To old clients every number but 0 is a failure.
const TOO_OFTEN: u32 = 2;

/// 0x0213. The answer comes first, then everybody hears of it, by way of route and so also here.
pub(crate) fn sign_info(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImChangeSignInfoReq>() else { return };
    let user_id = request.member.user;
    query.user_id = user_id;
    let answer = |result_code| ImChangeSignInfoRsp { user_id, result_code, sign_info: None, attach_data: None };
    if !request.may_change_card() {
        request.reply(&answer(TOO_OFTEN));
        return;
    }
    let sign_info = query.sign_info.clone();
    change(request, query, answer(FAILED), move |server, cx, reply| {
        if reply.result_code == 0 {
            let notice = encode(0, &ImSignInfoChangedNotify { changed_user_id: user_id, sign_info });
            // Route gives it to every server, the one that sent it too.
            if !server.relay_back(&notice) {
                server.tell_everybody(cx, &notice);
            }
        }
    });
}

/// 0x020c. A recorded route server does not know the notice, so it is given to the clients here
/// without its help.
pub(crate) fn avatar(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImChangeAvatarReq>() else { return };
    let user_id = request.member.user;
    query.user_id = user_id;
    let answer = |result_code| ImChangeAvatarRsp { user_id, result_code, attach_data: None };
    if !request.may_change_card() {
        request.reply(&answer(TOO_OFTEN));
        return;
    }
    let avatar_url = query.avatar_url.clone();
    change(request, query, answer(FAILED), move |server, cx, reply| {
        if reply.result_code == 0 {
            let notice = encode(0, &ImAvatarChangedNotify { changed_user_id: user_id, avatar_url });
            server.relay(&notice);
            server.tell_everybody(cx, &notice);
        }
    });
}

/// 0x0215 by way of route: from this server or another one.
pub(crate) fn sign_info_changed(server: &mut Server, cx: &mut Context<Server>, notice: &ImSignInfoChangedNotify) {
    card_changed(server, cx, notice.changed_user_id, &encode(0, notice));
}

/// 0x0212 by way of route, from another server.
pub(crate) fn avatar_changed(server: &mut Server, cx: &mut Context<Server>, notice: &ImAvatarChangedNotify) {
    card_changed(server, cx, notice.changed_user_id, &encode(0, notice));
}

fn card_changed(server: &mut Server, cx: &mut Context<Server>, user: u32, notice: &Bytes) {
    if user == 0 {
        server.metrics.ignored("relayed card");
    } else {
        server.tell_everybody(cx, notice);
    }
}

/// 0x010c.
pub(crate) fn push_shield(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImPushShieldReq>() else { return };
    let user_id = request.member.user;
    query.user_id = user_id;
    let failed = ImPushShieldRsp { user_id, result_code: FAILED, shield_status: None, attach_data: None };
    change(request, query, failed, |_, _, _| {});
}

/// 0x010e.
pub(crate) fn query_push_shield(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImQueryPushShieldReq>() else { return };
    let user_id = request.member.user;
    query.user_id = user_id;
    let failed = ImQueryPushShieldRsp { user_id, result_code: FAILED, shield_status: None, attach_data: None };
    change(request, query, failed, |_, _, _| {});
}

/// 0x0108, from phones only. Answered at once, as ever: the answer has no place for a failure, and
/// a phone registers its token again at its next sign-in.
pub(crate) fn device_token(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImDeviceTokenReq>() else { return };
    if request.member.class() != Class::Mobile {
        request.ignore("not a phone", &"only phones have a push token");
        return;
    }
    if query.device_token.len() > MAX_TOKEN {
        request.ignore("push token", &"longer than any push service makes them");
        return;
    }
    keep_token(request, query.device_token);
    request.reply(&ImDeviceTokenRsp { user_id: request.member.user, attach_data: None });
}

/// A phone logs out: the push token of this phone is forgotten. Nobody waits for the answer.
pub(crate) fn forget_device_token(request: &mut Request<'_>) {
    keep_token(request, String::new());
}

/// The same for a phone with a name that was kicked before it logged out.
pub(crate) fn forget_token_of(server: &mut Server, user_id: u32, phone: &str, seq: u16) {
    let device_id = Some(phone.to_owned());
    let forget = ImDeviceTokenReq { user_id, device_id, ..ImDeviceTokenReq::default() };
    let link = server.peers.db.choose(Half::Business, user_id.into());
    if link.is_none_or(|link| link.send(seq, &forget).is_err()) {
        server.metrics.ignored("no db link");
    }
}

fn keep_token(request: &mut Request<'_>, device_token: String) {
    let member = &request.member;
    let keep = ImDeviceTokenReq {
        user_id: member.user,
        // None with an empty token, as the recorded server does it.
        client_type: (!device_token.is_empty()).then_some(member.client_type.into()),
        device_token,
        attach_data: None,
        device_id: member.device.as_deref().map(str::to_owned),
    };
    let link = own_db(request);
    if link.is_none_or(|link| link.send(request.pdu.header.seq, &keep).is_err()) {
        request.ignore("no db link", &"push token not kept");
    }
}

/// Asks db-proxy to change something, and answers the client in any case: with `failed` if it does
/// not. `then` hears what the client was answered.
fn change<Q, R>(
    request: &mut Request<'_>,
    query: Q,
    failed: R,
    then: impl FnOnce(&mut Server, &mut Context<Server>, &R) + 'static,
) where
    Q: Body + Attach,
    R: Parts,
{
    let Some(link) = own_db(request) else {
        request.reply(&failed);
        return;
    };
    let (conn, seq, user) = (request.conn.clone(), request.pdu.header.seq, request.member.user);
    let answer = move |server: &mut Server, cx: &mut Context<Server>, reply: Result<R, CallError>| {
        let reply = reply.unwrap_or_else(|error| {
            buddy::unanswered(server, cx, user, error);
            failed
        });
        parts::send(server, &conn, seq, reply.clone(), |_| {});
        then(server, cx, &reply);
    };
    request.server.call(request.cx, &link, seq, query, answer);
}

/// The db link for what a user has alone: always the same one, so that it stays in order.
fn own_db(request: &Request<'_>) -> Option<tt_common::Link<Server>> {
    request.server.peers.db.choose(Half::Business, request.member.user.into())
}

/// For how long notices of changed cards are gathered. Telling everybody of each at once would cost a
/// small write per change and client.
const GATHER: Duration = Duration::from_secs(1);
/// Bytes of notices gathered at a time; then they go out early.
const MAX_GATHERED: usize = 64 * 1024;

/// Notices of changed cards that clients have yet to be told.
#[derive(Debug, Default)]
pub(crate) struct CardNotices {
    gathered: BytesMut,
    /// Whether the next write is set.
    due: bool,
}

impl Server {
    /// Tells everybody who is signed in here of a changed card, within [`GATHER`].
    fn tell_everybody(&mut self, cx: &mut Context<Self>, notice: &Bytes) {
        let notices = &mut self.card_notices;
        notices.gathered.extend_from_slice(notice);
        if notices.gathered.len() >= MAX_GATHERED {
            self.tell_cards();
        } else if !std::mem::replace(&mut notices.due, true) {
            cx.after(GATHER, |server: &mut Self, _| {
                server.card_notices.due = false;
                server.tell_cards();
            });
        }
    }

    /// One write to each client, whatever has gathered.
    fn tell_cards(&mut self) {
        let notices = std::mem::take(&mut self.card_notices.gathered).freeze();
        if notices.is_empty() {
            return;
        }
        for (_, device) in self.clients.all_devices().filter(|(_, device)| !device.kicked) {
            device.send(&self.metrics, &notices);
            self.metrics.card_writes.inc();
        }
    }

    /// Sends something that route passes to this server too. False without a route server.
    fn relay_back(&self, notice: &Bytes) -> bool {
        self.peers.master().is_some_and(|link| link.send_frame(notice.clone()).is_ok())
    }
}
