//! A fresh system to measure: every role in a process of its own on an address of 127.0.0.0/8 that
//! nobody else uses, with the default limits, on an empty store in a directory that goes with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, process, thread};

use tt_common::signals::Shutdown;
use tt_db_proxy::store::embedded;

use super::disk::{Scratch, failed};
use crate::cluster::make_secret;
use crate::failure::{Failure, Kind, Outcome};
use crate::ports::{DB_PROXY, LOGIN_HTTP, LOGIN_MSG, LOGIN_PDU, METRICS_DB_PROXY, METRICS_LOGIN, METRICS_MSG};
use crate::ports::{METRICS_ROUTE, MSG, Port, ROUTE};
use crate::probe;

/// The running processes; they end with the value.
#[derive(Debug)]
pub(super) struct OwnSystem {
    children: Children,
    ip: IpAddr,
    scratch: Scratch,
}

#[derive(Clone, Debug, Default)]
struct Children(Arc<Mutex<Vec<Child>>>);

impl Children {
    /// Its data goes with it, so nothing is lost by an end at once.
    fn end(&self) {
        for mut child in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl OwnSystem {
    /// Starts one with its data below `place`, and waits until clients can sign in.
    pub(super) fn start(place: &Path) -> Outcome<Self> {
        let scratch = Scratch::new(place)?;
        let system = Self { children: Children::default(), ip: unused_address()?, scratch };
        system.end_with_this_process(system.scratch.path())?;
        embedded::create(system.data()).map_err(|error| failed(system.data(), &error))?;
        make_secret(system.data())?;
        for (role, config) in system.configurations() {
            system.spawn(role, &config)?;
        }
        probe::wait_until_named(system.at(&LOGIN_PDU))?;
        Ok(system)
    }

    pub(super) fn data(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn login(&self) -> SocketAddr {
        self.at(&LOGIN_HTTP)
    }

    pub(super) fn metrics(&self) -> Vec<SocketAddr> {
        [&METRICS_LOGIN, &METRICS_MSG, &METRICS_ROUTE, &METRICS_DB_PROXY].map(|port| self.at(port)).to_vec()
    }

    fn at(&self, port: &Port) -> SocketAddr {
        SocketAddr::new(self.ip, port.published)
    }

    /// In the order in which they are started: a msg server that finds all others is ready at once.
    fn configurations(&self) -> [(&'static str, String); 4] {
        let at = |port: &Port| self.at(port).to_string();
        let data = self.data().display().to_string();
        let cluster = format!("[cluster]\nsecret_file = {:?}\n", format!("{data}/cluster.secret"));
        [
            (
                "db-proxy",
                format!(
                    "listen = {:?}\nmetrics_listen = {:?}\ndata = {data:?}\n{cluster}",
                    at(&DB_PROXY),
                    at(&METRICS_DB_PROXY)
                ),
            ),
            ("route", format!("listen = {:?}\nmetrics_listen = {:?}\n{cluster}", at(&ROUTE), at(&METRICS_ROUTE))),
            (
                "login",
                format!(
                    "http_listen = {:?}\nclient_listen = {:?}\nmsg_listen = {:?}\nmetrics_listen = {:?}\n{cluster}",
                    at(&LOGIN_HTTP),
                    at(&LOGIN_PDU),
                    at(&LOGIN_MSG),
                    at(&METRICS_LOGIN)
                ),
            ),
            (
                "msg",
                format!(
                    "listen = {:?}\nmetrics_listen = {:?}\nlogin_servers = [{:?}]\nroute_servers = [{:?}]\n\
                     db_proxies = [{:?}]\n{cluster}[advertise]\nip1 = {:?}\n",
                    at(&MSG),
                    at(&METRICS_MSG),
                    at(&LOGIN_MSG),
                    at(&ROUTE),
                    at(&DB_PROXY),
                    self.ip.to_string()
                ),
            ),
        ]
    }

    /// Starts one role and waits until it serves.
    fn spawn(&self, role: &str, config: &str) -> Outcome {
        let file = self.data().join(format!("{role}.toml"));
        let log = self.data().join(format!("{role}.log"));
        fs::write(&file, config).map_err(|error| failed(&file, &error))?;
        let stderr = fs::File::create(&log).map_err(|error| failed(&log, &error))?;
        let program = env::current_exe().map_err(|error| other(role, &error))?;
        let mut child = Command::new(program)
            .arg(role)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| other(role, &error))?;
        let stdout = child.stdout.take();
        self.children.0.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        let mut lines = stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines().map_while(Result::ok));
        if lines.any(|line| line.starts_with("Ready")) {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(other(role, &said.lines().last().unwrap_or("it ended and said nothing")))
    }

    /// A signal that ends this process ends the servers too, and takes their directory away.
    fn end_with_this_process(&self, directory: &Path) -> Outcome {
        let signals = Shutdown::prepare().map_err(|error| other("signals", &error))?;
        let (children, directory) = (self.children.clone(), directory.to_owned());
        let watch = move || {
            if signals.wait().is_ok() {
                children.end();
                let _ = fs::remove_dir_all(directory);
                process::exit(Kind::Other as i32);
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(watch);
        thread.map(drop).map_err(|error| other("signals", &error))
    }
}

impl Drop for OwnSystem {
    fn drop(&mut self) {
        self.children.end();
    }
}

fn other(role: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Kind::Other, format_args!("starting {role}: {error}"))
}

/// An address of this machine on which the protocol's ports are free.
fn unused_address() -> Outcome<IpAddr> {
    const TRIES: u32 = 50;
    for _ in 0..TRIES {
        // 127.200.0.0 and up: below are the addresses that clients come from.
        let [one, two, three]: [u8; 3] = rand::random();
        let ip = IpAddr::V4(Ipv4Addr::new(127, 200 + one % 50, two, 1 + three % 250));
        let all = [&LOGIN_HTTP, &LOGIN_MSG, &MSG, &ROUTE, &DB_PROXY, &METRICS_MSG];
        if all.iter().all(|port| TcpListener::bind((ip, port.published)).is_ok()) {
            return Ok(ip);
        }
    }
    Err(Failure::new(Kind::Port, format_args!("no free address in 127.200.0.0 to 127.249.0.0 after {TRIES} tries")))
}
