//! Errors of a store. They say whose fault it is: a [`Refusal`] is the caller's and stays one when
//! repeated, everything else is the store's and may pass.

use thiserror::Error;

/// Why a call did not do what was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreError {
    /// The request cannot be granted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk is full. Nothing of the batch was stored.
    #[error("no space left for the store: {0}")]
    Full(String),
    /// Another process kept the database locked for too long.
    #[error("the store is busy: {0}")]
    Busy(String),
    /// Reading or writing failed. The store reopens itself and is checked before it goes on.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The disk failed while a batch was written: whether it is stored shows when the store has reopened itself.
    /// A repetition under the same client message id gets the true answer.
    #[error("the store failed while it wrote: {0}")]
    Uncertain(String),
    /// The database is damaged where this call needed it.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether the same call may succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full(_) | Self::Busy(_) | Self::Failed(_) | Self::Uncertain(_) => true,
            Self::Refused(_) | Self::Damaged(_) => false,
        }
    }
}

/// A request that will be refused however often it is made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Sender or receiver does not exist.
    #[error("there is no user #{0}")]
    UnknownUser(u32),
    /// There is no account of that name.
    #[error("there is no user {0:?}")]
    UnknownName(String),
    /// There is no such department.
    #[error("there is no department {0}")]
    UnknownDepartment(u32),
    /// The name is taken.
    #[error("there is already a user {0:?}")]
    NameTaken(String),
    /// A text does not fit its field.
    #[error("{0}")]
    BadField(&'static str),
    /// Sender and receiver are the same user.
    #[error("a message to oneself is not stored")]
    ToOneself,
    /// The message has no body.
    #[error("the message is empty")]
    Empty,
    /// The client message id belongs to a stored message with other content (G2).
    #[error("the client message id was used for another message")]
    IdReused,
    /// There is no such group.
    #[error("there is no group #{0}")]
    UnknownGroup(u32),
    /// The user is not in the group.
    #[error("user #{user} is not in group #{group}")]
    NotAMember {
        /// Who.
        user: u32,
        /// In which group.
        group: u32,
    },
    /// The user may not change the group in this way.
    #[error("user #{user} may not change group #{group} so")]
    NotPermitted {
        /// Who.
        user: u32,
        /// Which group.
        group: u32,
    },
    /// None of the named users can become a member.
    #[error("nobody to add: they do not exist or are members already")]
    NobodyToAdd,
    /// The group would have too many members, or its creator too many groups.
    #[error("the limit is {0}")]
    TooMany(&'static str),
    /// The member broke a rule of the schema that no check foresaw.
    #[error("the store does not take it: {0}")]
    Rejected(String),
}
