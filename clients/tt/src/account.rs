//! Commands about one's own account: `tt signature`, `tt avatar`, `tt quiet-nights`, `tt kick-pc`.
//! Without a new value they show the present one.

use std::io::Write;

use tt_client::{ClientClass, Options};

use crate::cli::Switch;
use crate::commands::sign_in;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn signature(options: Options, output: &mut Output<impl Write>, text: Option<&str>) -> Result<(), Failure> {
    let client = sign_in(options)?;
    match text {
        Some(text) => client.set_signature(text)?,
        None => output.setting("signature", &client.me().signature)?,
    }
    Ok(())
}

pub(crate) fn avatar(options: Options, output: &mut Output<impl Write>, url: Option<&str>) -> Result<(), Failure> {
    let client = sign_in(options)?;
    match url {
        Some(url) => client.set_avatar(url)?,
        None => output.setting("avatar", &client.me().avatar)?,
    }
    Ok(())
}

pub(crate) fn quiet_nights(
    options: Options,
    output: &mut Output<impl Write>,
    set: Option<Switch>,
) -> Result<(), Failure> {
    let client = sign_in(options)?;
    match set {
        Some(switch) => client.set_quiet_nights(switch == Switch::On)?,
        None => output.switch("quiet_nights", client.quiet_nights()?)?,
    }
    Ok(())
}

/// Only a phone may do that; from a desktop client there would be no answer.
pub(crate) fn kick_pc(options: Options) -> Result<(), Failure> {
    if options.class != ClientClass::Mobile {
        return Err(Failure::usage("only a mobile client signs the desktop client out: leave --as pc away"));
    }
    Ok(sign_in(options)?.kick_pc()?)
}
