//! What every server shares, so that a server is only its configuration, its state and its handlers.
//!
//! | to | see |
//! |---|---|
//! | talk to another server: dial, accept, greet, call, notice its death | [`link`] |
//! | spread requests over several links to one kind of server | [`links`] |
//! | run a server on a thread of its own, and stop it | [`role`] |
//! | turn SIGINT and SIGTERM into a clean end | [`signals`] |
//! | read a configuration file and say precisely what is wrong with it | [`config`] |
//! | decide which servers to believe | [`cluster`] |
//! | bind a listener and say whose port is taken | [`bind`] |
//! | write one line per event | [`logging`], [`log_limit`] |
//! | count, and show the counts on `/metrics` and `/healthz` | [`metrics`], [`metrics_http`] |
//!
//! A server in outline:
//!
//! ```no_run
//! use netlib::Context;
//! use tt_common::cluster::Trust;
//! use tt_common::link::{self, Identity, Link, LinkHandler, LinkOptions, LinkRole};
//! use tt_common::metrics::Metrics;
//! use tt_common::role::{self, Role};
//! use tt_proto::pdu::PduRef;
//!
//! /// What the server's connections share.
//! struct Hub;
//!
//! impl Role for Hub {
//!     fn stop(&mut self, cx: &mut Context<Self>) {
//!         cx.stop();
//!     }
//! }
//!
//! /// What one link is to it.
//! struct MsgLink;
//!
//! impl LinkHandler<Hub> for MsgLink {
//!     fn on_pdu(&mut self, _: &mut Hub, cx: &mut Context<Hub>, link: &Link<Hub>, pdu: PduRef<'_>) {
//!         link.ignore(cx, pdu);
//!     }
//! }
//!
//! let socket = std::net::TcpListener::bind("127.0.0.1:8200")?;
//! let handle = role::spawn("hub", move |cx, ready| {
//!     let trust = Trust::in_secret(b"what all servers of the cluster know");
//!     let options = LinkOptions::new(Identity::new(LinkRole::Route, "hub-1"), Metrics::new(), trust);
//!     link::accept_links(cx, socket, options, |_, _, _| Some(Box::new(MsgLink)))?;
//!     ready.signal();
//!     Ok(Hub)
//! })?;
//! handle.stop();
//! handle.join();
//! # Ok::<(), std::io::Error>(())
//! ```

#![warn(missing_docs)]

pub mod bind;
pub mod cluster;
pub mod config;
pub mod link;
pub mod links;
pub mod log_limit;
pub mod logging;
pub mod metrics;
pub mod metrics_http;
mod process;
pub mod role;
pub mod signals;

pub use cluster::{ClusterConfig, Trust};
pub use link::{CallError, Identity, Link, LinkError, LinkHandler, LinkOptions, LinkRole, PeerInfo, accept_links};
pub use links::Links;
pub use metrics::Metrics;
pub use role::{Ready, Role, RoleHandle};
