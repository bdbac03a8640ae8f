//! The PDU port for clients: one question, one answer, and the end of the connection.
//!
//! A handler of its own, which knows exactly one command: a client cannot pose as a msg server here.

use netlib::{Conn, Context, FrameHandler};
use tt_proto::Command;
use tt_proto::im::base_define::ResultType;
use tt_proto::im::login::ImMsgServRsp;
use tt_proto::pdu::{self, PduRef};

use crate::directory::Choice;
use crate::server::Login;

pub(crate) struct Client;

/// The longest PDU taken here, in bytes. The only one that is expected has no body.
pub(crate) const MAX_REQUEST: usize = 16 * 1024;

impl FrameHandler<Login> for Client {
    fn on_frame(&mut self, login: &mut Login, _: &mut Context<Login>, conn: &Conn, frame: &[u8]) {
        // The framing lets only whole PDUs through.
        let Ok(pdu) = PduRef::parse(frame) else { return conn.close() };
        login.metrics.received(pdu.header.command, frame.len());
        if Command::try_from(pdu.header.command) != Ok(Command::MsgServReq) {
            login.metrics.unknown_commands.inc();
            return;
        }
        // The request has no fields, so there is nothing in its body to read or to refuse.
        let answer = pdu::encode(pdu.header.seq, &answer(login.directory.choose()));
        login.metrics.sent(Command::MsgServRsp.id(), answer.len());
        // Refused only if the client is gone, and then there is nobody to tell.
        let _ = conn.send(answer);
        conn.close();
    }
}

fn answer(choice: Choice<'_>) -> ImMsgServRsp {
    let refusal = |reason: ResultType| ImMsgServRsp { result_code: reason.into(), ..ImMsgServRsp::default() };
    match choice {
        Choice::Server(server) => ImMsgServRsp {
            result_code: ResultType::RefuseReasonNone.into(),
            prior_ip: Some(server.ip1.clone()),
            backip_ip: Some(server.ip2.clone()),
            port: Some(u32::from(server.port)),
        },
        Choice::NoServer => refusal(ResultType::RefuseReasonNoMsgServer),
        Choice::AllFull => refusal(ResultType::RefuseReasonMsgServerFull),
    }
}
