//! What every store must do, written against the trait alone. A test binary instantiates each
//! function with a fresh, empty store; a second implementation is held to the same list.
//!
//! Names begin with the clause of the guarantees that they try to break.

pub(crate) mod groups;
pub(crate) mod helpers;

use std::collections::BTreeSet;

use helpers::{apply, ids, send, text, user};
use tt_db_proxy::store::{
    AccountChange, Applied, MAX_AVATAR, MAX_DEVICE_ID, MAX_DEVICES, MAX_PAGE_BYTES, MAX_PAGE_ROWS, MAX_PUSH_TOKEN,
    MAX_SIGN_INFO, Message, MessageKind, NewDepartment, NewMessage, NewUser, Peer, Platform, PushToken, Refusal, Store,
    StoreError, UserStatus, Validation, Write,
};
use tt_proto::password::wire_digest;

pub(crate) use groups::*;

fn pair(store: &dyn Store) -> (u32, u32) {
    (user(store, "alice"), user(store, "bob"))
}

fn with_id(message: NewMessage, id: &str) -> NewMessage {
    NewMessage { client_msg_id: Some(id.to_owned()), ..message }
}

fn refusal(store: &dyn Store, message: NewMessage) -> Refusal {
    match apply(store, Write::Message(message)) {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn read(store: &dyn Store, user: u32, other: u32, up_to: Option<u32>) -> u32 {
    match apply(store, Write::Read { user, peer: Peer::User(other), up_to }) {
        Ok(Applied::Read { cursor }) => cursor,
        other => panic!("not read: {other:?}"),
    }
}

fn unread_count(store: &dyn Store, user: u32, other: u32) -> u32 {
    let unread = store.unread(user).expect("unread");
    unread.iter().find(|row| row.peer == Peer::User(other)).map_or(0, |row| row.count)
}

pub(crate) fn g1_an_acknowledged_message_is_in_the_history_of_both(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let sent = text(alice, bob, "hello");
    let msg_id = send(store, sent.clone());
    let expected =
        [Message { msg_id, from: alice, created: sent.created, kind: MessageKind::Text, content: sent.content }];
    assert_eq!(store.history(alice, Peer::User(bob), 0, 10).expect("history"), expected);
    assert_eq!(store.history(bob, Peer::User(alice), 0, 10).expect("history"), expected);
}

pub(crate) fn g2_the_same_client_id_is_the_same_message(store: &dyn Store) {
    let (alice, bob) = pair(store);
    send(store, text(alice, bob, "before"));
    let first = with_id(text(alice, bob, "once"), "id-1");
    assert_eq!(send(store, first.clone()), 2);
    let retry = NewMessage { created: first.created + 60, ..first.clone() };
    let answer = apply(store, Write::Message(retry)).expect("accepted");
    let (msg_id, created, repeated) = (2, first.created, true);
    assert_eq!(answer, Applied::Message { msg_id, created, repeated, group_version: 0 });
    assert_eq!(store.latest_msg_id(alice, Peer::User(bob)).expect("latest"), 2);
}

pub(crate) fn g2_a_repetition_within_one_batch_is_one_message(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let message = with_id(text(alice, bob, "once"), "id-1");
    let answers = store.apply(&[
        Write::Message(message.clone()),
        Write::Message(text(alice, bob, "between")),
        Write::Message(message),
    ]);
    let given: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer {
            Ok(Applied::Message { msg_id, repeated, .. }) => (msg_id, repeated),
            other => panic!("not stored: {other:?}"),
        })
        .collect();
    assert_eq!(given, [(1, false), (2, false), (1, true)]);
    assert_eq!(ids(&store.history(bob, Peer::User(alice), 0, 10).expect("history")), [2, 1]);
}

pub(crate) fn g2_the_same_client_id_with_other_content_is_refused(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let carol = user(store, "carol");
    send(store, with_id(text(alice, bob, "one"), "id"));
    let voice = NewMessage { kind: MessageKind::Voice, ..text(alice, bob, "one") };
    for other in [text(alice, bob, "two"), text(alice, carol, "one"), voice] {
        assert_eq!(refusal(store, with_id(other, "id")), Refusal::IdReused);
    }
    assert_eq!(store.latest_msg_id(alice, Peer::User(bob)).expect("latest"), 1);
    assert_eq!(store.latest_msg_id(alice, Peer::User(carol)).expect("latest"), 0);
}

pub(crate) fn g2_client_ids_belong_to_their_sender(store: &dyn Store) {
    let (alice, bob) = pair(store);
    assert_eq!(send(store, with_id(text(alice, bob, "mine"), "id")), 1);
    assert_eq!(send(store, with_id(text(bob, alice, "mine too"), "id")), 2);
}

pub(crate) fn g2_without_a_client_id_equal_texts_are_different_messages(store: &dyn Store) {
    let (alice, bob) = pair(store);
    assert_eq!(send(store, text(alice, bob, "ok")), 1);
    assert_eq!(send(store, text(alice, bob, "ok")), 2);
}

pub(crate) fn g3_ids_are_dense_per_conversation_and_shared_by_both_directions(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let carol = user(store, "carol");
    assert_eq!(send(store, text(alice, bob, "1")), 1);
    assert_eq!(send(store, text(bob, alice, "2")), 2);
    assert_eq!(send(store, text(alice, carol, "another conversation")), 1);
    assert_eq!(send(store, text(alice, bob, "3")), 3);
    let page = store.history(alice, Peer::User(bob), 0, 10).expect("history");
    assert_eq!(ids(&page), [3, 2, 1]);
    let senders: Vec<_> = page.iter().map(|message| message.from).collect();
    assert_eq!(senders, [alice, bob, alice]);
}

pub(crate) fn g3_ids_stay_dense_when_many_threads_write(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let given: Vec<u32> = std::thread::scope(|scope| {
        let writers: Vec<_> = [(alice, bob), (bob, alice), (alice, bob), (bob, alice)]
            .into_iter()
            .map(|(from, to)| {
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for round in 0..10 {
                        let batch: Vec<_> =
                            (0..5).map(|number| Write::Message(text(from, to, &format!("{round}.{number}")))).collect();
                        for answer in store.apply(&batch) {
                            match answer {
                                Ok(Applied::Message { msg_id, .. }) => mine.push(msg_id),
                                other => panic!("not stored: {other:?}"),
                            }
                        }
                    }
                    assert!(mine.is_sorted(), "one writer's ids go up");
                    mine
                })
            })
            .collect();
        let mut all = Vec::new();
        for writer in writers {
            all.extend(writer.join().expect("a writer"));
        }
        all
    });
    let distinct: BTreeSet<u32> = given.iter().copied().collect();
    assert_eq!(given.len(), 200);
    assert!(distinct.iter().copied().eq(1..=200), "{distinct:?}");
}

