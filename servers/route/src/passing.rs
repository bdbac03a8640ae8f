//! Messages that passed lately, for receivers who are just signing in (G4).
//!
//! A message to a user goes to the servers that hold the user. One that is stored after the user has signed in
//! somewhere, and gets here before that server's report does, would go nowhere: too late for the history that the
//! client reads at its sign-in, too early for the table. So what passed between the sign-in and its report is sent
//! after it, to servers that have not had it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

/// How long a report may take. Longer ones are of links that were down, and those are caught up with by the msg
/// server itself.
const KEPT: Duration = Duration::from_secs(2);
/// What is kept at most, in messages and bytes.
const MAX_MESSAGES: usize = 16_384;
const MAX_BYTES: usize = 8 << 20;
/// How far the clocks of servers may differ.
const SKEW: Duration = Duration::from_millis(100);

/// The messages between two users that passed in the last moments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    messages: VecDeque<Passed>,
    bytes: usize,
}

#[derive(Debug)]
struct Passed {
    /// Unix time.
    at: Duration,
    users: [u32; 2],
    /// The links that have it, its sender's among them.
    links: Vec<u64>,
    frame: Bytes,
}

impl Passing {
    /// Notes a message between `users` and who has it.
    pub(crate) fn note(&mut self, now: Duration, users: [u32; 2], links: Vec<u64>, frame: Bytes) {
        self.bytes += frame.len();
        self.messages.push_back(Passed { at: now, users, links, frame });
        while let Some(oldest) = self.messages.front()
            && (oldest.at + KEPT < now || self.messages.len() > MAX_MESSAGES || self.bytes > MAX_BYTES)
        {
            self.bytes -= oldest.frame.len();
            self.messages.pop_front();
        }
    }

    /// What has passed a user by who signed in at a server at that time: the messages that this server has not
    /// had, in their order. It has them now.
    pub(crate) fn since(&mut self, signed_in: Duration, user: u32, link: u64) -> Vec<Bytes> {
        let since = signed_in.saturating_sub(SKEW);
        let first = self.messages.partition_point(|message| message.at < since);
        let missed = self.messages.range_mut(first..);
        let missed = missed.filter(|message| message.users.contains(&user) && !message.links.contains(&link));
        missed
            .map(|message| {
                message.links.push(link);
                message.frame.clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_secs(1_000) + Duration::from_millis(number)
    }

    fn frame(number: u8) -> Bytes {
        Bytes::from(vec![number])
    }

    #[test]
    fn what_passed_since_the_sign_in_comes_once_to_who_has_not_had_it() {
        let mut passing = Passing::default();
        passing.note(ms(0), [1, 2], vec![7], frame(0));
        passing.note(ms(500), [1, 2], vec![7], frame(1));
        passing.note(ms(501), [3, 1], vec![7], frame(2));
        passing.note(ms(502), [2, 1], vec![7, 8], frame(3));
        passing.note(ms(503), [2, 1], vec![7], frame(4));
        assert_eq!(passing.since(ms(500), 2, 8), [frame(1), frame(4)]);
        assert!(passing.since(ms(500), 2, 8).is_empty(), "it has them now");
        assert!(passing.since(ms(500), 2, 7).is_empty(), "the sender's own server");
        assert_eq!(passing.since(ms(500), 2, 9), [frame(1), frame(3), frame(4)]);
    }

    #[test]
    fn little_is_kept_and_not_for_long() {
        let mut passing = Passing::default();
        for number in 0..20_000 {
            passing.note(ms(number / 100), [1, 2], vec![7], Bytes::from(vec![0; 1_000]));
            assert!(passing.bytes <= MAX_BYTES && passing.messages.len() <= MAX_MESSAGES);
        }
        passing.note(ms(10_000), [1, 2], vec![7], frame(1));
        assert_eq!((passing.messages.len(), passing.bytes), (1, 1));
    }
}
