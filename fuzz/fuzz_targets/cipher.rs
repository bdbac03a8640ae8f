//! The message cipher: as cipher text any input is refused or deciphers, as plain text it comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tt_proto::cipher::Cipher;

fuzz_target!(|input: &[u8]| {
    let cipher = Cipher::default();
    for text in [Ok(input.to_vec()), cipher.decrypt(input)].into_iter().flatten() {
        match cipher.encrypt(&text) {
            Ok(enciphered) => assert_eq!(cipher.decrypt(enciphered.as_bytes()), Ok(text)),
            Err(_) => assert!(text.is_empty()),
        }
    }
});
