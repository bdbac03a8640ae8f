//! Groups: who is in them, who may change that, and what a member sees.
//!
//! A member sees the messages above the id that was the newest when he joined (`joined_after`), so
//! coming back hides what was said before. The id decides and not the time: two messages of one
//! second may lie on either side of a joining.
//!
//! Functions that change something run in the caller's transaction, which has the conversation's
//! counter up to date.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::GROUP;
use super::accounts::{Trouble, check_text};
use crate::store::{Applied, Change, Group, GroupKind, MAX_GROUP_TEXT, MemberChange, NewGroup, Refusal};

/// The version of the group's membership, if the user may write to it.
pub(super) fn admit(db: &Connection, user: u32, group: u32) -> Result<u32, Trouble> {
    let found: Option<(u32, bool)> = db
        .prepare_cached(
            "SELECT g.version, m.user IS NOT NULL FROM chat_group g
             LEFT JOIN group_member m ON m.group_id = g.id AND m.user = ?2 AND m.status = 0
             WHERE g.id = ?1",
        )?
        .query_row([group, user], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        None => Err(Refusal::UnknownGroup(group).into()),
        Some((_, false)) => Err(Refusal::NotAMember { user, group }.into()),
        Some((version, true)) => Ok(version),
    }
}

/// The version of the group's membership, 0 if there is no such group.
pub(super) fn version(db: &Connection, group: u32) -> rusqlite::Result<u32> {
    db.prepare_cached("SELECT version FROM chat_group WHERE id = ?1")?
        .query_row([group], |row| row.get(0))
        .optional()
        .map(Option::unwrap_or_default)
}

/// The id above which the user sees the group's messages; `None` if he is not in it.
pub(super) fn membership(db: &Connection, user: u32, group: u32) -> rusqlite::Result<Option<u32>> {
    db.prepare_cached("SELECT joined_after FROM group_member WHERE group_id = ?1 AND user = ?2 AND status = 0")?
        .query_row([group, user], |row| row.get(0))
        .optional()
}

/// Takes the group off a member's list of sessions. False if it is not on it.
pub(super) fn hide(db: &Connection, user: u32, group: u32) -> rusqlite::Result<bool> {
    let hidden = db
        .prepare_cached(
            "UPDATE group_member SET hidden_up_to = c.last_msg_id
             FROM conversation c
             WHERE group_id = ?1 AND user = ?2 AND group_member.status = 0
               AND c.kind = ?3 AND c.low = ?1 AND c.high = 0
               AND c.last_msg_id > max(joined_after, hidden_up_to)",
        )?
        .execute([group, user, GROUP])?;
    Ok(hidden == 1)
}

/// A message was stored.
pub(super) fn chatted(db: &Connection, group: u32, now: u32) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE chat_group SET last_chatted = max(last_chatted, ?2) WHERE id = ?1")?
        .execute([group, now])
        .map(drop)
}

pub(super) fn create(db: &Connection, new: &NewGroup, now: u32) -> Result<Applied, Trouble> {
    let (id, members) = make(db, new, now)?;
    Ok(Applied::CreatedGroup { id, members })
}

pub(super) fn change(db: &Connection, change: &MemberChange, now: u32) -> Result<Applied, Trouble> {
    let changed = alter(db, change, now)?;
    Ok(Applied::ChangedMembers { current: members(db, change.group)?, changed })
}

pub(super) fn shield(db: &Connection, user: u32, group: u32, on: bool) -> Result<Applied, Trouble> {
    admit(db, user, group)?;
    db.prepare_cached("UPDATE group_member SET shield = ?3 WHERE group_id = ?1 AND user = ?2")?
        .execute(params![group, user, on])?;
    Ok(Applied::ShieldedGroup)
}