pub(crate) fn g3_a_refused_member_uses_no_id_and_leaves_the_others_alone(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let batch = |round: &str| {
        vec![
            Write::Message(text(alice, bob, &format!("{round} first"))),
            Write::Message(text(alice, 4_000_000, "to nobody")),
            Write::Message(text(alice, bob, &format!("{round} second"))),
        ]
    };
    for (round, first) in [("one", 1), ("two", 3)] {
        let answers = store.apply(&batch(round));
        assert!(matches!(answers[0], Ok(Applied::Message { msg_id, .. }) if msg_id == first), "{answers:?}");
        assert_eq!(answers[1], Err(Refusal::UnknownUser(4_000_000).into()));
        assert!(matches!(answers[2], Ok(Applied::Message { msg_id, .. }) if msg_id == first + 1), "{answers:?}");
    }
    assert_eq!(ids(&store.history(bob, Peer::User(alice), 0, 10).expect("history")), [4, 3, 2, 1]);
}

pub(crate) fn g6_what_cannot_be_stored_is_refused_with_a_reason(store: &dyn Store) {
    let (alice, bob) = pair(store);
    assert_eq!(refusal(store, text(alice, bob, "")), Refusal::Empty);
    assert_eq!(refusal(store, text(alice, alice, "me")), Refusal::ToOneself);
    assert_eq!(refusal(store, text(alice, 77, "you?")), Refusal::UnknownUser(77));
    assert_eq!(refusal(store, text(78, bob, "who?")), Refusal::UnknownUser(78));
    assert!(store.recent_sessions(alice, 0, 100).expect("sessions").is_empty());
}

