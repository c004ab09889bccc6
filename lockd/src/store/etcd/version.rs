//! Which versions of etcd are safe to stand on.

use crate::store::StoreError;

/// What is to be done about a member's version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// It works, and has known faults.
    Old(&'static str),
    /// It may lose or corrupt data.
    Refused(&'static str),
}

/// Judges a version such as "3.5.30". 3.5.0 to 3.5.2 can corrupt data; below 3.5.28 and 3.6.9
/// a stalled leader can revoke live leases and keepalives can be acknowledged in vain.
pub(super) fn judge(version: &str) -> Verdict {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().ok());
    let mut next = || parts.next().flatten();
    match (next(), next(), next()) {
        (Some(3), Some(5), Some(0..=2)) => {
            Verdict::Refused("it can corrupt data: upgrade to 3.5.28 or later")
        }
        (Some(3), Some(5), Some(patch)) if patch < 28 => Verdict::Old("upgrade to 3.5.28 or later"),
        (Some(3), Some(6), Some(patch)) if patch < 9 => Verdict::Old("upgrade to 3.6.9 or later"),
        (Some(3), Some(0..=4), Some(_)) => {
            Verdict::Refused("it is out of support: upgrade to 3.5.28 or later")
        }
        _ => Verdict::Good,
    }
}

/// Refuses a version that is not safe, and warns of one with known faults.
pub(super) fn check(url: &str, version: &str) -> Result<(), StoreError> {
    match judge(version) {
        Verdict::Good => Ok(()),
        Verdict::Old(advice) => {
            tracing::warn!(url, version, "this etcd has known faults with leases: {advice}");
            Ok(())
        }
        Verdict::Refused(why) => {
            Err(StoreError::Broken(format!("etcd {version} at {url} is not safe to use: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_where_the_faults_end() {
        assert_eq!(judge("3.5.28"), Verdict::Good);
        assert_eq!(judge("3.5.30"), Verdict::Good);
        assert_eq!(judge("3.6.9"), Verdict::Good);
        assert_eq!(judge("3.7.0-rc.1"), Verdict::Good);
        assert!(matches!(judge("3.5.27"), Verdict::Old(_)));
        assert!(matches!(judge("3.6.8"), Verdict::Old(_)));
        for refused in ["3.5.0", "3.5.2", "3.4.23"] {
            assert!(matches!(judge(refused), Verdict::Refused(_)), "{refused}");
        }
    }
}
