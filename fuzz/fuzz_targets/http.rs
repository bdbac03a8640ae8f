//! HTTP from a hostile client, whole and cut somewhere: heads, chunks, ranges, a whole connection;
//! and from a hostile server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlib::http::fuzzing;

fuzz_target!(|input: &[u8]| {
    let Some((&split, message)) = input.split_first() else { return };
    let split = usize::from(split);
    fuzzing::request(message, split);
    fuzzing::response(message);
    fuzzing::chunked(message, split);
    fuzzing::ranges(message, split as u64);
    // It costs sockets: for one input in sixteen.
    if split % 16 == 0 {
        fuzzing::connection(message, split);
    }
});