pub(crate) fn g5_unread_is_what_the_other_sent_above_the_cursor(store: &dyn Store) {
    let (alice, bob) = pair(store);
    for number in 0..3 {
        send(store, text(alice, bob, &format!("{number}")));
    }
    send(store, text(bob, alice, "an answer does not read"));
    assert_eq!(unread_count(store, bob, alice), 3);
    assert_eq!(unread_count(store, alice, bob), 1);
    let unread = store.unread(bob).expect("unread");
    assert_eq!(unread[0].latest.msg_id, 4);
    assert_eq!(unread[0].latest.from, bob, "the real sender");
    assert_eq!(read(store, bob, alice, None), 4);
    assert!(store.unread(bob).expect("unread").is_empty());
    send(store, text(alice, bob, "one more"));
    assert_eq!(unread_count(store, bob, alice), 1);
}

pub(crate) fn g5_a_cursor_only_moves_forward_and_not_past_the_newest(store: &dyn Store) {
    let (alice, bob) = pair(store);
    for number in 0..5 {
        send(store, text(alice, bob, &format!("{number}")));
    }
    assert_eq!(read(store, bob, alice, Some(2)), 2);
    assert_eq!(unread_count(store, bob, alice), 3);
    assert_eq!(read(store, bob, alice, Some(1)), 2);
    assert_eq!(unread_count(store, bob, alice), 3);
    assert_eq!(read(store, bob, alice, Some(u32::MAX)), 5);
    send(store, text(alice, bob, "later"));
    assert_eq!(unread_count(store, bob, alice), 1);
}

pub(crate) fn g5_a_read_in_the_batch_of_a_message_covers_what_came_before_it(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let answers = store.apply(&[
        Write::Message(text(alice, bob, "seen")),
        Write::Read { user: bob, peer: Peer::User(alice), up_to: None },
        Write::Message(text(alice, bob, "not seen")),
    ]);
    assert_eq!(answers[1], Ok(Applied::Read { cursor: 1 }));
    assert_eq!(unread_count(store, bob, alice), 1);
}

pub(crate) fn g5_reading_where_nothing_was_said_changes_nothing(store: &dyn Store) {
    let (alice, bob) = pair(store);
    assert_eq!(read(store, alice, bob, None), 0);
    assert_eq!(read(store, alice, 12345, None), 0);
    assert!(store.unread(alice).expect("unread").is_empty());
}

pub(crate) fn history_pages_by_begin_and_count(store: &dyn Store) {
    let (alice, bob) = pair(store);
    for number in 1..=10 {
        send(store, text(alice, bob, &format!("{number}")));
    }
    let page = |begin, count| ids(&store.history(bob, Peer::User(alice), begin, count).expect("history"));
    assert_eq!(page(0, 3), [10, 9, 8]);
    assert_eq!(page(7, 3), [7, 6, 5]);
    assert_eq!(page(2, 9), [2, 1]);
    assert_eq!(page(u32::MAX, 1), [10]);
    assert!(page(0, 0).is_empty());
    assert!(store.history(alice, Peer::User(99), 0, 10).expect("history").is_empty());
}

pub(crate) fn history_is_cut_at_the_row_limit(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let batch: Vec<_> =
        (0..MAX_PAGE_ROWS + 5).map(|number| Write::Message(text(alice, bob, &format!("{number}")))).collect();
    assert!(store.apply(&batch).iter().all(Result::is_ok));
    let page = store.history(alice, Peer::User(bob), 0, u32::MAX).expect("history");
    assert_eq!(page.len(), MAX_PAGE_ROWS as usize);
    assert_eq!(page[0].msg_id, MAX_PAGE_ROWS + 5);
}

