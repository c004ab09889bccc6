//! Durations as people write them.

use std::time::Duration;

/// Reads a duration such as `1m30s`, or a number of seconds, as flock(1) takes it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_flock_and_as_people_write_them() {
        assert_eq!(parse("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "soon", "-1", "inf", "NaN"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
