//! Names and ids: who WHO is, and what to call the sender of a message.

use std::collections::HashMap;

use tt_client::{Client, Peer, User};

use crate::failure::Failure;

/// What a person typed for WHO.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Who<'a> {
    Name(&'a str),
    Id(u32),
}

impl<'a> Who<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Failure> {
        match text.strip_prefix('#') {
            None => Ok(Self::Name(text)),
            Some(id) => id
                .parse()
                .map(Self::Id)
                .map_err(|_| Failure::usage(format!("{text:?} is no user: after # comes a user id, such as #2"))),
        }
    }
}

/// The users that a command has to do with.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    names: HashMap<u32, String>,
}

impl Directory {
    pub(crate) fn new<'a>(users: impl IntoIterator<Item = &'a User>) -> Self {
        Self { names: users.into_iter().map(|user| (user.id, user.name.clone())).collect() }
    }

    /// The login name of `id`; empty if nobody knows it.
    pub(crate) fn name(&self, id: u32) -> &str {
        self.names.get(&id).map_or("", String::as_str)
    }

    pub(crate) fn knows(&self, id: u32) -> bool {
        self.names.contains_key(&id)
    }

    /// The ids of all of them, in order.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.names.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn add<'a>(&mut self, users: impl IntoIterator<Item = &'a User>) {
        self.names.extend(users.into_iter().map(|user| (user.id, user.name.clone())));
    }
}

/// Finds WHO at the server.
pub(crate) fn find(client: &Client, who: &str) -> Result<User, Failure> {
    let found = match Who::parse(who)? {
        Who::Id(id) => client.users_by_id(&[id])?.into_iter().find(|user| user.id == id),
        Who::Name(name) => client.users()?.into_iter().find(|user| user.name == name),
    };
    found.ok_or_else(|| unknown(who))
}

/// Finds WHO at the server, where a group will do too. A group is taken by its word: whether it
/// is there and for whom, its server says.
pub(crate) fn find_peer(client: &Client, who: &str) -> Result<(Peer, Directory), Failure> {
    if who.starts_with("#g") {
        return Ok((Peer::Group(group_id(who)?), Directory::default()));
    }
    let user = find(client, who)?;
    Ok((Peer::User(user.id), Directory::new([&user])))
}

/// Finds several users; each must exist.
pub(crate) fn find_all(client: &Client, who: &[String]) -> Result<Directory, Failure> {
    let everybody = client.users()?;
    let mut found = Directory::default();
    for who in who {
        match Who::parse(who)? {
            Who::Name(name) => match everybody.iter().find(|user| user.name == name) {
                Some(user) => found.add([user]),
                None => return Err(unknown(who)),
            },
            Who::Id(_) => found.add([&find(client, who)?]),
        }
    }
    Ok(found)
}

/// The id behind `#g`.
pub(crate) fn group_id(text: &str) -> Result<u32, Failure> {
    text.strip_prefix("#g")
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| Failure::usage(format!("{text:?} is no group: after #g comes its id, such as #g7")))
}

fn unknown(who: &str) -> Failure {
    Failure::usage(format!("there is no user {who}; `tt users` lists everybody"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_a_name_or_a_number_behind_a_hash() {
        assert_eq!(Who::parse("bob").unwrap(), Who::Name("bob"));
        assert_eq!(Who::parse("2").unwrap(), Who::Name("2"));
        assert_eq!(Who::parse("#2").unwrap(), Who::Id(2));
        assert!(matches!((group_id("#g7"), group_id("#7"), group_id("#gx")), (Ok(7), Err(_), Err(_))));
        for wrong in ["#", "#bob", "#-1", "#4294967296"] {
            assert!(Who::parse(wrong).is_err(), "{wrong}");
        }
    }
}