pub(crate) fn history_is_cut_before_a_page_outgrows_a_frame(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let body = "x".repeat(100 * 1024);
    for _ in 0..5 {
        let voice = NewMessage { kind: MessageKind::Voice, ..text(alice, bob, &body) };
        send(store, voice);
    }
    let fit = MAX_PAGE_BYTES / body.len();
    let newest = store.history(bob, Peer::User(alice), 0, 5).expect("history");
    assert_eq!(ids(&newest), (6 - fit as u32..=5).rev().collect::<Vec<_>>());
    assert!(newest.iter().all(|message| message.content.len() == body.len()));
    let listed = store.messages_by_id(bob, Peer::User(alice), &[1, 2, 3, 4, 5]).expect("by id");
    assert_eq!(listed.len(), fit);
}

pub(crate) fn messages_are_found_by_id_newest_first(store: &dyn Store) {
    let (alice, bob) = pair(store);
    for number in 1..=4 {
        send(store, text(alice, bob, &format!("{number}")));
    }
    let found = store.messages_by_id(bob, Peer::User(alice), &[2, 4, 2, 0, 99]).expect("by id");
    assert_eq!(ids(&found), [4, 2]);
    assert!(store.messages_by_id(bob, Peer::User(alice), &[]).expect("by id").is_empty());
}

pub(crate) fn the_latest_id_is_zero_before_the_first_message(store: &dyn Store) {
    let (alice, bob) = pair(store);
    assert_eq!(store.latest_msg_id(alice, Peer::User(bob)).expect("latest"), 0);
    send(store, text(alice, bob, "1"));
    assert_eq!(store.latest_msg_id(bob, Peer::User(alice)).expect("latest"), 1);
}

pub(crate) fn sessions_show_their_newest_message(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let carol = user(store, "carol");
    send(store, text(alice, bob, "to bob"));
    send(store, text(bob, alice, "from bob"));
    let voice = NewMessage { kind: MessageKind::Voice, ..text(alice, carol, "\0\0\0\u{3}sound") };
    send(store, voice);
    let sessions = store.recent_sessions(alice, 0, 100).expect("sessions");
    let with = |other| {
        let row = sessions.iter().find(|row| row.peer == Peer::User(other));
        &row.expect("a session").latest
    };
    assert_eq!(sessions.len(), 2);
    assert_eq!((with(bob).msg_id, with(bob).from), (2, bob));
    assert_eq!(with(bob).text, "from bob");
    assert_eq!((with(carol).kind, with(carol).from), (MessageKind::Voice, alice));
    assert!(with(carol).text.is_empty(), "a list shows no audio");
    assert!(sessions.is_sorted_by(|one, next| one.updated >= next.updated));

    let newest = sessions[0].updated;
    let again = store.recent_sessions(alice, newest, 100).expect("sessions");
    assert!(again.contains(&sessions[0]), "what else happened in that second is not missed");
    assert!(store.recent_sessions(alice, newest + 1, 100).expect("sessions").is_empty());
    assert_eq!(store.recent_sessions(alice, 0, 1).expect("sessions").len(), 1);
    assert_eq!(store.recent_sessions(carol, 0, 100).expect("sessions").len(), 1);
}

pub(crate) fn a_removed_session_is_read_and_comes_back_with_the_next_message(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let remove = |user, other| apply(store, Write::RemoveSession { user, peer: Peer::User(other) });
    let listed = |user| store.recent_sessions(user, 0, 100).expect("sessions").len();
    assert_eq!(remove(bob, alice), Ok(Applied::RemovedSession { found: false }));
    send(store, text(alice, bob, "one"));
    assert_eq!(remove(bob, alice), Ok(Applied::RemovedSession { found: true }));
    assert_eq!((listed(bob), listed(alice)), (0, 1), "only the user's own list");
    assert_eq!(remove(bob, alice), Ok(Applied::RemovedSession { found: false }));
    assert!(store.unread(bob).expect("unread").is_empty());
    send(store, text(alice, bob, "two"));
    assert_eq!((listed(bob), unread_count(store, bob, alice)), (1, 1));
    assert_eq!(ids(&store.history(bob, Peer::User(alice), 0, 10).expect("history")), [2, 1]);
}

