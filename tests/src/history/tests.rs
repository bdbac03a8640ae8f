use super::*;

const AB: Conversation = Conversation::Pair(1, 2);

/// A run of two users with a device each: user 1 on session 1 sends, user 2 on session 2 receives.
struct Run {
    history: History,
    stored: Vec<Row>,
}

fn row(msg_id: u32, text: &str) -> Row {
    Row { msg_id, from: 1, text: text.into() }
}

impl Run {
    fn new() -> Self {
        let run = Self { history: History::new(), stored: Vec::new() };
        run.history.note(Event::Came { session: 1, device: 10, user: 1 });
        run.history.note(Event::Came { session: 2, device: 20, user: 2 });
        run
    }

    fn sent(&self, text: &str) {
        self.history.note(Event::Sent { session: 1, to: AB, text: text.into() });
    }

    fn acked(&self, text: &str, msg_id: u32) {
        self.history.note(Event::Acked { session: 1, text: text.into(), msg_id });
    }

    fn delivered(&self, msg_id: u32, text: &str) {
        self.history.note(Event::Delivered { session: 2, conversation: AB, row: row(msg_id, text) });
    }

    fn page(&self, begin: u32, count: u32, rows: &[Row]) {
        let page = u64::from(begin) << 32 | u64::from(count);
        self.history.note(Event::Asked { session: 2, page, conversation: AB, begin, count });
        self.history.note(Event::Page { page, rows: rows.to_vec() });
    }

    /// A message that goes its whole way.
    fn said(&mut self, text: &str) {
        let msg_id = self.stored.len() as u32 + 1;
        self.sent(text);
        self.stored.push(row(msg_id, text));
        self.acked(text, msg_id);
        self.delivered(msg_id, text);
    }

    fn judged(&self) -> Judgement {
        let parties = Parties::from([(AB, vec![1, 2])]);
        self.history.judge(&parties, &Stored::from([(AB, self.stored.clone())]))
    }

    /// That exactly this kind of finding comes out, and that no run with one counts as clean.
    fn finds(&self, kind: impl Fn(&Judgement) -> usize, clause: &str) {
        let judged = self.judged();
        assert!(kind(&judged) > 0, "{judged}");
        assert!(judged.findings.iter().any(|words| words.starts_with(clause)), "{:?}", judged.findings);
        assert!(!judged.is_clean());
    }
}

#[test]
fn a_run_in_which_all_went_well_is_clean_and_counted() {
    let mut run = Run::new();
    run.said("one");
    run.said("two");
    run.sent("nobody knows");
    run.sent("three");
    run.stored.push(row(3, "three"));
    run.history.note(Event::Sent { session: 1, to: AB, text: "no".into() });
    run.history.note(Event::Refused { session: 1, text: "no".into(), result: 7 });
    run.page(0, 100, &[row(3, "three"), row(2, "two"), row(1, "one")]);
    let judged = run.judged();
    assert!(judged.is_clean(), "{judged}: {:?}", judged.findings);
    assert_eq!((judged.sent, judged.acked, judged.refused, judged.unknown, judged.unknown_stored), (5, 2, 1, 2, 1));
    assert_eq!((judged.stored, judged.delivered, judged.pulled), (3, 2, 3));
}

#[test]
fn g1_an_acked_message_that_is_not_stored_is_lost() {
    let mut run = Run::new();
    run.said("one");
    run.stored.clear();
    run.finds(|judged| judged.lost, "G1");
}

#[test]
fn g1_a_page_without_what_was_acked_before_it_is_found() {
    let mut run = Run::new();
    run.said("one");
    run.said("two");
    run.page(0, 100, &[row(1, "one")]);
    run.finds(|judged| judged.lost, "G1");
}

#[test]
fn g1_a_page_need_not_have_what_is_acked_while_it_is_on_its_way() {
    let mut run = Run::new();
    run.said("one");
    run.history.note(Event::Asked { session: 2, page: 1, conversation: AB, begin: 0, count: 9 });
    run.said("two");
    run.history.note(Event::Page { page: 1, rows: vec![row(1, "one")] });
    assert!(run.judged().is_clean(), "{:?}", run.judged().findings);
}

#[test]
fn g2_two_rows_of_one_message_and_two_numbers_of_one_are_found() {
    let mut run = Run::new();
    run.said("one");
    run.stored.push(row(2, "one"));
    run.finds(|judged| judged.duplicates, "G2");
    let mut run = Run::new();
    run.said("one");
    run.acked("one", 2);
    run.finds(|judged| judged.duplicates, "G2");
}

#[test]
fn g2_a_copy_that_comes_twice_on_one_connection_is_found() {
    let mut run = Run::new();
    run.said("one");
    run.delivered(1, "one");
    run.finds(|judged| judged.duplicates, "G3");
}

