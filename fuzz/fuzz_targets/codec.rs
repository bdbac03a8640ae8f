//! The framing decoders: every byte is consumed once, frames lie within what they
//! consume, and where the input is cut makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlib::codec::{Decode, FrameError, LengthPrefixed, LengthWidth, Lines};

fn all(decoder: &mut impl Decode, input: &[u8]) -> Result<Vec<Vec<u8>>, FrameError> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(frame) = decoder.decode(&input[at..])? {
        assert!(frame.consumed > 0 && frame.body.end <= frame.consumed);
        frames.push(input[at + frame.body.start..at + frame.body.end].to_vec());
        at += frame.consumed;
    }
    Ok(frames)
}

fn byte_by_byte(decoder: &mut impl Decode, input: &[u8]) -> Result<Vec<Vec<u8>>, FrameError> {
    let (mut frames, mut begin) = (Vec::new(), 0);
    for end in 1..=input.len() {
        while let Some(frame) = decoder.decode(&input[begin..end])? {
            frames.push(input[begin + frame.body.start..begin + frame.body.end].to_vec());
            begin += frame.consumed;
        }
    }
    Ok(frames)
}

fuzz_target!(|input: &[u8]| {
    let lines = || Lines::new(64);
    assert_eq!(all(&mut lines(), input), byte_by_byte(&mut lines(), input));
    for width in [LengthWidth::Two, LengthWidth::Four, LengthWidth::Eight] {
        let prefixed = || LengthPrefixed::new(width, 300).min(1);
        assert_eq!(all(&mut prefixed(), input), byte_by_byte(&mut prefixed(), input));
        let counting = || LengthPrefixed::new(width, 300).counting_itself();
        assert_eq!(all(&mut counting(), input), byte_by_byte(&mut counting(), input));
    }
});
