//! A stream from a hostile peer: cut into PDUs, each decoded as its command says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tt_proto::command::Visitor;
use tt_proto::pdu::{self, MAX_FROM_CLIENT, PduRef};
use tt_proto::{Body, Command};

/// What decodes must encode, and from then on stay what it is.
struct RoundTrip<'a>(PduRef<'a>);

impl Visitor for RoundTrip<'_> {
    type Output = ();
    fn visit<M: Body>(self) {
        let Ok(message) = self.0.decode::<M>() else {
            return;
        };
        let once = pdu::encode(self.0.header.seq, &message);
        let again: M = PduRef::parse(&once).expect("our own frame").decode().expect("our own body");
        assert_eq!(pdu::encode(self.0.header.seq, &again), once);
    }
}

fuzz_target!(|stream: &[u8]| {
    let mut rest = stream;
    while let Ok(Some(length)) = pdu::frame_len(rest, MAX_FROM_CLIENT) {
        assert_eq!(pdu::frame_len(&rest[..length - 1], MAX_FROM_CLIENT), Ok(None), "a byte short");
        let (frame, tail) = rest.split_at(length);
        let pdu = PduRef::parse(frame).expect("frame_len cut it out");
        assert_eq!(pdu.to_bytes(), frame);
        if let Ok(command) = Command::try_from(pdu.header.command) {
            command.visit(RoundTrip(pdu));
        }
        rest = tail;
    }
});
