//! Draws the chat. Everything is said in characters; bold and reverse only underline it, so that a
//! plain 80×24 terminal without colour shows all there is.
//!
//! ```text
//! tt: alice, online                                     the state of the connection
//! > + bob        (2) │ bob (Bob), online                the open conversation
//!   - carol          │ --- 2026-11-23 ---
//!                    │ 17:03 bob: hello
//! ───────────────────────────────────────
//! > what is being typed
//! Tab contact  PgUp older …                             help, or a remark
//! ```

use std::collections::{HashMap, HashSet};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::app::{App, Link, Who};
use super::conversation::{Conversation, Entry, Loaded, State};
use crate::text::{presence, printable};
use tt_client::Presence;

const HELP: &str = "Tab contact  Enter send  Up/Down typed lines  PgUp/PgDn scroll  Ctrl-Q quit";
const PROMPT: &str = "> ";
/// Below this the parts would hide each other.
const SMALLEST: (u16, u16) = (40, 8);

/// Turns a server time into local text by a `strftime` pattern.
pub(super) type LocalTime = fn(u32, &str) -> String;

/// Draws all of it, and tells the app how large the conversation's window is.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, local_time: LocalTime) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (width, height) = SMALLEST;
        frame.render_widget(Paragraph::new(format!("tt needs {width}x{height} cells")), area);
        return;
    }
    let [state, middle, input, help] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(2), Constraint::Length(1)])
            .areas(area);
    let [list, open] =
        Layout::horizontal([Constraint::Length(24.min(area.width / 3)), Constraint::Min(1)]).areas(middle);

    draw_state(frame, state, app);
    draw_contacts(frame, list, app);
    draw_conversation(frame, open, app, local_time);
    draw_input(frame, input, app);
    let remark = if app.notice.is_empty() { HELP } else { &app.notice };
    frame.render_widget(Paragraph::new(clip(remark, area.width.into())), help);
}

fn draw_state(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let name = printable(&app.me.name, false);
    let text = match &app.link {
        Link::Online => format!("tt: {name}, online"),
        Link::Offline { why, retry_at } => format!("tt: {name}, OFFLINE, next attempt at {retry_at}: {why}"),
    };
    let style = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(clip(&text, area.width.into())).style(style), area);
}

fn draw_contacts(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = Block::new().borders(Borders::RIGHT);
    let inner = block.inner(area);
    let height = usize::from(inner.height);
    let first = app.selected.map_or(0, |at| (at + 1).saturating_sub(height));
    let rows = app.contacts.iter().enumerate().skip(first).take(height).map(|(at, contact)| {
        let selected = app.selected == Some(at);
        let unread = if contact.unread > 0 { format!(" ({})", contact.unread) } else { String::new() };
        let marks = format!("{} {} ", if selected { '>' } else { ' ' }, mark(&contact.who));
        let room = usize::from(inner.width).saturating_sub(marks.width() + unread.width());
        let name = pad(&clip(&printable(contact.name(), false), room), room);
        let mut style = Style::new();
        if selected {
            style = style.add_modifier(Modifier::REVERSED);
        }
        if contact.unread > 0 {
            style = style.add_modifier(Modifier::BOLD);
        }
        Line::styled(format!("{marks}{name}{unread}"), style)
    });
    frame.render_widget(Paragraph::new(rows.collect::<Vec<_>>()).block(block), area);
}

fn mark(who: &Who) -> char {
    match who {
        Who::User(_, Presence::Online) => '+',
        Who::User(_, Presence::Mobile) => '^',
        Who::User(_, Presence::Away) => '~',
        Who::User(_, Presence::Offline) => '-',
        Who::Group(_) => '*',
    }
}

fn draw_conversation(frame: &mut Frame<'_>, area: Rect, app: &mut App, local_time: LocalTime) {
    let [title, window] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    app.page_rows = window.height.into();
    let Some(contact) = app.selected.and_then(|at| app.contacts.get(at)) else {
        frame.render_widget(Paragraph::new(" no contacts"), title);
        return;
    };
    let peer = contact.peer();
    let name = printable(contact.name(), false);
    let about = match &contact.who {
        Who::User(user, is) => match printable(&user.nick, false) {
            nick if nick.is_empty() || nick == name => format!(", {}", presence(*is)),
            nick => format!(" ({nick}), {}", presence(*is)),
        },
        Who::Group(group) => format!(", group #g{} of {}", group.id, group.members.len()),
    };
    let width = usize::from(window.width).saturating_sub(1);
    let senders: HashMap<u32, String> = match (&contact.who, app.conversations.get(&peer)) {
        (Who::Group(_), Some(conversation)) => {
            let ids: HashSet<u32> = conversation.entries.iter().map(|entry| entry.from).collect();
            ids.into_iter().map(|id| (id, app.name_of(id))).collect()
        }
        _ => HashMap::new(),
    };
    let sender = |id: u32| match senders.get(&id) {
        _ if id == app.me.id => "me".to_owned(),
        Some(sender) => sender.clone(),
        None => name.clone(),
    };
    let conversation = app.conversations.entry(peer).or_default();
    let rows = rows(conversation, width, &sender, local_time);

    // The window shows the rows up to `scroll` above the last one.
    let height = usize::from(window.height);
    conversation.scroll = conversation.scroll.min(rows.len().saturating_sub(height));
    let end = rows.len() - conversation.scroll;
    let shown = rows[end.saturating_sub(height)..end].iter().map(|row| Line::from(Span::raw(format!(" {row}"))));
    frame.render_widget(Paragraph::new(shown.collect::<Vec<_>>()), window);

    let more =
        if conversation.scroll > 0 { format!(", {} more rows below", conversation.scroll) } else { String::new() };
    let text = format!(" {name}{about}{more}");
    let style = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(clip(&text, title.width.into())).style(style), title);
}

