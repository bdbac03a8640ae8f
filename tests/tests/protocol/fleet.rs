//! The servers under test: a login, a route, a db-proxy and two msg servers, with a tap on every link between
//! them and on every connection of a client.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Mutex, Once,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rusqlite::{Connection, OpenFlags, types::ValueRef};
use tempfile::TempDir;
use tt_common::{ClusterConfig, RoleHandle};
use tt_db_proxy::store::{
    Accounts, NewDepartment, NewUser,
    embedded::{DATABASE, Embedded},
};
use tt_proto::password::wire_digest;
use tt_tests::{Account, Class, Client, PATIENCE};

use crate::tap::Log;

/// Panics on threads that are not a test's, since the start of the process.
static PANICS: AtomicUsize = AtomicUsize::new(0);
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Counts what would otherwise only end a connection.
pub(crate) fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let name = thread::current().name().unwrap_or_default().to_owned();
            if ["login", "msg", "route", "db-proxy"].contains(&&*name) || name.starts_with("db-") {
                PANICS.fetch_add(1, Ordering::SeqCst);
                *LAST_PANIC.lock().expect("a string") = format!("{name}: {info}");
            }
            usual(info);
        }));
    });
}

/// No server has panicked, in any test of this process.
pub(crate) fn assert_no_panic() {
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{}", LAST_PANIC.lock().expect("a string"));
}

/// What a test may want otherwise.
pub(crate) struct Plan {
    /// Who has an account, from id 1 on; the password is the name.
    pub(crate) people: &'static [&'static str],
    /// How many msg servers.
    pub(crate) msg_servers: usize,
    /// Threads of the db-proxy that read. One answers in the order of the questions.
    pub(crate) workers: usize,
    /// Changes the configuration of the msg servers.
    pub(crate) msg: fn(&mut tt_msg::Config),
    /// Changes what is in the store before it is used.
    pub(crate) prepare: fn(&Connection),
}

impl Default for Plan {
    fn default() -> Self {
        Self { people: &["ann", "ben", "cid", "dan", "eve"], msg_servers: 2, workers: 1, msg: |_| {}, prepare: |_| {} }
    }
}

/// The running servers.
pub(crate) struct Fleet {
    pub(crate) log: Log,
    pub(crate) login_clients: SocketAddr,
    pub(crate) login_http: SocketAddr,
    pub(crate) login_links: SocketAddr,
    pub(crate) route: SocketAddr,
    pub(crate) db: SocketAddr,
    pub(crate) msg: Vec<SocketAddr>,
    pub(crate) people: Vec<Account>,
    roles: Vec<RoleHandle>,
    home: TempDir,
}

/// Any free port of this machine.
pub(crate) fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Peers that prove to know the secret are believed, and so is everybody on this machine.
fn cluster(home: &TempDir) -> ClusterConfig {
    let secret_file: PathBuf = home.path().join("secret");
    if !secret_file.exists() {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&secret_file).expect("a new file");
        file.write_all(b"a secret for the length of a test").expect("written");
    }
    ClusterConfig { secret_file, legacy_peers: true, legacy_addresses: vec![any().ip()] }
}

impl Fleet {
    pub(crate) fn start(plan: &Plan) -> Self {
        count_panics();
        let home = tempfile::tempdir().expect("a directory");
        let log = Log::default();
        let cluster = cluster(&home);
        let data = home.path().join("data");
        fs::create_dir(&data).expect("a directory");
        let people = accounts(&data, plan.people);
        (plan.prepare)(&Connection::open(data.join(DATABASE)).expect("a database"));

        let config = tt_db_proxy::Config {
            listen: any(),
            metrics_listen: any(),
            data,
            workers: plan.workers,
            cluster: cluster.clone(),
            ..tt_db_proxy::Config::default()
        };
        let listeners = config.bind().expect("free ports");
        let db = listeners.links.local_addr().expect("bound");
        let mut roles = vec![tt_db_proxy::spawn(config, listeners).expect("a thread")];

        let config = tt_route::Config {
            listen: any(),
            metrics_listen: any(),
            cluster: cluster.clone(),
            ..tt_route::Config::default()
        };
        let listeners = config.bind().expect("free ports");
        let route = listeners.links.local_addr().expect("bound");
        roles.push(tt_route::spawn(config, listeners).expect("a thread"));

        let config = tt_login::Config {
            http_listen: any(),
            client_listen: any(),
            msg_listen: any(),
            metrics_listen: any(),
            cluster: cluster.clone(),
            ..tt_login::Config::default()
        };
        let listeners = config.bind().expect("free ports");
        let login_clients = listeners.clients.local_addr().expect("bound");
        let login_http = listeners.http.local_addr().expect("bound");
        let login_links = listeners.msg.local_addr().expect("bound");
        roles.push(tt_login::spawn(config, listeners).expect("a thread"));

        let mut msg = Vec::new();
        for number in 1..=plan.msg_servers {
            let name = format!("M{number}");
            let mut config = tt_msg::Config {
                server_id: format!("msg-{number}"),
                listen: any(),
                metrics_listen: any(),
                login_servers: vec![log.tap(&name, "L", login_links)],
                route_servers: vec![log.tap(&name, "R", route)],
                db_proxies: vec![log.tap(&name, "D", db)],
                db_links: 1,
                cluster: cluster.clone(),
                ..tt_msg::Config::default()
            };
            config.timeouts.presence_ms = 20;
            config.timeouts.drain_ms = 500;
            (plan.msg)(&mut config);
            let listeners = config.bind().expect("free ports");
            msg.push(listeners.clients.local_addr().expect("bound"));
            roles.push(tt_msg::spawn(config, listeners).expect("a thread"));
        }
        for role in &roles {
            role.wait_ready(PATIENCE).expect("it serves");
        }
        Self { log, login_clients, login_http, login_links, route, db, msg, people, roles, home }
    }

