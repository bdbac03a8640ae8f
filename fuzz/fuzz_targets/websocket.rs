//! WebSocket from a hostile peer: the head of a handshake in two pieces, and a stream of frames
//! whole and cut, as server and as client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlib::ws::fuzzing;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, input)) = input.split_first() else { return };
    fuzzing::head(input, usize::from(cut));
    fuzzing::frames(input, usize::from(cut));
});
