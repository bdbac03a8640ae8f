//! The header `Range`: which bytes of a whole are asked for. Sans-I/O.

use std::ops::Range;

/// Ranges in one answer. Each costs a head of its own, and nobody in good faith asks for more.
const MAX_RANGES: usize = 16;

/// What a range header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ranges {
    /// All of it: the header is malformed, of another unit, or costs more than the whole.
    Whole,
    /// These parts, in the order in which they were asked for; at least one, none empty.
    Parts(Vec<Range<u64>>),
    /// None of them exists.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a whole of `len` bytes.
pub(super) fn parse(value: &str, len: u64) -> Ranges {
    let Some((unit, list)) = value.split_once('=') else { return Ranges::Whole };
    if !unit.trim_ascii().eq_ignore_ascii_case("bytes") {
        return Ranges::Whole;
    }
    let mut parts = Vec::new();
    let mut asked = 0;
    for item in list.split(',').map(str::trim_ascii).filter(|item| !item.is_empty()) {
        asked += 1;
        let Some(range) = resolve(item, len) else { return Ranges::Whole };
        if asked > MAX_RANGES {
            return Ranges::Whole;
        }
        if !range.is_empty() {
            parts.push(range);
        }
    }
    let total = parts.iter().fold(0_u64, |total, part| total.saturating_add(part.end - part.start));
    match parts.len() {
        0 if asked == 0 => Ranges::Whole,
        0 => Ranges::Unsatisfiable,
        // Overlapping ranges are how a small request is made to cost a large answer.
        2.. if total > len => Ranges::Whole,
        _ => Ranges::Parts(parts),
    }
}

/// One item, cut to what exists; empty if nothing of it does. None: malformed.
fn resolve(item: &str, len: u64) -> Option<Range<u64>> {
    let (first, last) = item.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // One that does not fit lies behind every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        return Some(len.saturating_sub(number(last)?)..len);
    }
    let first: u64 = number(first)?;
    let last: u64 = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    let end = last.saturating_add(1).min(len);
    Some(first.min(end)..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_ranges() {
        let parts = |parts: &[Range<u64>]| Ranges::Parts(parts.to_vec());
        for (value, expected) in [
            ("bytes=0-0", parts(&[0..1])),
            ("bytes=0-99", parts(&[0..100])),
            ("bytes=0-100", parts(&[0..100])),
            ("bytes=0-18446744073709551615", parts(&[0..100])),
            ("bytes=0-99999999999999999999999", parts(&[0..100])),
            ("bytes=99-", parts(&[99..100])),
            ("bytes=-1", parts(&[99..100])),
            ("bytes=-1000", parts(&[0..100])),
            ("Bytes = 5-6 ", parts(&[5..7])),
            ("bytes=0-1, 5-6,,-1", parts(&[0..2, 5..7, 99..100])),
            ("bytes=5-6,0-1", parts(&[5..7, 0..2])),
            ("bytes=0-1,100-", parts(&[0..2])),
            ("bytes=100-", Ranges::Unsatisfiable),
            ("bytes=100-,200-300", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=99999999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes", Ranges::Whole),
            ("lines=0-1", Ranges::Whole),
            ("bytes=2-1", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("bytes=0-1,x", Ranges::Whole),
            ("bytes=0-,0-", Ranges::Whole),
            ("bytes=0-60,50-99", Ranges::Whole),
        ] {
            assert_eq!(parse(value, 100), expected, "{value:?}");
        }
        assert_eq!(parse("bytes=0-", 0), Ranges::Unsatisfiable);
        let many = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
        assert!(matches!(parse(&many(MAX_RANGES), 100), Ranges::Parts(parts) if parts.len() == MAX_RANGES));
        assert_eq!(parse(&many(MAX_RANGES + 1), 100), Ranges::Whole);
    }

    #[test]
    fn what_comes_out_exists_whatever_goes_in() {
        let mut random = crate::clock::SplitMix64::new(3);
        let alphabet = b"0123456789,-= b";
        for _ in 0..20_000 {
            let length = random.next() % 20;
            let list: String =
                (0..length).map(|_| char::from(alphabet[random.next() as usize % alphabet.len()])).collect();
            let len = random.next() % 50;
            if let Ranges::Parts(parts) = parse(&format!("bytes={list}"), len) {
                assert!(!parts.is_empty());
                assert!(parts.iter().all(|part| part.start < part.end && part.end <= len), "{list:?} of {len}");
            }
        }
    }
}
