//! The name of a registration: a slot and the generation of that slot. A descriptor number is
//! reused at once after a close, so an event that is still in the batch could reach the wrong
//! connection; the generation makes such a stale event visible, and it is dropped.

use std::fmt;

/// A slot in a table plus a generation, a number that no two registrations share.
///
/// A slot is reused after its owner is gone, but with another generation, so a token
/// names one connection (or source, or timer) for the life of its table.
///
/// Thread rule: a value that any thread may hold; only its own reactor knows what it means.
///
/// ```
/// use netlib::Token;
///
/// let first = Token::new(7, 0);
/// let second = Token::new(7, 1); // the same slot, used again
/// assert_ne!(first, second);
/// assert_eq!(Token::from_u64(second.as_u64()), second);
/// assert_eq!(second.to_string(), "7.1");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    slot: u32,
    generation: u32,
}

impl Token {
    /// Names generation `generation` of slot `slot`.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The index in the table.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// How often the slot had been used before.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The token as the 64 bits of user data that kernels carry with a registration: the
    /// generation in the upper half, the slot in the lower.
    pub const fn as_u64(self) -> u64 {
        ((self.generation as u64) << 32) | self.slot as u64
    }

    /// The inverse of [`Token::as_u64`].
    pub const fn from_u64(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn extremes_survive_the_trip_through_u64() {
        for slot in [0, 1, u32::MAX] {
            for generation in [0, 1, u32::MAX] {
                let token = Token::new(slot, generation);
                assert_eq!(Token::from_u64(token.as_u64()), token);
                assert_eq!((token.slot(), token.generation()), (slot, generation));
            }
        }
    }
}
