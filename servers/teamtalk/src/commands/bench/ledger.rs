//! The books of a conversation under load: what became of every message that went out, what came to
//! the receivers, what the store says afterwards, and whether the three agree.
//!
//! sent = acked + refused + unknown; acked ⊆ stored; stored = delivered or fetchable; nothing twice,
//! nothing out of order (docs/guarantees.md). Pure: it is fed numbers and knows no network.

use std::collections::{BTreeMap, HashMap, HashSet};

/// What became of a message, as its sender knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// No answer yet, or none that can be relied on: it may be stored or not.
    #[default]
    Unknown,
    /// Stored, under this id.
    Acked(u32),
    /// The server said no.
    Refused,
}

/// One conversation with one sender. Messages are told apart by their number, from 0, in the order
/// of sending.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    fates: Vec<Fate>,
    /// Of each receiver, the numbers in their order of arrival.
    heard: Vec<Vec<u32>>,
}

/// The sums of one or more ledgers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Rows that the history shows.
    pub(super) stored: u64,
    /// Copies that receivers got live; each message may have several receivers.
    pub(super) delivered: u64,
    /// Copies that their receivers found only in the history.
    pub(super) fetched: u64,
    /// What must not be, by name; empty if every promise was kept.
    pub(super) violations: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub(super) fn new(receivers: usize) -> Self {
        Self { fates: Vec::new(), heard: vec![Vec::new(); receivers] }
    }

    /// Notes that the next message goes out; returns its number.
    pub(super) fn send(&mut self) -> u32 {
        self.fates.push(Fate::Unknown);
        self.fates.len() as u32 - 1
    }

    pub(super) fn settle(&mut self, number: u32, fate: Fate) {
        if let Some(known) = self.fates.get_mut(number as usize) {
            *known = fate;
        }
    }

    pub(super) fn hear(&mut self, receiver: usize, number: u32) {
        self.heard[receiver].push(number);
    }

    pub(super) fn sent(&self) -> usize {
        self.fates.len()
    }

    pub(super) fn acked(&self) -> usize {
        self.fates.iter().filter(|fate| matches!(fate, Fate::Acked(_))).count()
    }

    /// The fewest that any receiver has heard.
    pub(super) fn heard_by_all(&self) -> usize {
        self.heard.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// Balances the books against the history, which is given oldest first as id and number.
    pub(super) fn balance(&self, history: &[(u32, u32)], counts: &mut Counts) {
        let stored: HashMap<u32, u32> = history.iter().map(|(id, number)| (*number, *id)).collect();
        let mut found = Found(&mut counts.violations);
        found.count("stored_twice", history.len() - stored.len());
        found.count("stored_and_never_sent", stored.keys().filter(|number| **number as usize >= self.sent()).count());
        found.count("out_of_order_in_history", falls(history.iter().map(|(_, number)| *number)));
        // Nobody else writes here meanwhile, so the ids of a run have no holes (G3).
        found.count("ids_with_holes", history.windows(2).filter(|pair| pair[1].0 != pair[0].0 + 1).count());
        for (number, fate) in self.fates.iter().enumerate() {
            let row = stored.get(&(number as u32)).copied();
            match (fate, row) {
                (Fate::Acked(_), None) => found.count("acked_and_not_stored", 1),
                (Fate::Acked(id), Some(row)) if *id != row => found.count("acked_under_another_id", 1),
                (Fate::Refused, Some(_)) => found.count("refused_and_stored", 1),
                _ => {}
            }
        }
        for heard in &self.heard {
            let distinct: HashSet<u32> = heard.iter().copied().collect();
            let known = distinct.iter().filter(|number| stored.contains_key(number)).count();
            found.count("delivered_twice", heard.len() - distinct.len());
            found.count("delivered_and_not_stored", distinct.len() - known);
            found.count("delivered_out_of_order", falls(heard.iter().copied()));
            counts.delivered += known as u64;
            counts.fetched += (stored.len() - known) as u64;
        }
        counts.sent += self.sent() as u64;
        counts.acked += self.acked() as u64;
        counts.refused += self.fates.iter().filter(|fate| **fate == Fate::Refused).count() as u64;
        counts.unknown += self.fates.iter().filter(|fate| **fate == Fate::Unknown).count() as u64;
        counts.stored += history.len() as u64;
    }
}

struct Found<'a>(&'a mut BTreeMap<&'static str, u64>);

impl Found<'_> {
    fn count(&mut self, what: &'static str, times: usize) {
        if times > 0 {
            *self.0.entry(what).or_default() += times as u64;
        }
    }
}

/// How often a number is below the one before it.
fn falls(numbers: impl Iterator<Item = u32>) -> usize {
    let mut last = None;
    numbers.filter(|number| last.replace(*number).is_some_and(|last| *number < last)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three messages: acked as 1 and 2, and one without an answer.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(1);
        for _ in 0..3 {
            ledger.send();
        }
        ledger.settle(0, Fate::Acked(1));
        ledger.settle(1, Fate::Acked(2));
        ledger.hear(0, 0);
        ledger
    }

    fn balance(ledger: &Ledger, history: &[(u32, u32)]) -> Counts {
        let mut counts = Counts::default();
        ledger.balance(history, &mut counts);
        counts
    }

    fn violations(ledger: &Ledger, history: &[(u32, u32)]) -> Vec<(&'static str, u64)> {
        balance(ledger, history).violations.into_iter().collect()
    }

    #[test]
    fn books_that_agree_show_what_was_heard_and_what_was_fetched() {
        let counts = balance(&ledger(), &[(1, 0), (2, 1)]);
        let expected =
            Counts { sent: 3, acked: 2, unknown: 1, stored: 2, delivered: 1, fetched: 1, ..Counts::default() };
        assert_eq!(counts, expected);
        // What had no answer may be there.
        assert_eq!(violations(&ledger(), &[(1, 0), (2, 1), (3, 2)]), []);
    }

    #[test]
    fn every_broken_promise_has_its_name() {
        assert_eq!(violations(&ledger(), &[(1, 0)]), [("acked_and_not_stored", 1)]);
        assert_eq!(
            violations(&ledger(), &[(1, 0), (2, 1), (3, 1)]),
            [("acked_under_another_id", 1), ("stored_twice", 1)]
        );
        assert_eq!(
            violations(&ledger(), &[(1, 1), (2, 0)]),
            [("acked_under_another_id", 2), ("out_of_order_in_history", 1)]
        );
        assert_eq!(violations(&ledger(), &[(1, 0), (2, 1), (4, 2)]), [("ids_with_holes", 1)]);
        assert_eq!(violations(&ledger(), &[(1, 0), (2, 1), (3, 9)]), [("stored_and_never_sent", 1)]);
        let mut refused = ledger();
        refused.settle(2, Fate::Refused);
        assert_eq!(violations(&refused, &[(1, 0), (2, 1), (3, 2)]), [("refused_and_stored", 1)]);
    }

    #[test]
    fn copies_must_be_of_rows_in_order_and_come_once() {
        let mut twice = ledger();
        twice.hear(0, 1);
        twice.hear(0, 0);
        assert_eq!(violations(&twice, &[(1, 0), (2, 1)]), [("delivered_out_of_order", 1), ("delivered_twice", 1)]);
        let mut invented = ledger();
        invented.hear(0, 2);
        assert_eq!(violations(&invented, &[(1, 0), (2, 1)]), [("delivered_and_not_stored", 1)]);
    }
}
