//! Pages of an incremental pull: rows in order of their change stamp, cut where a page is full.

use crate::store::{Department, Page, User};

/// A row with a change stamp.
pub(super) trait Stamped {
    fn stamp(&self) -> u32;
    /// Bytes that it takes in an answer, at most.
    fn weight(&self) -> usize;
}

/// What the tags, lengths and numbers of a card take beside its texts.
const OVERHEAD: usize = 64;

impl Stamped for User {
    fn stamp(&self) -> u32 {
        self.updated
    }

    fn weight(&self) -> usize {
        OVERHEAD
            + [&self.name, &self.nick, &self.domain, &self.phone, &self.email, &self.avatar, &self.sign_info]
                .map(String::len)
                .iter()
                .sum::<usize>()
    }
}

impl Stamped for Department {
    fn stamp(&self) -> u32 {
        self.updated
    }

    fn weight(&self) -> usize {
        OVERHEAD + self.name.len()
    }
}

/// Takes rows, which come in order of their stamps, until `budget` is used up. The client asks
/// next with the stamp of the last row it got, so nothing between two pages is lost.
pub(super) fn page<T: Stamped>(
    since: u32,
    budget: usize,
    mut next: impl FnMut() -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<Page<T>> {
    let mut items: Vec<T> = Vec::new();
    let mut room = budget;
    while let Some(item) = next()? {
        let Some(left) = room.checked_sub(item.weight()) else {
            break;
        };
        room = left;
        items.push(item);
    }
    let latest = items.last().map_or(since, Stamped::stamp).max(since);
    Ok(Page { items, latest })
}
