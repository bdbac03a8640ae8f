//! The msg server: clients are connected here. It signs them in with db-proxy's
//! word, forwards what they ask, carries messages from the sender through the store
//! to the receivers, and tells route and login who is here.
//!
//! | to read about | see |
//! |---|---|
//! | what is configured | [`Config`] |
//! | a client before and after it has signed in, and after a kick | `visitor.rs`, `member.rs`, `kick.rs` |
//! | a message's way | `message.rs`, in order by `conversation.rs`, once by `recent.rs`, in spite of lost links by `catch_up.rs` |
//! | groups: their commands, and a message's way to all members | `group.rs`, `fan_out.rs` |
//! | questions that other servers answer | `buddy.rs`, cut to size by `parts.rs` |
//! | accounts and devices of users; signals between clients; files | `account.rs`, `signal.rs`, `file.rs` |
//! | who is online | `presence.rs` |
//! | the other servers | `peers.rs`, `links.rs` |
//! | the shared state, the limits, the counts, the end | `state.rs`, `limits.rs`, `rates.rs`, `metrics.rs`, `drain.rs` |

#![warn(missing_docs)]

mod account;
mod buddy;
mod catch_up;
mod config;
mod conversation;
mod drain;
mod fan_out;
mod file;
mod group;
mod kick;
mod limits;
mod links;
mod member;
mod message;
mod metrics;
mod parts;
mod peers;
mod presence;
mod rates;
mod recent;
mod signal;
mod state;
mod visitor;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use netlib::{ConnOptions, Context, ListenOptions, OutputPolicy};
use tt_common::link::{CAPABILITY_PRESENCE, Identity, Link, LinkHandler, LinkOptions, LinkRole};
use tt_common::role::{self, StartError};
use tt_common::{Ready, RoleHandle, metrics_http};

pub use config::{Advertise, Config, Limits, Listeners, Timeouts};

use links::{DbLink, LoginLink, RouteLink};
use metrics::Metrics;
use state::{Class, Server};
use visitor::Visitor;

/// Starts a msg server on a thread of its own. It is ready when it listens and a
/// login, a route and a db-proxy link are up.
pub fn spawn(config: Config, listeners: Listeners) -> io::Result<RoleHandle> {
    role::spawn("msg", move |cx, ready| start(config, listeners, cx, ready))
}

fn start(
    mut config: Config,
    listeners: Listeners,
    cx: &mut Context<Server>,
    ready: Ready,
) -> Result<Server, StartError> {
    if config.advertise.port == 0 {
        config.advertise.port = listeners.clients.local_addr()?.port();
    }
    let counts = tt_common::Metrics::new();
    let metrics = Metrics::new(&counts);
    let identity =
        Identity { capabilities: CAPABILITY_PRESENCE, ..Identity::new(LinkRole::Msg, config.server_id.clone()) };
    let options = LinkOptions::new(identity, counts.clone(), config.cluster.trust()?);
    let mut server = Server::new(config, metrics);

    metrics_http::serve(cx, listeners.metrics, counts, |server: &mut Server| {
        if server.can_serve() { Ok(()) } else { Err("a login, route or db-proxy link is missing".to_owned()) }
    })?;
    let listen = listen_options(&server.config);
    let listener = cx.listen_on(listeners.clients, listen, |_, _, _| Some(Visitor::framed()))?;
    server.drain.listener = Some(listener);
    server.drain.ready = Some(ready);
    dial(&mut server, cx, &options);
    Ok(server)
}

/// First and largest wait between two dials of a route server or a db-proxy.
const QUICK_REDIAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// Dials every configured peer. The links live as long as the server.
fn dial(server: &mut Server, cx: &mut Context<Server>, options: &LinkOptions) {
    let mut dial = |role, address: SocketAddr, handler: Box<dyn LinkHandler<Server>>| {
        let mut options = options.clone();
        if role != LinkRole::Login {
            // Messages wait for them: for a db-proxy that stood by and has just begun to listen, for a route
            // server that was restarted.
            options.redial = QUICK_REDIAL;
        }
        Link::dial(cx, role, address, options, handler)
    };
    let (config, peers) = (&server.config, &mut server.peers);
    for &address in &config.login_servers {
        peers.login.push(dial(LinkRole::Login, address, Box::new(LoginLink)));
    }
    for &address in &config.route_servers {
        peers.route.push(dial(LinkRole::Route, address, Box::new(RouteLink)));
    }
    for (entry, &address) in config.db_proxies.iter().enumerate() {
        let half = if entry < config.db_proxies.len() / 2 { &mut peers.db.login } else { &mut peers.db.business };
        for _ in 0..config.db_links {
            half.push(dial(LinkRole::DbProxy, address, Box::new(DbLink)));
        }
    }
}

fn listen_options(config: &Config) -> ListenOptions {
    let output = config.limits.output_bytes;
    ListenOptions {
        // Room above the limit of signed-in clients, so that the next one is told.
        max_connections: config.max_connections.saturating_add(config.max_connections / 8 + 1_024),
        max_per_address: config.limits.address_connections,
        conn: ConnOptions {
            high_water: output / 4,
            low_water: output / 16,
            output_limit: output,
            policy: OutputPolicy::Notify,
            ..ConnOptions::default()
        },
        ..ListenOptions::default()
    }
}