/// Makes a group; returns its id and its members.
pub(super) fn make(db: &Connection, new: &NewGroup, now: u32) -> Result<(u32, Vec<u32>), Trouble> {
    const NAME: &str = "a group's name has 1 to 256 characters, none of them a control character";
    if new.name.trim().is_empty() {
        return Err(Refusal::BadField(NAME).into());
    }
    check_text(&new.name, MAX_GROUP_TEXT, NAME)?;
    check_text(&new.avatar, MAX_GROUP_TEXT, "a group's picture has at most 256 characters")?;
    let members = named(&new.members);
    check_size(members.len(), new.limits.members)?;
    let members = existing(db, members)?;
    if members.is_empty() {
        return Err(Refusal::NobodyToAdd.into());
    }
    if new.creator != 0 {
        if existing(db, vec![new.creator])?.is_empty() {
            return Err(Refusal::UnknownUser(new.creator).into());
        }
        let created: u32 = db
            .prepare_cached("SELECT count(*) FROM chat_group WHERE creator = ?1")?
            .query_row([new.creator], |row| row.get(0))?;
        if created >= new.limits.created {
            return Err(Refusal::TooMany("the number of groups that one user has made").into());
        }
    }
    // Not only above the groups: a conversation may have outlived a group that damage took.
    let id: u32 = db
        .prepare_cached(
            "SELECT max(coalesce((SELECT max(id) FROM chat_group), 0),
                        coalesce((SELECT max(low) FROM conversation WHERE kind = ?1), 0)) + 1",
        )?
        .query_row([GROUP], |row| row.get(0))?;
    let conversation = db
        .prepare_cached("INSERT INTO conversation (kind, low, high, created) VALUES (?1, ?2, 0, ?3)")?
        .insert([GROUP, id, now])?;
    db.prepare_cached(
        "INSERT INTO chat_group (id, kind, name, avatar, creator, conversation, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![id, new.kind as u32, new.name, new.avatar, new.creator, conversation, now])?;
    join(db, id, &members, now)?;
    Ok((id, members))
}

/// Changes a group's members; returns who was added or removed.
pub(super) fn alter(db: &Connection, change: &MemberChange, now: u32) -> Result<Vec<u32>, Trouble> {
    let MemberChange { by, group, .. } = *change;
    let Some((kind, creator)) = db
        .prepare_cached("SELECT kind, creator FROM chat_group WHERE id = ?1")?
        .query_row([group], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?)))
        .optional()?
    else {
        return Err(Refusal::UnknownGroup(group).into());
    };
    let current = members(db, group)?;
    let is_member = |user: u32| current.binary_search(&user).is_ok();
    let named = named(&change.members);
    let temporary = kind == GroupKind::Temporary as u32;
    let may = by == 0
        || by == creator
        || temporary
            && is_member(by)
            && match change.change {
                Change::Add => true,
                Change::Remove => named == [by],
            };
    if !may {
        return Err(Refusal::NotPermitted { user: by, group }.into());
    }
    let changed = match change.change {
        Change::Add => {
            check_size(named.len(), change.limits.members)?;
            let added = existing(db, named.into_iter().filter(|user| !is_member(*user)).collect())?;
            if added.is_empty() {
                return Err(Refusal::NobodyToAdd.into());
            }
            check_size(current.len() + added.len(), change.limits.members)?;
            join(db, group, &added, now)?;
            added
        }
        Change::Remove => {
            let removed: Vec<u32> = named.into_iter().filter(|user| is_member(*user)).collect();
            let mut leave =
                db.prepare_cached("UPDATE group_member SET status = 1 WHERE group_id = ?1 AND user = ?2")?;
            for user in &removed {
                leave.execute([group, *user])?;
            }
            removed
        }
    };
    if !changed.is_empty() {
        db.prepare_cached("UPDATE chat_group SET version = version + 1 WHERE id = ?1")?.execute([group])?;
    }
    Ok(changed)
}

/// Makes members of users who are not. They see what is stored from now on; whether they want
/// pushes is remembered from the last time.
fn join(db: &Connection, group: u32, users: &[u32], now: u32) -> rusqlite::Result<()> {
    let newest: u32 = db
        .prepare_cached("SELECT last_msg_id FROM conversation WHERE kind = ?1 AND low = ?2 AND high = 0")?
        .query_row([GROUP, group], |row| row.get(0))?;
    let mut join = db.prepare_cached(
        "INSERT INTO group_member (group_id, user, joined_after, joined) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (group_id, user)
         DO UPDATE SET status = 0, joined_after = excluded.joined_after, joined = excluded.joined",
    )?;
    for user in users {
        join.execute([group, *user, newest, now])?;
    }
    Ok(())
}

