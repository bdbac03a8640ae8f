//! Groups: membership and its permissions, messages, history from the moment of joining, unread
//! counts, the list of sessions.

use tt_db_proxy::store::{
    Applied, Change, Group, GroupKind, GroupLimits, MemberChange, NewGroup, NewMessage, Peer, Refusal, Store,
    StoreError, Write,
};

use super::helpers::{apply, ids, send, text, user};

const LIMITS: GroupLimits = GroupLimits { members: 5, created: 3 };
const TEMPORARY: GroupKind = GroupKind::Temporary;

fn new(creator: u32, members: &[u32]) -> NewGroup {
    let (name, avatar) = ("the group".to_owned(), "g0/a.png".to_owned());
    NewGroup { kind: TEMPORARY, creator, name, avatar, members: members.to_vec(), limits: LIMITS }
}

fn create(store: &dyn Store, group: NewGroup) -> u32 {
    match apply(store, Write::CreateGroup(group)) {
        Ok(Applied::CreatedGroup { id, .. }) => id,
        other => panic!("not made: {other:?}"),
    }
}

fn change(store: &dyn Store, by: u32, group: u32, change: Change, members: &[u32]) -> Changed {
    let members = members.to_vec();
    match apply(store, Write::ChangeMembers(MemberChange { by, group, change, members, limits: LIMITS }))? {
        Applied::ChangedMembers { current, changed } => Ok((current, changed)),
        other => panic!("not changed: {other:?}"),
    }
}

fn add(store: &dyn Store, by: u32, group: u32, members: &[u32]) -> Changed {
    change(store, by, group, Change::Add, members)
}

fn remove(store: &dyn Store, by: u32, group: u32, members: &[u32]) -> Changed {
    change(store, by, group, Change::Remove, members)
}

/// What a change has made of the membership.
type Changed = Result<(Vec<u32>, Vec<u32>), StoreError>;

#[allow(clippy::unnecessary_wraps)] // to stand beside what is refused
fn changed(current: &[u32], changed: &[u32]) -> Changed {
    Ok((current.to_vec(), changed.to_vec()))
}

fn say(from: u32, group: u32, content: &str) -> NewMessage {
    NewMessage { to: Peer::Group(group), ..text(from, 0, content) }
}

fn card(store: &dyn Store, asker: u32, group: u32) -> Option<Group> {
    store.groups(asker, &[(group, 0)]).expect("cards").pop()
}

fn unread(store: &dyn Store, user: u32, group: u32) -> u32 {
    let unread = store.unread(user).expect("unread");
    unread.iter().find(|row| row.peer == Peer::Group(group)).map_or(0, |row| row.count)
}

fn is_listed(store: &dyn Store, user: u32, group: u32) -> bool {
    store.recent_sessions(user, 0, 100).expect("sessions").iter().any(|row| row.peer == Peer::Group(group))
}

fn history(store: &dyn Store, user: u32, group: u32) -> Vec<u32> {
    ids(&store.history(user, Peer::Group(group), 0, 100).expect("history"))
}

fn three(store: &dyn Store) -> (u32, u32, u32) {
    (user(store, "alice"), user(store, "bob"), user(store, "carol"))
}

pub(crate) fn a_group_is_made_of_those_named_who_exist(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let answer = apply(store, Write::CreateGroup(new(alice, &[carol, 0, bob, 999, carol])));
    assert_eq!(answer, Ok(Applied::CreatedGroup { id: 1, members: vec![bob, carol] }), "not alice: she is not listed");
    let expected = Group {
        id: 1,
        version: 1,
        kind: TEMPORARY,
        name: "the group".to_owned(),
        avatar: "g0/a.png".to_owned(),
        creator: alice,
        members: vec![bob, carol],
        joined_after: vec![0, 0],
        shielded: false,
    };
    assert_eq!(card(store, bob, 1), Some(expected.clone()));
    assert_eq!(card(store, alice, 1), None, "members only");
    assert_eq!(card(store, 0, 1), Some(expected), "a server sees all");
    assert_eq!(store.groups(bob, &[(1, 1)]), Ok(vec![]), "it is known already");
    assert_eq!(create(store, new(bob, &[bob])), 2);
}

