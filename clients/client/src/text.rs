//! Message contents between a person's text and the bytes on the wire: the message cipher for
//! text, seconds and samples for voice. Reading accepts whatever a foreign client may have sent.

use bytes::Bytes;
use tt_proto::cipher::{Cipher, DEFAULT_KEY};
use tt_proto::content::VOICE_HEADER;
use tt_proto::im::base_define::MsgType;
use tt_proto::pdu::{MAX_TEXT, MAX_VOICE};

use crate::{Content, Error};

/// The longest text, in bytes of UTF-8: encryption adds a length of 4 bytes, fills up blocks of 16
/// and writes 4 characters for 3 bytes, and the result may have [`MAX_TEXT`] bytes.
const LONGEST: usize = MAX_TEXT / 4 * 3 / 16 * 16 - 4;

/// Encrypts `text` for `msg_data`.
///
/// # Errors
/// [`Error::Invalid`] for an empty text and for one whose encrypted form exceeds the
/// protocol's 4,096 bytes (3,068 bytes of UTF-8).
pub(crate) fn encrypt(text: &str) -> Result<Bytes, Error> {
    if text.is_empty() {
        return Err(Error::Invalid("an empty message cannot be sent".to_owned()));
    }
    let sealed = Cipher::new(DEFAULT_KEY)
        .encrypt(text.as_bytes())
        .map_err(|error| Error::Invalid(format!("this text cannot be encrypted: {error}")))?;
    if sealed.len() > MAX_TEXT {
        return Err(Error::Invalid(format!(
            "the message is too long: {} bytes, {LONGEST} are possible; send it in parts",
            text.len()
        )));
    }
    Ok(Bytes::from(sealed))
}

/// Seconds and a recording as `msg_data`.
///
/// # Errors
/// [`Error::Invalid`] for an empty recording and for one above the protocol's limit.
pub(crate) fn voice(seconds: u32, recording: &[u8]) -> Result<Bytes, Error> {
    const LONGEST: usize = MAX_VOICE - VOICE_HEADER;
    match recording.len() {
        0 => Err(Error::Invalid("an empty recording cannot be sent".to_owned())),
        len if len > LONGEST => {
            Err(Error::Invalid(format!("the recording is too long: {len} bytes, {LONGEST} are possible")))
        }
        _ => Ok(Bytes::from([&seconds.to_be_bytes(), recording].concat())),
    }
}

/// Reads `msg_data`. Never fails: what cannot be read is [`Content::Unreadable`].
pub(crate) fn decrypt(msg_type: i32, data: &Bytes) -> Content {
    match MsgType::try_from(msg_type) {
        Ok(MsgType::MsgTypeSingleText | MsgType::MsgTypeGroupText) => Cipher::new(DEFAULT_KEY).decrypt(data).map_or(
            Content::Unreadable,
            // One foreign client cuts long texts within a character (spec/security.md §1).
            |plain| Content::Text(String::from_utf8_lossy(&plain).into_owned()),
        ),
        Ok(MsgType::MsgTypeSingleAudio | MsgType::MsgTypeGroupAudio) => match data.split_first_chunk::<4>() {
            Some((seconds, _)) => Content::Voice { seconds: u32::from_be_bytes(*seconds), samples: data.slice(4..) },
            None => Content::Unreadable,
        },
        Err(_) => Content::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_is_told_is_the_limit() {
        assert_eq!(encrypt(&"a".repeat(LONGEST)).unwrap().len(), MAX_TEXT);
        let error = encrypt(&"a".repeat(LONGEST + 1)).unwrap_err();
        assert!(error.to_string().contains("3069 bytes, 3068 are possible"), "{error}");
    }

    #[test]
    fn a_recording_reads_as_it_was_written_up_to_the_limit() {
        let longest = vec![0xff; MAX_VOICE - VOICE_HEADER];
        for recording in [&b"\0"[..], &longest] {
            let body = voice(65, recording).unwrap();
            let samples = Bytes::copy_from_slice(recording);
            assert_eq!(decrypt(MsgType::MsgTypeSingleAudio as i32, &body), Content::Voice { seconds: 65, samples });
        }
        assert!(voice(1, &[]).is_err() && voice(1, &[&longest[..], b"x"].concat()).is_err());
    }
}
