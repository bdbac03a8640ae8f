//! The table's rules, case by case (spec/flows.md §3.4, spec/servers.md D30, D31, D33).

use super::*;
use ClientType::{ClientTypeAndroid as PHONE, ClientTypeMac as MAC, ClientTypeWindows as PC};
use UserStatType::{UserStatusLeave as LEAVE, UserStatusOffline as OFF, UserStatusOnline as ON};

const ALICE: u32 = 1;

fn pc(on: bool) -> Notice {
    Notice::PcLogin { user: ALICE, on }
}

fn status(status: UserStatType) -> Notice {
    Notice::Status { user: ALICE, status }
}

const DETAIL: Notice = Notice::Detail { user: ALICE };

fn report(client: ClientType, status: UserStatType) -> Report {
    Report { client, status, away: status == LEAVE, since: 7 }
}

/// What of the notices old clients and servers are told.
fn plain(notices: Vec<Notice>) -> Vec<Notice> {
    notices.into_iter().filter(|notice| !matches!(notice, Notice::Detail { .. })).collect()
}

fn update(table: &mut Presence, link: u64, user: u32, client: ClientType, status: UserStatType) -> Vec<Notice> {
    plain(table.update(link, user, report(client, status)))
}

fn lose(table: &mut Presence, link: u64) -> Vec<Notice> {
    plain(table.lose(link))
}

fn snapshot(table: &mut Presence, link: u64, connections: &[(u32, ClientType, UserStatType)]) -> Vec<Notice> {
    let reports = connections.iter().map(|&(user, client, status)| (user, report(client, status)));
    plain(table.snapshot(link, reports))
}

fn table() -> Presence {
    Presence::new(100)
}

#[test]
fn a_pc_comes_and_goes() {
    let mut table = table();
    assert_eq!(update(&mut table, 1, ALICE, PC, ON), [pc(true), status(ON)]);
    assert_eq!(table.status(ALICE), ON);
    assert_eq!(update(&mut table, 1, ALICE, PC, OFF), [status(OFF)], "nobody is left to be told of the PC");
    assert_eq!((table.status(ALICE), table.len()), (OFF, 0));
}

#[test]
fn a_phone_alone_is_offline_and_tells_nobody() {
    let mut table = table();
    assert_eq!(update(&mut table, 1, ALICE, PHONE, ON), []);
    assert_eq!((table.status(ALICE), table.len()), (OFF, 1));
    assert_eq!(update(&mut table, 1, ALICE, PHONE, OFF), []);
    assert_eq!(table.len(), 0);
}

#[test]
fn a_phone_that_comes_to_a_pc_learns_of_it() {
    let mut table = table();
    update(&mut table, 1, ALICE, PC, ON);
    assert_eq!(update(&mut table, 2, ALICE, PHONE, ON), [pc(true)]);
    assert_eq!(update(&mut table, 1, ALICE, PC, OFF), [pc(false), status(OFF)]);
}

#[test]
fn the_last_of_two_pcs_counts() {
    let mut table = table();
    update(&mut table, 1, ALICE, PC, ON);
    update(&mut table, 2, ALICE, MAC, ON);
    assert_eq!(update(&mut table, 1, ALICE, PC, OFF), []);
    assert_eq!(table.status(ALICE), ON);
    assert_eq!(update(&mut table, 2, ALICE, MAC, OFF), [status(OFF)]);
}

#[test]
fn leave_is_passed_on_and_not_remembered() {
    let mut table = table();
    assert_eq!(update(&mut table, 1, ALICE, PC, LEAVE), [pc(true), status(LEAVE)]);
    assert_eq!(table.status(ALICE), ON);
}

#[test]
fn an_offline_from_a_link_that_has_not_the_user_changes_nothing() {
    let mut table = table();
    update(&mut table, 1, ALICE, PC, ON);
    assert_eq!(update(&mut table, 2, ALICE, PC, OFF), []);
    assert_eq!(update(&mut table, 1, ALICE, MAC, OFF), [], "another type");
    assert_eq!(table.status(ALICE), ON);
}

#[test]
fn an_offline_of_an_unknown_user_is_still_told() {
    assert_eq!(update(&mut table(), 1, ALICE, PC, OFF), [status(OFF)]);
}

/// D30, D31: the recorded server left ghosts behind and told nobody.
#[test]
fn a_lost_link_takes_its_connections_with_it() {
    let mut table = table();
    update(&mut table, 1, ALICE, PC, ON);
    update(&mut table, 2, ALICE, PHONE, ON);
    update(&mut table, 1, 2, PHONE, ON);
    assert_eq!(lose(&mut table, 1), [pc(false), status(OFF)]);
    assert_eq!((table.status(ALICE), table.len()), (OFF, 1), "her phone is on the other server");
    assert_eq!(lose(&mut table, 2), [], "a phone tells nobody");
    assert_eq!(table.len(), 0);
}

#[test]
fn a_lost_link_says_nothing_of_users_with_a_pc_elsewhere() {
    let mut table = table();
    update(&mut table, 1, ALICE, PC, ON);
    update(&mut table, 2, ALICE, MAC, ON);
    assert_eq!(lose(&mut table, 1), []);
    assert_eq!(update(&mut table, 2, ALICE, MAC, OFF), [status(OFF)]);
}

