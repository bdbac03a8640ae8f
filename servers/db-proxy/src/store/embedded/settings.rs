//! What users change of their own accounts, and the push tokens of their devices. The changes are
//! members of a batch like messages, so they are on disk when they are answered.

use rusqlite::{Connection, OptionalExtension, params};

use super::accounts;
use super::batch::Rejection;
use crate::store::{
    AccountChange, Applied, Device, MAX_AVATAR, MAX_DEVICE_ID, MAX_DEVICES, MAX_PUSH_TOKEN, MAX_SIGN_INFO, Platform,
    PushToken, Refusal,
};

/// Changes an account. What shows on the card gets a change stamp, so that others pull it.
pub(super) fn change(db: &Connection, user: u32, change: &AccountChange) -> Result<Applied, Rejection> {
    let changed = match change {
        AccountChange::SignInfo(text) => {
            check_length(text, MAX_SIGN_INFO, "a signature line has at most 128 bytes")?;
            db.prepare_cached("UPDATE user SET sign_info = ?2, updated = ?3 WHERE id = ?1")?.execute(params![
                user,
                text,
                accounts::stamp(db, "user")?
            ])?
        }
        AccountChange::Avatar(url) => {
            check_length(url, MAX_AVATAR, "the address of a picture has at most 255 bytes")?;
            db.prepare_cached("UPDATE user SET avatar = ?2, updated = ?3 WHERE id = ?1")?.execute(params![
                user,
                url,
                accounts::stamp(db, "user")?
            ])?
        }
        // Nobody else sees it: no new stamp.
        AccountChange::PushShield(on) => {
            db.prepare_cached("UPDATE user SET push_shield = ?2 WHERE id = ?1")?.execute(params![user, on])?
        }
    };
    if changed == 0 {
        return Err(Refusal::UnknownUser(user).into());
    }
    Ok(Applied::Changed)
}

/// Keeps or forgets the token of one device. The token is taken from whoever had it before: a phone
/// that changes hands must not get its former user's pushes.
pub(super) fn keep_device(
    db: &Connection,
    user: u32,
    device: &str,
    push: Option<&PushToken>,
    now: u32,
) -> Result<Applied, Rejection> {
    check_length(device, MAX_DEVICE_ID, "a device's name has at most 64 bytes")?;
    let Some(push) = push else {
        db.prepare_cached("DELETE FROM device WHERE user = ?1 AND device = ?2")?.execute(params![user, device])?;
        return Ok(Applied::Changed);
    };
    check_length(&push.token, MAX_PUSH_TOKEN, "a push token has at most 1,024 bytes")?;
    if push.token.is_empty() || push.token.chars().any(char::is_control) {
        return Err(Refusal::BadField("a push token is not empty and has no control character").into());
    }
    let known = db.prepare_cached("SELECT 1 FROM user WHERE id = ?1")?.exists([user])?;
    if !known {
        return Err(Refusal::UnknownUser(user).into());
    }
    db.prepare_cached("DELETE FROM device WHERE token = ?1")?.execute([&push.token])?;
    db.prepare_cached(
        "INSERT INTO device (user, device, platform, token, updated) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (user, device)
         DO UPDATE SET platform = excluded.platform, token = excluded.token, updated = excluded.updated",
    )?
    .execute(params![user, device, push.platform as u32, push.token, now])?;
    db.prepare_cached(
        "DELETE FROM device WHERE user = ?1 AND device IN (
             SELECT device FROM device WHERE user = ?1
             ORDER BY device = ?2 DESC, updated DESC, device LIMIT -1 OFFSET ?3)",
    )?
    .execute(params![user, device, MAX_DEVICES])?;
    Ok(Applied::Changed)
}

/// The devices of these users.
pub(super) fn devices(db: &Connection, users: &[u32]) -> rusqlite::Result<Vec<Device>> {
    let mut shield = db.prepare_cached("SELECT push_shield FROM user WHERE id = ?1")?;
    let mut tokens = db.prepare_cached("SELECT platform, token FROM device WHERE user = ?1 ORDER BY device")?;
    let mut devices = Vec::new();
    for &user in users {
        let Some(shield) = shield.query_row([user], |row| row.get(0)).optional()? else { continue };
        let mut rows = tokens.query([user])?;
        while let Some(row) = rows.next()? {
            // A number that nobody knows cannot be pushed to.
            if let Some(platform) = Platform::from_number(row.get(0)?) {
                devices.push(Device { user, push: PushToken { platform, token: row.get(1)? }, shield });
            }
        }
    }
    Ok(devices)
}

fn check_length(text: &str, most: usize, rule: &'static str) -> Result<(), Refusal> {
    if text.len() > most { Err(Refusal::BadField(rule)) } else { Ok(()) }
}
