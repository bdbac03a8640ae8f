//! The login server's state, and how it starts and stops.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use netlib::http::{self, Response, ServerOptions};
use netlib::{ConnOptions, Context, Framed, ListenOptions, Listener};
use tt_common::config::RoleConfig;
use tt_common::link::PduFraming;
use tt_common::metrics::Gauge;
use tt_common::role::{self, DRAIN_LIMIT, StartError};
use tt_common::{Identity, Link, LinkOptions, LinkRole, Metrics, Role, RoleHandle, accept_links, metrics_http};

use crate::client::{Client, MAX_REQUEST};
use crate::config::{Config, Listeners};
use crate::directory::Directory;
use crate::discovery;
use crate::msg_link::MsgServerLink;

/// A client that has connected to the PDU port and says nothing for so long is let go.
const CLIENT_IDLE: Duration = Duration::from_mins(2);
/// An HTTP client has so long to finish its request.
const HTTP_LIMIT: Duration = Duration::from_mins(1);
/// Bytes of an HTTP request's head (over it: 431) and of its body (over it: 413), which is not looked at.
const HTTP_MAX: usize = 16 * 1024;

/// What the connections of a login server share.
#[derive(Debug)]
pub struct Login {
    pub(crate) config: Config,
    pub(crate) directory: Directory,
    pub(crate) links: BTreeMap<u64, Link<Self>>,
    pub(crate) metrics: Metrics,
    msg_servers: Gauge,
    connections: Gauge,
    listeners: Vec<Listener>,
    stopping: bool,
}

/// Starts a login server on its bound listeners, on a thread of its own.
pub fn spawn(config: Config, listeners: Listeners) -> io::Result<RoleHandle> {
    role::spawn(Config::ROLE, move |cx, ready| {
        let login = Login::start(cx, config, listeners)?;
        ready.signal();
        Ok(login)
    })
}

impl Login {
    /// Starts to serve on `cx`; the result is the state to run it with.
    pub fn start(cx: &mut Context<Self>, config: Config, listeners: Listeners) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let (msg_servers, connections) = (Gauge::default(), Gauge::default());
        metrics.register("msg_servers", "Registered msg servers", msg_servers.clone());
        metrics.register("connections", "Signed-in connections on all msg servers", connections.clone());

        let identity = Identity::new(LinkRole::Login, config.server_id.clone());
        let options = LinkOptions {
            accepts: &[LinkRole::Msg],
            ..LinkOptions::new(identity, metrics.clone(), config.cluster.trust()?)
        };
        let msg = accept_links(cx, listeners.msg, options, |_, _, _| Some(Box::new(MsgServerLink)))?;

        let clients = ListenOptions {
            conn: ConnOptions { idle_timeout: Some(CLIENT_IDLE), ..ConnOptions::default() },
            max_connections: config.max_clients,
            max_per_address: config.max_clients_per_address,
            ..ListenOptions::default()
        };
        let clients = cx.listen_on(listeners.clients, clients, |_, _, _| {
            Some(Box::new(Framed::new(PduFraming::new(MAX_REQUEST), Client)))
        })?;

        let options = ServerOptions {
            listen: ListenOptions {
                max_connections: config.max_clients,
                max_per_address: config.max_clients_per_address,
                ..ListenOptions::default()
            },
            head_timeout: HTTP_LIMIT,
            request_timeout: HTTP_LIMIT,
            max_request_line: HTTP_MAX,
            max_head: HTTP_MAX,
            max_body: HTTP_MAX as u64,
            // What published clients are used to: the answer ends with the connection, and is that of the
            // recorded server to the byte; nobody looks at `Host`.
            keep_alive: None,
            date: false,
            require_host: false,
            ..ServerOptions::default()
        };
        let http = http::serve(cx, listeners.http, options, |login: &mut Self, _, request| {
            if discovery::is_asked_for(request.target) {
                discovery::answer(login.directory.choose(), &login.config)
            } else {
                Response::new(404)
            }
        })?;

        let health = |login: &mut Self| if login.stopping { Err("stopping".to_owned()) } else { Ok(()) };
        metrics_http::serve(cx, listeners.metrics, metrics.clone(), health)?;
        log::info!(
            "serving HTTP on {}, PDU on {}, msg servers on {}",
            http.local_addr(),
            clients.local_addr(),
            msg.local_addr()
        );
        Ok(Self {
            config,
            directory: Directory::default(),
            links: BTreeMap::new(),
            metrics,
            msg_servers,
            connections,
            listeners: vec![msg, clients, http],
            stopping: false,
        })
    }

    pub(crate) fn publish_totals(&self) {
        let (servers, connections) = self.directory.totals();
        self.msg_servers.set(servers as i64);
        self.connections.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    pub(crate) fn stop_if_done(&self, cx: &mut Context<Self>) {
        if self.stopping && self.links.is_empty() {
            cx.stop();
        }
    }
}

impl Role for Login {
    fn stop(&mut self, cx: &mut Context<Self>) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        for listener in self.listeners.drain(..) {
            listener.close(cx);
        }
        for link in self.links.values() {
            link.close(cx);
        }
        cx.after(DRAIN_LIMIT, |_, cx| cx.stop());
        self.stop_if_done(cx);
    }
}
