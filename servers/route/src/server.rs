//! The route server's state, and how it starts and stops.

use std::collections::BTreeMap;
use std::io;

use netlib::{Context, Listener};
use tt_common::config::RoleConfig;
use tt_common::metrics::{Counter, Gauge, Labelled};
use tt_common::role::{self, DRAIN_LIMIT, StartError};
use tt_common::{
    Identity, Link, LinkError, LinkOptions, LinkRole, Metrics, Role, RoleHandle, accept_links, metrics_http,
};
use tt_proto::im::base_define::{UserStat, UserStatType};
use tt_proto::im::buddy::ImUserStatNotify;
use tt_proto::im::server::ImServerPcLoginStatusNotify;
use tt_proto::pdu;

use crate::addressees::Addressees;
use crate::config::{Config, Listeners};
use crate::msg_link::MsgLink;
use crate::passing::Passing;
use crate::presence::{Notice, Presence};

/// What the links of a route server share.
#[derive(Debug)]
pub struct Route {
    /// By link id: in the order in which they connected.
    pub(crate) peers: BTreeMap<u64, Peer>,
    pub(crate) presence: Presence,
    pub(crate) passing: Passing,
    users: Gauge,
    left_out: Gauge,
    lost: Counter,
    pub(crate) relayed: Labelled,
    /// Messages sent after a receiver's sign-in was reported.
    pub(crate) sent_after: Counter,
    listener: Option<Listener>,
    stopping: bool,
}

/// One link.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) link: Link<Route>,
    /// It has sent 0x0708 or 0x070a, which only a msg server does.
    pub(crate) reports_presence: bool,
    /// It understands notices with details ([`CAPABILITY_PRESENCE`](tt_common::link::CAPABILITY_PRESENCE)).
    pub(crate) details: bool,
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
        let relayed = Labelled::default();
        let sent_after = Counter::default();
        metrics.register("relayed", "PDUs passed on, by how many servers they concern", relayed.clone());
        metrics.register("relayed_late", "Messages sent after their receiver's sign-in was known", sent_after.clone());
        metrics.register("users_online", "Users with any connection", users.clone());
        metrics.register("users_left_out", "Entries not made because the table is full", left_out.clone());
        metrics.register("undelivered", "PDUs that a link did not take", lost.clone());

        let identity = Identity::new(LinkRole::Route, config.server_id.clone());
        let accepts = &[LinkRole::Msg, LinkRole::HttpMsg];
        let options = LinkOptions { accepts, ..LinkOptions::new(identity, metrics.clone(), config.cluster.trust()?) };
        let listener = accept_links(cx, listeners.links, options, |_, _, _| Some(Box::new(MsgLink)))?;
        let health = |route: &mut Self| if route.stopping { Err("stopping".to_owned()) } else { Ok(()) };
        metrics_http::serve(cx, listeners.metrics, metrics, health)?;
        log::info!("serving msg servers on {}", listener.local_addr());
        Ok(Self {
            peers: BTreeMap::new(),
            presence: Presence::new(config.max_users),
            passing: Passing::default(),
            users,
            left_out,
            lost,
            relayed,
            sent_after,
            listener: Some(listener),
            stopping: false,
        })
    }

    /// Tells all msg servers, the reporting one included.
    pub(crate) fn tell(&self, notices: &[Notice]) {
        self.users.set(self.presence.len() as i64);
        self.left_out.set(self.presence.left_out() as i64);
        for notice in notices {
            match *notice {
                Notice::PcLogin { user, on } => {
                    let notice = ImServerPcLoginStatusNotify { user_id: user, login_status: u32::from(on) };
                    // It is for the user's own phones.
                    self.send_to(&Addressees::Users(vec![user]), &pdu::encode(0, &notice), None);
                }
                Notice::Status { user, status } => {
                    let plain = UserStat { user_id: user, status: status.into(), ..UserStat::default() };
                    self.tell_status(Some(plain), self.detailed(user, status));
                }
                Notice::Detail { user } => {
                    let detailed = self.detailed(user, self.presence.status(user));
                    self.tell_status(None, UserStat { detail_only: Some(true), ..detailed });
                }
            }
        }
    }

    /// A status as newer clients see it.
    pub(crate) fn detailed(&self, user: u32, status: UserStatType) -> UserStat {
        let (client_types, leave) = self.presence.detail(user);
        UserStat { user_id: user, status: status.into(), client_types, leave: leave.then_some(true), detail_only: None }
    }

    /// Tells every msg server in the way it understands.
    fn tell_status(&self, plain: Option<UserStat>, detailed: UserStat) {
        let plain = plain.map(|user_stat| pdu::encode(0, &ImUserStatNotify { user_stat }));
        let detailed = pdu::encode(0, &ImUserStatNotify { user_stat: detailed });
        for peer in self.peers.values().filter(|peer| peer.is_msg_server()) {
            if let Some(frame) = if peer.details { Some(&detailed) } else { plain.as_ref() } {
                self.count_lost(peer.link.send_frame(frame.clone()));
            }
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
