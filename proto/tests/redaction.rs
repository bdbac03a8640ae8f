//! A message that is printed for a log shows no password, no token and no text.

use std::fmt::Debug;

use tt_proto::im::base_define::{ContactSessionInfo, MsgInfo, PushResult, UnreadInfo, UserTokenInfo};
use tt_proto::im::login::{ImDeviceTokenReq, ImLoginReq, ImLoginRes, ImRegistReq};
use tt_proto::im::message::{ImGetMsgListRsp, ImMsgData};
use tt_proto::im::server::{ImGetDeviceTokenReq, ImPushToUserReq, ImValidateReq};
use tt_proto::im::switch_service::Imp2pCmdMsg;

const SECRET: &str = "hunter2";

fn hides_it(message: &impl Debug) {
    let shown = format!("{message:?} {message:#?}");
    assert!(!shown.contains(SECRET), "{shown}");
}

#[test]
fn credentials_do_not_show() {
    let password = SECRET.to_owned();
    let login = ImLoginReq {
        user_name: "alice".to_owned(),
        password: password.clone(),
        token: Some(SECRET.into()),
        ..ImLoginReq::default()
    };
    assert!(format!("{login:?}").contains("alice"), "the rest does");
    hides_it(&login);
    hides_it(&ImLoginRes { token: Some(SECRET.into()), ..ImLoginRes::default() });
    hides_it(&ImRegistReq { password: password.clone(), ..ImRegistReq::default() });
    hides_it(&ImValidateReq { password, ..ImValidateReq::default() });
}

#[test]
fn push_tokens_do_not_show() {
    let token = SECRET.to_owned();
    hides_it(&ImDeviceTokenReq { device_token: token.clone(), ..ImDeviceTokenReq::default() });
    let target = UserTokenInfo { token: token.clone(), ..UserTokenInfo::default() };
    hides_it(&ImPushToUserReq { flash: token.clone(), data: token.clone(), user_token_list: vec![target] });
    hides_it(&PushResult { user_token: token, result_code: 0 });
}

#[test]
fn texts_do_not_show() {
    hides_it(&ImMsgData { msg_data: SECRET.into(), ..ImMsgData::default() });
    hides_it(&ImGetDeviceTokenReq { user_id: vec![1], attach_data: Some(SECRET.into()) });
    hides_it(&Imp2pCmdMsg { cmd_msg_data: SECRET.to_owned(), ..Imp2pCmdMsg::default() });
    let page = vec![MsgInfo { msg_data: SECRET.into(), ..MsgInfo::default() }];
    hides_it(&ImGetMsgListRsp { msg_list: page, ..ImGetMsgListRsp::default() });
    hides_it(&ContactSessionInfo { latest_msg_data: SECRET.into(), ..ContactSessionInfo::default() });
    hides_it(&UnreadInfo { latest_msg_data: SECRET.into(), ..UnreadInfo::default() });
}