fn check_size(members: usize, limit: u32) -> Result<(), Refusal> {
    if members > limit as usize {
        return Err(Refusal::TooMany("the number of members of a group"));
    }
    Ok(())
}

/// Each id once, in order.
fn named(users: &[u32]) -> Vec<u32> {
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup();
    users
}

fn existing(db: &Connection, users: Vec<u32>) -> rusqlite::Result<Vec<u32>> {
    let mut known = db.prepare_cached("SELECT 1 FROM user WHERE id = ?1")?;
    let mut found = Vec::with_capacity(users.len());
    for user in users {
        if known.exists([user])? {
            found.push(user);
        }
    }
    Ok(found)
}

/// Who is in a group, by id.
fn members(db: &Connection, group: u32) -> rusqlite::Result<Vec<u32>> {
    db.prepare_cached("SELECT user FROM group_member WHERE group_id = ?1 AND status = 0 ORDER BY user")?
        .query_map([group], |row| row.get(0))?
        .collect()
}

pub(super) fn fixed(db: &Connection, user: u32) -> rusqlite::Result<Vec<(u32, u32)>> {
    db.prepare_cached(
        "SELECT g.id, g.version FROM group_member m JOIN chat_group g ON g.id = m.group_id
         WHERE m.user = ?1 AND m.status = 0 AND g.kind = ?2 ORDER BY g.id DESC",
    )?
    .query_map([user, GroupKind::Fixed as u32], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

const CARD: &str = "SELECT g.id, g.version, g.kind, g.name, g.avatar, g.creator, coalesce(m.shield, 0)
                    FROM chat_group g
                    LEFT JOIN group_member m ON m.group_id = g.id AND m.user = ?1 AND m.status = 0";

pub(super) fn cards(db: &Connection, user: u32, wanted: &[(u32, u32)]) -> rusqlite::Result<Vec<Group>> {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable_by(|one, other| other.cmp(one));
    wanted.dedup_by_key(|(id, _)| *id); // of a group named twice the higher version counts
    let mut statement =
        db.prepare_cached(&format!("{CARD} WHERE g.id = ?2 AND g.version > ?3 AND (?1 = 0 OR m.user IS NOT NULL)"))?;
    let mut cards = Vec::new();
    for (id, version) in wanted {
        let card = statement.query_row([user, id, version], card).optional()?;
        cards.extend(card.map(|card| with_members(db, card)).transpose()?);
    }
    Ok(cards)
}

pub(super) fn list(db: &Connection) -> rusqlite::Result<Vec<Group>> {
    let cards: Vec<Group> =
        db.prepare_cached(&format!("{CARD} ORDER BY g.id"))?.query_map([0], card)?.collect::<Result<_, _>>()?;
    cards.into_iter().map(|card| with_members(db, card)).collect()
}

fn with_members(db: &Connection, card: Group) -> rusqlite::Result<Group> {
    let (members, joined_after) = db
        .prepare_cached("SELECT user, joined_after FROM group_member WHERE group_id = ?1 AND status = 0 ORDER BY user")?
        .query_map([card.id], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Group { members, joined_after, ..card })
}

fn card(row: &Row<'_>) -> rusqlite::Result<Group> {
    Ok(Group {
        id: row.get(0)?,
        version: row.get(1)?,
        // A number that nobody knows gives nobody rights.
        kind: GroupKind::from_number(row.get(2)?).unwrap_or(GroupKind::Fixed),
        name: row.get(3)?,
        avatar: row.get(4)?,
        creator: row.get(5)?,
        members: Vec::new(),
        joined_after: Vec::new(),
        shielded: row.get(6)?,
    })
}

pub(super) fn shields(db: &Connection, group: u32, users: &[u32]) -> rusqlite::Result<Vec<(u32, bool)>> {
    let mut shield =
        db.prepare_cached("SELECT shield FROM group_member WHERE group_id = ?1 AND user = ?2 AND status = 0")?;
    let mut found = Vec::new();
    for user in named(users) {
        found.extend(shield.query_row([group, user], |row| Ok((user, row.get(0)?))).optional()?);
    }
    Ok(found)
}
