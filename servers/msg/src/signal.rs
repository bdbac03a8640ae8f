//! Signals from client to client: "is typing", a shaken window, whatever clients agree on. They are
//! passed on to whoever is signed in, and neither kept nor answered (spec/flows.md §13).

use bytes::Bytes;
use netlib::Token;
use tt_proto::im::switch_service::Imp2pCmdMsg;
use tt_proto::pdu::{MAX_TEXT, encode};

use crate::member::Request;
use crate::state::Server;

/// 0x0601 from a client. Who sends it is not the client's to say.
pub(crate) fn send(request: &mut Request<'_>) {
    let Some(mut signal) = request.body::<Imp2pCmdMsg>() else { return };
    signal.from_user_id = request.member.user;
    if let Err(why) = check(&signal) {
        request.ignore("signal", &why);
        return;
    }
    // Encoded anew: the sequence number is 0, or a phone takes it for an answer of its own.
    let pdu = encode(0, &signal);
    let server = &mut *request.server;
    deliver(server, &signal, &pdu, Some(request.conn.id()));
    server.relay(&pdu);
}

/// 0x0601 from another msg server, by way of route.
pub(crate) fn relayed(server: &mut Server, signal: &Imp2pCmdMsg) {
    if check(signal).is_err() {
        server.metrics.ignored("relayed signal");
        return;
    }
    deliver(server, signal, &encode(0, signal), None);
}

fn check(signal: &Imp2pCmdMsg) -> Result<(), &'static str> {
    if signal.from_user_id == 0 || signal.to_user_id == 0 {
        return Err("user 0 is nobody");
    }
    match signal.cmd_msg_data.len() {
        0 => Err("empty"),
        len if len > MAX_TEXT => Err("longer than a text may be"),
        _ => Ok(()),
    }
}

/// Copies to all devices of both users but the one that sent it.
fn deliver(server: &mut Server, signal: &Imp2pCmdMsg, pdu: &Bytes, except: Option<Token>) {
    let (from, to) = (signal.from_user_id, signal.to_user_id);
    let users = [Some(from), (to != from).then_some(to)];
    for user in users.into_iter().flatten() {
        for device in server.clients.devices_mut(user).filter(|device| Some(device.conn.id()) != except) {
            device.send(&server.metrics, pdu);
            server.metrics.signals.inc();
        }
    }
}
