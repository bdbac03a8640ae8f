//! Users and departments: sign-in checks, the incremental address book, the operator's verbs.
//!
//! Change stamps: every transaction that changes a card gets a stamp of its own, the time or one
//! more than the largest so far, whichever is later. So two changes never share one, a clock set
//! back does no harm, and a client that asks with the newest stamp it saw misses nothing. Many
//! changes within a second make the stamps run ahead of the clock by as many seconds, which no
//! client notices: to it a stamp is a number to send back.

use rand::RngExt;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tt_proto::password;

use super::{now, stamped};
use crate::store::{Department, NewDepartment, NewUser, Page, Refusal, StoreError, User, UserStatus, Validation};

/// Salt: as long as the existing schema's column, from an alphabet of 62.
const SALT_LEN: usize = 4;
const SALT_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

const USER_COLUMNS: &str = "id, name, nick, sex, domain, phone, email, avatar, depart, status, \
                            sign_info, push_shield, created, updated";

/// What an operator's verb may fail with inside a transaction.
pub(super) enum Trouble {
    Refused(Refusal),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

pub(super) fn validate(db: &Connection, name: &str, wire_digest: &str) -> rusqlite::Result<Validation> {
    let found = db
        .prepare_cached(&format!("SELECT {USER_COLUMNS}, salt, password FROM user WHERE name = ?1 AND status = 0"))?
        .query_row([name], |row| Ok((user(row)?, row.get::<_, String>(14)?, row.get::<_, String>(15)?)))
        .optional()?;
    Ok(match found {
        Some((user, salt, stored)) if same(&password::stored_digest(wire_digest, &salt), &stored) => {
            Validation::Accepted(Box::new(user))
        }
        _ => Validation::Refused,
    })
}

/// Compares in a time that does not tell how many leading characters agree.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

pub(super) fn users_changed_since(db: &Connection, since: u32, budget: usize) -> rusqlite::Result<Page<User>> {
    let newest: u32 =
        db.prepare_cached("SELECT coalesce(max(updated), 0) FROM user")?.query_row([], |row| row.get(0))?;
    if newest <= since {
        return Ok(Page { items: Vec::new(), latest: since });
    }
    let mut statement = db.prepare_cached(&format!(
        "SELECT {USER_COLUMNS} FROM user
         WHERE updated >= ?1 AND (?1 > 0 OR status <> 3) ORDER BY updated, id"
    ))?;
    let mut rows = statement.query([since])?;
    stamped::page(since, budget, || rows.next()?.map(user).transpose())
}

pub(super) fn departments_changed_since(
    db: &Connection,
    since: u32,
    budget: usize,
) -> rusqlite::Result<Page<Department>> {
    let mut statement = db.prepare_cached(
        "SELECT id, name, priority, parent, status, updated FROM depart
         WHERE updated > ?1 ORDER BY updated",
    )?;
    let mut rows = statement.query([since])?;
    stamped::page(since, budget, || rows.next()?.map(department).transpose())
}

pub(super) fn users_by_ids(db: &Connection, ids: &[u32]) -> rusqlite::Result<Vec<User>> {
    let mut statement = db.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM user WHERE id = ?1"))?;
    let mut users = Vec::with_capacity(ids.len());
    for id in ids {
        users.extend(statement.query_row([id], user).optional()?);
    }
    Ok(users)
}

pub(super) fn push_shield(db: &Connection, user: u32) -> rusqlite::Result<Option<bool>> {
    db.prepare_cached("SELECT push_shield FROM user WHERE id = ?1")?.query_row([user], |row| row.get(0)).optional()
}

pub(super) fn list(db: &Connection) -> rusqlite::Result<Vec<User>> {
    db.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM user ORDER BY id"))?.query_map([], user)?.collect()
}

pub(super) fn add(db: &Connection, new: &NewUser) -> Result<u32, Trouble> {
    check_name(&new.name)?;
    let nick = if new.nick.is_empty() { &new.name } else { &new.nick };
    check_text(nick, 32, "a nick name has at most 32 characters, none of them a control character")?;
    check_digest(&new.wire_digest)?;
    let taken = db.prepare_cached("SELECT 1 FROM user WHERE name = ?1")?.exists([&new.name])?;
    if taken {
        return Err(Refusal::NameTaken(new.name.clone()).into());
    }
    let department: u32 = db
        .prepare_cached("SELECT id FROM depart WHERE id = ?1 OR (?1 = 0 AND status = 0) ORDER BY id LIMIT 1")?
        .query_row([new.department], |row| row.get(0))
        .optional()?
        .ok_or(Refusal::UnknownDepartment(new.department))?;
    let (salt, stored) = salted(&new.wire_digest);
    let id = db
        .prepare_cached(
            "INSERT INTO user (name, nick, depart, salt, password, created, updated)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .insert(params![new.name, nick, department, salt, stored, now(), stamp(db, "user")?])?;
    Ok(id as u32)
}

pub(super) fn set_password(db: &Connection, name: &str, wire_digest: &str) -> Result<(), Trouble> {
    check_digest(wire_digest)?;
    let (salt, stored) = salted(wire_digest);
    // No new change stamp: the card that others see is the same.
    let changed = db
        .prepare_cached("UPDATE user SET salt = ?2, password = ?3 WHERE name = ?1")?
        .execute(params![name, salt, stored])?;
    known(name, changed)
}

pub(super) fn set_status(db: &Connection, name: &str, status: UserStatus) -> Result<(), Trouble> {
    let changed = db.prepare_cached("UPDATE user SET status = ?2, updated = ?3 WHERE name = ?1")?.execute(params![
        name,
        status as u32,
        stamp(db, "user")?
    ])?;
    known(name, changed)
}

pub(super) fn save_department(db: &Connection, new: &NewDepartment) -> Result<u32, Trouble> {
    if new.name.is_empty() {
        return Err(Refusal::BadField("a department needs a name").into());
    }
    check_text(&new.name, 64, "a department's name has at most 64 characters, none of them a control character")?;
    let status = u32::from(new.deleted);
    let stamp = stamp(db, "depart")?;
    if new.id == 0 {
        let id = db
            .prepare_cached(
                "INSERT INTO depart (name, priority, parent, status, created, updated)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .insert(params![new.name, new.priority, new.parent, status, now(), stamp])?;
        return Ok(id as u32);
    }
    let changed = db
        .prepare_cached(
            "UPDATE depart SET name = ?2, priority = ?3, parent = ?4, status = ?5, updated = ?6
             WHERE id = ?1",
        )?
        .execute(params![new.id, new.name, new.priority, new.parent, status, stamp])?;
    if changed == 0 {
        return Err(Refusal::UnknownDepartment(new.id).into());
    }
    Ok(new.id)
}

/// The change stamp of a card that is being changed.
pub(super) fn stamp(db: &Connection, table: &'static str) -> rusqlite::Result<u32> {
    db.prepare_cached(&format!("SELECT coalesce(max(updated), 0) + 1 FROM {table}"))?
        .query_row([], |row| row.get::<_, u32>(0))
        .map(|next| next.max(now()))
}

fn salted(wire_digest: &str) -> (String, String) {
    let mut random = rand::rng();
    let salt: String =
        (0..SALT_LEN).map(|_| char::from(SALT_ALPHABET[random.random_range(0..SALT_ALPHABET.len())])).collect();
    let stored = password::stored_digest(wire_digest, &salt);
    (salt, stored)
}

fn known(name: &str, changed: usize) -> Result<(), Trouble> {
    if changed == 0 {
        return Err(Refusal::UnknownName(name.to_owned()).into());
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.trim() != name || name.starts_with('#') {
        return Err(Refusal::BadField(
            "a login name is not empty, does not begin with # and has no space at either end",
        ));
    }
    check_text(name, 32, "a login name has at most 32 characters, none of them a control character")
}

pub(super) fn check_text(text: &str, limit: usize, rule: &'static str) -> Result<(), Refusal> {
    if text.chars().count() > limit || text.chars().any(unprintable) {
        return Err(Refusal::BadField(rule));
    }
    Ok(())
}

fn check_digest(wire_digest: &str) -> Result<(), Refusal> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if wire_digest.len() != 32 || !wire_digest.bytes().all(hex) {
        return Err(Refusal::BadField("a wire digest is 32 lower-case hex digits"));
    }
    Ok(())
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get(0)?,
        name: row.get(1)?,
        nick: row.get(2)?,
        gender: row.get(3)?,
        domain: row.get(4)?,
        phone: row.get(5)?,
        email: row.get(6)?,
        avatar: row.get(7)?,
        department: row.get(8)?,
        // A number that nobody knows does not sign in and is not shown.
        status: UserStatus::from_number(row.get(9)?).unwrap_or(UserStatus::Left),
        sign_info: row.get(10)?,
        push_shield: row.get(11)?,
        created: row.get(12)?,
        updated: row.get(13)?,
    })
}

fn department(row: &Row<'_>) -> rusqlite::Result<Department> {
    Ok(Department {
        id: row.get(0)?,
        name: row.get(1)?,
        priority: row.get(2)?,
        parent: row.get(3)?,
        deleted: row.get::<_, u32>(4)? != 0,
        updated: row.get(5)?,
    })
}

/// Makes an operator's transaction out of a verb.
pub(super) fn transact<T>(
    db: &mut Connection,
    verb: impl FnOnce(&Connection) -> Result<T, Trouble>,
) -> rusqlite::Result<Result<T, StoreError>> {
    let step = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    match verb(&step) {
        Ok(value) => {
            step.commit()?;
            Ok(Ok(value))
        }
        Err(Trouble::Refused(refusal)) => Ok(Err(refusal.into())),
        Err(Trouble::Database(error)) => Err(error),
    }
}

/// Characters that a terminal obeys instead of showing: control characters, and the
/// marks that turn the direction of what follows.
fn unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
