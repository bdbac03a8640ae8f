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
    let effects = app.on_contacts(users, &HashMap::new(), &[], &[]);
    assert_eq!(effects, [Effect::LoadHistory { peer: 2, from_msg_id: 0 }]);
    assert!(app.on_history(2, 0, Ok(Vec::new())).is_empty());
    app
}

fn press(app: &mut App, code: KeyCode) -> Vec<Effect> {
    app.on_input(&Input::Key(KeyEvent::from(code)), 1000)
}

fn event(app: &mut App, event: Event) -> Vec<Effect> {
    app.on_event(event, |pause| format!("in {} s", pause.as_secs()))
}

fn unread(app: &App, peer: u32) -> u32 {
    app.contacts.iter().find(|contact| contact.user.id == peer).unwrap().unread
}

#[test]
fn enter_sends_the_line_to_the_open_contact() {
    let mut app = app();
    for c in "hi".chars() {
        press(&mut app, KeyCode::Char(c));
    }
    let effects = press(&mut app, KeyCode::Enter);
    assert_eq!(effects, [Effect::Send { number: 1, to: 2, text: "hi".to_owned() }]);
    app.on_sent(1, 2, Ok(1));
    assert_eq!(app.conversations[&2].newest(), Some(1));
    assert!(press(&mut app, KeyCode::Enter).is_empty(), "an empty line is not sent");
}

#[test]
fn a_message_to_the_open_conversation_is_read_at_once_and_others_are_counted() {
    let mut app = app();
    assert_eq!(event(&mut app, Event::Message(message(2, 1, 2))), [Effect::MarkRead { peer: 2, msg_id: 1 }]);
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
    assert_eq!(effects, [Effect::MarkRead { peer: 3, msg_id: 9 }, Effect::LoadHistory { peer: 3, from_msg_id: 0 }]);
    press(&mut app, KeyCode::BackTab);
    assert!(press(&mut app, KeyCode::Tab).is_empty(), "it is asked for once");
}

#[test]
fn unread_messages_of_before_are_read_when_the_history_is_here() {
    let mut app = app();
    app.on_contacts(vec![user(2, "bob"), user(3, "carol")], &HashMap::new(), &[], &[summary(3, 5)]);
    assert_eq!(unread(&app, 3), 5);
    assert_eq!(press(&mut app, KeyCode::Tab), [Effect::LoadHistory { peer: 3, from_msg_id: 0 }]);
    assert_eq!(app.on_history(3, 0, Ok(vec![message(3, 5, 3)])), [Effect::MarkRead { peer: 3, msg_id: 5 }]);
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
    app.conversations.get_mut(&2).unwrap().loaded = Loaded::Asked;
    app.on_history(2, 0, Ok(vec![message(2, 60, 2), message(2, 59, 2)]));
    assert_eq!(press(&mut app, KeyCode::PageUp), [Effect::LoadHistory { peer: 2, from_msg_id: 58 }]);
    assert!(press(&mut app, KeyCode::PageUp).is_empty(), "one page at a time");
    app.on_history(2, 58, Ok(vec![message(2, 1, 2)]));
    assert!(press(&mut app, KeyCode::PageUp).is_empty(), "number 1 is the first");
}

#[test]
fn a_message_that_arrives_while_scrolled_up_waits_to_be_read() {
    let mut app = app();
    app.conversations.get_mut(&2).unwrap().scroll = 3;
    assert!(event(&mut app, Event::Message(message(2, 1, 2))).is_empty());
    assert_eq!(unread(&app, 2), 1);
    assert_eq!(press(&mut app, KeyCode::PageDown), [Effect::MarkRead { peer: 2, msg_id: 1 }]);
}

#[test]
fn a_line_that_cannot_be_sent_stays_and_says_why() {
    let mut app = app();
    app.on_input(&Input::Paste("x".repeat(10_240)), 0);
    assert!(press(&mut app, KeyCode::Enter).is_empty());
    assert!(app.notice.contains("too long"), "{}", app.notice);
    assert_eq!(app.editor.text().len(), 10_240);
    assert!(app.conversations[&2].entries.is_empty());
}

#[test]
fn sending_returns_to_the_newest_messages_and_reads_them() {
    let mut app = app();
    app.conversations.get_mut(&2).unwrap().scroll = 3;
    event(&mut app, Event::Message(message(2, 1, 2)));
    press(&mut app, KeyCode::Char('x'));
    let send = Effect::Send { number: 1, to: 2, text: "x".to_owned() };
    assert_eq!(press(&mut app, KeyCode::Enter), [Effect::MarkRead { peer: 2, msg_id: 1 }, send]);
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
    assert_eq!(effects, [Effect::LoadContacts, Effect::LoadHistory { peer: 2, from_msg_id: 0 }]);
    assert_eq!(app.link, Link::Online);
}

#[test]
fn the_open_contact_stays_open_when_the_list_is_loaded_again() {
    let mut app = app();
    press(&mut app, KeyCode::Tab);
    assert_eq!(app.open_peer(), Some(3));
    let users = vec![user(2, "bob"), user(3, "carol"), user(5, "aaron")];
    app.on_contacts(users, &HashMap::new(), &[summary(2, 0)], &[]);
    let order: Vec<_> = app.contacts.iter().map(|contact| contact.user.id).collect();
    assert_eq!(order, [2, 5, 3], "recent first, then by name");
    assert_eq!(app.open_peer(), Some(3));
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
