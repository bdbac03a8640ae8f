//! Many at once: senders with several messages in flight, a burst of connections, a client that
//! takes nothing in.

use std::{collections::HashMap, net::SocketAddr, thread};

use tt_proto::im::{buddy, message};
use tt_tests::{Account, Class, Client, Home, Message, PATIENCE, binaries, command, run_with_input};

/// Accounts made by the operator's command beside the running system.
fn accounts(home: &Home, count: usize) -> Vec<Account> {
    let data = home.data().to_str().expect("UTF-8");
    (0..count)
        .map(|number| {
            let (name, password) = (format!("user{number}"), format!("password {number}"));
            let exit =
                run_with_input(&binaries().teamtalk, &["user", "add", &name, "--data", data], &format!("{password}\n"));
            assert_eq!(exit.code, Some(0), "{exit:?}");
            // "user0 is account #3"
            let id = exit.stdout.trim_end().rsplit('#').next().and_then(|id| id.parse().ok());
            Account { name, password, id: id.expect("the new account's id is printed") }
        })
        .collect()
}

const MESSAGES: usize = 50;
const IN_FLIGHT: usize = 4;

/// Sends `MESSAGES` texts to `peer` with `IN_FLIGHT` unanswered ones and takes in as many from
/// there; returns the acked ids in order of sending, and what was heard in order of arrival.
fn converse(mut client: Client, peer: u32) -> (Client, Vec<u32>, Vec<Message>) {
    let mut waiting: HashMap<u16, usize> = HashMap::new();
    let mut acked = vec![0; MESSAGES];
    let mut heard = Vec::new();
    let mut posted = 0;
    while acked.contains(&0) || heard.len() < MESSAGES {
        while posted < MESSAGES && waiting.len() < IN_FLIGHT {
            waiting.insert(client.post(peer, &posted.to_string()), posted);
            posted += 1;
        }
        let pdu = client
            .wait_for("an ack or a message", |pdu| matches!(pdu.command, command::MSG_DATA | command::MSG_DATA_ACK));
        if pdu.command == command::MSG_DATA {
            heard.push(client.delivered(&pdu));
        } else {
            let ack: message::ImMsgDataAck = pdu.decode();
            let number = waiting.remove(&pdu.seq).expect("one ack per message, with its seq");
            acked[number] = ack.msg_id;
        }
    }
    (client, acked, heard)
}

#[test]
fn g3_sixty_four_senders_lose_no_ack_and_keep_their_order() {
    let home = Home::new();
    let dev = home.start();
    let people = accounts(&home, 64);
    let address: SocketAddr = dev.address("msg");
    // Everybody is there before the first word.
    let clients: Vec<Client> = people.iter().map(|account| Client::sign_in(address, account, Class::Mobile)).collect();
    let talking: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(me, client)| {
            let peer = people[me ^ 1].id;
            thread::spawn(move || converse(client, peer))
        })
        .collect();
    let done: Vec<_> = talking.into_iter().map(|thread| thread.join().expect("a conversation")).collect();

    let in_order: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    for (me, (mut client, acked, heard)) in done.into_iter().enumerate() {
        let peer = people[me ^ 1].id;
        assert!(acked.is_sorted_by(|a, b| a < b), "ids in order of sending: {acked:?}");
        assert!(heard.is_sorted_by(|a, b| a.id < b.id), "delivered in order of ids: {heard:?}");
        let texts: Vec<&str> = heard.iter().map(|message| message.text.as_str()).collect();
        assert_eq!(texts, in_order);

        let mut history = client.history(peer);
        history.reverse();
        let ids: Vec<u32> = history.iter().map(|message| message.id).collect();
        assert_eq!(ids, (1..=2 * MESSAGES as u32).collect::<Vec<_>>());
        let from = |user: u32| history.iter().filter(move |message| message.from == user);
        assert_eq!(from(client.user_id).map(|message| message.id).collect::<Vec<_>>(), acked);
        assert_eq!(from(peer).cloned().collect::<Vec<_>>(), heard);
    }
}

#[test]
fn a_thousand_connections_in_one_burst_are_all_served() {
    raise_open_files();
    let home = Home::new();
    let dev = home.start();
    let mut burst: Vec<Client> = (0..1000).map(|_| dev.connect()).collect();
    let mut alice = dev.sign_in("alice", Class::Pc);
    for client in &mut burst {
        assert!(client.drain().is_empty(), "a heartbeat is echoed and nothing else comes");
    }
    drop(burst);
    alice.drain();
    drop(alice);
    dev.assert_lives();
}

/// Room for a thousand sockets in this process and, inherited, in the servers.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < 4096) {
        let wanted = maximum.unwrap_or(4096).min(4096);
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
            .expect("the soft limit may go up to the hard one");
    }
}

/// 4 KiB once encrypted: the longest text there is.
fn long_text() -> String {
    "x".repeat(3000)
}

#[test]
fn a_client_that_asks_and_never_reads_is_closed_and_harms_nobody_else() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    for _ in 0..90 {
        alice.say(bob.user_id, &long_text());
    }
    // Pages of 360 KiB, many more of them than any socket takes in, and not one is read.
    let mut deaf = dev.sign_in("alice", Class::Mobile);
    let page = message::ImGetMsgListReq {
        user_id: alice.user_id,
        session_type: 1,
        session_id: bob.user_id,
        msg_id_begin: 0,
        msg_cnt: 90,
        ..Default::default()
    };
    let before = resident_kib(dev.server.pid());
    for _ in 0..400 {
        deaf.send(command::MSG_LIST_REQUEST, &page);
    }
    // 140 MiB would be waiting if nothing held it back.
    for number in 91..=140 {
        assert_eq!(bob.say(alice.user_id, "can you hear me?"), number);
        alice.hear();
    }
    let grown = resident_kib(dev.server.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "the servers grew by {grown} KiB");
    // It was closed at the limit of what may wait for it; what had been sent by then is whole.
    deaf.wait_closed(PATIENCE);
}

#[test]
fn g4_a_client_that_never_reads_is_closed_and_finds_everything_in_history() {
    const COUNT: u32 = 3000;
    let home = Home::new();
    let dev = home.start();
    let (mut alice, bob) = dev.alice_and_bob();
    let _: buddy::ImUserStatNotify = alice.notice(command::STATUS_NOTIFY); // her own coming
    let _: buddy::ImUserStatNotify = alice.notice(command::STATUS_NOTIFY); // Bob's
    bob.shrink_receive_buffer();
    let long = long_text();
    for _ in 0..COUNT {
        alice.post(bob.user_id, &long);
    }
    let gone: buddy::ImUserStatNotify = alice.notice(command::STATUS_NOTIFY);
    assert_eq!((gone.user_stat.user_id, gone.user_stat.status), (bob.user_id, 2));
    for number in 1..=COUNT {
        let ack = alice.wait_for("an ack", |pdu| pdu.command == command::MSG_DATA_ACK);
        assert_eq!(ack.decode::<message::ImMsgDataAck>().msg_id, number);
    }
    drop(bob);
    let mut bob = dev.sign_in("bob", Class::Pc);
    assert_eq!(bob.history(alice.user_id).len(), COUNT as usize);
}

/// Resident memory of a process.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}