pub(crate) fn a_group_that_makes_no_sense_is_refused(store: &dyn Store) {
    let (alice, bob, _) = three(store);
    let refused = |group| match apply(store, Write::CreateGroup(group)) {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(new(alice, &[])), Refusal::NobodyToAdd);
    assert_eq!(refused(new(alice, &[0, 999])), Refusal::NobodyToAdd);
    assert_eq!(refused(new(999, &[alice])), Refusal::UnknownUser(999));
    for name in ["", "  ", "a\nb", &"x".repeat(257)] {
        assert!(matches!(refused(NewGroup { name: name.to_owned(), ..new(alice, &[alice]) }), Refusal::BadField(_)));
    }
    assert!(matches!(refused(new(alice, &[1, 2, 3, 4, 5, 6])), Refusal::TooMany(_)));
    let huge: Vec<u32> = (1..=100_000).collect();
    assert!(matches!(refused(new(alice, &huge)), Refusal::TooMany(_)));
    for _ in 0..LIMITS.created {
        create(store, new(alice, &[alice]));
    }
    assert!(matches!(refused(new(alice, &[alice])), Refusal::TooMany(_)));
    assert_eq!(create(store, new(bob, &[bob])), LIMITS.created + 1, "a refusal uses no id");
    assert_eq!(create(store, new(0, &[bob])), LIMITS.created + 2, "no limit for an operator");
}

pub(crate) fn who_may_change_a_group(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let dave = user(store, "dave");
    let group = create(store, new(alice, &[alice, bob]));
    let denied = |user| Err(StoreError::from(Refusal::NotPermitted { user, group }));

    assert_eq!(add(store, carol, group, &[carol]), denied(carol), "who is not in it adds nobody");
    assert_eq!(add(store, bob, group, &[carol]), changed(&[alice, bob, carol], &[carol]));
    assert_eq!(remove(store, bob, group, &[carol]), denied(bob), "only the creator removes");
    assert_eq!(remove(store, bob, group, &[bob, carol]), denied(bob));
    assert_eq!(remove(store, carol, group, &[carol]), changed(&[alice, bob], &[carol]), "each may leave");
    assert_eq!(remove(store, carol, group, &[carol]), denied(carol), "but once");
    assert_eq!(remove(store, alice, group, &[bob, dave]), changed(&[alice], &[bob]));
    assert_eq!(remove(store, alice, group, &[]), changed(&[alice], &[]));
    assert_eq!(remove(store, alice, group, &[alice]), changed(&[], &[alice]));
    assert_eq!(add(store, alice, group, &[alice]), changed(&[alice], &[alice]), "the creator comes back");
    assert_eq!(add(store, 0, group, &[dave]), changed(&[alice, dave], &[dave]), "an operator may do all");
    assert_eq!(card(store, alice, group).map(|card| card.version), Some(7), "one more with each change");

    let fixed = create(store, NewGroup { kind: GroupKind::Fixed, ..new(0, &[alice, bob]) });
    for (by, member) in [(alice, carol), (bob, bob)] {
        let denied = Err(StoreError::from(Refusal::NotPermitted { user: by, group: fixed }));
        assert_eq!(add(store, by, fixed, &[member]), denied);
        assert_eq!(remove(store, by, fixed, &[member]), denied);
    }
    assert_eq!(remove(store, 0, fixed, &[bob]), changed(&[alice], &[bob]));
    assert_eq!(add(store, 0, 99, &[bob]), Err(Refusal::UnknownGroup(99).into()));
}

pub(crate) fn nobody_to_add_is_a_failure_and_too_many_too(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    for nobody in [&[][..], &[bob], &[alice, bob, 0, 999]] {
        assert_eq!(add(store, alice, group, nobody), Err(Refusal::NobodyToAdd.into()));
    }
    let more: Vec<u32> = ["dave", "erin", "frank"].map(|name| user(store, name)).to_vec();
    assert!(matches!(
        add(store, alice, group, &[&[carol][..], &more].concat()),
        Err(StoreError::Refused(Refusal::TooMany(_)))
    ));
    assert_eq!(card(store, alice, group).map(|card| (card.version, card.members)), Some((1, vec![alice, bob])));
    assert!(add(store, alice, group, &more).is_ok(), "up to the limit");
}

