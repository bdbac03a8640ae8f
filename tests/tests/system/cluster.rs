//! A fleet under test: several servers of each kind, each a process of its own (two login, two route, three msg and
//! two db-proxy servers, of which one db-proxy stands by), started in the least helpful order. They find each other
//! directly, or through a proxy that breaks their links.

use std::{collections::BTreeMap, fs, net::SocketAddr, process::Command, sync::Mutex};

use rustix::process::Signal;
use tt_tests::{
    Account, Class, Client, Home, Proxy, Server, binaries, eventually, faults::FaultyDisk, free_address, http_get,
    run_with_input,
};

use crate::roles::{configure, launch_again, text};

/// Where the servers listen.
pub(crate) struct Addresses {
    pub(crate) login_http: [SocketAddr; 2],
    pub(crate) login_msg: [SocketAddr; 2],
    pub(crate) route: [SocketAddr; 2],
    pub(crate) db: [SocketAddr; 2],
    pub(crate) msg: [SocketAddr; 3],
}

/// The processes, by name.
pub(crate) struct Fleet {
    pub(crate) at: Addresses,
    /// Every link of a msg server goes through it, by the way `msg-0>route-1`; and clients may, by `>msg-0`.
    pub(crate) proxy: Option<Proxy>,
    /// What the db-proxies write to.
    pub(crate) disk: Option<FaultyDisk>,
    /// The ports of each server that nobody needs to know.
    own: Mutex<BTreeMap<String, SocketAddr>>,
    servers: Mutex<BTreeMap<String, Server>>,
    pub(crate) people: Vec<Account>,
    /// Outlives the servers, whose logs are read when a test fails.
    pub(crate) home: Home,
}

fn list(addresses: &[SocketAddr]) -> String {
    format!("{:?}", addresses.iter().map(ToString::to_string).collect::<Vec<_>>())
}

impl Fleet {
    /// All of it, msg servers first; everybody in `names` has an account.
    pub(crate) fn start(names: &[&str]) -> Self {
        Self::start_on(names, None, |_| None)
    }

    /// The same with every link through a proxy.
    pub(crate) fn start_proxied(names: &[&str]) -> Self {
        Self::start_on(names, Some(Proxy::start()), |_| None)
    }

    /// The same on a disk that fails on command, where one can be had.
    pub(crate) fn start_fragile(names: &[&str]) -> Self {
        let disk = |home: &Home| tt_tests::faults::library().is_ok().then(|| FaultyDisk::at(home.data()));
        Self::start_on(names, Some(Proxy::start()), disk)
    }

    fn start_on(names: &[&str], proxy: Option<Proxy>, disk: impl FnOnce(&Home) -> Option<FaultyDisk>) -> Self {
        let any = |()| free_address();
        let at = Addresses {
            login_http: [(); 2].map(any),
            login_msg: [(); 2].map(any),
            route: [(); 2].map(any),
            db: [(); 2].map(any),
            msg: [(); 3].map(any),
        };
        let home = Home::new();
        fs::create_dir(home.data()).expect("a temporary directory");
        let disk = disk(&home);
        let mut fleet =
            Self { home, at, proxy, disk, own: Mutex::default(), servers: Mutex::default(), people: Vec::new() };
        for place in 0..3 {
            fleet.launch("msg", place);
        }
        fleet.launch("route", 1);
        fleet.launch("login", 0);
        fleet.launch("db-proxy", 0);
        fleet.wait_line("db-proxy-0", "Ready");
        fleet.launch("db-proxy", 1);
        fleet.wait_line("db-proxy-1", "Standing by");
        fleet.launch("login", 1);
        fleet.launch("route", 0);
        fleet.people = names.iter().map(|name| fleet.add(name)).collect();
        for place in 0..3 {
            fleet.wait_line(&format!("msg-{place}"), "Ready");
            // Ready means one link of each kind; these tests want all of them.
            fleet.wait_links(place, "route", 2);
            fleet.wait_links(place, "login", 2);
            fleet.wait_links(place, "db-proxy", 2);
        }
        fleet
    }

