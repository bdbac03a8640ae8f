//! The two demonstration accounts of a data directory. Their passwords are generated when the
//! directory is made and lie in it, one file per account, for their owner alone:
//! `accounts/alice.password`, `accounts/bob.password`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rand::seq::IndexedRandom;
use tt_db_proxy::store::{Accounts, NewUser};
use tt_proto::password::wire_digest;

use crate::{
    failure::{Failure, Kind, Outcome},
    ready::write_private,
};

/// Who is there from the beginning: login name and shown name.
const DEMONSTRATION: [(&str, &str); 2] = [("alice", "Alice"), ("bob", "Bob")];

/// Letters and digits that cannot be taken for one another, 20 of them: 114 bits.
const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const PASSWORD_LENGTH: usize = 20;

/// A demonstration account whose password is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) id: u32,
}

/// The demonstration accounts, made where they are missing. One whose password file was taken away
/// is left alone and not listed: its password is its owner's affair.
pub(crate) fn demonstration(data: &Path, store: &impl Accounts) -> Outcome<Vec<Account>> {
    let existing = store.list_users()?;
    let mut accounts = Vec::new();
    for (name, nick) in DEMONSTRATION {
        let file = password_file(data, name);
        let unusable = |error: io::Error| unusable(&file, &error);
        let known = match fs::read_to_string(&file) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(error)),
        };
        let (id, password) = match (existing.iter().find(|user| user.name == name), known) {
            (Some(user), Some(password)) => (user.id, password),
            (Some(_), None) => continue,
            (None, known) => {
                // The file comes first: a crash in between leaves a password without an account,
                // which the next start takes up, and not an account that nobody can use.
                let password = if let Some(password) = known {
                    password
                } else {
                    let password = generate();
                    keep_password(data, name, &password)?;
                    password
                };
                let user = NewUser {
                    name: name.to_owned(),
                    nick: nick.to_owned(),
                    wire_digest: wire_digest(&password),
                    ..NewUser::default()
                };
                (store.add_user(&user)?, password)
            }
        };
        accounts.push(Account { name: name.to_owned(), password, id });
    }
    Ok(accounts)
}

/// Where the password of a demonstration account lies.
pub(crate) fn password_file(data: &Path, name: &str) -> PathBuf {
    data.join("accounts").join(format!("{name}.password"))
}

/// Brings the file up to date after `teamtalk user passwd`, if the account is one that has a file.
pub(crate) fn password_changed(data: &Path, name: &str, password: &str) -> Outcome {
    let has_file =
        DEMONSTRATION.iter().any(|(demonstration, _)| *demonstration == name) && password_file(data, name).exists();
    if has_file { keep_password(data, name, password) } else { Ok(()) }
}

/// Writes the file under another name first: whoever reads it sees the old or the new password.
fn keep_password(data: &Path, name: &str, password: &str) -> Outcome {
    let file = password_file(data, name);
    let new = file.with_extension("new");
    tt_db_proxy::store::embedded::create(&data.join("accounts"))
        .and_then(|()| write_private(&new, &format!("{password}\n")))
        .and_then(|()| fs::rename(&new, &file))
        .map_err(|error| unusable(&file, &error))
}

fn unusable(file: &Path, error: &io::Error) -> Failure {
    let advice = "make the data directory writable for this user or choose another with --data";
    Failure::new(Kind::Data, format!("{}: {error}: {advice}", file.display()))
}

fn generate() -> String {
    // The thread's generator is seeded by the system and made for secrets.
    let mut random = rand::rng();
    (0..PASSWORD_LENGTH)
        .map(|_| char::from(*ALPHABET.choose(&mut random).expect("the alphabet is not empty")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn generated_passwords_are_long_typable_and_different() {
        let passwords: HashSet<String> = (0..1000).map(|_| generate()).collect();
        assert_eq!(passwords.len(), 1000);
        for password in passwords {
            assert_eq!(password.len(), PASSWORD_LENGTH);
            assert!(password.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}