pub(crate) fn fixed_groups_are_listed_with_their_version(store: &dyn Store) {
    let (alice, bob, _) = three(store);
    let fixed = |members: &[u32]| create(store, NewGroup { kind: GroupKind::Fixed, ..new(0, members) });
    let (one, two) = (fixed(&[alice]), fixed(&[alice, bob]));
    create(store, new(alice, &[alice]));
    add(store, 0, one, &[bob]).expect("added");
    assert_eq!(store.fixed_groups(alice), Ok(vec![(two, 1), (one, 2)]));
    remove(store, 0, one, &[bob]).expect("removed");
    assert_eq!(store.fixed_groups(bob), Ok(vec![(two, 1)]));
    assert_eq!(store.fixed_groups(999), Ok(vec![]));
}

pub(crate) fn g3_ids_are_dense_per_group_whoever_sends(store: &dyn Store) {
    let (alice, bob, _) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    let other = create(store, new(alice, &[alice, bob]));
    send(store, text(alice, bob, "one to one"));
    assert_eq!(send(store, say(alice, group, "1")), 1);
    assert_eq!(send(store, say(bob, group, "2")), 2);
    assert_eq!(send(store, say(bob, other, "elsewhere")), 1);
    assert_eq!(send(store, say(alice, group, "3")), 3);
    let page = store.history(bob, Peer::Group(group), 0, 10).expect("history");
    assert_eq!(page.iter().map(|row| (row.msg_id, row.from)).collect::<Vec<_>>(), [(3, alice), (2, bob), (1, alice)]);
    assert_eq!(store.latest_msg_id(alice, Peer::Group(group)), Ok(3));
    assert_eq!(ids(&store.messages_by_id(alice, Peer::Group(group), &[1, 3, 9]).expect("page")), [3, 1]);
    assert_eq!(ids(&store.history(alice, Peer::User(bob), 0, 10).expect("history")), [1]);
}

pub(crate) fn g2_the_same_client_id_in_a_group_is_the_same_message(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    let with_id = |message| NewMessage { client_msg_id: Some("id".to_owned()), ..message };
    let first = with_id(say(alice, group, "once"));
    assert_eq!(send(store, first.clone()), 1);
    add(store, alice, group, &[carol]).expect("added");
    let (created, repeated) = (first.created, true);
    let again = Applied::Message { msg_id: 1, created, repeated, group_version: 2 };
    assert_eq!(apply(store, Write::Message(first)), Ok(again));
    let elsewhere = with_id(text(alice, bob, "once"));
    assert_eq!(apply(store, Write::Message(elsewhere)), Err(Refusal::IdReused.into()));
}

pub(crate) fn only_members_write_to_a_group(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    let refused = |message| apply(store, Write::Message(message));
    assert_eq!(refused(say(carol, group, "hi")), Err(Refusal::NotAMember { user: carol, group }.into()));
    assert_eq!(refused(say(carol, 99, "hi")), Err(Refusal::UnknownGroup(99).into()));
    assert_eq!(refused(say(carol, 0, "hi")), Err(Refusal::UnknownGroup(0).into()));
    remove(store, alice, group, &[bob]).expect("removed");
    assert_eq!(refused(say(bob, group, "hi")), Err(Refusal::NotAMember { user: bob, group }.into()));
    assert_eq!(send(store, say(alice, group, "the first")), 1, "a refusal uses no id");
}

