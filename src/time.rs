//! Deadlines on the monotonic clock, and wall-clock time as manifests write it.
//!
//! Nothing below the edge reads a clock: it is handed the time, so that tests own it.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// A point on the monotonic clock after which an operation must have ended.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline that lies `budget` from now.
    pub fn after(budget: Duration) -> Self {
        let now = Instant::now();
        // An hour is what remains when the sum cannot be represented at all.
        Self(now.checked_add(budget).unwrap_or(now + Duration::from_secs(3600)))
    }

    /// This deadline, or the one `budget` from now, whichever comes first.
    pub fn or_after(self, budget: Duration) -> Self {
        Self(self.0.min(Self::after(budget).0))
    }

    /// What is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is left.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The point itself.
    pub fn instant(self) -> Instant {
        self.0
    }
}

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The system clock; a clock set before 1970 reads as 1970.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    /// Parses RFC 3339's `date-time`; fractions of a second are dropped.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = bytes.get(from..to)?;
            digits.iter().all(u8::is_ascii_digit).then_some(())?;
            text.get(from..to)?.parse().ok()
        };
        let is = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|b| allowed.contains(b));
        (is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":")).then_some(())?;
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in_month = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + i64::from(leap),
            _ => return None,
        };
        // Second 60 is a leap second (RFC 3339, section 5.6).
        let valid = (1..=days_in_month).contains(&day) && hour < 24 && minute < 60 && second <= 60;
        valid.then_some(())?;

        let mut zone = 19;
        if is(zone, b".") {
            let fraction = bytes.get(zone + 1..)?.iter().take_while(|b| b.is_ascii_digit()).count();
            (fraction > 0).then_some(())?;
            zone += 1 + fraction;
        }
        let offset_minutes = match bytes.get(zone)? {
            b'Z' | b'z' => {
                (bytes.len() == zone + 1).then_some(())?;
                0
            }
            sign @ (b'+' | b'-') => {
                let (hours, minutes) = (number(zone + 1, zone + 3)?, number(zone + 4, zone + 6)?);
                let valid = is(zone + 3, b":") && bytes.len() == zone + 6 && hours < 24 && minutes < 60;
                valid.then_some(())?;
                let magnitude = hours * 60 + minutes;
                if *sign == b'-' { -magnitude } else { magnitude }
            }
            _ => return None,
        };
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
            - offset_minutes * 60;
        u64::try_from(seconds).ok().map(Self)
    }
}

/// RFC 3339 in UTC, to the second.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = i64::try_from(self.0 / 86_400).unwrap_or(i64::MAX / 2);
        let seconds = self.0 % 86_400;
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Days between 1970-01-01 and a date of the proleptic Gregorian calendar. The year starts in March
/// here, so that the leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_with_known_seconds() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-26T12:34:56Z", 1_795_696_496),
            ("2026-11-26T12:34:56.789Z", 1_795_696_496),
            ("2026-11-26T13:34:56+01:00", 1_795_696_496),
            ("2026-11-26T07:04:56-05:30", 1_795_696_496),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(UnixTime::parse_rfc3339(text), Some(UnixTime(seconds)), "{text}");
        }
    }

    #[test]
    fn not_dates() {
        for text in [
            "",
            "now",
            "2026-11-26",
            "2026-11-26T12:34:56",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-26T24:00:00Z",
            "2026-11-26T12:34:56ZZ",
            "2026-11-26T12:34:56+1:00",
            "2026-11-26T12:34:56.Z",
            "+026-11-26T12:34:56Z",
            "1969-12-31T23:59:59Z",
            "２026-11-26T12:34:56Z",
        ] {
            assert_eq!(UnixTime::parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(seconds in 0u64..253_402_300_800) {
            let time = UnixTime(seconds);
            prop_assert_eq!(UnixTime::parse_rfc3339(&time.to_string()), Some(time));
        }

        #[test]
        fn parse_never_panics(text in "\\PC{0,40}") {
            let _ = UnixTime::parse_rfc3339(&text);
        }
    }
}
