//! One process per role, started from the configuration that the binary itself prints: the way a
//! real installation runs.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::Command,
    sync::mpsc,
    thread,
};

use tt_proto::im::{base_define::UserInfo, server};
use tt_tests::{
    Account, Class, Client, Home, PATIENCE, Server, binaries, command, eventually, free_address, http_get, pack, run,
    run_with_input,
};

/// A role's printed default configuration with the values of some keys replaced.
pub(crate) fn configuration(role: &str, changes: &[(&str, String)]) -> String {
    let exit = run(&binaries().teamtalk, &["config", role]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let mut left: HashMap<&str, &String> = changes.iter().map(|(key, value)| (*key, value)).collect();
    let lines: Vec<String> = exit
        .stdout
        .lines()
        .map(|line| match left.remove(line.split(" =").next().unwrap_or_default()) {
            Some(value) => format!("{} = {value}", line.split(" =").next().unwrap_or_default()),
            None => line.to_owned(),
        })
        .collect();
    assert!(left.is_empty(), "{role} has no {left:?} in\n{}", exit.stdout);
    lines.join("\n")
}

/// Starts a role with that configuration; `Ready` is still to come.
pub(crate) fn launch(home: &Home, role: &str, changes: &[(&str, String)]) -> Server {
    launch_as(home, role, role, changes)
}

/// The same for one of several servers of a role, whose files have `name`.
pub(crate) fn launch_as(home: &Home, role: &str, name: &str, changes: &[(&str, String)]) -> Server {
    configure(home, role, name, changes);
    launch_again(home, role, name, |_| {})
}

/// Writes the configuration of one of several servers of a role.
pub(crate) fn configure(home: &Home, role: &str, name: &str, changes: &[(&str, String)]) {
    let file = home.path(&format!("{name}.toml"));
    let mut changes = changes.to_vec();
    if !changes.iter().any(|(key, _)| *key == "secret_file") {
        changes.push(("secret_file", format!("\"{}\"", secret(home).display())));
    }
    fs::write(&file, configuration(role, &changes)).expect("a temporary file");
}

/// Starts a server whose configuration is written; `prepare` may change its environment.
pub(crate) fn launch_again(home: &Home, role: &str, name: &str, prepare: impl FnOnce(&mut Command)) -> Server {
    let mut command = Command::new(&binaries().teamtalk);
    command.arg(role).arg("--config").arg(home.path(&format!("{name}.toml")));
    prepare(&mut command);
    Server::start_command(&mut command, &home.path(&format!("{name}.log")))
}

/// The file with the secret of this home's cluster.
pub(crate) fn secret(home: &Home) -> PathBuf {
    let file = home.path("cluster.secret");
    if !file.exists() {
        let mut private = fs::OpenOptions::new();
        private.write(true).create(true).truncate(true).mode(0o600);
        let mut file = private.open(&file).expect("a temporary file");
        file.write_all(b"a secret for the length of a test\n").expect("written");
    }
    file
}

pub(crate) fn text(address: SocketAddr) -> String {
    format!("\"{address}\"")
}

pub(super) fn list(address: SocketAddr) -> String {
    format!("[\"{address}\"]")
}

#[test]
fn four_processes_from_four_printed_configurations_talk() {
    let home = Home::new();
    let (http, pdu, login_msg, client) = (free_address(), free_address(), free_address(), free_address());
    let (route, db_proxy) = (free_address(), free_address());
    let any = || text(free_address());
    fs::create_dir(home.data()).expect("a temporary directory");

    // In the least helpful order: the msg server finds nobody yet and dials until they are there.
    let mut msg = launch(
        &home,
        "msg",
        &[
            ("listen", text(client)),
            ("login_servers", list(login_msg)),
            ("route_servers", list(route)),
            ("db_proxies", list(db_proxy)),
            ("metrics_listen", any()),
        ],
    );
    let data = format!("{:?}", home.data());
    let mut others = [
        launch(&home, "db-proxy", &[("listen", text(db_proxy)), ("data", data), ("metrics_listen", any())]),
        launch(&home, "route", &[("listen", text(route)), ("metrics_listen", any())]),
        launch(
            &home,
            "login",
            &[
                ("http_listen", text(http)),
                ("client_listen", text(pdu)),
                ("msg_listen", text(login_msg)),
                ("metrics_listen", any()),
            ],
        ),
    ];
    for server in &mut others {
        server.wait_line("Ready");
    }
    let people = ["erin", "frank"].map(|name| {
        let file = home.path("db-proxy.toml");
        let arguments = ["user", "add", name, "--config", file.to_str().expect("UTF-8")];
        let exit = run_with_input(&binaries().teamtalk, &arguments, "password\n");
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let id = exit.stdout.trim_end().rsplit('#').next().and_then(|id| id.parse().ok());
        Account { name: name.to_owned(), password: "password".to_owned(), id: id.expect("its id is printed") }
    });
    msg.wait_line("Ready");

    // The registration is a message on its own way.
    let named = format!("\"port\" : \"{}\"", client.port());
    eventually("the login server names the msg server", || http_get(http, "/msg_server").contains(&named));
    let mut erin = Client::sign_in(client, &people[0], Class::Pc);
    let mut frank = Client::sign_in(client, &people[1], Class::Pc);
    assert_eq!(erin.say(people[1].id, "four processes"), 1);
    assert_eq!(frank.hear().text, "four processes");

    // The clients' server first: it needs the others to finish.
    for server in std::iter::once(msg).chain(others) {
        let exit = server.stop();
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }
}

#[test]
fn sign_in_is_refused_while_the_store_is_away_and_works_when_it_is_back() {
    let home = Home::new();
    let (login_msg, client, route, db_proxy) = (free_address(), free_address(), free_address(), free_address());
    let any = || text(free_address());
    fs::create_dir(home.data()).expect("a temporary directory");
    let data = format!("{:?}", home.data());
    let start_db = || {
        let changes = [("listen", text(db_proxy)), ("data", data.clone()), ("metrics_listen", any())];
        let mut server = launch(&home, "db-proxy", &changes);
        server.wait_line("Ready");
        server
    };
    let db = start_db();
    let _route = launch(&home, "route", &[("listen", text(route)), ("metrics_listen", any())]);
    let _login = launch(
        &home,
        "login",
        &[("http_listen", any()), ("client_listen", any()), ("msg_listen", text(login_msg)), ("metrics_listen", any())],
    );
    let mut msg = launch(
        &home,
        "msg",
        &[
            ("listen", text(client)),
            ("login_servers", list(login_msg)),
            ("route_servers", list(route)),
            ("db_proxies", list(db_proxy)),
            ("metrics_listen", any()),
        ],
    );
    msg.wait_line("Ready");
    let file = home.path("db-proxy.toml");
    let arguments = ["user", "add", "grace", "--config", file.to_str().expect("UTF-8")];
    assert_eq!(run_with_input(&binaries().teamtalk, &arguments, "password\n").code, Some(0));

    let sign_in = || Client::connect(client).login("grace", "password", Class::Pc).result_code;
    assert_eq!(sign_in(), 0);
    db.kill_9();
    // The msg server sees that both links are gone and says so: no db server.
    eventually("a sign-in is refused with 3", || sign_in() == 3);
    let _db = start_db();
    eventually("the links are back", || sign_in() == 0);
}

/// What the test's own db-proxy does with a request to check a password: first everything that it
/// must not do, then the right answer.
fn answer_badly_then_well(link: &mut Client, seq: u16, request: &server::ImValidateReq) {
    let rsp = |attach: Option<&[u8]>| server::ImValidateRsp {
        user_name: request.user_name.clone(),
        result_code: 0,
        result_string: Some("ok".to_owned()),
        user_info: Some(UserInfo { user_id: 7, user_real_name: request.user_name.clone(), ..Default::default() }),
        attach_data: attach.map(|bytes| bytes.to_vec().into()),
    };
    let cookie = request.attach_data.as_deref().expect("a request carries a cookie");
    let mut stranger = cookie.to_vec();
    *stranger.last_mut().expect("a cookie has bytes") ^= 0xff;
    stranger[4] ^= 0x55;
    let send = |link: &mut Client, command: u16, body: &[u8]| {
        link.write(&pack(command, seq, body)).expect("the msg server keeps the link");
    };
    for attach in [None, Some(&b""[..]), Some(b"abc"), Some(&cookie[..cookie.len() - 1]), Some(&stranger)] {
        let body = prost::Message::encode_to_vec(&rsp(attach));
        send(link, command::VALIDATE_RSP, &body);
        send(link, command::MSG_LIST_RESPONSE, &body);
        send(link, command::MSG_DATA, &body);
    }
    send(link, command::VALIDATE_RSP, &[0xff; 9]);
    send(link, 0x07ee, &[]);
    send(link, command::VALIDATE_RSP, &prost::Message::encode_to_vec(&rsp(Some(cookie))));
    // The same once more: its call is over.
    send(link, command::VALIDATE_RSP, &prost::Message::encode_to_vec(&rsp(Some(cookie))));
}

#[test]
fn replies_with_an_unknown_cookie_neither_reach_a_client_nor_close_the_link() {
    let home = Home::new();
    let client = free_address();
    let peer = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (login, route, db) = (peer(), peer(), peer());
    let address = |listener: &TcpListener| list(listener.local_addr().expect("bound"));
    let changes = [
        ("listen", text(client)),
        ("login_servers", address(&login)),
        ("route_servers", address(&route)),
        ("db_proxies", address(&db)),
        ("metrics_listen", text(free_address())),
        ("legacy_peers", "true".to_owned()),
        ("legacy_addresses", "[\"127.0.0.1\"]".to_owned()),
    ];
    let mut msg = launch(&home, "msg", &changes);
    // Peers of 2015: they take what comes and say nothing, not even hello.
    let _silent = [login, route].map(|listener| listener.accept().expect("the msg server dials"));
    let (dialled, links) = mpsc::channel();
    thread::spawn(move || {
        for stream in db.incoming().map_while(Result::ok) {
            let dialled = dialled.clone();
            thread::spawn(move || {
                let mut link = Client::on(stream);
                while let Ok(pdu) = link.next(PATIENCE) {
                    if pdu.command == command::VALIDATE_REQ {
                        answer_badly_then_well(&mut link, pdu.seq, &pdu.decode());
                        // The test may be over.
                        let _ = dialled.send(());
                    }
                }
            });
        }
    });
    msg.wait_line("Ready");

    for _ in 0..4 {
        let mut visitor = Client::connect(client);
        let answer = visitor.login("heidi", "password", Class::Pc);
        assert_eq!((answer.result_code, answer.user_info.map(|user| user.user_id)), (0, Some(7)));
        links.recv_timeout(PATIENCE).expect("the question went over a link");
        let extra = visitor.drain();
        assert!(
            extra.iter().all(|pdu| pdu.service != command::VALIDATE_RSP >> 8 && pdu.command != command::MSG_DATA),
            "{extra:?}"
        );
    }
    assert!(!msg.log().contains("is down"), "the links stayed up:\n{}", msg.log());
}
