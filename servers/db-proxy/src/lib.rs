//! The db-proxy server: the only one that touches the store. Msg servers ask, over links, for
//! everything that is kept: accounts, messages, sessions, read cursors.
//!
//! | to read about | see |
//! |---|---|
//! | what is configured | [`Config`] |
//! | what is kept, and the promises about it | [`store`] |
//! | a request's way: admitted, put in order, run, answered | `server.rs`, `lanes.rs`, `writer.rs` |
//! | what each command does | `handlers.rs` and the files below it |
//! | locked names, quiet hours, counts, the end | `attempts.rs`, `quiet_hours.rs`, `metrics.rs`, `drain.rs` |
//!
//! The reactor's thread never touches the store: writes go to one thread that commits everything
//! that waits at once, reads to a pool of threads, and both post back what they found.

#![warn(missing_docs)]

mod attempts;
mod config;
mod drain;
mod handlers;
mod lanes;
mod metrics;
mod quiet_hours;
mod server;
mod writer;

pub mod store;

use std::io;
use std::sync::Arc;

use netlib::Context;
use tt_common::link::{self, Identity, LinkOptions, LinkRole};
use tt_common::role::{self, StartError};
use tt_common::{Ready, RoleHandle, metrics_http};

pub use config::{Config, Limits, Listeners, Timeouts};
pub use quiet_hours::QuietHours;

use server::{DbLink, Server};
use store::Store;
use store::embedded::Embedded;

/// Starts a db-proxy on a thread of its own, on the embedded store of the configured directory. It
/// is ready when the store is open and it listens.
pub fn spawn(config: Config, listeners: Listeners) -> io::Result<RoleHandle> {
    role::spawn("db-proxy", move |cx, ready| {
        let store = Embedded::open(&config.data)?;
        start(config, listeners, Arc::new(store), cx, &ready)
    })
}

/// The same on a store that is open already. Stopping lets go of it.
pub fn spawn_on(config: Config, listeners: Listeners, store: Arc<dyn Store>) -> io::Result<RoleHandle> {
    role::spawn("db-proxy", move |cx, ready| start(config, listeners, store, cx, &ready))
}

fn start(
    config: Config,
    listeners: Listeners,
    store: Arc<dyn Store>,
    cx: &mut Context<Server>,
    ready: &Ready,
) -> Result<Server, StartError> {
    log::info!("serving msg servers on {}", listeners.links.local_addr()?);
    let counts = tt_common::Metrics::new();
    let identity = Identity::new(LinkRole::DbProxy, config.server_id.clone());
    let trust = config.cluster.trust()?;
    let accepts = &[LinkRole::Msg, LinkRole::HttpMsg];
    let options = LinkOptions { accepts, ..LinkOptions::new(identity, counts.clone(), trust) };
    let mut server = Server::new(config, store, &counts, cx)?;
    metrics_http::serve(cx, listeners.metrics, counts, |server: &mut Server| server.health())?;
    let listener = link::accept_links(cx, listeners.links, options, |_, _, _| Some(Box::new(DbLink)))?;
    server.drain.listener = Some(listener);
    ready.signal();
    Ok(server)
}
