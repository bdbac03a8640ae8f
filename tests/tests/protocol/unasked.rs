//! Servers that speak without having been asked: every command of the table, whoever may send it, with everything
//! that can be wrong with it, from route and from db-proxy to a msg server; replies to nothing, users of other
//! servers, lists of 100,000. It costs no client its connection and shows it nothing that it could not take.

use std::sync::{Arc, Mutex};

use tt_proto::{
    command::TABLE,
    im::{buddy, message},
};
use tt_tests::{Class, Client, HEADER_LEN, PATIENCE, eventually, pack};

use crate::{
    fleet, hostile,
    recorded_peers::{Answer, World, sign_in, validate},
    schema,
};

/// Questions that go to the db-proxy and to the route server, and so give them something to write after.
const TO_DB: u16 = 0x0307;
const TO_ROUTE: u16 = 0x020a;

/// Longer than any PDU that a client takes (spec/wire.md §2).
const MAX_TO_CLIENT: usize = tt_proto::pdu::MAX_TO_CLIENT;

/// What a client has heard that it did not ask for.
fn unasked(client: &mut Client, what: &str) {
    for pdu in client.drain() {
        assert_eq!(pdu.seq, 0, "{what}: a client may take {:#06x} for an answer", pdu.command);
        assert!(!pdu.tags().contains(&20), "{what}: a client sees a cookie in {:#06x}", pdu.command);
        assert!(HEADER_LEN + pdu.body.len() <= MAX_TO_CLIENT, "{what}: {:#06x} is too long for a client", pdu.command);
    }
}

#[test]
fn what_route_and_db_proxy_say_unasked_costs_no_client_anything() {
    // Written in place of the next answer. Sign-ins are answered as they should be.
    let next: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let answer = {
        let next = Arc::clone(&next);
        move |question: u16| {
            let next = Arc::clone(&next);
            let answer: Answer = Arc::new(move |pdu| match pdu.command {
                0x0703 => validate(pdu),
                command if command == question => next.lock().expect("no holder panics").take(),
                _ => None,
            });
            answer
        }
    };
    let world = World::start(Arc::new(|_| None), answer(TO_ROUTE), answer(TO_DB));
    // Nobody whom the hostile bodies name one by one: being kicked is what a kick is for.
    let mut bystanders = [sign_in(&world, 6, Class::Pc), sign_in(&world, 7, Class::Mobile)];
    let mut asker = sign_in(&world, 5, Class::Pc);
    let greetings = |log: &crate::tap::Log| {
        let greets = |to: &str| log.since(0).iter().filter(|hop| hop.to == to && hop.pdu.command == 0x07f0).count();
        ["L", "R", "D"].map(greets)
    };
    // Two entries for the one db-proxy, two links to each.
    let links = [1, 1, 4];
    eventually("all links", || greetings(&world.log) == links);

    let mut tried = 0;
    for question in [TO_ROUTE, TO_DB] {
        // Heartbeats, greetings and the request to ask nothing more are what they are.
        let rows = TABLE.iter().filter(|row| ![0x0701, 0x0702, 0x07f0, 0x07f1].contains(&row.command.id()));
        let mut said: Vec<(String, Vec<u8>)> = rows
            .map(|row| {
                let cases = hostile::cases(&schema::message(&row.full_name()));
                tried += 2 * cases.len();
                // As a notice, and as the reply to somebody's question.
                let frames = cases.iter().flat_map(|case| [0, 77].map(|seq| pack(row.command.id(), seq, &case.body)));
                (row.command.to_string(), frames.flatten().collect())
            })
            .collect();
        let unknown = [0x0000, 0x0100, 0x01ff, 0x0880, 0x0999, 0x7777, 0xffff_u16];
        said.push(("unknown".to_owned(), unknown.iter().flat_map(|command| pack(*command, 77, b"any")).collect()));
        for (what, frames) in said {
            *next.lock().expect("no holder panics") = Some(frames);
            asker.write(&pack(question, 5, &[])).unwrap_or_else(|error| panic!("{what}: {error}"));
            eventually(&what, || next.lock().expect("no holder panics").is_none());
            // Its own server answers this one, so it is connected.
            for client in &mut bystanders {
                unasked(client, &what);
                let seq = client.send(0x0305, &message::ImClientTimeReq::default());
                client.wait_for(&what, |pdu| pdu.command == 0x0306 && pdu.seq == seq);
            }
            asker.drain();
        }
    }
    assert!(tried > 5_000, "{tried} cases");

    // All of it has been read when what comes after it has come, and over the same links.
    let status = buddy::ImUserStatNotify {
        user_stat: tt_proto::im::base_define::UserStat { user_id: 8, status: 1, ..Default::default() },
    };
    *next.lock().expect("no holder panics") = Some(pack(0x0203, 0, &prost::Message::encode_to_vec(&status)));
    asker.write(&pack(TO_ROUTE, 5, &[])).expect("the server reads on");
    loop {
        let pdu = bystanders[0].next(PATIENCE).expect("the last notice");
        assert_eq!(pdu.seq, 0);
        if pdu.command == 0x0203 && pdu.decode::<buddy::ImUserStatNotify>().user_stat.user_id == 8 {
            break;
        }
    }
    assert_eq!(greetings(&world.log), links, "no link was lost");
    fleet::assert_no_panic();
}