pub(crate) fn a_session_is_removed_in_the_batch_that_made_it(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let answers = store.apply(&[
        Write::Message(text(alice, bob, "one")),
        Write::RemoveSession { user: bob, peer: Peer::User(alice) },
        Write::Message(text(bob, alice, "two")),
        Write::RemoveSession { user: alice, peer: Peer::User(bob) },
    ]);
    assert_eq!(answers[1], Ok(Applied::RemovedSession { found: true }));
    assert_eq!(answers[3], Ok(Applied::RemovedSession { found: true }));
    assert_eq!(store.recent_sessions(bob, 0, 100).expect("sessions").len(), 1);
    assert!(store.recent_sessions(alice, 0, 100).expect("sessions").is_empty());
}

pub(crate) fn sign_in_needs_the_exact_name_and_password(store: &dyn Store) {
    let alice = user(store, "alice");
    let check = |name: &str, password: &str| store.validate(name, &wire_digest(password)).expect("an answer");
    match check("alice", "alice") {
        Validation::Accepted(card) => {
            assert_eq!((card.id, card.name.as_str()), (alice, "alice"));
            assert_eq!(card.nick, "alice", "an empty nick is the name");
        }
        Validation::Refused => panic!("the right password was refused"),
    }
    for (name, password) in [("alice", "Alice"), ("Alice", "alice"), ("nobody", ""), ("", "")] {
        assert_eq!(check(name, password), Validation::Refused, "{name} {password}");
    }
    for injection in ["' OR 1=1 --", "alice'--"] {
        assert_eq!(check(injection, "alice"), Validation::Refused);
    }
}

pub(crate) fn a_disabled_account_cannot_sign_in_until_it_is_enabled(store: &dyn Store) {
    user(store, "alice");
    let check = || store.validate("alice", &wire_digest("alice")).expect("an answer");
    for status in [UserStatus::Left, UserStatus::Probation, UserStatus::Intern] {
        store.set_status("alice", status).expect("set");
        assert_eq!(check(), Validation::Refused, "{status:?}");
    }
    store.set_status("alice", UserStatus::Active).expect("set");
    assert!(matches!(check(), Validation::Accepted(_)));
}

pub(crate) fn a_new_password_replaces_the_old_one(store: &dyn Store) {
    user(store, "alice");
    store.set_password("alice", &wire_digest("new")).expect("set");
    let check = |password| store.validate("alice", &wire_digest(password)).expect("an answer");
    assert_eq!(check("alice"), Validation::Refused);
    assert!(matches!(check("new"), Validation::Accepted(_)));
}

pub(crate) fn accounts_refuse_what_makes_no_sense(store: &dyn Store) {
    user(store, "alice");
    let add = |name: &str, department| {
        store.add_user(&NewUser {
            name: name.to_owned(),
            wire_digest: wire_digest("x"),
            department,
            ..NewUser::default()
        })
    };
    assert_eq!(add("alice", 0), Err(Refusal::NameTaken("alice".to_owned()).into()));
    assert!(add("Alice", 0).is_ok(), "names are case-sensitive");
    assert!(add(&"ü".repeat(32), 0).is_ok(), "32 characters, not bytes");
    for bad in ["", " a", "a ", "#7", "a\nb", &"x".repeat(33)] {
        assert!(matches!(add(bad, 0), Err(StoreError::Refused(Refusal::BadField(_)))), "{bad:?}");
    }
    assert_eq!(add("bob", 999), Err(Refusal::UnknownDepartment(999).into()));
    let unknown = StoreError::from(Refusal::UnknownName("bob".to_owned()));
    assert_eq!(store.set_password("bob", &wire_digest("x")), Err(unknown.clone()));
    assert_eq!(store.set_status("bob", UserStatus::Left), Err(unknown));
    assert!(store.set_password("alice", "not a digest").is_err());
    assert_eq!(store.list_users().expect("users").len(), 3);
}

