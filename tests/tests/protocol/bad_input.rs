//! Bad input for every command, from clients and on the links, generated from the table (`hostile.rs`). Whatever
//! comes: no server panics, nobody else is disturbed, nothing is stored that was not accepted, and what can be
//! answered is answered, under its own number and with a PDU that clients take.

use std::collections::BTreeSet;

use prost::Message as _;
use tt_proto::{
    command::{CommandInfo, Party, TABLE},
    im::{buddy, group, login, message, server, switch_service},
    pdu::{MAX_FROM_CLIENT, MAX_TO_CLIENT},
};
use tt_tests::{Class, Client, Ended, HEADER_LEN, PATIENCE, Pdu, pack};

use crate::{
    commands,
    fleet::{self, Fleet, Plan, Store},
    hostile::{self, ATTACKER, Case, VICTIM},
    schema,
};

/// The number of the harness's own questions.
const FENCE: u16 = 0x7fff;
/// The number of what is tried.
const TRIED: u16 = 0x1234;

const LOGIN: u16 = 0x0103;
const LOGOUT: u16 = 0x0105;
const HEARTBEAT: u16 = 0x0701;
/// Acks that say no, and read marks that mean their message.
const CAPABILITIES: Option<u64> = Some(1 << 1 | 1 << 12);

/// Servers that let the attacker try as often as it likes.
fn generous() -> Fleet {
    let msg = |config: &mut tt_msg::Config| {
        let limits = &mut config.limits;
        for limit in [
            &mut limits.messages_per_second,
            &mut limits.messages_burst,
            &mut limits.requests_per_second,
            &mut limits.requests_burst,
            &mut limits.signals_per_second,
            &mut limits.signals_burst,
        ] {
            *limit = 1_000_000;
        }
        limits.card_changes_per_minute = 1_000_000;
        limits.output_bytes = 64 << 20;
    };
    Fleet::start(&Plan { msg, ..Plan::default() })
}

/// What a command's answer is, by the table; none for what has none.
fn answer_of(command: u16) -> Option<u16> {
    commands::rows().into_iter().find(|row| row.command == command).and_then(|row| row.answer)
}

fn from_client() -> impl Iterator<Item = &'static CommandInfo> {
    TABLE.iter().filter(|row| row.allows(Party::Client, Party::Msg))
}

fn cases_of(row: &CommandInfo) -> Vec<Case> {
    hostile::cases(&schema::message(&row.full_name()))
}

/// A client's connection, which what it tries may cost it.
struct Attacker<'a> {
    fleet: &'a Fleet,
    class: Class,
    client: Client,
}

impl<'a> Attacker<'a> {
    fn sign_in(fleet: &'a Fleet, class: Class) -> Self {
        let client = Client::sign_in_with(fleet.msg[0], fleet.account("ann"), class, CAPABILITIES);
        Self { fleet, class, client }
    }

    /// Tries something; returns what came back before everything that it could have caused was through, or None if
    /// it cost the connection.
    fn tries(&mut self, command: u16, body: &[u8]) -> Option<Vec<Pdu>> {
        let sent = self.client.write(&pack(command, TRIED, body)).and_then(|()| fence(&mut self.client));
        if sent.is_err() {
            *self = Self::sign_in(self.fleet, self.class);
            return None;
        }
        let answers = until_fence(&mut self.client);
        if answers.is_none() {
            *self = Self::sign_in(self.fleet, self.class);
        }
        answers
    }
}

/// Asks the store and route, behind whose answers nothing of the past can come.
fn fence(client: &mut Client) -> std::io::Result<()> {
    client.write(&pack(0x0307, FENCE, &[]))?;
    client.write(&pack(0x020a, FENCE, &[]))
}

/// What comes before both have answered; None if the connection ends before.
fn until_fence(client: &mut Client) -> Option<Vec<Pdu>> {
    let (mut before, mut fences) = (Vec::new(), 0);
    while fences < 2 {
        match client.next(PATIENCE) {
            Ok(pdu) if pdu.seq == FENCE => fences += 1,
            Ok(pdu) => before.push(pdu),
            Err(Ended::Closed) => return None,
            Err(Ended::TimedOut) => panic!("no answer to a fence; before it came {before:?}"),
        }
    }
    Some(before)
}

