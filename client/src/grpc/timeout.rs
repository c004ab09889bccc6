//! `grpc-timeout`: durations as text.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The most digits that a timeout may have.
const MAX_DIGITS: usize = 8;

/// The timeout of a request. One that can't be read is none: the call is then not bounded, as
/// in every other gRPC server.
pub(super) fn read(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let valid =
        (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| valid)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// A timeout in the finest unit in which it fits, never longer than it is.
pub(super) fn write(timeout: Duration) -> String {
    let most = 10u128.pow(8) - 1;
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (timeout.as_secs().into(), 'S'),
        (u128::from(timeout.as_secs() / 60), 'M'),
    ];
    let fits = units.into_iter().find(|(number, _)| *number <= most);
    let (number, unit) = fits.unwrap_or((u128::from(timeout.as_secs() / 3600).min(most), 'H'));
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, text.parse().ok()?);
        read(&headers)
    }

    #[test]
    fn the_units_of_the_protocol_are_read() {
        let second = Duration::from_secs(1);
        let units = [("2H", 7200 * second), ("3M", 180 * second), ("4S", 4 * second)];
        let small = [("5m", second / 200), ("6u", 6 * second / 1_000_000)];
        for (text, timeout) in units.into_iter().chain(small) {
            assert_eq!(parsed(text), Some(timeout), "{text}");
        }
        for wrong in ["", "S", "5", "-1S", "5s", "123456789S", "1.5S", " 5S"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_never_longer(nanos in any::<u64>(), small in 0..10u32) {
            let timeout = Duration::from_nanos(nanos) / 10u32.pow(small);
            let back = parsed(&write(timeout)).expect("it is well formed");
            prop_assert!(back <= timeout, "{back:?} of {timeout:?}");
            // Units are a thousand apart, and eight digits fit: little is lost.
            prop_assert!(timeout - back <= timeout / 100_000 + Duration::from_nanos(1));
        }
    }
}
