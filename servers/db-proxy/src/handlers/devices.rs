//! Push tokens: kept and forgotten per device (0x0108), and looked up for a message (0x0705).
//!
//! A device is what the client named in its sign-in; clients that know no such name share one place
//! per user, as all did in 2015.

use tt_proto::im::base_define::{ClientType, UserTokenInfo};
use tt_proto::im::login::{ImDeviceTokenReq, ImDeviceTokenRsp};
use tt_proto::im::server::{ImGetDeviceTokenReq, ImGetDeviceTokenRsp};

use super::{Request, cut};
use crate::lanes::Access;
use crate::quiet_hours;
use crate::store::{Device, Platform, PushToken, Store, StoreError, Write};

/// Users of one look-up; more are not looked up.
const MAX_USERS: usize = 5_000;
/// `push_type`: the msg server decides, this is the usual.
const NORMAL: u32 = 1;

/// 0x0108. Answered once it is on disk, whatever became of it: the answer has no place for a failure.
pub(super) fn token(request: &mut Request<'_>) {
    let Some(query) = request.body_of_user(|query: &ImDeviceTokenReq| query.user_id) else { return };
    let ImDeviceTokenReq { user_id, device_token, client_type, attach_data, device_id } = query;
    let token = if device_token.is_empty() {
        None
    } else {
        let platform = client_type.and_then(|number| Platform::from_number(u32::try_from(number).ok()?));
        let Some(platform) = platform else {
            // Only phones have one, and the msg server says which kind it is.
            request.link.ignore(request.cx, request.pdu);
            return;
        };
        Some(PushToken { platform, token: device_token })
    };
    let change = Write::Device { user: user_id, device: device_id.unwrap_or_default(), token };
    request.change(user_id, change, move |_| ImDeviceTokenRsp { user_id, attach_data });
}

/// 0x0705: where pushes to these users go, with how much each has to read. Whoever wants none at
/// night gets none then on an iPhone; Android clients decide themselves (spec/storage.md §10).
pub(super) fn tokens(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGetDeviceTokenReq>() else { return };
    let quiet = request.server.config.quiet_hours.include(quiet_hours::hour(request.cx.unix_time()));
    request.query(Access::ReadAll, move |store| {
        query.user_id.truncate(MAX_USERS);
        let mut answer = ImGetDeviceTokenRsp { user_token_info: Vec::new(), attach_data: query.attach_data };
        let mut tokens = Vec::new();
        let mut unread = None;
        for device in store.devices(&query.user_id)? {
            if !(quiet && device.shield && device.push.platform == Platform::Ios) {
                tokens.push(entry(store, device, &mut unread)?);
            }
        }
        answer.user_token_info = cut(&answer, tokens);
        Ok(answer)
    });
}

/// `unread` is the count of the user asked about last: a user's devices come together.
fn entry(store: &dyn Store, device: Device, unread: &mut Option<(u32, u32)>) -> Result<UserTokenInfo, StoreError> {
    let count = match *unread {
        Some((user, count)) if user == device.user => count,
        _ => store.unread(device.user)?.iter().fold(0_u32, |total, row| total.saturating_add(row.count)),
    };
    *unread = Some((device.user, count));
    let user_type = match device.push.platform {
        Platform::Ios => ClientType::ClientTypeIos,
        Platform::Android => ClientType::ClientTypeAndroid,
    };
    Ok(UserTokenInfo {
        user_id: device.user,
        user_type: user_type.into(),
        token: device.push.token,
        push_count: count,
        push_type: NORMAL,
    })
}
