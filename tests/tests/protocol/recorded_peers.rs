//! A msg server among recorded servers: the test answers as they did, byte for byte but for the cookie, without
//! greetings, and with two entries for one db-proxy. What the msg server says to them is what was recorded, and
//! whatever they say wrongly costs nobody anything.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use prost::Message as _;
use protox::prost_reflect::{DynamicMessage, ReflectMessage};
use tt_common::{ClusterConfig, RoleHandle};
use tt_proto::{
    command::{Command, Party, TABLE},
    im::{base_define::UserInfo, message, server},
};
use tt_tests::{Class, Client, HEADER_LEN, PATIENCE, Pdu, pack};

use crate::{
    fleet::{self, any},
    golden::{CLIENT, DB, Judge, LOGIN, MSG, ROUTE, Recorded, recording},
    hostile, schema,
    tap::Log,
};

/// The msg server and the addresses of the servers that the test plays.
pub(crate) struct World {
    pub(crate) log: Log,
    pub(crate) msg: SocketAddr,
    role: Option<RoleHandle>,
}

/// Answers one PDU on a link: with a PDU, or not.
pub(crate) type Answer = Arc<dyn Fn(&Pdu) -> Option<Vec<u8>> + Send + Sync>;

/// A command and a body.
type Said = (u16, Vec<u8>);

/// Plays a server: every connection answers by itself, for as long as it lasts.
fn play(answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind(any()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut link = Client::on(stream);
                // A recorded server says nothing of its own at first but that it lives.
                let mut alive = link.write(&pack(0x0701, 0, &[])).is_ok();
                while alive && let Ok(pdu) = link.next(PATIENCE * 10) {
                    let frame = if pdu.command == 0x0701 { Some(pack(0x0701, 0, &[])) } else { answer(&pdu) };
                    alive = frame.is_none_or(|frame| link.write(&frame).is_ok());
                }
            });
        }
    });
    address
}

