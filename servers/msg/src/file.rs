//! Files, as long as there is no file server: whoever wants to send one is told that it cannot be done, and nobody
//! has any waiting (spec/flows.md §14.1, §14.5). Notices of files that clients of a msg server of 2015 send are
//! passed on: its file server is there for them.

use tt_proto::im::base_define::TransferFileType;
use tt_proto::im::file::{
    ImFileAddOfflineReq, ImFileDelOfflineReq, ImFileHasOfflineReq, ImFileHasOfflineRsp, ImFileNotify, ImFileReq,
    ImFileRsp,
};
use tt_proto::pdu::encode;

use crate::member::Request;
use crate::state::{Class, Server};

/// What an answer says of a failure.
const FAILED: u32 = 1;
/// Longest name of a file, in bytes: what a file server has room for (spec/flows.md §14.3). Of a longer one nothing
/// is repeated.
const MAX_NAME: usize = 512;

/// 0x0506. There is no file server to open a task on.
pub(crate) fn open(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImFileReq>() else { return };
    if TransferFileType::try_from(query.trans_mode).is_err() {
        request.ignore("malformed", &"unknown transfer mode");
        return;
    }
    request.server.metrics.refused("no file server");
    let file_name = if query.file_name.len() > MAX_NAME { String::new() } else { query.file_name };
    request.reply(&ImFileRsp {
        result_code: FAILED,
        from_user_id: request.member.user,
        to_user_id: query.to_user_id,
        file_name,
        task_id: String::new(),
        ip_addr_list: Vec::new(),
        trans_mode: query.trans_mode,
    });
}

/// 0x0509.
pub(crate) fn waiting(request: &mut Request<'_>) {
    if request.body::<ImFileHasOfflineReq>().is_some() {
        let user_id = request.member.user;
        request.reply(&ImFileHasOfflineRsp { user_id, ..ImFileHasOfflineRsp::default() });
    }
}

/// 0x050b. It has no answer, ever.
pub(crate) fn left_for_later(request: &mut Request<'_>) {
    if request.body::<ImFileAddOfflineReq>().is_some() {
        request.ignore("no file server", &"nothing was uploaded");
    }
}

/// 0x050c. Neither has this.
pub(crate) fn fetched(request: &mut Request<'_>) {
    if request.body::<ImFileDelOfflineReq>().is_some() {
        request.ignore("no file server", &"nothing was fetched");
    }
}

/// 0x0508 from another msg server, by way of route: for the receiver's PC, as everywhere.
pub(crate) fn relayed(server: &mut Server, notice: &ImFileNotify) {
    let known = TransferFileType::try_from(notice.trans_mode).is_ok();
    if !known || notice.from_user_id == 0 || notice.file_name.len() > MAX_NAME {
        server.metrics.ignored("relayed file");
        return;
    }
    let pdu = encode(0, notice);
    for device in server.clients.devices_mut(notice.to_user_id).filter(|device| device.class() == Class::Pc) {
        device.send(&server.metrics, &pdu);
    }
}
