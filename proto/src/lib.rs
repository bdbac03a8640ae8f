//! The TeamTalk wire protocol, sans I/O.
//!
//! A connection carries PDUs: a 16-byte header followed by one protobuf message. The header's command says
//! which message it is. This crate turns bytes into messages and back; it opens no socket, reads no clock and
//! keeps no state.
//!
//! | to | see |
//! |---|---|
//! | find the end of a PDU in a stream, read its header, build one | [`pdu`] |
//! | know what a command is, what it carries, who may send it to whom | [`command`] |
//! | use the messages themselves | [`im`], one module per published package |
//! | correlate a reply with its request across server links | [`Attach`] |
//! | know what a message may carry | [`content`] |
//! | encipher the text of a message | [`cipher`] |
//! | digest a password | [`password`] |
//!
//! ```
//! use tt_proto::im::message::ImClientTimeRsp;
//! use tt_proto::pdu::{self, PduRef};
//! use tt_proto::{Body, Command};
//!
//! let frame = pdu::encode(7, &ImClientTimeRsp { server_time: 1_700_000_000 });
//!
//! assert_eq!(pdu::frame_len(&frame[..10], pdu::MAX_TO_CLIENT), Ok(None)); // more to come
//! assert_eq!(pdu::frame_len(&frame, pdu::MAX_TO_CLIENT), Ok(Some(frame.len())));
//!
//! let pdu = PduRef::parse(&frame)?;
//! assert_eq!(pdu.header.seq, 7);
//! match Command::try_from(pdu.header.command) {
//!     Ok(Command::ClientTimeRsp) => {
//!         let body: ImClientTimeRsp = pdu.decode()?;
//!         assert_eq!(body.server_time, 1_700_000_000);
//!     }
//!     Ok(other) => println!("{} is not for us", other.info().name),
//!     Err(unknown) => println!("{unknown}"), // ignored, the connection stays
//! }
//! # assert_eq!(ImClientTimeRsp::COMMAND, Command::ClientTimeRsp);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What decoding accepts
//!
//! The protocol is proto2 and most fields are `required`. Decoding is lenient, because the 2015 servers
//! themselves leave required fields out of some replies:
//!
//! - a missing required field reads as its default: 0, the empty string, the first value of an enum;
//! - an unknown enum number is kept in the field (an `i32`) and written back as it was; the accessor of the
//!   same name returns the enum's default for it, so code that decides by an enum uses
//!   `ClientType::try_from(req.client_type)`;
//! - unknown fields are skipped and *not* written back: a server that passes a PDU on sends the original
//!   bytes ([`pdu::PduRef::to_bytes`]) or loses what newer peers added.
//!
//! Encoding is complete: a required field is always written, whatever its value.
//!
//! `Debug` of a message shows no password, token or text, so a log line may print one.
#![warn(missing_docs)]

pub mod attach;
pub mod cipher;
pub mod command;
pub mod content;
pub mod password;
pub mod pdu;
mod redact;

pub use attach::Attach;
pub use command::{Body, Command, CommandInfo, Party, UnknownCommand};

/// The messages and enums, generated from `proto/*.proto`; each file is a module named after its package.
///
/// Names are those of the `.proto` files in Rust's spelling: `IMMsgData` is [`im::message::ImMsgData`],
/// `CLIENT_TYPE_MAC` is [`im::base_define::ClientType::ClientTypeMac`].
#[doc(inline)]
pub use generated::im;

#[allow(missing_docs, unused_qualifications, unreachable_pub, clippy::pedantic, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/im.rs"));
}