pub(crate) fn users_are_found_by_id_whatever_their_status(store: &dyn Store) {
    let (alice, bob) = pair(store);
    store.set_status("bob", UserStatus::Left).expect("set");
    let found = store.users_by_ids(&[bob, 12345, alice]).expect("users");
    let mut names: Vec<_> = found.iter().map(|user| user.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["alice", "bob"]);
}

pub(crate) fn the_full_pull_leaves_out_who_left_and_the_next_ones_do_not(store: &dyn Store) {
    user(store, "alice");
    user(store, "bob");
    store.set_status("bob", UserStatus::Left).expect("set");
    user(store, "carol");
    let full = store.users_changed_since(0, usize::MAX).expect("users");
    let names =
        |items: &[tt_db_proxy::store::User]| -> Vec<String> { items.iter().map(|user| user.name.clone()).collect() };
    assert_eq!(names(&full.items), ["alice", "carol"]);

    let nothing = store.users_changed_since(full.latest, usize::MAX).expect("users");
    assert!(nothing.items.is_empty());
    assert_eq!(nothing.latest, full.latest);

    store.set_status("carol", UserStatus::Left).expect("set");
    let next = store.users_changed_since(full.latest, usize::MAX).expect("users");
    assert_eq!(names(&next.items), ["carol"]);
    assert_eq!(next.items[0].status, UserStatus::Left);
    assert!(next.latest > full.latest);
}

pub(crate) fn no_change_within_a_second_is_missed_by_a_pull(store: &dyn Store) {
    let mut since = 0;
    for number in 0..20 {
        let name = format!("user{number}");
        user(store, &name);
        let page = store.users_changed_since(since, usize::MAX).expect("users");
        assert!(page.items.iter().any(|user| user.name == name), "{name}");
        since = page.latest;
    }
}

pub(crate) fn a_long_address_book_comes_in_pages_that_miss_nobody(store: &dyn Store) {
    for number in 0..25 {
        user(store, &format!("user{number}"));
    }
    let mut seen = BTreeSet::new();
    let mut since = 0;
    let mut pages = 0;
    loop {
        let page = store.users_changed_since(since, 600).expect("users");
        seen.extend(page.items.iter().map(|user| user.name.clone()));
        pages += 1;
        if page.latest == since {
            break;
        }
        since = page.latest;
        assert!(pages < 100, "the pull goes on for ever");
    }
    assert_eq!(seen.len(), 25);
    assert!(pages > 3, "600 bytes do not hold 25 users");
}

pub(crate) fn departments_are_pulled_by_change(store: &dyn Store) {
    let first = store.departments_changed_since(0, usize::MAX).expect("pull");
    let save = |id, name: &str, deleted| {
        let department = NewDepartment { id, name: name.to_owned(), deleted, ..NewDepartment::default() };
        store.save_department(&department)
    };
    let mut since = first.latest;
    let sales = save(0, "Sales", false).expect("saved");
    let support = save(0, "Support", false).expect("saved");
    let page = store.departments_changed_since(since, usize::MAX).expect("pull");
    let names: Vec<_> = page.items.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["Sales", "Support"]);
    since = page.latest;
    save(sales, "Sales", true).expect("saved");
    let page = store.departments_changed_since(since, usize::MAX).expect("pull");
    assert_eq!(page.items.len(), 1);
    assert!(page.items[0].deleted && page.items[0].id == sales);
    let nothing = store.departments_changed_since(page.latest, usize::MAX).expect("pull");
    assert!(nothing.items.is_empty() && nothing.latest == page.latest);
    assert_ne!(sales, support);
    assert_eq!(save(999, "?", false), Err(Refusal::UnknownDepartment(999).into()));
}

fn change(store: &dyn Store, user: u32, change: AccountChange) -> Result<Applied, StoreError> {
    apply(store, Write::Account { user, change })
}

