//! The tables, as a list of migrations. `PRAGMA user_version` counts how many have run; a database
//! that counts more than are listed here is refused.
//!
//! Never edit a migration that was released: append one.

use rusqlite::{Connection, TransactionBehavior};

/// One SQL script per version, in order.
const MIGRATIONS: &[&str] = &[V1, V2, V3];

/// The version that this program writes.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

const V1: &str = "
CREATE TABLE depart (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL,
    priority    INTEGER NOT NULL DEFAULT 0,
    parent      INTEGER NOT NULL DEFAULT 0,
    status      INTEGER NOT NULL DEFAULT 0,    -- 0 ok, 1 deleted
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL               -- change stamp
) STRICT;
CREATE UNIQUE INDEX depart_by_stamp ON depart (updated);
INSERT INTO depart (name, created, updated) VALUES ('TeamTalk', unixepoch(), unixepoch());

CREATE TABLE user (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL UNIQUE,       -- BINARY collation: case-sensitive
    nick        TEXT    NOT NULL,
    sex         INTEGER NOT NULL DEFAULT 0,
    domain      TEXT    NOT NULL DEFAULT '',
    phone       TEXT    NOT NULL DEFAULT '',
    email       TEXT    NOT NULL DEFAULT '',
    avatar      TEXT    NOT NULL DEFAULT '',
    depart      INTEGER NOT NULL REFERENCES depart (id),
    status      INTEGER NOT NULL DEFAULT 0,    -- only 0 signs in; 3 has left
    sign_info   TEXT    NOT NULL DEFAULT '',
    push_shield INTEGER NOT NULL DEFAULT 0,
    salt        TEXT    NOT NULL,
    password    TEXT    NOT NULL,              -- hex MD5 over wire digest and salt
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL               -- change stamp
) STRICT;
CREATE INDEX user_by_stamp ON user (updated, id);

-- The pair that a message id counts in. A single one has low < high; a group has its id in low.
CREATE TABLE conversation (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        INTEGER NOT NULL,              -- 1 single, 2 group
    low         INTEGER NOT NULL,
    high        INTEGER NOT NULL,
    last_msg_id INTEGER NOT NULL DEFAULT 0,    -- the id handed out last
    created     INTEGER NOT NULL,
    UNIQUE (kind, low, high)
) STRICT;

-- Clustered by conversation and id: a page of history is one walk down the tree.
CREATE TABLE message (
    conversation  INTEGER NOT NULL REFERENCES conversation (id),
    msg_id        INTEGER NOT NULL,
    sender        INTEGER NOT NULL,
    type          INTEGER NOT NULL,            -- 1 text, 2 voice
    created       INTEGER NOT NULL,
    content       BLOB    NOT NULL,
    client_msg_id TEXT,
    checksum      INTEGER NOT NULL,            -- crc32, see row.rs
    status        INTEGER NOT NULL DEFAULT 0,  -- 0 normal, 1 recalled, 2 lost: the id had a row once
    PRIMARY KEY (conversation, msg_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX message_by_client_id ON message (sender, client_msg_id)
    WHERE client_msg_id IS NOT NULL;

CREATE TABLE session (
    user         INTEGER NOT NULL REFERENCES user (id),
    kind         INTEGER NOT NULL,             -- 1 user, 2 group
    peer         INTEGER NOT NULL,
    conversation INTEGER NOT NULL REFERENCES conversation (id),
    status       INTEGER NOT NULL DEFAULT 0,   -- 0 ok, 1 removed by its owner
    created      INTEGER NOT NULL,
    updated      INTEGER NOT NULL,
    PRIMARY KEY (user, kind, peer)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_time ON session (user, status, updated);

-- How far a user has read. Only moves forward.
CREATE TABLE cursor (
    user         INTEGER NOT NULL REFERENCES user (id),
    conversation INTEGER NOT NULL REFERENCES conversation (id),
    read_msg_id  INTEGER NOT NULL,
    PRIMARY KEY (user, conversation)
) STRICT, WITHOUT ROWID;
";

/// Push tokens, per device.
const V2: &str = "
CREATE TABLE device (
    user     INTEGER NOT NULL REFERENCES user (id),
    device   TEXT    NOT NULL,                 -- the client's name for it; '' where it has none
    platform INTEGER NOT NULL,                 -- client type: 17 iOS, 18 Android
    token    TEXT    NOT NULL UNIQUE,          -- a phone that changes hands is reached for its last user only
    updated  INTEGER NOT NULL,
    PRIMARY KEY (user, device)
) STRICT, WITHOUT ROWID;
";

/// Groups. A message to a group writes nothing per member: whether a member has the group on the
/// list of sessions, and how much is unread, follows from the ids that are kept here.
const V3: &str = "
CREATE TABLE chat_group (
    id           INTEGER PRIMARY KEY,          -- never reused, see groups.rs
    kind         INTEGER NOT NULL,             -- 1 fixed, 2 temporary
    name         TEXT    NOT NULL,
    avatar       TEXT    NOT NULL DEFAULT '',
    creator      INTEGER NOT NULL,             -- 0: an operator
    version      INTEGER NOT NULL DEFAULT 1,   -- one more with each change of membership
    conversation INTEGER NOT NULL UNIQUE REFERENCES conversation (id),
    last_chatted INTEGER NOT NULL DEFAULT 0,   -- time of the newest message
    created      INTEGER NOT NULL
) STRICT;
CREATE INDEX chat_group_by_creator ON chat_group (creator);

CREATE TABLE group_member (
    group_id     INTEGER NOT NULL REFERENCES chat_group (id),
    user         INTEGER NOT NULL REFERENCES user (id),
    status       INTEGER NOT NULL DEFAULT 0,   -- 0 member, 1 gone
    joined_after INTEGER NOT NULL,             -- sees messages above this id
    hidden_up_to INTEGER NOT NULL DEFAULT 0,   -- the session is on the list if there is one above this id
    shield       INTEGER NOT NULL DEFAULT 0,   -- 1: no pushes
    joined       INTEGER NOT NULL,             -- time
    PRIMARY KEY (group_id, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX group_member_by_user ON group_member (user, status);
";

/// The version of the database.
pub(super) fn version(db: &Connection) -> rusqlite::Result<u32> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings the database to [`VERSION`]. One transaction per step, so that an interruption leaves a
/// version that is whole.
pub(super) fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    loop {
        let step = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Asked again within the transaction: another process may have migrated meanwhile.
        let Some(script) = MIGRATIONS.get(version(&step)? as usize) else {
            return Ok(());
        };
        step.execute_batch(script)?;
        step.pragma_update(None, "user_version", version(&step)? + 1)?;
        step.commit()?;
    }
}