/// D33: the recorded server counted everybody twice.
#[test]
fn a_snapshot_sent_again_does_not_count_twice() {
    let mut table = table();
    let online = [(ALICE, PC, ON)];
    assert_eq!(snapshot(&mut table, 1, &online), [], "the first of a link is no news");
    assert_eq!(snapshot(&mut table, 1, &online), []);
    assert_eq!(update(&mut table, 1, ALICE, PC, OFF), [status(OFF)]);
    assert_eq!(table.len(), 0);
}

#[test]
fn a_later_snapshot_tells_the_differences() {
    let mut table = table();
    snapshot(&mut table, 1, &[(ALICE, PC, ON), (2, PHONE, ON)]);
    assert_eq!(snapshot(&mut table, 1, &[(ALICE, PHONE, ON)]), [pc(false), status(OFF)]);
    assert_eq!(snapshot(&mut table, 1, &[(ALICE, PC, ON)]), [pc(true), status(ON)]);
}

#[test]
fn users_who_come_back_after_a_lost_link_are_announced() {
    let mut table = table();
    snapshot(&mut table, 1, &[(ALICE, PC, ON)]);
    assert_eq!(lose(&mut table, 1), [status(OFF)]);
    assert_eq!(snapshot(&mut table, 2, &[(ALICE, PC, ON)]), [pc(true), status(ON)]);
    assert_eq!(lose(&mut table, 2), [status(OFF)]);
    update(&mut table, 3, ALICE, PC, ON);
    assert_eq!(snapshot(&mut table, 4, &[(ALICE, MAC, ON)]), [], "they were announced by the update");
}

#[test]
fn offline_entries_of_a_snapshot_are_no_connections() {
    let mut table = table();
    snapshot(&mut table, 1, &[(ALICE, PC, OFF)]);
    assert_eq!(table.len(), 0);
}

/// What clients with capability 11 see.
#[test]
fn phones_second_pcs_and_absence_are_details() {
    let mut table = table();
    assert_eq!(table.update(1, ALICE, report(PHONE, ON)), [DETAIL]);
    assert_eq!(table.detail(ALICE), (vec![PHONE as u32], false));
    assert_eq!(table.update(2, ALICE, report(PC, LEAVE)), [pc(true), status(LEAVE)]);
    assert_eq!(table.detail(ALICE), (vec![PC as u32, PHONE as u32], false), "a phone is not away");
    assert_eq!(table.update(1, ALICE, report(PHONE, OFF)), [DETAIL]);
    assert_eq!(table.detail(ALICE), (vec![PC as u32], true));
    assert_eq!(table.update(1, ALICE, report(PHONE, OFF)), [], "nobody was there");
    assert_eq!(table.update(3, ALICE, report(MAC, ON)), [pc(true), status(ON)]);
    assert_eq!(table.update(2, ALICE, Report { away: true, ..report(PC, OFF) }), [DETAIL], "a PC is left");
    assert_eq!(table.detail(ALICE), (vec![MAC as u32], false));
    assert_eq!(table.lose(3), [status(OFF)]);
    assert_eq!(table.detail(ALICE), (vec![], false));
    assert_eq!(table.snapshot(4, [(ALICE, report(PHONE, ON))].into_iter()), [DETAIL], "back, with a phone");
}

#[test]
fn rivals_are_other_links_with_the_same_class() {
    let mut table = table();
    for (link, client) in [(1, PC), (2, MAC), (2, PC), (3, PHONE)] {
        update(&mut table, link, ALICE, client, ON);
    }
    assert_eq!(table.rivals(1, ALICE, PC), [2]);
    assert_eq!(table.rivals(3, ALICE, PHONE), []);
    assert_eq!(table.rivals(9, ALICE, MAC), [1, 2]);
    assert_eq!(table.rivals(9, 77, PC), []);
}

#[test]
fn a_full_table_takes_nobody_new() {
    let mut table = Presence::new(1);
    update(&mut table, 1, ALICE, PC, ON);
    update(&mut table, 1, 2, PC, ON);
    assert_eq!((table.len(), table.status(2)), (1, OFF));
    update(&mut table, 1, ALICE, PHONE, ON);
    update(&mut table, 1, ALICE, PC, OFF);
    assert_eq!(table.len(), 1, "whom it has, it keeps");
}

/// Whatever happens, the table agrees with a plain list of connections.
#[test]
fn the_table_agrees_with_a_list_of_connections() {
    let mut random = netlib::clock::SplitMix64::new(7);
    let mut table = table();
    let mut list: Vec<(u64, u32, ClientType)> = Vec::new();
    let clients = [PC, MAC, PHONE];
    for _ in 0..20_000 {
        let (link, user) = (random.next() % 3, (random.next() % 4) as u32);
        let client = clients[(random.next() % 3) as usize];
        match random.next() % 40 {
            0 => {
                lose(&mut table, link);
                list.retain(|connection| connection.0 != link);
            }
            1 => {
                snapshot(&mut table, link, &[(user, client, ON)]);
                list.retain(|connection| connection.0 != link);
                list.push((link, user, client));
            }
            2..=20 => {
                update(&mut table, link, user, client, ON);
                list.push((link, user, client));
            }
            _ => {
                update(&mut table, link, user, client, OFF);
                if let Some(at) = list.iter().position(|connection| *connection == (link, user, client)) {
                    list.swap_remove(at);
                }
            }
        }
        for user in 0..4 {
            let expected = list.iter().any(|connection| connection.1 == user && is_pc(connection.2));
            assert_eq!(table.status(user) == ON, expected);
        }
        let users: HashSet<u32> = list.iter().map(|connection| connection.1).collect();
        assert_eq!(table.len(), users.len());
    }
}