fn keep(store: &dyn Store, user: u32, device: &str, token: Option<&str>) -> Result<Applied, StoreError> {
    let token = token.map(|token| PushToken { platform: Platform::Ios, token: token.to_owned() });
    apply(store, Write::Device { user, device: device.to_owned(), token })
}

fn tokens(store: &dyn Store, users: &[u32]) -> Vec<(u32, String)> {
    let devices = store.devices(users).expect("devices");
    devices.into_iter().map(|device| (device.user, device.push.token)).collect()
}

pub(crate) fn a_changed_card_is_in_the_next_pull_and_in_no_one_elses(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let before = store.users_changed_since(0, usize::MAX).expect("pull").latest;
    assert_eq!(change(store, alice, AccountChange::SignInfo("away".into())), Ok(Applied::Changed));
    assert_eq!(change(store, alice, AccountChange::SignInfo("back".into())), Ok(Applied::Changed));
    assert_eq!(change(store, bob, AccountChange::Avatar("g0/b.png".into())), Ok(Applied::Changed));
    let page = store.users_changed_since(before + 1, usize::MAX).expect("pull");
    let cards: Vec<_> =
        page.items.iter().map(|user| (user.id, user.sign_info.as_str(), user.avatar.as_str())).collect();
    assert_eq!(cards, [(alice, "back", ""), (bob, "", "g0/b.png")]);
    // Whoever pulled between the two changes misses neither, however short the time between.
    let first = page.items[0].updated;
    let rest = store.users_changed_since(first, usize::MAX).expect("pull");
    assert_eq!(rest.items.iter().map(|user| user.id).collect::<Vec<_>>(), [alice, bob]);
    assert!(store.users_changed_since(rest.latest, usize::MAX).expect("pull").items.is_empty());
}

pub(crate) fn no_change_within_one_batch_is_missed_by_a_pull(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let before = store.users_changed_since(0, usize::MAX).expect("pull").latest;
    let sign = |user, text: &str| Write::Account { user, change: AccountChange::SignInfo(text.into()) };
    let answers = store.apply(&[sign(alice, "a"), sign(bob, "b"), sign(alice, "c"), sign(404, "nobody")]);
    assert_eq!(answers[..3], [Ok(Applied::Changed), Ok(Applied::Changed), Ok(Applied::Changed)]);
    assert_eq!(answers[3], Err(Refusal::UnknownUser(404).into()));
    let page = store.users_changed_since(before, usize::MAX).expect("pull");
    let stamps: BTreeSet<u32> = page.items.iter().map(|user| user.updated).collect();
    assert_eq!(stamps.len(), 2, "each has a stamp of its own: {page:?}");
    assert!(stamps.iter().all(|stamp| *stamp > before));
    assert_eq!(page.items.iter().map(|user| user.sign_info.as_str()).collect::<Vec<_>>(), ["b", "c"]);
}

pub(crate) fn texts_of_a_card_have_limits_in_bytes(store: &dyn Store) {
    let alice = user(store, "alice");
    type Make = fn(String) -> AccountChange;
    for (make, limit) in [(AccountChange::SignInfo as Make, MAX_SIGN_INFO), (AccountChange::Avatar, MAX_AVATAR)] {
        assert_eq!(change(store, alice, make("x".repeat(limit))), Ok(Applied::Changed));
        for long in ["x".repeat(limit + 1), "语".repeat(limit / 3 + 1)] {
            let refused = change(store, alice, make(long));
            assert!(matches!(refused, Err(StoreError::Refused(Refusal::BadField(_)))), "{refused:?}");
        }
        assert_eq!(change(store, alice, make(String::new())), Ok(Applied::Changed));
    }
}

pub(crate) fn a_push_shield_is_off_until_it_is_set_and_nobody_pulls_it(store: &dyn Store) {
    let (alice, bob) = pair(store);
    let latest = store.users_changed_since(0, usize::MAX).expect("pull").latest;
    assert_eq!(store.push_shield(alice), Ok(Some(false)));
    // Twice the same is no failure (trap 42).
    for on in [true, true, false, true] {
        assert_eq!(change(store, alice, AccountChange::PushShield(on)), Ok(Applied::Changed));
        assert_eq!(store.push_shield(alice), Ok(Some(on)));
    }
    assert_eq!(store.push_shield(bob), Ok(Some(false)));
    assert_eq!(store.push_shield(404), Ok(None));
    assert_eq!(change(store, 404, AccountChange::PushShield(true)), Err(Refusal::UnknownUser(404).into()));
    assert!(store.users_changed_since(latest, usize::MAX).expect("pull").items.is_empty());
}