    /// Starts a server. A db-proxy stands by if the other one serves.
    pub(crate) fn launch(&self, role: &str, place: usize) {
        let at = &self.at;
        let name = format!("{role}-{place}");
        if !self.home.path(&format!("{name}.toml")).exists() {
            let mut changes = vec![("server_id", format!("{name:?}")), ("metrics_listen", text(self.metrics(&name)))];
            match role {
                "login" => changes.extend([
                    ("http_listen", text(at.login_http[place])),
                    ("client_listen", text(self.own(&format!("{name}.client")))),
                    ("msg_listen", text(at.login_msg[place])),
                ]),
                "route" => changes.push(("listen", text(at.route[place]))),
                "db-proxy" => changes.extend([
                    ("listen", text(at.db[place])),
                    ("data", format!("\"{}\"", self.home.data().display())),
                    ("standby", true.to_string()),
                ]),
                _ => changes.extend([
                    ("listen", text(at.msg[place])),
                    ("login_servers", self.dialled(place, "login", &at.login_msg)),
                    ("route_servers", self.dialled(place, "route", &at.route)),
                    ("db_proxies", self.dialled(place, "db-proxy", &at.db)),
                    ("presence_ms", "50".to_owned()),
                ]),
            }
            configure(&self.home, role, &name, &changes);
        }
        let prepare = |command: &mut Command| {
            if let (Some(disk), "db-proxy") = (&self.disk, role) {
                disk.preload_without_log(command).expect("it was built before");
            }
        };
        let server = launch_again(&self.home, role, &name, prepare);
        self.servers.lock().expect("no test panics with it").insert(name, server);
    }

    /// What a msg server dials to reach the servers of a role. Each lists its peers in another order.
    fn dialled(&self, place: usize, role: &str, addresses: &[SocketAddr]) -> String {
        let through = |(number, &address): (usize, &SocketAddr)| match &self.proxy {
            Some(proxy) => proxy.way(&format!("msg-{place}>{role}-{number}"), address),
            None => address,
        };
        let mut addresses: Vec<SocketAddr> = addresses.iter().enumerate().map(through).collect();
        addresses.rotate_left(place % 2);
        list(&addresses)
    }

    /// A port of a server that is the same after each start.
    fn own(&self, name: &str) -> SocketAddr {
        let mut own = self.own.lock().expect("as below");
        *own.entry(name.to_owned()).or_insert_with(free_address)
    }

    fn metrics(&self, name: &str) -> SocketAddr {
        self.own(&format!("{name}.metrics"))
    }

    pub(crate) fn wait_line(&self, name: &str, line: &str) {
        self.servers.lock().expect("as above").get_mut(name).expect("it runs").wait_line(line);
    }

    /// Waits until a msg server has so many links to servers of a kind.
    pub(crate) fn wait_links(&self, place: usize, kind: &str, count: usize) {
        let line = format!(r#"teamtalk_links{{peer="{kind}"}} {count}"#);
        eventually(&line, || self.metrics_page(&format!("msg-{place}")).lines().any(|found| found == line));
    }

    pub(crate) fn metrics_page(&self, name: &str) -> String {
        http_get(self.metrics(name), "/metrics")
    }

    /// The value of a metric without labels, or the sum over its labels.
    pub(crate) fn metric(&self, name: &str, metric: &str) -> u64 {
        let page = self.metrics_page(name);
        let lines = page.lines().filter_map(|line| line.strip_prefix(metric));
        lines
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Kills a server at once; returns what it had logged.
    pub(crate) fn kill(&self, name: &str) -> String {
        let server = self.servers.lock().expect("as above").remove(name).expect("it runs");
        let log = server.log();
        server.kill_9();
        log
    }

    /// Sends a signal to a server.
    pub(crate) fn signal(&self, name: &str, signal: Signal) {
        self.servers.lock().expect("as above").get(name).expect("it runs").signal(signal);
    }

    /// The servers that run.
    pub(crate) fn names(&self) -> Vec<String> {
        self.servers.lock().expect("as above").keys().cloned().collect()
    }

    /// What a server that runs has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        self.servers.lock().expect("as above").get(name).expect("it runs").log()
    }

    pub(crate) fn add(&self, name: &str) -> Account {
        let file = self.home.path("db-proxy-0.toml");
        let arguments = ["user", "add", name, "--config", file.to_str().expect("UTF-8")];
        let exit = run_with_input(&binaries().teamtalk, &arguments, "password\n");
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let id = exit.stdout.trim_end().rsplit('#').next().and_then(|id| id.parse().ok());
        Account { name: name.to_owned(), password: "password".to_owned(), id: id.expect("its id is printed") }
    }

    /// That person, signed in at the msg server in that place.
    pub(crate) fn sign_in(&self, person: usize, place: usize, class: Class) -> Client {
        Client::sign_in(self.at.msg[place], &self.people[person], class)
    }

    /// Connections that a login server counts on all msg servers.
    pub(crate) fn connections(&self, login: usize) -> u64 {
        self.metric(&format!("login-{login}"), "teamtalk_connections")
    }
}