#[test]
fn g3_holes_and_exchanged_messages_are_found() {
    let mut run = Run::new();
    run.said("one");
    run.stored[0].msg_id = 2;
    run.finds(|judged| judged.order, "G3");
    let run = Run::new();
    run.sent("one");
    run.sent("two");
    let run = Run { stored: vec![row(1, "two"), row(2, "one")], ..run };
    run.finds(|judged| judged.order, "G3");
}

#[test]
fn g3_a_message_that_is_sent_again_late_on_its_connection_has_lost_its_place() {
    let run = Run::new();
    run.sent("one");
    run.sent("two");
    run.sent("one");
    let run = Run { stored: vec![row(1, "two"), row(2, "one")], ..run };
    assert!(run.judged().is_clean(), "{:?}", run.judged().findings);
}

/// The refusal of the first "one" was lost with its connection; "two" had been stored before all was sent again.
#[test]
fn g3_a_message_has_the_place_of_one_of_its_sendings() {
    let run = Run::new();
    for text in ["one", "two", "one", "two"] {
        run.sent(text);
    }
    let run = Run { stored: vec![row(1, "two"), row(2, "one")], ..run };
    assert!(run.judged().is_clean(), "{:?}", run.judged().findings);
    run.sent("three");
    run.sent("four");
    let run = Run { stored: vec![row(1, "two"), row(2, "one"), row(3, "four"), row(4, "three")], ..run };
    run.finds(|judged| judged.order, "G3");
}

#[test]
fn g3_a_delivery_out_of_order_is_found() {
    let mut run = Run::new();
    for (msg_id, text) in [(1, "one"), (2, "two")] {
        run.sent(text);
        run.acked(text, msg_id);
        run.stored.push(row(msg_id, text));
    }
    run.delivered(2, "two");
    run.delivered(1, "one");
    run.finds(|judged| judged.order, "G3");
}

#[test]
fn g4_what_an_open_session_was_not_shown_is_found_and_a_closed_one_may_pull_it() {
    let mut run = Run::new();
    run.sent("one");
    run.stored.push(row(1, "one"));
    run.acked("one", 1);
    run.finds(|judged| judged.unseen, "G4");
    let parties = Parties::from([(AB, vec![1, 2])]);
    assert_eq!(run.history.undelivered(&parties).len(), 1);
    run.history.note(Event::Left { session: 2 });
    run.finds(|judged| judged.unseen, "G4");
    run.page(0, 9, &[row(1, "one")]);
    assert!(run.judged().is_clean(), "{:?}", run.judged().findings);
}

#[test]
fn g5_a_cursor_that_moves_back_or_was_never_set_is_found() {
    let mark = |up_to| Event::Marked { session: 2, conversation: AB, up_to };
    let unread = |count, latest| Event::Unread { session: 2, counts: vec![(AB, count, latest)] };
    let said = || {
        let mut run = Run::new();
        for text in ["one", "two", "three"] {
            run.said(text);
        }
        run
    };
    let run = said();
    run.history.note(unread(3, 3));
    run.history.note(mark(2));
    run.history.note(unread(1, 3));
    assert!(run.judged().is_clean(), "{:?}", run.judged().findings);
    run.history.note(unread(2, 3));
    run.finds(|judged| judged.cursors, "G5");
    let run = said();
    run.history.note(mark(1));
    run.history.note(unread(1, 3));
    run.finds(|judged| judged.cursors, "G5");
    let run = said();
    run.history.note(unread(4, 3));
    run.finds(|judged| judged.cursors, "G5");
}

#[test]
fn g6_a_refused_message_that_is_stored_is_found() {
    let mut run = Run::new();
    run.sent("one");
    run.history.note(Event::Refused { session: 1, text: "one".into(), result: 3 });
    run.stored.push(row(1, "one"));
    run.finds(|judged| judged.untrue, "G6");
}

#[test]
fn g7_another_text_and_a_message_of_nobody_are_found() {
    let mut run = Run::new();
    run.said("one");
    run.delivered(1, "0ne");
    run.finds(|judged| judged.damaged, "G7");
    let mut run = Run::new();
    run.stored.push(row(1, "from nowhere"));
    run.finds(|judged| judged.damaged, "G7");
}

#[test]
fn what_comes_to_somebody_whom_it_does_not_concern_is_found() {
    let mut run = Run::new();
    run.said("one");
    run.history.note(Event::Came { session: 3, device: 30, user: 3 });
    run.history.note(Event::Delivered { session: 3, conversation: AB, row: row(1, "one") });
    let judged = run.judged();
    assert_eq!(judged.damaged, 1, "{:?}", judged.findings);
}
