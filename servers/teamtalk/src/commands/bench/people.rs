//! The accounts that a load signs in with: those of a file, or `bench-1`, `bench-2`, … which are
//! made in the data directory as an operator would, with one password that lies there for its
//! owner alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tt_db_proxy::store::embedded::Operator;
use tt_db_proxy::store::{Accounts, NewUser};
use tt_proto::password::wire_digest;

use super::disk::failed;
use crate::failure::{Failure, Kind, Outcome};
use crate::ready::write_private;

/// A name and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) password: String,
}

/// Accounts made in one transaction, so that the store is never held for long.
const AT_ONCE: usize = 1_000;

/// `count` accounts of a data directory; those that are missing are made.
pub(super) fn in_directory(data: &Path, count: usize) -> Outcome<Vec<Person>> {
    let store = Operator::open(data)?;
    let password = password(data)?;
    let digest = wire_digest(&password);
    let known: std::collections::HashSet<String> = store.list_users()?.into_iter().map(|user| user.name).collect();
    let people: Vec<Person> =
        (1..=count).map(|number| Person { name: format!("bench-{number}"), password: password.clone() }).collect();
    let new =
        |person: &Person| NewUser { name: person.name.clone(), wire_digest: digest.clone(), ..NewUser::default() };
    let missing: Vec<NewUser> = people.iter().filter(|person| !known.contains(&person.name)).map(new).collect();
    for users in missing.chunks(AT_ONCE) {
        store.add_users(users)?;
    }
    Ok(people)
}

/// The password of all of them, made at the first time.
fn password(data: &Path) -> Outcome<String> {
    let directory = data.join("accounts");
    let file: PathBuf = directory.join("bench.password");
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let [high, low]: [u64; 2] = rand::random();
            let password = format!("{high:016x}{low:016x}");
            tt_db_proxy::store::embedded::create(&directory)
                .and_then(|()| write_private(&file, &format!("{password}\n")))
                .map_err(|error| failed(&file, &error))?;
            Ok(password)
        }
        Err(error) => Err(failed(&file, &error)),
    }
}

/// The first `count` accounts of a file: on each line a name, blanks, a password. Empty lines and
/// those that begin with `#` are none.
pub(super) fn in_file(file: &Path, count: usize) -> Outcome<Vec<Person>> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::new(Kind::Usage, format_args!("--accounts {}: {error}", file.display())))?;
    let people = read(&text).map_err(|line| {
        Failure::new(
            Kind::Usage,
            format_args!("--accounts {}: line {line} is not a name, a blank and a password", file.display()),
        )
    })?;
    if people.len() < count {
        return Err(Failure::new(
            Kind::Usage,
            format_args!("--accounts {}: {} accounts, and {count} are needed", file.display(), people.len()),
        ));
    }
    Ok(people.into_iter().take(count).collect())
}

fn read(text: &str) -> Result<Vec<Person>, usize> {
    let mut people = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, password) = line.split_once(char::is_whitespace).ok_or(number + 1)?;
        people.push(Person { name: name.to_owned(), password: password.trim_start().to_owned() });
    }
    Ok(people)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_accounts_is_names_and_passwords() {
        let people = read("# ours\nalice  a secret\n\n bob x\n").expect("two accounts");
        let pairs: Vec<(&str, &str)> = people.iter().map(|p| (p.name.as_str(), p.password.as_str())).collect();
        assert_eq!(pairs, [("alice", "a secret"), ("bob", "x")]);
        assert_eq!(read("alice secret\nbob\n"), Err(2));
    }

    #[test]
    fn accounts_are_made_once_with_a_password_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = super::super::disk::Scratch::new(&std::env::temp_dir()).expect("a writable place");
        let first = in_directory(scratch.path(), 2).expect("made");
        let again = in_directory(scratch.path(), 3).expect("made");
        assert_eq!(again[..2], first[..]);
        assert_eq!(Operator::open(scratch.path()).expect("a store").list_users().expect("users").len(), 3);
        let mode = fs::metadata(scratch.path().join("accounts/bench.password")).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