impl World {
    pub(crate) fn start(login: Answer, route: Answer, db: Answer) -> Self {
        fleet::count_panics();
        let log = Log::default();
        let db = log.tap("M1", "D", play(db));
        let mut config = tt_msg::Config {
            server_id: "vm".to_owned(),
            listen: any(),
            metrics_listen: any(),
            login_servers: vec![log.tap("M1", "L", play(login))],
            route_servers: vec![log.tap("M1", "R", play(route))],
            // As in the recorded configuration: two entries, one server.
            db_proxies: vec![db, db],
            db_links: 2,
            cluster: ClusterConfig {
                secret_file: PathBuf::new(),
                legacy_peers: true,
                legacy_addresses: vec![any().ip()],
            },
            ..tt_msg::Config::default()
        };
        config.advertise.port = 28_000;
        config.timeouts.presence_ms = 20;
        config.timeouts.drain_ms = 200;
        // What a confused peer leaves without an answer need not be waited for.
        config.timeouts.call_ms = 1_000;
        config.limits.requests_per_second = 1_000_000;
        config.limits.requests_burst = 1_000_000;
        config.limits.messages_per_second = 1_000_000;
        config.limits.messages_burst = 1_000_000;
        config.limits.card_changes_per_minute = 1_000_000;
        let listeners = config.bind().expect("free ports");
        let msg = listeners.clients.local_addr().expect("bound");
        let role = tt_msg::spawn(config, listeners).expect("a thread");
        role.wait_ready(PATIENCE).expect("it serves");
        Self { log, msg, role: Some(role) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(role) = self.role.take() {
            role.stop();
            role.join();
        }
    }
}

/// A recorded answer with the cookie of another question.
fn with_cookie(command: u16, seq: u16, body: &[u8], question: &Pdu) -> Vec<u8> {
    let name = Command::try_from(command).expect("a published command").info().full_name();
    let mut message = DynamicMessage::decode(schema::message(&name), body).expect("a body of its command");
    let field = message.descriptor().get_field(20).expect("an answer has a cookie");
    message.clear_field(&field);
    let mut body = message.encode_to_vec();
    if let Some(cookie) = tt_common::link::attach_of(&question.body) {
        body.extend([0xa2, 0x01, cookie.len() as u8]);
        body.extend(cookie);
    }
    pack(command, seq, &body)
}

/// The answer that was recorded for a question of that number.
fn recorded_answer(all: &[Recorded], from: &str, question: &Pdu) -> Option<Vec<u8>> {
    let command = if question.command == 0x0301 { 0x0301 } else { question.command + 1 };
    let found = all.iter().find(|pdu| pdu.is(from, MSG) && pdu.command == command && pdu.seq == question.seq)?;
    Some(with_cookie(command, question.seq, &found.body, question))
}

/// Lets in everybody whose name is a t and a number.
pub(crate) fn validate(question: &Pdu) -> Option<Vec<u8>> {
    let request: server::ImValidateReq = question.decode();
    let user_id = request.user_name.strip_prefix('t')?.parse().ok().filter(|id| *id < 9);
    let answer = server::ImValidateRsp {
        user_name: request.user_name.clone(),
        result_code: u32::from(user_id.is_none()),
        result_string: Some("用户名/密码错误".to_owned()),
        user_info: user_id.map(|user_id| UserInfo { user_id, user_real_name: request.user_name, ..Default::default() }),
        attach_data: request.attach_data,
    };
    Some(pack(0x0704, question.seq, &answer.encode_to_vec()))
}

pub(crate) fn sign_in(world: &World, user: u32, class: Class) -> Client {
    let account = tt_tests::Account { name: format!("t{user:03}"), password: "any".to_owned(), id: user };
    Client::sign_in(world.msg, &account, class)
}

#[test]
fn a_msg_server_says_to_recorded_servers_what_was_recorded() {
    let all = Arc::new(recording());
    let from_db = {
        let all = Arc::clone(&all);
        move |pdu: &Pdu| match pdu.command {
            0x0703 => validate(pdu),
            // A message that only its sender's question was recorded of.
            0x0301 => recorded_answer(&all, DB, pdu).or_else(|| {
                let message: message::ImMsgData = pdu.decode();
                Some(pack(0x0301, pdu.seq, &message::ImMsgData { msg_id: 3, ..message }.encode_to_vec()))
            }),
            _ => recorded_answer(&all, DB, pdu),
        }
    };
    let from_route = {
        let all = Arc::clone(&all);
        // A signature line comes back to who sent it.
        move |pdu: &Pdu| match pdu.command {
            0x0215 => Some(pack(0x0215, 0, &pdu.body)),
            0x020a => recorded_answer(&all, ROUTE, pdu),
            _ => None,
        }
    };
    let world = World::start(Arc::new(|_| None), Arc::new(from_route), Arc::new(from_db));
    let mut t001 = Client::connect(world.msg);
    let windows = all.iter().find(|pdu| pdu.is(CLIENT, MSG) && pdu.line == 10).expect("t001 signs in");
    t001.write(&pack(windows.command, windows.seq, &windows.body)).expect("open");
    t001.wait_for("its answer", |pdu| pdu.command == 0x0104);
    let mut t002 = sign_in(&world, 2, Class::Mobile);
    let mut t005 = sign_in(&world, 5, Class::Pc);
    let apart = |pdu: &&Recorded| pdu.line == windows.line || [0x0999, 0x0105].contains(&pdu.command);
    for pdu in all.iter().filter(|pdu| pdu.is(CLIENT, MSG) && !apart(pdu)) {
        let mark = world.log.mark();
        if pdu.command == 0x0405 {
            // Recorded on the way to the store only.
            let message = all.iter().find(|on| on.is(MSG, DB) && on.seq == 19).expect("a message");
            t001.write(&pack(message.command, message.seq, &message.body)).expect("open");
            world.log.wait(mark, |hops| hops.iter().any(|hop| hop.pdu.command == 0x0301 && hop.to == "R"));
        }
        let client = match (pdu.command, pdu.body.as_slice()) {
            (0x0103, _) => &mut Client::connect(world.msg),
            (0x010a, _) | (_, [0x08, 2, ..]) => &mut t002,
            (0x050c, _) | (_, [0x08, 5, ..]) => &mut t005,
            _ => &mut t001,
        };
        client.write(&pack(pdu.command, pdu.seq, &pdu.body)).expect("open");
        // One at a time: what it causes on the links is there before the next.
        let wanted = all.iter().find(|on| on.is(MSG, DB) && on.command == pdu.command && on.seq == pdu.seq);
        let wanted = wanted.filter(|on| !golden_exception(on.line));
        if let Some(on) = wanted {
            world.log.wait(mark, |hops| hops.iter().any(|hop| hop.pdu.command == on.command && hop.to == "D"));
        }
        if pdu.command != 0x0103 {
            client.drain();
        }
    }
    let judge = Judge::default();
    for (to, name) in [(DB, "D"), (ROUTE, "R"), (LOGIN, "L")] {
        let recorded: Vec<_> = all.iter().filter(|pdu| pdu.is(MSG, to) && pdu.command != 0x0701).collect();
        // The last of them are on their way while the clients are answered.
        let commands: Vec<u16> =
            recorded.iter().filter(|pdu| !golden_exception(pdu.line)).map(|pdu| pdu.command).collect();
        let there = |hops: &[crate::tap::Hop]| {
            commands.iter().all(|command| hops.iter().any(|hop| hop.to == name && hop.pdu.command == *command))
        };
        let hops = world.log.wait(0, there);
        let came: Vec<Pdu> = hops.into_iter().filter(|hop| hop.to == name).map(|hop| hop.pdu).collect();
        for pdu in recorded {
            judge.finds(pdu, &came);
        }
    }
    judge.close();
    fleet::assert_no_panic();
}

fn golden_exception(line: usize) -> bool {
    crate::golden::EXCEPTIONS.iter().any(|(excepted, field, _)| *excepted == line && field.is_none())
}

/// What a client asks, and what the server behind answers with.
fn questions() -> impl Iterator<Item = (u16, Vec<u8>, u16)> {
    // Of files nobody is asked yet, and a heartbeat is no question.
    let asked = TABLE.iter().filter(|row| row.allows(Party::Client, Party::Msg) && ![5, 7].contains(&row.service));
    let asked = asked.filter(|row| row.allows(Party::Msg, Party::DbProxy) || row.allows(Party::Msg, Party::Route));
    asked.filter_map(|row| {
        let command = row.command.id();
        let answer = if command == 0x0301 { 0x0301 } else { command + 1 };
        let known = Command::try_from(answer).ok()?.info();
        let answers = known.allows(Party::DbProxy, Party::Msg) || known.allows(Party::Route, Party::Msg);
        answers.then(|| (command, hostile::plain(&schema::message(&row.full_name())), answer))
    })
}

#[test]
fn servers_that_answer_wrongly_cost_nobody_anything() {
    // What they answer next, to anything but sign-ins and the fence.
    let next: Arc<Mutex<Option<Said>>> = Arc::default();
    let answer = {
        let next = Arc::clone(&next);
        move |pdu: &Pdu| match pdu.command {
            0x0703 => validate(pdu),
            _ => next.lock().expect("no holder panics").take().map(|(command, mut body)| {
                // Under the right cookie, which stands last and so counts.
                if let Some(cookie) = tt_common::link::attach_of(&pdu.body) {
                    body.extend([0xa2, 0x01, cookie.len() as u8]);
                    body.extend(cookie);
                }
                pack(command, pdu.seq, &body)
            }),
        }
    };
    let answer: Answer = Arc::new(answer);
    let world = World::start(Arc::new(|_| None), Arc::clone(&answer), answer);
    let mut bystander = sign_in(&world, 4, Class::Pc);
    let mut asker = sign_in(&world, 1, Class::Mobile);
    let mut tried = 0;
    for (command, body, answer) in questions() {
        let name = Command::try_from(answer).expect("known").info().full_name();
        for case in hostile::cases(&schema::message(&name)) {
            let what = format!("{answer:#06x}, {}", case.what);
            *next.lock().expect("no holder panics") = Some((answer, case.body));
            asker.write(&pack(command, 5, &body)).unwrap_or_else(|error| panic!("{what}: {error}"));
            // It is taken when the question has arrived; until then nothing else may ask.
            tt_tests::eventually(&what, || {
                for pdu in asker.drain() {
                    assert!(!pdu.tags().contains(&20), "{what}: a client sees a cookie in {pdu:?}");
                    assert!(HEADER_LEN + pdu.body.len() <= 400 * 1024, "{what}: too long for a client");
                }
                next.lock().expect("no holder panics").is_none()
            });
            tried += 1;
        }
        bystander.drain();
    }
    assert!(tried > 500, "{tried} cases");
    assert!(world.log.since(0).iter().filter(|hop| hop.pdu.command == 0x0709).count() == 1, "the links stayed");
    asker.drain();
    bystander.drain();
    fleet::assert_no_panic();
}
