//! The four roles of `teamtalk dev`: bound first, then told of each other, then started.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use tt_common::{ClusterConfig, RoleHandle};
use tt_db_proxy::store::embedded::Embedded;

use crate::{
    commands::dev::Options,
    failure::{Failure, Kind, Outcome},
    ports::{self, Port},
    ready::write_private,
};

/// Every role with its configuration and its bound listeners, not running yet.
#[derive(Debug)]
pub(crate) struct Cluster {
    login: (tt_login::Config, tt_login::Listeners),
    msg: (tt_msg::Config, tt_msg::Listeners),
    route: (tt_route::Config, tt_route::Listeners),
    db_proxy: (tt_db_proxy::Config, tt_db_proxy::Listeners),
}

impl Cluster {
    /// Binds every listener; `advertised` is what clients are told to connect to.
    pub(crate) fn bind(options: &Options, advertised: IpAddr) -> Outcome<Self> {
        let at = |port: &Port| port.address(options.host, options.port_base);
        let cluster = ClusterConfig { secret_file: secret_file(&options.data), ..ClusterConfig::default() };
        let login = tt_login::Config {
            http_listen: at(&ports::LOGIN_HTTP),
            client_listen: at(&ports::LOGIN_PDU),
            msg_listen: at(&ports::LOGIN_MSG),
            metrics_listen: at(&ports::METRICS_LOGIN),
            cluster: cluster.clone(),
            ..tt_login::Config::default()
        };
        let route = tt_route::Config {
            listen: at(&ports::ROUTE),
            metrics_listen: at(&ports::METRICS_ROUTE),
            cluster: cluster.clone(),
            ..tt_route::Config::default()
        };
        let db_proxy = tt_db_proxy::Config {
            listen: at(&ports::DB_PROXY),
            metrics_listen: at(&ports::METRICS_DB_PROXY),
            data: options.data.clone(),
            cluster: cluster.clone(),
            ..tt_db_proxy::Config::default()
        };
        let mut msg = tt_msg::Config {
            listen: at(&ports::MSG),
            advertise: tt_msg::Advertise { ip1: advertised.to_string(), ..tt_msg::Advertise::default() },
            metrics_listen: at(&ports::METRICS_MSG),
            cluster: cluster.clone(),
            ..tt_msg::Config::default()
        };
        let msg_listeners = msg.bind()?;
        let (login_listeners, route_listeners, db_listeners) = (login.bind()?, route.bind()?, db_proxy.bind()?);
        msg.login_servers = vec![bound(&login_listeners.msg)?];
        msg.route_servers = vec![bound(&route_listeners.links)?];
        msg.db_proxies = vec![bound(&db_listeners.links)?];
        Ok(Self {
            login: (login, login_listeners),
            msg: (msg, msg_listeners),
            route: (route, route_listeners),
            db_proxy: (db_proxy, db_listeners),
        })
    }

    /// Every listener by its name in the ready file, and where it really is.
    pub(crate) fn listeners(&self) -> Outcome<Vec<(&'static str, SocketAddr)>> {
        let (login, msg) = (&self.login.1, &self.msg.1);
        let (route, db_proxy) = (&self.route.1, &self.db_proxy.1);
        [
            (&ports::LOGIN_HTTP, &login.http),
            (&ports::LOGIN_PDU, &login.clients),
            (&ports::LOGIN_MSG, &login.msg),
            (&ports::MSG, &msg.clients),
            (&ports::ROUTE, &route.links),
            (&ports::DB_PROXY, &db_proxy.links),
            (&ports::METRICS_LOGIN, &login.metrics),
            (&ports::METRICS_MSG, &msg.metrics),
            (&ports::METRICS_ROUTE, &route.metrics),
            (&ports::METRICS_DB_PROXY, &db_proxy.metrics),
        ]
        .map(|(port, listener)| Ok((port.listener, bound(listener)?)))
        .into_iter()
        .collect()
    }

    /// Starts every role on its own thread, db-proxy on the opened store. The result is in the order in which they are to be
    /// stopped: the msg server first, as it needs the others to finish what its clients asked.
    pub(crate) fn start(self, store: Arc<Embedded>) -> Outcome<Vec<RoleHandle>> {
        let started = |role: io::Result<RoleHandle>| {
            role.map_err(|error| Failure::new(Kind::Other, format_args!("starting a role: {error}")))
        };
        let db_proxy = started(tt_db_proxy::spawn_on(self.db_proxy.0, self.db_proxy.1, store))?;
        let route = started(tt_route::spawn(self.route.0, self.route.1))?;
        let login = started(tt_login::spawn(self.login.0, self.login.1))?;
        let msg = started(tt_msg::spawn(self.msg.0, self.msg.1))?;
        Ok(vec![msg, login, route, db_proxy])
    }
}

/// Where the secret lies by which the servers of a data directory know each other.
fn secret_file(data: &Path) -> PathBuf {
    data.join("cluster.secret")
}

/// Makes that secret at the first start: 256 bits, for the owner of the directory alone.
pub(crate) fn make_secret(data: &Path) -> Outcome {
    let file = secret_file(data);
    if file.exists() {
        return Ok(());
    }
    // The thread's generator is seeded by the system and made for secrets.
    let [high, low]: [u128; 2] = rand::random();
    let secret = format!("{high:032x}{low:032x}");
    // Under another name first: a crash leaves no half of it.
    let new = file.with_extension("new");
    let written = write_private(&new, &format!("{secret}\n")).and_then(|()| fs::rename(&new, &file));
    written.map_err(|error| Failure::new(Kind::Data, format_args!("{}: {error}", file.display())))
}

fn bound(listener: &TcpListener) -> Outcome<SocketAddr> {
    listener.local_addr().map_err(|error| Failure::new(Kind::Other, format_args!("a bound listener: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_ports_are_the_defaults_of_the_roles() {
        let (login, msg) = (tt_login::Config::default(), tt_msg::Config::default());
        let (route, db_proxy) = (tt_route::Config::default(), tt_db_proxy::Config::default());
        for (port, default) in [
            (&ports::LOGIN_HTTP, login.http_listen),
            (&ports::LOGIN_PDU, login.client_listen),
            (&ports::LOGIN_MSG, login.msg_listen),
            (&ports::MSG, msg.listen),
            (&ports::ROUTE, route.listen),
            (&ports::DB_PROXY, db_proxy.listen),
            (&ports::METRICS_LOGIN, login.metrics_listen),
            (&ports::METRICS_MSG, msg.metrics_listen),
            (&ports::METRICS_ROUTE, route.metrics_listen),
            (&ports::METRICS_DB_PROXY, db_proxy.metrics_listen),
        ] {
            assert_eq!(port.published, default.port(), "{}", port.listener);
        }
    }
}
