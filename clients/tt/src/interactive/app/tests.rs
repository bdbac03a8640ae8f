//! The chat's reactions, by calling them: one test per promise to the person.

use std::time::Duration;

use tt_client::Content;

use super::*;

fn user(id: u32, name: &str) -> User {
    User { id, name: name.to_owned(), ..User::default() }
}

fn message(peer: u32, msg_id: u32, from: u32) -> Message {
    let content = Content::Text("text".to_owned());
    Message { conversation: Peer::User(peer), from, to: if from == 1 { peer } else { 1 }, msg_id, time: 0, content }
}

fn summary(peer: u32, unread: u32) -> Summary {
    Summary { peer: Peer::User(peer), updated: 0, unread, latest_msg_id: unread, latest: Content::Unreadable }
}

/// User 1 with the contacts 2, 3 and 4; 2 is open and loaded.
fn app() -> App {
    let mut app = App::new(user(1, "me"));
    let users = vec![user(1, "me"), user(2, "bob"), user(3, "carol"), user(4, "dave")];
    let effects = app.on_contacts(Known { users, ..Known::default() });
    assert_eq!(effects, [Effect::LoadHistory { peer: Peer::User(2), from_msg_id: 0 }]);
    assert!(app.on_history(Peer::User(2), 0, Ok(Vec::new())).is_empty());
    app
}

fn press(app: &mut App, code: KeyCode) -> Vec<Effect> {
    app.on_input(&Input::Key(KeyEvent::from(code)), 1000)
}

fn event(app: &mut App, event: Event) -> Vec<Effect> {
    app.on_event(event, |pause| format!("in {} s", pause.as_secs()))
}

fn unread(app: &App, peer: u32) -> u32 {
    app.contacts.iter().find(|contact| contact.peer() == Peer::User(peer)).unwrap().unread
}

#[test]
fn enter_sends_the_line_to_the_open_contact() {
    let mut app = app();
    for c in "hi".chars() {
        press(&mut app, KeyCode::Char(c));
    }
    let effects = press(&mut app, KeyCode::Enter);
    assert_eq!(effects, [Effect::Send { number: 1, to: Peer::User(2), text: "hi".to_owned() }]);
    app.on_sent(1, Peer::User(2), Ok(1));
    assert_eq!(app.conversations[&Peer::User(2)].newest(), Some(1));
    assert!(press(&mut app, KeyCode::Enter).is_empty(), "an empty line is not sent");
}

#[test]
fn a_message_to_the_open_conversation_is_read_at_once_and_others_are_counted() {
    let mut app = app();
    assert_eq!(
        event(&mut app, Event::Message(message(2, 1, 2))),
        [Effect::MarkRead { peer: Peer::User(2), msg_id: 1 }]
    );
    assert_eq!(unread(&app, 2), 0);
    assert!(event(&mut app, Event::Message(message(3, 1, 3))).is_empty());
    assert!(event(&mut app, Event::Message(message(3, 2, 3))).is_empty());
    assert_eq!(unread(&app, 3), 2);
    assert!(event(&mut app, Event::Message(message(4, 1, 1))).is_empty());
    assert_eq!(unread(&app, 4), 0, "one's own message from another device is not unread");
}

#[test]
fn opening_a_conversation_loads_it_and_reads_it() {
    let mut app = app();
    event(&mut app, Event::Message(message(3, 9, 3)));
    let effects = press(&mut app, KeyCode::Tab);
    assert_eq!(
        effects,
        [
            Effect::MarkRead { peer: Peer::User(3), msg_id: 9 },
            Effect::LoadHistory { peer: Peer::User(3), from_msg_id: 0 }
        ]
    );
    press(&mut app, KeyCode::BackTab);
    assert!(press(&mut app, KeyCode::Tab).is_empty(), "it is asked for once");
}

#[test]
fn unread_messages_of_before_are_read_when_the_history_is_here() {
    let mut app = app();
    let users = vec![user(2, "bob"), user(3, "carol")];
    app.on_contacts(Known { users, unread: vec![summary(3, 5)], ..Known::default() });
    assert_eq!(unread(&app, 3), 5);
    assert_eq!(press(&mut app, KeyCode::Tab), [Effect::LoadHistory { peer: Peer::User(3), from_msg_id: 0 }]);
    assert_eq!(
        app.on_history(Peer::User(3), 0, Ok(vec![message(3, 5, 3)])),
        [Effect::MarkRead { peer: Peer::User(3), msg_id: 5 }]
    );
    assert_eq!(unread(&app, 3), 0);
}

#[test]
fn reading_on_another_device_clears_the_count() {
    let mut app = app();
    event(&mut app, Event::Message(message(3, 1, 3)));
    event(&mut app, Event::Message(message(3, 2, 3)));
    event(&mut app, Event::Read { conversation: Peer::User(3), msg_id: 1 });
    assert_eq!(unread(&app, 3), 2, "a newer message is still unread");
    event(&mut app, Event::Read { conversation: Peer::User(3), msg_id: 2 });
    assert_eq!(unread(&app, 3), 0);
}