#[test]
fn what_a_client_must_not_send_is_refused_and_nobody_else_notices() {
    let fleet = generous();
    let store = fleet.store();
    let mut bystander = fleet.sign_in("dan", 2, Class::Pc);
    let mut victim = fleet.sign_in("ben", 2, Class::Pc);
    let mut setup = fleet.sign_in("ann", 1, Class::Pc);
    make_group(&mut setup);
    drop(setup);
    let (mut tried, mut for_phones) = (0, Vec::new());
    for class in [Class::Pc, Class::Mobile] {
        let mut attacker = Attacker::sign_in(&fleet, class);
        let rows: Vec<_> =
            from_client().filter(|row| class == Class::Pc || for_phones.contains(&row.command)).collect();
        for row in rows {
            let command = row.command.id();
            let plain = hostile::plain(&schema::message(&row.full_name()));
            if attacker.tries(command, &plain).is_some_and(|answers| answers.is_empty()) && answer_of(command).is_some()
            {
                for_phones.push(row.command);
            }
            let mut before = store.all();
            for Case { what, body } in cases_of(row) {
                let what = format!("{} from a {class:?}, {what}", row.command);
                let answers = attacker.tries(command, &body);
                let after = store.all();
                judge(row, class, &what, &body, answers.as_deref(), &before, &after);
                before = after;
                tried += 1;
            }
            others_are_well(row, &mut [&mut bystander, &mut victim]);
        }
    }
    assert!(tried > 2_000, "{tried} cases");
    println!("{tried} cases");
    fleet::assert_no_panic();
}

fn make_group(ann: &mut Client) {
    let request = group::ImGroupCreateReq {
        group_type: 2,
        group_name: "g".to_owned(),
        member_id_list: vec![ATTACKER, VICTIM],
        ..Default::default()
    };
    let answer: group::ImGroupCreateRsp = ann.request(0x0405, &request, 0x0406);
    assert_eq!((answer.result_code, answer.group_id), (0, Some(1)));
}

/// Whether what came of it is what may come of it.
fn judge(
    row: &CommandInfo,
    class: Class,
    what: &str,
    body: &[u8],
    answers: Option<&[Pdu]>,
    before: &[String],
    after: &[String],
) {
    let command = row.command.id();
    let too_long = HEADER_LEN + body.len() > MAX_FROM_CLIENT;
    let Some(answers) = answers else {
        // A log-out and a frame above the limit end the connection; nothing else does.
        assert!(command == LOGOUT || too_long, "{what}: the connection is closed");
        assert_eq!(before, after, "{what}");
        return;
    };
    if command == LOGOUT {
        return;
    }
    let answer = answer_of(command);
    let own: Vec<&Pdu> = answers.iter().filter(|pdu| pdu.seq != 0).collect();
    for pdu in answers {
        assert!(HEADER_LEN + pdu.body.len() <= MAX_TO_CLIENT || command == HEARTBEAT, "{what}: too long for a client");
        assert!(command == HEARTBEAT || !pdu.tags().contains(&20), "{what}: a cookie in {pdu:?}");
        if pdu.seq != 0 {
            assert_eq!((pdu.seq, Some(pdu.command)), (TRIED, answer), "{what}");
        }
    }
    let message = schema::message(&row.full_name());
    if hostile::enums_are_known(&message, body) && answer.is_some() && !has_no_answer(command, class, body) {
        assert!(!own.is_empty(), "{what}: no answer");
    }
    let changed: Vec<&String> = before
        .iter()
        .filter(|line| !after.contains(line))
        .chain(after.iter().filter(|line| !before.contains(line)))
        .collect();
    if changed.is_empty() {
        return;
    }
    let accepted = own.iter().any(|pdu| is_yes(pdu)) || [0x0108, 0x0303].contains(&command);
    assert!(accepted, "{what}: refused, and yet {changed:?}; {own:?}");
    for line in &changed {
        assert!(may_change(command, line), "{what}: {line}; of {changed:?}");
    }
}

/// Commands that have an answer, but not then.
fn has_no_answer(command: u16, class: Class, body: &[u8]) -> bool {
    match command {
        // A second sign-in is ignored, and registering is not built.
        LOGIN | 0x0110 => true,
        // Only phones have push tokens and send PCs away; a token may be too long to be one.
        0x0108 => {
            class == Class::Pc || login::ImDeviceTokenReq::decode(body).is_ok_and(|r| r.device_token.len() > 1_024)
        }
        0x010a => class == Class::Pc,
        _ => false,
    }
}