/// The conversation as rows of at most `width` cells.
fn rows(
    conversation: &Conversation,
    width: usize,
    sender: &dyn Fn(u32) -> String,
    local_time: LocalTime,
) -> Vec<String> {
    let mut rows = Vec::new();
    match conversation.loaded {
        Loaded::Asked | Loaded::AskedOlder => rows.push("loading …".to_owned()),
        Loaded::All if conversation.entries.is_empty() => rows.push("no messages yet".to_owned()),
        Loaded::All | Loaded::Recent | Loaded::No => {}
    }
    let mut day = String::new();
    for entry in &conversation.entries {
        let this_day = local_time(entry.time, "%Y-%m-%d");
        if this_day != day {
            rows.push(clip(&format!("--- {this_day} ---"), width));
            day = this_day;
        }
        let text = format!("{} {}: {}", local_time(entry.time, "%H:%M"), sender(entry.from), said(entry));
        // Further rows of a message stand under its first word, clear of the times.
        for (line, row) in text.split('\n').flat_map(|line| wrap(line, width.saturating_sub(6))).enumerate() {
            rows.push(if line == 0 { row } else { format!("      {row}") });
        }
    }
    rows
}

fn said(entry: &Entry) -> String {
    match &entry.state {
        State::Stored(_) => entry.text.clone(),
        State::Pending(_) => format!("{} (sending …)", entry.text),
        State::Failed(why) => format!("{} (NOT SENT: {why})", entry.text),
    }
}

fn draw_input(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = Block::new().borders(Borders::TOP);
    let inner = block.inner(area);
    let room = usize::from(inner.width).saturating_sub(PROMPT.len());
    let (text, cursor) = app.editor.visible(room);
    frame.render_widget(Paragraph::new(format!("{PROMPT}{text}")).block(block), area);
    frame.set_cursor_position(Position::new(inner.x + (PROMPT.len() + cursor) as u16, inner.y));
}

/// Breaks a line into rows of at most `width` cells, between words where there are any.
fn wrap(line: &str, width: usize) -> Vec<String> {
    let width = width.max(2);
    let mut rows = Vec::new();
    let mut row = String::new();
    for word in line.split_inclusive(' ') {
        if row.width() + word.trim_end().width() > width && !row.is_empty() {
            rows.push(std::mem::take(&mut row));
        }
        for c in word.chars() {
            if row.width() + c.width().unwrap_or(0) > width {
                if c == ' ' {
                    continue;
                }
                rows.push(std::mem::take(&mut row));
            }
            row.push(c);
        }
    }
    rows.push(row);
    rows
}

/// At most `width` cells of `text`.
fn clip(text: &str, width: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= width
        })
        .collect()
}

