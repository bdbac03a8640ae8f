//! The hours of the night in which pushes are held back from whoever asked for that.

use std::time::Duration;

use serde::Deserialize;

/// From one full hour of the server's local time to another, across midnight if the second is the
/// smaller one. The same hour twice: never.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct QuietHours {
    /// The first quiet hour, 0 to 23.
    pub from: u8,
    /// The first hour that is not quiet any more, 0 to 23.
    pub to: u8,
}

impl Default for QuietHours {
    /// 22:00 to 07:59, as ever.
    fn default() -> Self {
        Self { from: 22, to: 8 }
    }
}

impl QuietHours {
    pub(crate) fn include(self, hour: u8) -> bool {
        if self.from <= self.to { (self.from..self.to).contains(&hour) } else { hour >= self.from || hour < self.to }
    }
}

/// The hour of the day at a time since 1970, in this machine's time zone.
pub(crate) fn hour(time: Duration) -> u8 {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        // Beyond the calendar no night is better than a wrong one.
        .map_or(12, |time| time.to_zoned(jiff::tz::TimeZone::system()).hour().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_night_is_from_ten_to_eight() {
        let night: Vec<u8> = (0..24).filter(|hour| QuietHours::default().include(*hour)).collect();
        assert_eq!(night, [0, 1, 2, 3, 4, 5, 6, 7, 22, 23]);
    }

    #[test]
    fn hours_of_one_day_and_no_hours() {
        let siesta = QuietHours { from: 13, to: 15 };
        assert_eq!((0..24).filter(|hour| siesta.include(*hour)).collect::<Vec<_>>(), [13, 14]);
        assert!(!(0..24).any(|hour| QuietHours { from: 5, to: 5 }.include(hour)));
    }
}