/// Whether an answer says that it was done.
fn is_yes(pdu: &Pdu) -> bool {
    match pdu.command {
        0x0302 => pdu.decode::<message::ImMsgDataAck>().msg_id != 0,
        0x0207 => pdu.decode::<buddy::ImRemoveSessionRsp>().result_code == 0,
        0x020d => pdu.decode::<buddy::ImChangeAvatarRsp>().result_code == 0,
        0x0214 => pdu.decode::<buddy::ImChangeSignInfoRsp>().result_code == 0,
        0x010d => pdu.decode::<login::ImPushShieldRsp>().result_code == 0,
        0x0406 => pdu.decode::<group::ImGroupCreateRsp>().result_code == 0,
        0x0408 => pdu.decode::<group::ImGroupChangeMemberRsp>().result_code == 0,
        0x040a => pdu.decode::<group::ImGroupShieldRsp>().result_code == 0,
        _ => false,
    }
}

/// Whether the command of an attacker may leave a row like this: of its own, of what it says, of its groups.
fn may_change(command: u16, line: &str) -> bool {
    let (table, row) = line.split_once(' ').expect("a table and a row");
    let columns: Vec<&str> = row.split(',').collect();
    let own = columns[0] == ATTACKER.to_string();
    match (command, table) {
        (0x0301, "message") => columns[2] == ATTACKER.to_string(),
        (0x0213 | 0x020c | 0x010c, "user")
        | (0x0108, "device")
        | (0x0303, "cursor")
        | (0x0206, "session" | "cursor") => own,
        // A group that is taken off the list stays a group.
        (0x0206 | 0x0409, "group_member") => columns[1] == ATTACKER.to_string(),
        (0x0301, "conversation" | "session")
        | (0x0405, "chat_group" | "group_member" | "conversation")
        | (0x0407, "chat_group" | "group_member") => true,
        _ => false,
    }
}

/// The others are still connected, and were told nothing but what the attacker may tell them, as its own.
fn others_are_well(row: &CommandInfo, others: &mut [&mut Client]) {
    for other in others {
        for pdu in other.drain() {
            assert_eq!(pdu.seq, 0, "{}: {pdu:?}", row.command);
            assert!(!pdu.tags().contains(&20), "{}: a cookie in {pdu:?}", row.command);
            match pdu.command {
                0x0301 => assert_eq!(pdu.decode::<message::ImMsgData>().from_user_id, ATTACKER),
                0x0601 => assert_eq!(pdu.decode::<switch_service::Imp2pCmdMsg>().from_user_id, ATTACKER),
                0x0212 => assert_eq!(pdu.decode::<buddy::ImAvatarChangedNotify>().changed_user_id, ATTACKER),
                0x0215 => assert_eq!(pdu.decode::<buddy::ImSignInfoChangedNotify>().changed_user_id, ATTACKER),
                0x040b => assert_eq!(pdu.decode::<group::ImGroupChangeMemberNotify>().user_id, ATTACKER),
                // The attacker comes back when it was closed; they themselves came just now.
                0x0203 => {}
                other => panic!("{}: others got {other:#06x}", row.command),
            }
        }
    }
}

#[test]
fn before_sign_in_everything_but_signing_in_and_a_heartbeat_closes_the_connection() {
    let fleet = generous();
    let store = fleet.store();
    let before = store.all();
    let mut bystander = fleet.sign_in("dan", 1, Class::Pc);
    for row in TABLE {
        let command = row.command.id();
        let body = hostile::plain(&schema::message(&row.full_name()));
        if [LOGIN, HEARTBEAT].contains(&command) {
            continue;
        }
        let mut stranger = Client::connect(fleet.msg[0]);
        // The server may close before it has read all.
        let _ = stranger.write(&pack(command, TRIED, &body));
        stranger.wait_closed(PATIENCE);
        assert!(stranger.drain_closed().is_empty(), "{}: a stranger is answered", row.command);
    }
    let sign_in = TABLE.iter().find(|row| row.command.id() == LOGIN).expect("it is there");
    for Case { what, body } in cases_of(sign_in) {
        let mut stranger = Client::connect(fleet.msg[0]);
        let sent =
            stranger.write(&pack(LOGIN, TRIED, &body)).and_then(|()| stranger.write(&pack(HEARTBEAT, FENCE, &[])));
        let long = HEADER_LEN + body.len() > 16 * 1024;
        let mut heard = Vec::new();
        // The echo may stand before the answer; a sign-in that is answered is a sign-in or the end.
        let known = hostile::enums_are_known(&schema::message(&sign_in.full_name()), &body);
        loop {
            match stranger.next(PATIENCE) {
                Ok(pdu) => {
                    let echo = pdu.command == HEARTBEAT;
                    heard.push(pdu);
                    let answered = heard.iter().any(|pdu| pdu.command == 0x0104);
                    if (echo && !answered && !known) || (answered && heard.iter().any(|pdu| pdu.command == HEARTBEAT)) {
                        break;
                    }
                }
                Err(Ended::Closed) => break,
                Err(Ended::TimedOut) => panic!("{what}: neither an answer nor the end, {sent:?}"),
            }
        }
        let answers: Vec<_> = heard.iter().filter(|pdu| pdu.command == 0x0104).collect();
        assert!(answers.len() <= 1, "{what}");
        if known && !long {
            let answer: login::ImLoginRes = answers.first().unwrap_or_else(|| panic!("{what}: no answer")).decode();
            let right = what.starts_with("nothing") || answer.user_info.is_some();
            assert_eq!(answer.result_code == 0, right && answer.user_info.is_some(), "{what}");
        }
    }
    assert_eq!(store.all(), before);
    bystander.drain();
    fleet::assert_no_panic();
}

