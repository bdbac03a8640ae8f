//! Other people's words on this person's terminal: names and messages may hold anything, and what
//! a terminal takes for a command must not reach it.

use tt_client::{Content, Presence};

/// Shown for a message that cannot be read.
pub(crate) const UNREADABLE: &str = "(unreadable message)";

/// `text` without anything that a terminal obeys. Line breaks stay if `keep_lines`, else they are
/// shown as a sign.
pub(crate) fn printable(text: &str, keep_lines: bool) -> String {
    let shown = |c: char| match c {
        '\n' if keep_lines => '\n',
        '\n' => '⏎',
        '\t' => ' ',
        // Marks that reorder the text around them could make it read as something else.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// A message's content for a person.
pub(crate) fn content(content: &Content, keep_lines: bool) -> String {
    match content {
        Content::Text(text) => printable(text, keep_lines),
        Content::Voice { seconds, .. } => format!("(voice message, {seconds} s)"),
        Content::Unreadable => UNREADABLE.to_owned(),
    }
}

/// The word for a presence, in JSON as for people.
pub(crate) fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Online => "online",
        Presence::Mobile => "mobile",
        Presence::Away => "away",
        Presence::Offline => "offline",
    }
}

/// A time of the server in this machine's time zone, by a `strftime` pattern.
pub(crate) fn local_time(seconds: u32, pattern: &str) -> String {
    jiff::Timestamp::from_second(i64::from(seconds))
        // Any u32 is within a timestamp's range.
        .map(|time| time.to_zoned(jiff::tz::TimeZone::system()).strftime(pattern).to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(printable("a\u{1b}[2Jb\u{7}\u{9b}c\td\r", false), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c d\u{fffd}");
        assert_eq!(printable("x\u{202e}y", false), "x\u{fffd}y");
        assert_eq!(printable("您好 ✓", false), "您好 ✓");
    }

    #[test]
    fn one_message_is_one_line_where_that_is_promised() {
        assert_eq!(printable("a\r\nb\nc", false), "a⏎b⏎c");
        assert_eq!(printable("a\r\nb", true), "a\nb");
    }
}