#[test]
fn page_up_loads_older_messages_until_the_first() {
    let mut app = app();
    app.conversations.get_mut(&Peer::User(2)).unwrap().loaded = Loaded::Asked;
    app.on_history(Peer::User(2), 0, Ok(vec![message(2, 60, 2), message(2, 59, 2)]));
    assert_eq!(press(&mut app, KeyCode::PageUp), [Effect::LoadHistory { peer: Peer::User(2), from_msg_id: 58 }]);
    assert!(press(&mut app, KeyCode::PageUp).is_empty(), "one page at a time");
    app.on_history(Peer::User(2), 58, Ok(vec![message(2, 1, 2)]));
    assert!(press(&mut app, KeyCode::PageUp).is_empty(), "number 1 is the first");
}

#[test]
fn a_message_that_arrives_while_scrolled_up_waits_to_be_read() {
    let mut app = app();
    app.conversations.get_mut(&Peer::User(2)).unwrap().scroll = 3;
    assert!(event(&mut app, Event::Message(message(2, 1, 2))).is_empty());
    assert_eq!(unread(&app, 2), 1);
    assert_eq!(press(&mut app, KeyCode::PageDown), [Effect::MarkRead { peer: Peer::User(2), msg_id: 1 }]);
}

#[test]
fn a_line_that_cannot_be_sent_stays_and_says_why() {
    let mut app = app();
    app.on_input(&Input::Paste("x".repeat(10_240)), 0);
    assert!(press(&mut app, KeyCode::Enter).is_empty());
    assert!(app.notice.contains("too long"), "{}", app.notice);
    assert_eq!(app.editor.text().len(), 10_240);
    assert!(app.conversations[&Peer::User(2)].entries.is_empty());
}

#[test]
fn sending_returns_to_the_newest_messages_and_reads_them() {
    let mut app = app();
    app.conversations.get_mut(&Peer::User(2)).unwrap().scroll = 3;
    event(&mut app, Event::Message(message(2, 1, 2)));
    press(&mut app, KeyCode::Char('x'));
    let send = Effect::Send { number: 1, to: Peer::User(2), text: "x".to_owned() };
    assert_eq!(press(&mut app, KeyCode::Enter), [Effect::MarkRead { peer: Peer::User(2), msg_id: 1 }, send]);
    assert_eq!((unread(&app, 2), app.pending()), (0, 1));
}

#[test]
fn a_reconnect_is_visible_and_fetches_what_was_missed() {
    let mut app = app();
    let error = Error::Unreachable { what: "gone".to_owned() };
    event(&mut app, Event::Offline { error, retry_in: Duration::from_secs(3) });
    assert_eq!(app.link, Link::Offline { why: "gone".to_owned(), retry_at: "in 3 s".to_owned() });
    assert!(press(&mut app, KeyCode::Tab).is_empty(), "nothing is loaded without a connection");
    press(&mut app, KeyCode::BackTab);
    let effects = event(&mut app, Event::Online { me: user(1, "me") });
    assert_eq!(effects, [Effect::LoadContacts, Effect::LoadHistory { peer: Peer::User(2), from_msg_id: 0 }]);
    assert_eq!(app.link, Link::Online);
}

#[test]
fn the_open_contact_stays_open_when_the_list_is_loaded_again() {
    let mut app = app();
    press(&mut app, KeyCode::Tab);
    assert_eq!(app.open_peer(), Some(Peer::User(3)));
    let users = vec![user(2, "bob"), user(3, "carol"), user(5, "aaron")];
    app.on_contacts(Known { users, recent: vec![summary(2, 0)], ..Known::default() });
    let order: Vec<_> = app.contacts.iter().map(|contact| contact.peer().id()).collect();
    assert_eq!(order, [2, 5, 3], "recent first, then by name");
    assert_eq!(app.open_peer(), Some(Peer::User(3)));
}

#[test]
fn strangers_make_the_contacts_load_again() {
    let mut app = app();
    assert_eq!(event(&mut app, Event::Message(message(9, 1, 9))), [Effect::LoadContacts]);
    assert_eq!(event(&mut app, Event::Presence { user_id: 9, presence: Presence::Online }), [Effect::LoadContacts]);
    assert!(event(&mut app, Event::Presence { user_id: 1, presence: Presence::Online }).is_empty());
}

#[test]
fn a_contact_who_types_is_remarked_until_the_message_comes() {
    let mut app = app();
    let signal = |app: &mut App, from, signal| {
        assert!(event(app, Event::Signal { from, to: 1, signal }).is_empty());
        app.notice.clone()
    };
    app.notice.clear();
    assert_eq!(signal(&mut app, 1, Signal::Typing), "", "oneself, elsewhere");
    assert_eq!(signal(&mut app, 99, Signal::Typing), "", "a stranger");
    assert_eq!(signal(&mut app, 2, Signal::Typing), "bob is typing …");
    assert_eq!(signal(&mut app, 3, Signal::StoppedTyping), "bob is typing …", "somebody else's");
    assert_eq!(signal(&mut app, 2, Signal::StoppedTyping), "");
    signal(&mut app, 2, Signal::Typing);
    event(&mut app, Event::Message(message(2, 10, 2)));
    assert_eq!(app.notice, "");
    assert_eq!(signal(&mut app, 3, Signal::Shake), "carol wants you to look here");
    press(&mut app, KeyCode::Char('x'));
    assert_eq!(app.notice, "");
}