/// `text` and blanks up to `width` cells.
fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use tt_client::{Content, Message, Peer, User};

    use super::super::app::Known;
    use super::*;

    /// Times as in Greenwich, wherever the test runs.
    fn utc(seconds: u32, pattern: &str) -> String {
        jiff::Timestamp::from_second(seconds.into()).unwrap().strftime(pattern).to_string()
    }

    fn user(id: u32, name: &str, nick: &str) -> User {
        User { id, name: name.to_owned(), nick: nick.to_owned(), ..User::default() }
    }

    fn message(msg_id: u32, from: u32, text: &str) -> Message {
        let content = Content::Text(text.to_owned());
        Message { conversation: Peer::User(2), from, to: 3 - from, msg_id, time: 1_700_000_000, content }
    }

    /// alice with two contacts and a conversation with bob.
    fn app(messages: &[Message]) -> App {
        let mut app = App::new(user(1, "alice", "Alice"));
        let presence = HashMap::from([(2, Presence::Online)]);
        let users = vec![user(1, "alice", ""), user(2, "bob", "Bob"), user(3, "王小明", "")];
        app.on_contacts(Known { users, presence, ..Known::default() });
        let newest_first = messages.iter().rev().cloned().collect();
        app.on_history(Peer::User(2), 0, Ok(newest_first));
        app
    }

    fn screen(app: &mut App, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app, utc)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| {
            let mut row = String::new();
            let mut x = 0;
            while x < width {
                let symbol = buffer[(x, y)].symbol();
                row.push_str(symbol);
                x += (symbol.width() as u16).max(1);
            }
            row.trim_end().to_owned()
        };
        (0..height).map(row).collect()
    }

    #[test]
    fn a_plain_screen_shows_everything_in_characters() {
        let mut app = app(&[message(1, 2, "hello"), message(2, 1, "hi there")]);
        app.contacts[1].unread = 12;
        app.editor.paste("typing 您好");
        let rows = screen(&mut app, 80, 24);
        assert_eq!(rows[0], "tt: alice, online");
        assert_eq!(rows[1], format!("> + {:<19}│ bob (Bob), online", "bob"));
        assert_eq!(rows[2], format!("  - 王小明{}(12)│ --- 2023-11-14 ---", " ".repeat(9)));
        assert_eq!(rows[3].split_once('│').unwrap().1, " 22:13 bob: hello");
        assert_eq!(rows[4].split_once('│').unwrap().1, " 22:13 me: hi there");
        assert_eq!(rows[21], "─".repeat(80));
        assert_eq!(rows[22], "> typing 您好");
        assert_eq!(rows[23], HELP);
    }

    #[test]
    fn a_lost_connection_is_said_in_the_first_row() {
        let mut app = app(&[]);
        app.link = Link::Offline { why: "reset by the peer".to_owned(), retry_at: "17:03:20".to_owned() };
        let rows = screen(&mut app, 80, 24);
        assert_eq!(rows[0], "tt: alice, OFFLINE, next attempt at 17:03:20: reset by the peer");
    }

    #[test]
    fn long_messages_wrap_under_their_first_word() {
        let mut app = app(&[message(1, 2, "one two three four five six seven\nnew line")]);
        let rows = screen(&mut app, 50, 12);
        let right: Vec<_> = rows[3..7].iter().map(|row| row.split_once('│').unwrap().1.trim_end()).collect();
        assert_eq!(right, [" 22:13 bob: one two three", "       four five six seven", "       new line", ""]);
    }

    #[test]
    fn the_window_follows_the_newest_row_until_scrolled() {
        let messages: Vec<_> = (1..=30).map(|id| message(id, 2, &format!("text {id}"))).collect();
        let mut app = app(&messages);
        let rows = screen(&mut app, 80, 24);
        assert!(rows[20].ends_with("bob: text 30"), "{}", rows[20]);
        app.conversations.get_mut(&Peer::User(2)).unwrap().scroll = 1000;
        let rows = screen(&mut app, 80, 24);
        assert!(rows[2].ends_with("--- 2023-11-14 ---"), "{}", rows[2]);
        assert!(rows[1].ends_with("12 more rows below"), "{}", rows[1]);
        assert_eq!(app.page_rows, 19);
    }

    #[test]
    fn unsent_and_unreadable_messages_say_so() {
        let mut app = app(&[Message { content: Content::Unreadable, ..message(1, 2, "") }]);
        let conversation = app.conversations.get_mut(&Peer::User(2)).unwrap();
        conversation.add_pending(1, 1, 1_700_000_000, "on its way");
        conversation.add_pending(2, 1, 1_700_000_000, "lost");
        conversation.settle(2, Err("refused".to_owned()));
        let rows = screen(&mut app, 80, 24);
        assert!(rows[3].ends_with("bob: (unreadable message)"), "{}", rows[3]);
        assert!(rows[4].ends_with("me: on its way (sending …)"), "{}", rows[4]);
        assert!(rows[5].ends_with("me: lost (NOT SENT: refused)"), "{}", rows[5]);
    }

    #[test]
    fn a_far_contact_is_scrolled_into_view() {
        let mut app = app(&[]);
        let users = (2..100).map(|id| user(id, &format!("user{id:02}"), "")).collect();
        app.on_contacts(Known { users, ..Known::default() });
        app.selected = Some(97);
        let rows = screen(&mut app, 80, 24);
        assert!(rows[20].starts_with("> - user99"), "{}", rows[20]);
    }

    #[test]
    fn any_size_can_be_drawn() {
        let mut app = app(&[message(1, 2, "hello 您好 and a-very-long-word-that-does-not-fit-anywhere")]);
        app.editor.paste("a long line of input that is wider than the terminal is");
        for width in 1..60 {
            for height in 1..12 {
                screen(&mut app, width, height);
            }
        }
        assert_eq!(screen(&mut app, 39, 24)[0], "tt needs 40x8 cells");
    }

    #[test]
    fn wrapping_counts_cells_and_breaks_long_words() {
        assert_eq!(wrap("您好您好您", 4), ["您好", "您好", "您"]);
        assert_eq!(wrap("ab cd", 2), ["ab", "cd"]);
        assert_eq!(wrap("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