pub(crate) fn a_message_says_which_membership_it_met(store: &dyn Store) {
    let (alice, bob, _) = three(store);
    let group = create(store, new(alice, &[alice]));
    let answers = store.apply(&[
        Write::Message(say(alice, group, "before")),
        Write::ChangeMembers(MemberChange {
            by: alice,
            group,
            change: Change::Add,
            members: vec![bob],
            limits: LIMITS,
        }),
        Write::Message(say(bob, group, "after")),
    ]);
    let versions: Vec<_> = answers
        .into_iter()
        .filter_map(|answer| match answer {
            Ok(Applied::Message { msg_id, group_version, .. }) => Some((msg_id, group_version)),
            _ => None,
        })
        .collect();
    assert_eq!(versions, [(1, 1), (2, 2)]);
    assert_eq!(history(store, bob, group), [2], "what came before in the same batch is not for bob");
}

pub(crate) fn members_see_what_was_stored_since_they_joined(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    let peer = Peer::Group(group);
    send(store, say(alice, group, "1"));
    send(store, say(bob, group, "2"));
    add(store, bob, group, &[carol]).expect("added");
    assert_eq!((history(store, carol, group), store.latest_msg_id(carol, peer)), (vec![], Ok(0)));
    assert_eq!((unread(store, carol, group), is_listed(store, carol, group)), (0, false));
    send(store, say(alice, group, "3"));
    assert_eq!((history(store, carol, group), store.latest_msg_id(carol, peer)), (vec![3], Ok(3)));
    assert_eq!((unread(store, carol, group), is_listed(store, carol, group)), (1, true));
    assert_eq!(ids(&store.messages_by_id(carol, peer, &[1, 2, 3]).expect("page")), [3]);
    assert_eq!(ids(&store.history(carol, peer, 2, 10).expect("page")), [0; 0]);
    assert_eq!(history(store, alice, group), [3, 2, 1]);
}

pub(crate) fn who_left_sees_nothing_and_coming_back_hides_what_was_before(store: &dyn Store) {
    let (alice, bob, _) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    let peer = Peer::Group(group);
    send(store, say(alice, group, "1"));
    apply(store, Write::ShieldGroup { user: bob, group, on: true }).expect("shielded");
    remove(store, bob, group, &[bob]).expect("left");
    send(store, say(alice, group, "2"));
    let nothing = |store| {
        assert_eq!((history(store, bob, group), store.latest_msg_id(bob, peer)), (vec![], Ok(0)));
        assert_eq!((unread(store, bob, group), is_listed(store, bob, group)), (0, false));
        assert!(store.messages_by_id(bob, peer, &[1, 2]).expect("page").is_empty());
    };
    nothing(store);
    assert_eq!(card(store, bob, group), None);
    assert_eq!(apply(store, Write::Read { user: bob, peer, up_to: None }), Ok(Applied::Read { cursor: 0 }));
    assert_eq!(apply(store, Write::RemoveSession { user: bob, peer }), Ok(Applied::RemovedSession { found: false }));

    add(store, alice, group, &[bob]).expect("back");
    nothing(store);
    send(store, say(alice, group, "3"));
    assert_eq!((history(store, bob, group), unread(store, bob, group)), (vec![3], 1));
    assert_eq!(card(store, bob, group).map(|card| card.shielded), Some(true), "remembered");
}

pub(crate) fn g5_group_unread_is_what_others_sent_above_the_cursor(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let group = create(store, new(alice, &[alice, bob, carol]));
    let peer = Peer::Group(group);
    for (from, content) in [(alice, "1"), (bob, "2"), (alice, "3")] {
        send(store, say(from, group, content));
    }
    let counts = || [alice, bob, carol].map(|user| unread(store, user, group));
    assert_eq!(counts(), [1, 2, 3]);
    assert_eq!(apply(store, Write::Read { user: carol, peer, up_to: Some(2) }), Ok(Applied::Read { cursor: 2 }));
    assert_eq!(apply(store, Write::Read { user: bob, peer, up_to: None }), Ok(Applied::Read { cursor: 3 }));
    assert_eq!(counts(), [1, 0, 1]);
    send(store, say(bob, group, "4"));
    assert_eq!(counts(), [2, 0, 2]);
    let row = store.unread(alice).expect("unread").pop().expect("a row");
    assert_eq!((row.latest.msg_id, row.latest.from, &row.latest.text[..]), (4, bob, &b"4"[..]));
}

