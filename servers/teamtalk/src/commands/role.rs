//! `teamtalk login|msg|route|db-proxy --config FILE`: one role in its own process, by the very
//! code that `teamtalk dev` runs it with.

use std::{io, path::PathBuf};

use clap::Args;
use tt_common::{
    RoleHandle,
    bind::BindError,
    config::{self, RoleConfig},
    logging,
};

use crate::{
    commands::say,
    failure::{Failure, Kind, Outcome},
    serving::{self, News, Watch},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The role's configuration (`teamtalk config ROLE` prints one to start from)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn login(options: &Options) -> Outcome {
    serve(options, tt_login::Config::bind, tt_login::spawn)
}

pub(crate) fn msg(options: &Options) -> Outcome {
    serve(options, tt_msg::Config::bind, tt_msg::spawn)
}

pub(crate) fn route(options: &Options) -> Outcome {
    serve(options, tt_route::Config::bind, tt_route::spawn)
}

pub(crate) fn db_proxy(options: &Options) -> Outcome {
    serve(options, tt_db_proxy::Config::bind, tt_db_proxy::spawn)
}

fn serve<C: RoleConfig, L>(
    options: &Options,
    bind: impl FnOnce(&C) -> Result<L, BindError>,
    spawn: impl FnOnce(C, L) -> io::Result<RoleHandle>,
) -> Outcome {
    let watch = Watch::start()?;
    logging::init();
    let config: C = config::load(Some(&options.config))?;
    let listeners = bind(&config)?;
    let role = spawn(config, listeners).map_err(|error| Failure::new(Kind::Other, format!("{}: {error}", C::ROLE)))?;
    // No order of starting is asked for: a role waits for its peers as long as it takes.
    watch.role(&role)?;
    loop {
        match watch.next() {
            News::Ready => say(format_args!("Ready: {}. Ctrl-C stops it.", C::ROLE)),
            News::Failed(failure) => return Err(failure),
            News::Stop => break,
        }
    }
    serving::stop(vec![role]);
    Ok(())
}
