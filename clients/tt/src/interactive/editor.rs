//! The input line: typing, moving, and the lines typed before. Knows nothing of terminals; widths
//! are counted in cells, because a Chinese character takes two.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How many former lines are kept.
const HISTORY: usize = 200;

/// One line under edit.
#[derive(Debug, Default)]
pub(super) struct Editor {
    chars: Vec<char>,
    /// Before which character the cursor stands.
    cursor: usize,
    history: Vec<String>,
    /// Which former line is shown, and the line that was being typed before.
    recalled: Option<(usize, String)>,
}

impl Editor {
    pub(super) fn text(&self) -> String {
        self.chars.iter().collect()
    }

    pub(super) fn insert(&mut self, c: char) {
        // What a terminal obeys has no place in a message either.
        let c = if c == '\n' || c == '\t' || c == '\r' { ' ' } else { c };
        if !c.is_control() {
            self.chars.insert(self.cursor, c);
            self.cursor += 1;
        }
    }

    pub(super) fn paste(&mut self, text: &str) {
        for c in text.replace("\r\n", "\n").chars() {
            self.insert(c);
        }
    }

    pub(super) fn left(&mut self) {
        self.cursor = self.before(self.cursor);
    }

    pub(super) fn right(&mut self) {
        self.cursor = self.after(self.cursor);
    }

    pub(super) fn home(&mut self) {
        self.cursor = 0;
    }

    pub(super) fn end(&mut self) {
        self.cursor = self.chars.len();
    }

    pub(super) fn backspace(&mut self) {
        let from = self.before(self.cursor);
        self.chars.drain(from..self.cursor);
        self.cursor = from;
    }

    pub(super) fn delete(&mut self) {
        self.chars.drain(self.cursor..self.after(self.cursor));
    }

    /// Deletes the word before the cursor, as Ctrl-W does everywhere.
    pub(super) fn delete_word(&mut self) {
        let mut from = self.cursor;
        while from > 0 && self.chars[from - 1].is_whitespace() {
            from -= 1;
        }
        while from > 0 && !self.chars[from - 1].is_whitespace() {
            from -= 1;
        }
        self.chars.drain(from..self.cursor);
        self.cursor = from;
    }

    /// Deletes everything before the cursor, as Ctrl-U does everywhere.
    pub(super) fn delete_to_start(&mut self) {
        self.chars.drain(..self.cursor);
        self.cursor = 0;
    }

    /// Takes the line and remembers it.
    pub(super) fn submit(&mut self) -> String {
        let line = self.text();
        self.replace("");
        self.recalled = None;
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            self.history.push(line.clone());
            if self.history.len() > HISTORY {
                self.history.remove(0);
            }
        }
        line
    }

    /// Shows the line before the one shown.
    pub(super) fn older(&mut self) {
        let (at, draft) = match self.recalled.take() {
            Some((at, draft)) => (at.saturating_sub(1), draft),
            None if self.history.is_empty() => return,
            None => (self.history.len() - 1, self.text()),
        };
        let line = self.history[at].clone();
        self.replace(&line);
        self.recalled = Some((at, draft));
    }

    /// Shows the line after the one shown, at last the one that was being typed.
    pub(super) fn newer(&mut self) {
        let Some((at, draft)) = self.recalled.take() else { return };
        match self.history.get(at + 1).cloned() {
            Some(line) => {
                self.replace(&line);
                self.recalled = Some((at + 1, draft));
            }
            None => self.replace(&draft),
        }
    }

    /// The part of the line that fits into `width` cells around the cursor, and the cursor's cell
    /// within it.
    pub(super) fn visible(&self, width: usize) -> (String, usize) {
        // The cursor needs a cell of its own behind the last character.
        let room = width.saturating_sub(1);
        // Back from the cursor: a pasted book must not be measured at every key.
        let mut first = self.cursor;
        let mut used = 0;
        while first > 0 && used + width_of(self.chars[first - 1]) <= room {
            first -= 1;
            used += width_of(self.chars[first]);
        }
        let before: String = self.chars[first..self.cursor].iter().collect();
        let behind = self.chars[self.cursor..].iter().take_while(|c| {
            used += width_of(**c);
            used <= width
        });
        // Some emoji are narrower than the characters that they are made of.
        let cursor = before.width();
        (before.chars().chain(behind.copied()).collect(), cursor)
    }

    fn replace(&mut self, text: &str) {
        self.chars = text.chars().collect();
        self.cursor = self.chars.len();
    }

    /// The position one visible character before `at`: marks that stack on a letter go with it.
    fn before(&self, at: usize) -> usize {
        let mut at = at.saturating_sub(1);
        while at > 0 && width_of(self.chars[at]) == 0 {
            at -= 1;
        }
        at
    }

    fn after(&self, at: usize) -> usize {
        let mut at = (at + 1).min(self.chars.len());
        while at < self.chars.len() && width_of(self.chars[at]) == 0 {
            at += 1;
        }
        at
    }
}

fn width_of(c: char) -> usize {
    c.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.paste(text);
        editor
    }

    #[test]
    fn characters_go_in_and_out_at_the_cursor() {
        let mut editor = typed("helo");
        editor.left();
        editor.insert('l');
        editor.end();
        editor.insert('!');
        assert_eq!(editor.text(), "hello!");
        editor.backspace();
        editor.home();
        editor.delete();
        assert_eq!(editor.text(), "ello");
        editor.backspace();
        assert_eq!(editor.text(), "ello", "nothing stands before the first character");
        editor.end();
        editor.delete();
        assert_eq!(editor.text(), "ello", "nothing stands behind the last one");
    }

    #[test]
    fn a_stacked_mark_goes_with_its_letter() {
        let mut editor = typed("e\u{301}x");
        editor.home();
        editor.right();
        assert_eq!(editor.cursor, 2);
        editor.backspace();
        assert_eq!(editor.text(), "x");
    }

    #[test]
    fn words_and_lines_are_deleted_at_once() {
        let mut editor = typed("one two  ");
        editor.delete_word();
        assert_eq!(editor.text(), "one ");
        editor.delete_to_start();
        assert_eq!(editor.text(), "");
    }

    #[test]
    fn pasted_line_breaks_do_not_send_and_controls_vanish() {
        assert_eq!(typed("a\r\nb\tc\u{1b}d").text(), "a b cd");
    }

    #[test]
    fn former_lines_come_back_and_the_draft_is_kept() {
        let mut editor = Editor::default();
        for line in ["first", "second", "second", "  "] {
            editor.paste(line);
            assert_eq!(editor.submit(), line);
        }
        editor.paste("draft");
        editor.older();
        assert_eq!(editor.text(), "second");
        editor.older();
        editor.older();
        assert_eq!(editor.text(), "first");
        editor.newer();
        editor.newer();
        assert_eq!(editor.text(), "draft");
        editor.newer();
        assert_eq!(editor.text(), "draft");
    }

    #[test]
    fn the_visible_part_follows_the_cursor_in_cells() {
        let mut editor = typed("您好abc");
        assert_eq!(editor.visible(10), ("您好abc".to_owned(), 7));
        assert_eq!(editor.visible(6), ("好abc".to_owned(), 5));
        editor.home();
        assert_eq!(editor.visible(5), ("您好a".to_owned(), 0));
        assert_eq!(editor.visible(3), ("您".to_owned(), 0));
        assert_eq!(editor.visible(0), (String::new(), 0));
    }

    #[test]
    fn the_cursor_stands_behind_an_emoji_of_several_characters() {
        let family = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}";
        assert_eq!(typed(family).visible(20), (family.to_owned(), 2));
    }
}