#[test]
fn after_a_kick_everything_but_a_heartbeat_and_a_log_out_closes_the_connection() {
    let fleet = generous();
    let store = fleet.store();
    let before = store.all();
    let mut bystander = fleet.sign_in("dan", 1, Class::Pc);
    for row in from_client() {
        let command = row.command.id();
        let body = hostile::plain(&schema::message(&row.full_name()));
        let mut old = fleet.sign_in("ann", 1, Class::Mobile);
        let mut new = fleet.sign_in("ann", 1, Class::Mobile);
        old.notice::<login::ImKickUser>(0x0107);
        old.drain_closed();
        old.write(&pack(command, TRIED, &body)).expect("it is open for the grace time");
        if command == HEARTBEAT {
            assert_eq!(old.next(PATIENCE).expect("an echo").seq, TRIED);
        } else {
            old.wait_closed(PATIENCE);
            let answers: Vec<u16> = old.drain_closed().iter().map(|pdu| pdu.command).collect();
            assert_eq!(answers, if command == LOGOUT { vec![0x0106] } else { Vec::new() }, "{}", row.command);
        }
        fence(&mut new).expect("the new one is not concerned");
        until_fence(&mut new).expect("nor is it closed");
    }
    assert_eq!(store.all(), before);
    bystander.drain();
    fleet::assert_no_panic();
}

#[test]
fn the_same_request_twice_at_once_is_answered_twice_in_order() {
    let fleet = generous();
    let mut setup = fleet.sign_in("ann", 1, Class::Pc);
    make_group(&mut setup);
    drop(setup);
    for row in from_client().filter(|row| ![LOGIN, LOGOUT, 0x0110].contains(&row.command.id())) {
        let command = row.command.id();
        let Some(answer) = answer_of(command) else { continue };
        let mut client = Client::sign_in_with(fleet.msg[0], fleet.account("ann"), Class::Mobile, CAPABILITIES);
        let body = hostile::plain(&schema::message(&row.full_name()));
        let twice = [pack(command, 11, &body), pack(command, 12, &body)].concat();
        client.write(&twice).expect("the server reads");
        let mut next = || client.wait_for("an answer", |pdu| pdu.seq != 0);
        let answers = [next(), next()].map(|pdu| (pdu.command, pdu.seq));
        assert_eq!(answers, [(answer, 11), (answer, 12)], "{}", row.command);
    }
    fleet::assert_no_panic();
}

/// Commands that run on a link from a msg server to a server of this kind.
fn on_links(to: Party) -> impl Iterator<Item = &'static CommandInfo> {
    TABLE
        .iter()
        .filter(move |row| row.service != 0x07 || row.command.id() < 0x07f0)
        .filter(move |row| row.allows(Party::Msg, to))
}

#[test]
fn a_msg_server_that_misbehaves_towards_the_store_is_answered_or_ignored() {
    let fleet = generous();
    let store = fleet.store();
    let mut bystander = fleet.sign_in("dan", 1, Class::Pc);
    let mut link = Client::connect(fleet.db);
    for row in on_links(Party::DbProxy) {
        let command = row.command.id();
        let mut before = store.all();
        for Case { what, body } in cases_of(row) {
            let what = format!("{}, {what}", row.command);
            let answers = ask(&mut link, command, &body, 0x0307);
            let after = store.all();
            for pdu in &answers {
                assert_eq!(pdu.seq, TRIED, "{what}: {:#06x}", pdu.command);
                let (asked, echoed) =
                    [&body, &pdu.body].map(|body| tt_common::link::attach_of(body).map(<[u8]>::to_vec)).into();
                // A damaged body may hide its cookie.
                assert!(asked == echoed || asked.is_none(), "{what}: another cookie");
            }
            let accepted = answers.iter().any(|pdu| is_yes(pdu) || stored(pdu)) || [0x0108, 0x0303].contains(&command);
            assert!(accepted || before == after, "{what}: {answers:?}, and yet something was stored");
            before = after;
        }
        bystander.drain();
    }
    assert_lives(&fleet, &store);
}

