//! The route server's state, and how it starts and stops.

use std::collections::BTreeMap;
use std::io;

use netlib::{Context, Listener};
use tt_common::config::RoleConfig;
use tt_common::metrics::{Counter, Gauge};
use tt_common::role::{self, DRAIN_LIMIT, StartError};
use tt_common::{
    Identity, Link, LinkError, LinkOptions, LinkRole, Metrics, Role, RoleHandle, accept_links, metrics_http,
};
use tt_proto::im::base_define::UserStat;
use tt_proto::im::buddy::ImUserStatNotify;
use tt_proto::im::server::ImServerPcLoginStatusNotify;
use tt_proto::pdu;

use crate::config::{Config, Listeners};
use crate::msg_link::MsgLink;
use crate::presence::{Notice, Presence};

/// What the links of a route server share.
#[derive(Debug)]
pub struct Route {
    /// By link id: in the order in which they connected.
    pub(crate) peers: BTreeMap<u64, Peer>,
    pub(crate) presence: Presence,
    users: Gauge,
    left_out: Gauge,
    lost: Counter,
    listener: Option<Listener>,
    stopping: bool,
}

/// One link.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) link: Link<Route>,
    /// It has sent 0x0708 or 0x070a, which only a msg server does.
    pub(crate) reports_presence: bool,
}

/// Starts a route server on its bound listeners, on a thread of its own.
pub fn spawn(config: Config, listeners: Listeners) -> io::Result<RoleHandle> {
    role::spawn(Config::ROLE, move |cx, ready| {
        let route = Route::start(cx, &config, listeners)?;
        ready.signal();
        Ok(route)
    })
}

impl Route {
    /// Starts to serve on `cx`; the result is the state to run it with.
    pub fn start(cx: &mut Context<Self>, config: &Config, listeners: Listeners) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let (users, left_out, lost) = (Gauge::default(), Gauge::default(), Counter::default());
        metrics.register("users_online", "Users with any connection", users.clone());
        metrics.register("users_left_out", "Entries not made because the table is full", left_out.clone());
        metrics.register("undelivered", "PDUs that a link did not take", lost.clone());

        let identity = Identity::new(LinkRole::Route, config.server_id.clone());
        let accepts = &[LinkRole::Msg, LinkRole::HttpMsg];
        let options = LinkOptions { accepts, ..LinkOptions::new(identity, metrics.clone()) };
        let listener = accept_links(cx, listeners.links, options, |_, _, _| Some(Box::new(MsgLink)))?;
        let health = |route: &mut Self| if route.stopping { Err("stopping".to_owned()) } else { Ok(()) };
        metrics_http::serve(cx, listeners.metrics, metrics, health)?;
        log::info!("serving msg servers on {}", listener.local_addr());
        Ok(Self {
            peers: BTreeMap::new(),
            presence: Presence::new(config.max_users),
            users,
            left_out,
            lost,
            listener: Some(listener),
            stopping: false,
        })
    }

    /// Tells all msg servers, the reporting one included.
    pub(crate) fn tell(&self, notices: &[Notice]) {
        self.users.set(self.presence.len() as i64);
        self.left_out.set(self.presence.left_out() as i64);
        for notice in notices {
            let frame = match *notice {
                Notice::PcLogin { user, on } => {
                    pdu::encode(0, &ImServerPcLoginStatusNotify { user_id: user, login_status: u32::from(on) })
                }
                Notice::Status { user, status } => {
                    let user_stat = UserStat { user_id: user, status: status.into() };
                    pdu::encode(0, &ImUserStatNotify { user_stat })
                }
            };
            self.broadcast(&frame, None);
        }
    }

    /// A PDU that was not taken goes with its link, which ends by itself; here it is only counted.
    pub(crate) fn count_lost(&self, sent: Result<(), LinkError>) {
        if sent.is_err() {
            self.lost.inc();
        }
    }

    pub(crate) fn stop_if_done(&self, cx: &mut Context<Self>) {
        if self.stopping && self.peers.is_empty() {
            cx.stop();
        }
    }
}

impl Role for Route {
    fn stop(&mut self, cx: &mut Context<Self>) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        if let Some(listener) = self.listener.take() {
            listener.close(cx);
        }
        for peer in self.peers.values() {
            peer.link.close(cx);
        }
        cx.after(DRAIN_LIMIT, |_, cx| cx.stop());
        self.stop_if_done(cx);
    }
}
