//! When a delivery that failed is tried again, and when no more.
//!
//! In: how often it was tried, and what the receiver asked for (`Retry-After`). Out: the wait, or
//! none when the schedule is used up. Waits are spread by chance, so that what failed together
//! does not come back together. A receiver may ask for a longer wait, but not for a shorter one,
//! which would be a way to be flooded, and for a day at most, which would be a way to be waited
//! for without end.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

use crate::retry;

/// A receiver that asks for a longer wait is tried after this one.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// How HTTP writes a date: as it should, and the two ways of old that are still to be read
/// (RFC 9110, 5.6.7).
const HTTP_DATES: [&str; 3] =
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// The waits between the tries of a delivery (`WEBHOOK_RETRY_SCHEDULE`).
#[derive(Clone, Debug)]
pub struct Schedule {
    waits: Vec<Duration>,
}

impl Schedule {
    pub fn new(waits: &[Duration]) -> Self {
        Self { waits: waits.to_vec() }
    }

    /// How often a delivery is tried in all.
    pub fn tries(&self) -> usize {
        self.waits.len() + 1
    }

    /// The wait after a try that failed and had `tried` tries before it; `retry_after` is what
    /// the receiver asked for. None: it was the last.
    pub fn next_wait(&self, tried: usize, retry_after: Option<Duration>) -> Option<Duration> {
        let wait = retry::spread(*self.waits.get(tried)?);
        let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        Some(wait.max(asked))
    }
}

/// What a `Retry-After` asks for: seconds, or a date. A date that has passed asks for nothing.
pub fn parse_retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than a number holds are more than a day.
        return Some(text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs));
    }
    let date = HTTP_DATES.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
    Some((date.and_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn each_try_waits_for_its_own_time_spread_by_a_fifth() {
        let schedule = Schedule::new(&[Duration::from_secs(5), HOUR]);
        assert_eq!(schedule.tries(), 3);
        let mut waits = Vec::new();
        for _ in 0..200 {
            let first = schedule.next_wait(0, None).unwrap();
            assert!((4.0..=6.0).contains(&first.as_secs_f64()), "{first:?}");
            let second = schedule.next_wait(1, None).unwrap();
            assert!((2880.0..=4320.0).contains(&second.as_secs_f64()), "{second:?}");
            waits.push(second);
        }
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*most - *least > HOUR / 10, "not spread: {least:?} to {most:?}");
        assert_eq!(schedule.next_wait(2, None), None);
        assert_eq!(schedule.next_wait(2, Some(HOUR)), None);
    }

    #[test]
    fn a_receiver_may_ask_for_longer_up_to_a_day_and_not_for_less() {
        let schedule = Schedule::new(&[HOUR]);
        let next = |asked| schedule.next_wait(0, Some(Duration::from_secs(asked))).unwrap();
        assert!(next(1) >= HOUR * 4 / 5);
        assert_eq!(next(7200), HOUR * 2);
        assert_eq!(next(u64::MAX), MAX_RETRY_AFTER);
    }

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_read() {
        let now = "1994-11-06T08:49:00Z".parse().unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(37)),
            ("Sun Nov  6 08:49:37 1994", Some(37)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("99999999999999999999999", Some(86_400)),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
        ] {
            let read = parse_retry_after(text, now);
            assert_eq!(read, seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
