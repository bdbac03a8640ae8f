//! `teamtalk group …`: groups, managed in the store itself, as accounts are. A running system goes
//! by a change from the group's next message on; members who are signed in see it when they ask
//! for the group again.

use std::path::Path;

use clap::Subcommand;
use tt_db_proxy::Limits;
use tt_db_proxy::store::embedded::Operator;
use tt_db_proxy::store::{Accounts, Change, GroupKind, GroupLimits, MemberChange, NewGroup, Refusal};

use crate::{
    commands::{say, user::Place},
    failure::Outcome,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Make a fixed group: only an operator changes its members
    Create {
        /// Its name
        name: String,
        /// Login names of its members
        #[arg(required = true)]
        members: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Print every group: id, kind, number of members, name
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Add members to a group of any kind
    Add {
        /// The group's id
        group: u32,
        /// Login names
        #[arg(required = true)]
        members: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Remove members from a group of any kind
    Remove {
        /// The group's id
        group: u32,
        /// Login names
        #[arg(required = true)]
        members: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
}

pub(crate) fn run(action: &Action) -> Outcome {
    match action {
        Action::Create { name, members, place } => create(name, members, &place.directory()?),
        Action::List { place } => list(&place.directory()?),
        Action::Add { group, members, place } => change(*group, Change::Add, members, &place.directory()?),
        Action::Remove { group, members, place } => change(*group, Change::Remove, members, &place.directory()?),
    }
}

fn create(name: &str, members: &[String], data: &Path) -> Outcome {
    let store = Operator::open(data)?;
    let group = NewGroup {
        kind: GroupKind::Fixed,
        creator: 0,
        name: name.to_owned(),
        avatar: String::new(),
        members: ids(&store, members)?,
        limits: limits(),
    };
    let id = store.create_group(&group)?;
    say(format_args!("{name} is group #{id}"));
    Ok(())
}

fn list(data: &Path) -> Outcome {
    say(format_args!("{:>6}  {:9}  {:>7}  name", "id", "kind", "members"));
    for group in Operator::open(data)?.list_groups()? {
        let kind = match group.kind {
            GroupKind::Fixed => "fixed",
            GroupKind::Temporary => "temporary",
        };
        say(format_args!("{:>6}  {kind:9}  {:>7}  {}", group.id, group.members.len(), group.name));
    }
    Ok(())
}

fn change(group: u32, change: Change, members: &[String], data: &Path) -> Outcome {
    let store = Operator::open(data)?;
    let members = ids(&store, members)?;
    let changed = store.change_members(&MemberChange { by: 0, group, change, members, limits: limits() })?;
    let word = match change {
        Change::Add => "added to",
        Change::Remove => "removed from",
    };
    say(format_args!("{} {word} group #{group}", changed.len()));
    Ok(())
}

/// The ids of accounts; each must exist.
fn ids(store: &Operator, names: &[String]) -> Outcome<Vec<u32>> {
    let users = store.list_users()?;
    let id = |name: &String| {
        let user = users.iter().find(|user| user.name == *name).map(|user| user.id);
        user.ok_or_else(|| Refusal::UnknownName(name.clone()).into())
    };
    names.iter().map(id).collect()
}

/// An operator keeps the limits that a server has by default: what clients take has no exceptions.
fn limits() -> GroupLimits {
    let limits = Limits::default();
    GroupLimits { members: limits.group_members, created: limits.groups_per_user }
}