pub(crate) fn a_group_is_on_the_list_of_all_members_at_once(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    send(store, text(alice, bob, "one to one"));
    let group = create(store, new(alice, &[alice, bob]));
    assert!(!is_listed(store, alice, group), "nothing was said");
    send(store, say(alice, group, "hello"));
    assert_eq!([alice, bob, carol].map(|user| is_listed(store, user, group)), [true, true, false]);
    let sessions = store.recent_sessions(bob, 0, 100).expect("sessions");
    assert_eq!(sessions.len(), 2, "both kinds in one list");
    let newest = sessions.iter().map(|row| row.updated).max().expect("two");
    assert!(store.recent_sessions(bob, newest + 1, 100).expect("sessions").is_empty());
    assert_eq!(store.recent_sessions(bob, 0, 1).expect("sessions").len(), 1);
}

pub(crate) fn a_group_taken_off_the_list_comes_back_with_the_next_message(store: &dyn Store) {
    let (alice, bob, _) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    let remove = |user| apply(store, Write::RemoveSession { user, peer: Peer::Group(group) });
    assert_eq!(remove(bob), Ok(Applied::RemovedSession { found: false }), "nothing was said");
    send(store, say(alice, group, "1"));
    assert_eq!(remove(bob), Ok(Applied::RemovedSession { found: true }));
    assert_eq!(remove(bob), Ok(Applied::RemovedSession { found: false }));
    assert_eq!((is_listed(store, bob, group), unread(store, bob, group)), (false, 0));
    assert!(is_listed(store, alice, group));
    assert_eq!(history(store, bob, group), [1], "what was said is still there");
    send(store, say(alice, group, "2"));
    assert_eq!((is_listed(store, bob, group), unread(store, bob, group)), (true, 1));
}

pub(crate) fn a_shield_is_one_members_and_one_groups(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let group = create(store, new(alice, &[alice, bob]));
    let other = create(store, new(alice, &[alice, bob]));
    let shield = |user, group, on| apply(store, Write::ShieldGroup { user, group, on });
    assert_eq!(shield(bob, group, true), Ok(Applied::ShieldedGroup));
    assert_eq!(shield(bob, group, true), Ok(Applied::ShieldedGroup), "twice is no failure");
    assert_eq!(shield(carol, group, true), Err(Refusal::NotAMember { user: carol, group }.into()));
    assert_eq!(shield(bob, 99, true), Err(Refusal::UnknownGroup(99).into()));
    let asked = [bob, alice, carol, 0, bob];
    assert_eq!(store.group_shields(group, &asked), Ok(vec![(alice, false), (bob, true)]));
    assert_eq!(store.group_shields(other, &asked), Ok(vec![(alice, false), (bob, false)]));
    assert_eq!(store.group_shields(99, &asked), Ok(vec![]));
    let shown = |user, group| card(store, user, group).map(|card| card.shielded);
    assert_eq!((shown(alice, group), shown(bob, group), shown(bob, other)), (Some(false), Some(true), Some(false)));
    shield(bob, group, false).expect("let through");
    assert_eq!(store.group_shields(group, &[bob]), Ok(vec![(bob, false)]));
}

pub(crate) fn an_operator_makes_changes_and_lists_groups(store: &dyn Store) {
    let (alice, bob, carol) = three(store);
    let group = store.create_group(&NewGroup { kind: GroupKind::Fixed, ..new(0, &[alice, bob]) }).expect("a new group");
    let (change, limits) = (Change::Add, LIMITS);
    let add = |members| store.change_members(&MemberChange { by: 0, group, change, members, limits });
    assert_eq!(add(vec![carol, bob]), Ok(vec![carol]));
    assert_eq!(add(vec![carol]), Err(Refusal::NobodyToAdd.into()));
    let all = store.list_groups().expect("groups");
    let shown: Vec<_> = all.iter().map(|row| (row.id, row.kind, row.version, row.members.len())).collect();
    assert_eq!(shown, [(group, GroupKind::Fixed, 2, 3)]);
}