    /// The address of the msg server `M1`, `M2` … for the client `name`, whose connections are noted.
    pub(crate) fn tapped(&self, name: &str, server: usize) -> SocketAddr {
        self.log.tap(name, &format!("M{server}"), self.msg[server - 1])
    }

    /// The account of that name.
    pub(crate) fn account(&self, name: &str) -> &Account {
        self.people.iter().find(|account| account.name == name).expect("an account")
    }

    /// That person, signed in at `M1`, `M2` … without a tap.
    pub(crate) fn sign_in(&self, name: &str, server: usize, class: Class) -> Client {
        Client::sign_in(self.msg[server - 1], self.account(name), class)
    }

    /// A look into the store.
    pub(crate) fn store(&self) -> Store {
        let file = self.home.path().join("data").join(DATABASE);
        let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
        Store { db }
    }
}

impl Fleet {
    /// Asks the last msg server to end, and does not wait for it.
    pub(crate) fn stop_msg(&self) {
        self.roles.last().expect("they run").stop();
    }

    /// Asks the db-proxy to end, and does not wait for it.
    pub(crate) fn stop_db(&self) {
        self.roles[0].stop();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The servers of clients first: they need the others to finish.
        for role in self.roles.drain(..).rev() {
            role.stop();
            role.join();
        }
    }
}

/// Everybody's account, and two departments more than a store begins with.
fn accounts(data: &std::path::Path, names: &[&str]) -> Vec<Account> {
    let store = Embedded::open(data).expect("a new store");
    for (name, priority) in [("研发部", 2), ("ops", 3)] {
        let department = NewDepartment { id: 0, name: name.to_owned(), priority, parent: 1, deleted: false };
        store.save_department(&department).expect("a new department");
    }
    let add = |name: &&str| {
        let wire_digest = wire_digest(name);
        let user = NewUser { name: (*name).to_owned(), wire_digest, ..NewUser::default() };
        let id = store.add_user(&user).expect("a new account");
        Account { name: (*name).to_owned(), password: (*name).to_owned(), id }
    };
    names.iter().map(add).collect()
}

/// The store, read beside the server that has it.
pub(crate) struct Store {
    db: Connection,
}

/// What of the store says something about its users: no times, checksums, salts.
const TABLES: &[(&str, &str)] = &[
    ("user", "id, name, nick, avatar, depart, status, sign_info, push_shield, password"),
    ("depart", "id, name, priority, parent, status"),
    ("conversation", "id, kind, low, high, last_msg_id"),
    ("message", "conversation, msg_id, sender, type, length(content), client_msg_id, status"),
    ("session", "user, kind, peer, status"),
    ("cursor", "user, conversation, read_msg_id"),
    ("device", "user, device, platform, token"),
    ("chat_group", "id, kind, name, avatar, creator, version"),
    ("group_member", "group_id, user, status, joined_after, hidden_up_to, shield"),
];

impl Store {
    /// The rows of a query, each as its values with a comma between them.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        let mut statement = self.db.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let value = |column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Null => "-".to_owned(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Real(number) => number.to_string(),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                })
            };
            Ok((0..columns).map(value).collect::<rusqlite::Result<Vec<_>>>()?.join(","))
        });
        rows.expect("a query").map(|row| row.expect("a row")).collect()
    }

    /// Every row that says something, with the name of its table.
    pub(crate) fn all(&self) -> Vec<String> {
        let rows = |&(table, columns): &(&'static str, &str)| {
            let rows = self.rows(&format!("SELECT {columns} FROM {table} ORDER BY 1, 2"));
            rows.into_iter().map(move |row| format!("{table} {row}"))
        };
        TABLES.iter().flat_map(rows).collect()
    }
}
