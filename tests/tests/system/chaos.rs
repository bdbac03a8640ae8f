//! Chaos: a fleet of real processes under load, of which one after the other is killed with requests in flight,
//! while links are cut, stall and become slow, processes are paused, the disk is full and syncs fail. The judge of
//! [`tt_tests::history`] says whether G1 to G7 held for everything that any client saw.
//!
//! `TT_TEST_KILLS=500` is the long mode; the run goes through fleets of [`KILLS_OF_A_FLEET`] kills each.
//! `TT_TEST_SEED` repeats the faults of a run (not the scheduling of its processes).

mod device;
mod nemesis;

use std::{collections::BTreeMap, thread};

use tt_proto::im::group;
use tt_tests::{
    Account, Class, Client, Random, command, eventually,
    history::{Conversation, Judgement, Parties, Row, Stored},
    report::say,
};

use crate::cluster::Fleet;
use device::{Device, Stage, World};
use nemesis::Nemesis;

/// Kills of a run that is part of every test run.
const KILLS: usize = 20;
/// Kills of one fleet; after them its messages are read back and a new fleet begins.
const KILLS_OF_A_FLEET: usize = 50;

const PEOPLE: [&str; 5] = ["ann", "ben", "cid", "dot", "eve"];

fn kills() -> usize {
    std::env::var("TT_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS)
}

#[test]
fn g1_to_g7_hold_while_servers_are_killed_links_cut_and_disks_fail() {
    let mut random = Random::seeded("chaos");
    let kills = kills();
    let mut total = Judgement::default();
    let mut tally = BTreeMap::new();
    let mut done = 0;
    while done < kills {
        let part = KILLS_OF_A_FLEET.min(kills - done);
        let judged = run(part, &mut random, &mut tally);
        done += part;
        say(&format!("chaos, {done} of {kills} kills: {judged}"));
        assert!(judged.is_clean(), "{:#?}", judged.findings);
        total.add(&judged);
    }
    let faults: Vec<String> = tally.iter().map(|(what, count)| format!("{what} {count}")).collect();
    say(&format!("chaos, {kills} kills, each with requests in flight ({}): {total}", faults.join(", ")));
}

/// One fleet's life.
fn run(kills: usize, random: &mut Random, tally: &mut BTreeMap<String, usize>) -> Judgement {
    let fleet = Fleet::start_fragile(&PEOPLE);
    let group = make_group(&fleet);
    let ids: Vec<u32> = fleet.people.iter().map(|account| account.id).collect();
    let pair = |one: usize, other: usize| Conversation::pair(ids[one], ids[other]);
    let parties: Parties = [(0, 1), (1, 2), (2, 3), (3, 0)]
        .map(|(one, other)| (pair(one, other), vec![ids[one], ids[other]]))
        .into_iter()
        .chain([(Conversation::Group(group), ids.clone())])
        .collect();

    let world = World::new(PEOPLE.len() + 1);
    let proxy = fleet.proxy.as_ref().expect("a fleet behind a proxy");
    let doors: Vec<_> = (0..3).map(|place| proxy.way(&format!(">msg-{place}"), fleet.at.msg[place])).collect();
    let stored = thread::scope(|scope| {
        // Also when the run fails: the devices would go on for ever.
        let _over = world.over();
        for number in 0..=PEOPLE.len() {
            // The first has a phone too, which only listens.
            let (person, class) = if number == PEOPLE.len() { (0, Class::Mobile) } else { (number, Class::Pc) };
            let account = fleet.people[person].clone();
            let of_him = parties.iter().filter(|(_, users)| users.contains(&account.id));
            let conversations: Vec<Conversation> = of_him.map(|(conversation, _)| *conversation).collect();
            let talks = class == Class::Pc;
            let seed = random.bits();
            let device = Device::new(number as u32, account, class, &doors, conversations, talks, seed, &world);
            scope.spawn(move || device.run());
        }
        scope.spawn(|| world.discover(&fleet.at.login_http));
        Nemesis::new(&fleet, &world, random, tally).kill(kills);

        world.set(Stage::Finishing);
        // A question that got no answer is asked again after a while, so this may take longer than one event.
        eventually("every device is there and nothing is in flight", || {
            fleet.metrics_page("login-0");
            world.is_at_rest() || world.has_waited_long()
        });
        eventually("every device is there and nothing is in flight", || {
            fleet.metrics_page("login-0");
            world.is_at_rest()
        });
        eventually("everybody who is there has been shown everything", || {
            fleet.metrics_page("login-0");
            world.history.undelivered(&parties).is_empty() || world.has_waited_long()
        });
        world.set(Stage::Over);
        read_back(&fleet, &parties)
    });
    let judged = world.history.judge(&parties, &stored);
    for name in fleet.names() {
        let log = fleet.log(&name);
        assert!(!log.contains("panicked at"), "{name}:\n{log}");
        if !judged.is_clean() {
            say(&format!("--- {name}\n{log}---"));
        }
    }
    judged
}

fn make_group(fleet: &Fleet) -> u32 {
    let mut maker = fleet.sign_in(0, 0, Class::Pc);
    let request = group::ImGroupCreateReq {
        user_id: 0,
        group_type: 2,
        group_name: "all".to_owned(),
        group_avatar: String::new(),
        member_id_list: fleet.people.iter().map(|account| account.id).collect(),
        attach_data: None,
    };
    let answer: group::ImGroupCreateRsp =
        maker.request(command::GROUP_CREATE_REQUEST, &request, command::GROUP_CREATE_RESPONSE);
    answer.group_id.expect("a group")
}

/// A client at whichever msg server lets it in: one whose login servers were both killed refuses until it has dialled
/// them again.
fn reader(fleet: &Fleet, account: &Account) -> Client {
    let mut reader = None;
    eventually("somebody can sign in", || {
        reader = fleet.at.msg.iter().find_map(|address| {
            let mut client = Client::connect(*address);
            client.try_sign_in(account, Class::Pc, 0).then_some(client)
        });
        reader.is_some()
    });
    reader.expect("signed in")
}

/// Everything that is stored, as one party of each conversation reads it.
fn read_back(fleet: &Fleet, parties: &Parties) -> Stored {
    parties
        .iter()
        .map(|(conversation, users)| {
            let account = fleet.people.iter().find(|account| account.id == users[0]).expect("a person");
            let mut reader = reader(fleet, account);
            let (kind, session) = conversation.session(account.id);
            let mut rows: Vec<Row> = Vec::new();
            let mut begin = 0;
            loop {
                let page = match kind {
                    1 => reader.history_page(session, begin, 100),
                    _ => reader.group_history(session, begin, 100),
                };
                let Some(oldest) = page.last().map(|message| message.id) else { break };
                rows.extend(page.into_iter().map(|m| Row { msg_id: m.id, from: m.from, text: m.text.into() }));
                if oldest <= 1 {
                    break;
                }
                begin = oldest - 1;
            }
            rows.reverse();
            (*conversation, rows)
        })
        .collect()
}
