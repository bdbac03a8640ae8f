//! HTTP from a hostile client, whole and in two pieces, and from a hostile server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlib::http::fuzzing;

fuzz_target!(|input: &[u8]| {
    let Some((&split, message)) = input.split_first() else { return };
    fuzzing::request(message, usize::from(split));
    fuzzing::response(message);
});