pub(crate) fn each_device_of_a_user_keeps_its_own_token(store: &dyn Store) {
    let (alice, bob) = pair(store);
    for (user, device, token) in [(alice, "", "a0"), (alice, "phone", "a1"), (bob, "phone", "b1"), (alice, "", "a2")] {
        assert_eq!(keep(store, user, device, Some(token)), Ok(Applied::Changed));
    }
    let both = || tokens(store, &[bob, alice, 404]);
    assert_eq!(both(), [(bob, "b1".to_owned()), (alice, "a2".to_owned()), (alice, "a1".to_owned())]);
    // One is forgotten, the others stay; forgetting again changes nothing.
    for _ in 0..2 {
        assert_eq!(keep(store, alice, "", None), Ok(Applied::Changed));
        assert_eq!(both(), [(bob, "b1".to_owned()), (alice, "a1".to_owned())]);
    }
    assert_eq!(change(store, bob, AccountChange::PushShield(true)), Ok(Applied::Changed));
    let shields: Vec<bool> =
        store.devices(&[alice, bob]).expect("devices").iter().map(|device| device.shield).collect();
    assert_eq!(shields, [false, true]);
}

/// The recorded system sent the pushes of both to a phone that two people had used.
pub(crate) fn a_token_belongs_to_who_registered_it_last(store: &dyn Store) {
    let (alice, bob) = pair(store);
    for user in [alice, bob] {
        assert_eq!(keep(store, user, "the phone", Some("t")), Ok(Applied::Changed));
        assert_eq!(tokens(store, &[alice, bob]), [(user, "t".to_owned())]);
    }
    // Under another name too.
    assert_eq!(keep(store, bob, "renamed", Some("t")), Ok(Applied::Changed));
    assert_eq!(tokens(store, &[alice, bob]), [(bob, "t".to_owned())]);
}

pub(crate) fn the_devices_of_a_user_have_a_limit(store: &dyn Store) {
    let alice = user(store, "alice");
    for number in 0..2 * MAX_DEVICES {
        // Names in falling order, so that the newest is not the one that sorts last.
        let name = format!("{:04}", 1_000 - number);
        assert_eq!(keep(store, alice, &name, Some(&name)), Ok(Applied::Changed));
        let kept = tokens(store, &[alice]);
        assert!(kept.contains(&(alice, name)), "the newest stays");
        assert_eq!(kept.len() as u32, MAX_DEVICES.min(number + 1));
    }
}

pub(crate) fn what_is_no_push_token_is_refused(store: &dyn Store) {
    let alice = user(store, "alice");
    let bad_field = |answer: Result<Applied, StoreError>| match answer {
        Err(StoreError::Refused(Refusal::BadField(_))) => {}
        other => panic!("not refused: {other:?}"),
    };
    bad_field(keep(store, alice, "", Some("")));
    bad_field(keep(store, alice, "", Some("a\nb")));
    bad_field(keep(store, alice, "", Some(&"x".repeat(MAX_PUSH_TOKEN + 1))));
    bad_field(keep(store, alice, &"x".repeat(MAX_DEVICE_ID + 1), Some("t")));
    assert_eq!(keep(store, 404, "", Some("t")), Err(Refusal::UnknownUser(404).into()));
    assert_eq!(tokens(store, &[alice, 404]), []);
    let (device, token) = ("d".repeat(MAX_DEVICE_ID), "t".repeat(MAX_PUSH_TOKEN));
    assert_eq!(keep(store, alice, &device, Some(&token)), Ok(Applied::Changed));
    assert_eq!(tokens(store, &[alice]), [(alice, token)]);
}
