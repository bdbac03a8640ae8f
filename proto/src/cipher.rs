//! The cipher of message texts: AES-256 over single blocks, under a key that every client has compiled in.
//!
//! It is an encoding, not a protection: everybody knows the key, equal blocks look equal, and nothing notices
//! tampering. Servers store and pass on what clients enciphered; they only need this for previews and push
//! texts. Layout and rules: spec/security.md §1.
//!
//! ```text
//! base64( AES-ECB( text | zero bytes | length of text, u32 big-endian ) )     whole 16-byte blocks
//! ```

use std::fmt;

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The key that the published clients are built with.
pub const DEFAULT_KEY: &[u8; 32] = b"12345678901234567890123456789012";

const BLOCK: usize = 16;

/// The length of the text, at the very end of the last block.
const TRAILER: usize = 4;

/// Writes padded base64; reads it without, since padding is dropped before.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Why a text cannot be enciphered or deciphered. [`code`](Self::code) is the 2015 library's return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// There is nothing to encipher or decipher.
    #[error("no input")]
    Empty,
    /// The cipher text is no base64, or holds no bytes.
    #[error("not base64")]
    Base64,
    /// The cipher text is no whole number of blocks.
    #[error("not a whole number of 16-byte blocks")]
    Blocks,
    /// The length at the end is none that an encoder writes: another key, or damage.
    #[error("the length of the text does not fit")]
    Length,
}

impl CipherError {
    /// The return value of the 2015 library for this error.
    pub fn code(self) -> i32 {
        match self {
            Self::Empty => -1,
            Self::Base64 => -2,
            Self::Blocks => -3,
            Self::Length => -4,
        }
    }
}

/// Enciphers and deciphers under one key. Cheap to keep: the key schedule is computed once.
#[derive(Clone)]
pub struct Cipher(Aes256);

impl fmt::Debug for Cipher {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher").finish_non_exhaustive()
    }
}

impl Default for Cipher {
    fn default() -> Self {
        Self::new(DEFAULT_KEY)
    }
}

impl Cipher {
    /// A cipher under `key`.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Aes256::new(&Array::from(*key)))
    }

    /// Enciphers `text` into base64. The only error is [`CipherError::Empty`] (a text whose length does not
    /// fit 32 bits is a [`CipherError::Length`]; no PDU holds one).
    pub fn encrypt(&self, text: &[u8]) -> Result<String, CipherError> {
        if text.is_empty() {
            return Err(CipherError::Empty);
        }
        let length = u32::try_from(text.len()).map_err(|_| CipherError::Length)?;
        let mut data = text.to_vec();
        // Room for the trailer, then up to the end of a block.
        data.resize((text.len() + TRAILER).next_multiple_of(BLOCK), 0);
        let end = data.len() - TRAILER;
        data[end..].copy_from_slice(&length.to_be_bytes());
        let (blocks, _) = Array::slice_as_chunks_mut(&mut data);
        self.0.encrypt_blocks(blocks);
        Ok(BASE64.encode(data))
    }

    /// Deciphers base64. White space and `=` are skipped wherever they stand; blocks beyond what the text
    /// needs are accepted, since one client family always writes an extra one.
    pub fn decrypt(&self, cipher_text: &[u8]) -> Result<Vec<u8>, CipherError> {
        if cipher_text.is_empty() {
            return Err(CipherError::Empty);
        }
        let mut base64 = cipher_text.to_vec();
        base64.retain(|&byte| byte != b'=' && !is_space(byte));
        let mut data = BASE64.decode(&base64).map_err(|_| CipherError::Base64)?;
        if data.is_empty() {
            return Err(CipherError::Base64);
        }
        let (blocks, []) = Array::slice_as_chunks_mut(&mut data) else {
            return Err(CipherError::Blocks);
        };
        self.0.decrypt_blocks(blocks);
        // At least one block, so the trailer is there.
        let end = data.len() - TRAILER;
        let length = data.last_chunk().map_or(0, |&trailer| u32::from_be_bytes(trailer));
        match usize::try_from(length) {
            // The text may reach up to the trailer and not into it.
            Ok(length) if length <= end => {
                data.truncate(length);
                Ok(data)
            }
            _ => Err(CipherError::Length),
        }
    }
}

/// White space as C's `isspace` has it, vertical tab included.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