/// A message's answer on a link to the store.
fn stored(pdu: &Pdu) -> bool {
    pdu.command == 0x0301 && pdu.decode::<message::ImMsgData>().msg_id != 0
}

/// Sends something over a link and then a question; returns what came before that one's answer.
fn ask(link: &mut Client, command: u16, body: &[u8], question: u16) -> Vec<Pdu> {
    link.write(&pack(command, TRIED, body)).expect("the link stays");
    link.write(&pack(question, FENCE, &[])).expect("the link stays");
    let mut before = Vec::new();
    loop {
        match link.next(PATIENCE) {
            Ok(pdu) if pdu.seq == FENCE => return before,
            Ok(pdu) if [HEARTBEAT, 0x07f0, 0x07f1].contains(&pdu.command) => {}
            Ok(pdu) => before.push(pdu),
            Err(ended) => panic!("{command:#06x}: {ended:?}"),
        }
    }
}

/// Everybody is served as before.
fn assert_lives(fleet: &Fleet, store: &Store) {
    let (mut cid, mut dan) = (fleet.sign_in("cid", 1, Class::Pc), fleet.sign_in("dan", 2, Class::Pc));
    let id = cid.say(dan.user_id, "still there?");
    assert_eq!(dan.hear().text, "still there?");
    assert_ne!(id, 0);
    assert!(!store.all().is_empty());
    fleet::assert_no_panic();
}

#[test]
fn a_msg_server_that_misbehaves_towards_route_loses_nobody_elses_place() {
    let fleet = generous();
    let store = fleet.store();
    let before = store.all();
    let mut bystander = fleet.sign_in("dan", 1, Class::Pc);
    let mut other = fleet.sign_in("eve", 2, Class::Pc);
    let mut link = Client::connect(fleet.route);
    for row in on_links(Party::Route) {
        for Case { body, .. } in cases_of(row) {
            ask(&mut link, row.command.id(), &body, 0x020a);
        }
        // They are where they were, as others see it.
        let query = buddy::ImUsersStatReq { user_id_list: vec![4], ..Default::default() };
        let answer: buddy::ImUsersStatRsp = other.request(0x020a, &query, 0x020b);
        assert_eq!(answer.user_stat_list[0].status, 1, "{}", row.command);
        for pdu in bystander.drain() {
            assert!(pdu.seq == 0 && !pdu.tags().contains(&20), "{}: {pdu:?}", row.command);
            assert_ne!(pdu.command, 0x0107, "{}: nobody asked for dan", row.command);
        }
        other.drain();
    }
    assert_eq!(store.all(), before);
    drop((bystander, other));
    assert_lives(&fleet, &store);
}

#[test]
fn a_msg_server_that_misbehaves_towards_login_draws_nobody_away_for_longer_than_it_lives() {
    let fleet = generous();
    let mut link = Client::connect(fleet.login_links);
    for row in on_links(Party::Login) {
        for Case { what, body } in cases_of(row) {
            link.write(&pack(row.command.id(), TRIED, &body)).unwrap_or_else(|error| panic!("{what}: {error}"));
            let answer = tt_tests::http_get(fleet.login_http, "/msg_server");
            assert!(answer.starts_with("HTTP/1.1 200"), "{}, {what}: {answer}", row.command);
        }
    }
    let info = server::ImMsgServInfo { ip1: "192.0.2.1".to_owned(), port: 1, max_conn_cnt: 9, ..Default::default() };
    link.write(&pack(0x0709, 0, &info.encode_to_vec())).expect("the link stays");
    drop(link);
    let ours: BTreeSet<String> = fleet.msg.iter().map(|address| format!("\"port\" : \"{}\"", address.port())).collect();
    tt_tests::eventually("only those that are there are named", || {
        let answer = tt_tests::http_get(fleet.login_http, "/msg_server");
        ours.iter().any(|port| answer.contains(port))
    });
    assert_lives(&fleet, &fleet.store());
}
