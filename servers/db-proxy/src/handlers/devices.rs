//! Push tokens (0x0108). None are kept yet, so forgetting one, which a phone's log-out asks for, is
//! done before it begins; keeping one is ignored as an unknown command is.

use tt_proto::im::login::{ImDeviceTokenReq, ImDeviceTokenRsp};

use super::Request;

pub(super) fn token(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImDeviceTokenReq>() else { return };
    if query.device_token.is_empty() {
        request.reply(&ImDeviceTokenRsp { user_id: query.user_id, attach_data: query.attach_data });
    } else {
        request.link.ignore(request.cx, request.pdu);
    }
}
