//! `teamtalk login|msg|route|db-proxy --config FILE`: one role in its own process, by the very
//! code that `teamtalk dev` runs it with.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tt_common::{
    RoleHandle,
    bind::BindError,
    config::{self, RoleConfig},
    logging,
};
use tt_db_proxy::store::embedded::{Embedded, OpenError};

use crate::{
    commands::say,
    descriptors,
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
    let config: tt_db_proxy::Config = config::load(Some(&options.config))?;
    if !config.standby {
        return serve(options, tt_db_proxy::Config::bind, tt_db_proxy::spawn);
    }
    let watch = Watch::start()?;
    logging::init();
    descriptors::raise();
    let Some(store) = stand_by(&config.data, &watch)? else { return Ok(()) };
    // Only now: a msg server must not take the port of one that waits for one that serves.
    let listeners = config.bind()?;
    run(&watch, tt_db_proxy::Config::ROLE, tt_db_proxy::spawn_on(config, listeners, Arc::new(store)))
}

/// How often a db-proxy that stands by looks whether the data directory is free. The lock goes with its holder's
/// process, however that ends.
const LOOK: Duration = Duration::from_millis(100);

/// Waits for the data directory; None if the end was asked for first.
fn stand_by(data: &Path, watch: &Watch) -> Outcome<Option<Embedded>> {
    let mut said = false;
    loop {
        match Embedded::open(data) {
            Ok(store) => return Ok(Some(store)),
            Err(OpenError::InUse { pid, .. }) => {
                if !std::mem::replace(&mut said, true) {
                    say(format_args!("Standing by: process {pid} serves {}.", data.display()));
                }
            }
            Err(error) => return Err(error.into()),
        }
        if watch.stops_within(LOOK) {
            return Ok(None);
        }
    }
}

fn serve<C: RoleConfig, L>(
    options: &Options,
    bind: impl FnOnce(&C) -> Result<L, BindError>,
    spawn: impl FnOnce(C, L) -> io::Result<RoleHandle>,
) -> Outcome {
    let watch = Watch::start()?;
    logging::init();
    descriptors::raise();
    let config: C = config::load(Some(&options.config))?;
    let listeners = bind(&config)?;
    run(&watch, C::ROLE, spawn(config, listeners))
}

/// From a started role to its end.
fn run(watch: &Watch, name: &str, role: io::Result<RoleHandle>) -> Outcome {
    let role = role.map_err(|error| Failure::new(Kind::Other, format!("{name}: {error}")))?;
    // No order of starting is asked for: a role waits for its peers as long as it takes.
    watch.role(&role)?;
    loop {
        match watch.next() {
            News::Ready => say(format_args!("Ready: {name}. Ctrl-C stops it.")),
            News::Failed(failure) => return Err(failure),
            News::Stop => break,
        }
    }
    serving::stop(vec![role]);
    Ok(())
}
