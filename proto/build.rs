//! Turns the `.proto` files into Rust. protox parses them in process, so nobody has to install protoc.

use std::error::Error;
use std::path::Path;

/// In the order a reader wants them; `im_base_define` is imported by most others.
const FILES: &[&str] = &[
    "im_base_define.proto",
    "im_login.proto",
    "im_buddy.proto",
    "im_message.proto",
    "im_group.proto",
    "im_file.proto",
    "im_switch_service.proto",
    "im_other.proto",
    "im_server.proto",
    "im_extension.proto",
];

/// Messages whose fields are credentials, push tokens or what people write to each other.
const REDACTED: &[&str] = &[
    ".IM.Login.IMLoginReq",
    ".IM.Login.IMLoginRes",
    ".IM.Login.IMRegistReq",
    ".IM.Login.IMDeviceTokenReq",
    ".IM.Message.IMMsgData",
    ".IM.SwitchService.IMP2PCmdMsg",
    ".IM.Server.IMValidateReq",
    ".IM.Server.IMGetDeviceTokenReq",
    ".IM.Server.IMGetDeviceTokenRsp",
    ".IM.Server.IMGroupGetShieldReq",
    ".IM.Server.IMGroupGetShieldRsp",
    ".IM.Server.IMPushToUserReq",
    ".IM.BaseDefine.MsgInfo",
    ".IM.BaseDefine.ContactSessionInfo",
    ".IM.BaseDefine.UnreadInfo",
    ".IM.BaseDefine.UserTokenInfo",
    ".IM.BaseDefine.PushResult",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::compile(FILES, [&root])?;
    prost_build::Config::new()
        // `Bytes`: the data of one message goes to many receivers without being copied for each.
        .bytes(["."])
        // Without this, prost strips the prefix of enum values from some enums and not from others.
        .retain_enum_prefix()
        // `prost::Name`: the published full name of each message.
        .enable_type_names()
        // Written by hand in `src/redact.rs`, which hides what must not reach a log.
        .skip_debug(REDACTED)
        .include_file("im.rs")
        .compile_fds(files)?;
    Ok(())
}