#[test]
fn control_c_and_control_q_leave_even_without_contacts() {
    let mut app = App::new(user(1, "me"));
    for c in ['c', 'q'] {
        let key = KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        assert_eq!(app.on_input(&Input::Key(key), 0), [Effect::Quit]);
    }
    for code in [KeyCode::Tab, KeyCode::PageUp, KeyCode::PageDown, KeyCode::Enter, KeyCode::Up] {
        assert!(press(&mut app, code).is_empty());
    }
    press(&mut app, KeyCode::Char('x'));
    assert!(press(&mut app, KeyCode::Enter).is_empty());
    assert_eq!(app.editor.text(), "x", "a line for nobody is not thrown away");
}

fn group(id: u32, name: &str, members: &[u32]) -> Group {
    Group {
        id,
        version: 1,
        name: name.to_owned(),
        avatar: String::new(),
        creator: 1,
        fixed: false,
        members: members.to_vec(),
        shielded: false,
    }
}

/// [`app`] with group 2, which has the number of a user, open.
fn app_with_group() -> App {
    let mut app = app();
    assert_eq!(
        app.on_created(group(2, "friends", &[1, 2])),
        [Effect::LoadHistory { peer: Peer::Group(2), from_msg_id: 0 }]
    );
    app.on_history(Peer::Group(2), 0, Ok(Vec::new()));
    app
}

fn enter(app: &mut App, line: &str) -> Vec<Effect> {
    app.editor.paste(line);
    press(app, KeyCode::Enter)
}

#[test]
fn a_group_is_a_contact_of_its_own() {
    let mut app = app_with_group();
    let (number, text) = (1, "hi all".to_owned());
    assert_eq!(enter(&mut app, "hi all"), [Effect::Send { number, to: Peer::Group(2), text }]);
    let in_group = Message { conversation: Peer::Group(2), to: 2, ..message(3, 7, 3) };
    assert_eq!(event(&mut app, Event::Message(in_group)), [Effect::MarkRead { peer: Peer::Group(2), msg_id: 7 }]);
    assert!(event(&mut app, Event::Message(message(2, 1, 2))).is_empty(), "user 2 is somebody else");
    assert_eq!(unread(&app, 2), 1);
}

#[test]
fn slash_commands_are_about_groups() {
    let mut app = app_with_group();
    let made = Effect::CreateGroup { name: "team".to_owned(), members: vec![2, 3, 1] };
    assert_eq!(enter(&mut app, "/group team bob carol"), [made]);
    let change = |added, members: &[u32]| Effect::ChangeMembers { group: 2, added, members: members.to_vec() };
    assert_eq!(enter(&mut app, "/add carol"), [change(true, &[3])]);
    assert_eq!(enter(&mut app, "/remove bob"), [change(false, &[2])]);
    assert_eq!(enter(&mut app, "/leave"), [change(false, &[1])]);
    assert_eq!(enter(&mut app, "/mute"), [Effect::ShieldGroup { group: 2, on: true }]);
    assert!(enter(&mut app, "/members").is_empty());
    assert_eq!(app.notice, "me, bob");
    assert!(matches!(&enter(&mut app, "//not a command")[..], [Effect::Send { text, .. }] if text == "/not a command"));
}

#[test]
fn a_command_that_cannot_be_stays_on_the_line() {
    let mut app = app_with_group();
    for (line, why) in [("/add", "say who"), ("/add zoe", "zoe"), ("/group", "name"), ("/nonsense", "/members")] {
        assert!(enter(&mut app, line).is_empty());
        assert!(app.notice.contains(why), "{line}: {}", app.notice);
        assert_eq!(app.editor.text(), line);
        app.editor.delete_to_start();
    }
    press(&mut app, KeyCode::Tab);
    assert!(enter(&mut app, "/leave").is_empty(), "a person is open");
    assert!(app.notice.contains("open a group"), "{}", app.notice);
}

#[test]
fn changes_of_groups_are_told() {
    let mut app = app_with_group();
    let change = |added, changed: &[u32], members: &[u32], group| {
        Event::Group(GroupChange { group, by: 1, added, changed: changed.to_vec(), members: members.to_vec() })
    };
    assert!(event(&mut app, change(true, &[3], &[1, 2, 3], 2)).is_empty());
    assert_eq!(app.notice, "added to group friends: carol");
    enter(&mut app, "/members");
    assert_eq!(app.notice, "me, bob, carol");
    assert!(event(&mut app, change(false, &[1], &[2, 3], 2)).is_empty());
    assert_eq!(app.notice, "removed from group friends: you");
    assert_eq!(event(&mut app, change(true, &[1], &[1, 2], 9)), [Effect::LoadContacts], "a group that is not listed");
}
