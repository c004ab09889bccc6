//! Which versions of etcd are safe to stand on.

use crate::log::LogError;

/// What is to be done about a member's version.
#[derive(Debug, PartialEq, Eq)]
enum VersionVerdict {
    Good,
    /// It works, and has known faults.
    Old(&'static str),
    /// It may lose, corrupt or misreport data.
    Refused(&'static str),
}

/// Judges a version such as "3.5.30". 3.5.0 to 3.5.2 can corrupt data; a watch of 3.5.3 to 3.5.7 can
/// report progress that its events have not made; below 3.5.28 and 3.6.9 a stalled leader can revoke
/// live leases and keepalives can be acknowledged in vain.
fn judge(version: &str) -> VersionVerdict {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().ok());
    let mut next = || parts.next().flatten();
    match (next(), next(), next()) {
        (Some(3), Some(5), Some(0..=2)) => {
            VersionVerdict::Refused("it can corrupt data: upgrade to 3.5.28 or later")
        }
        (Some(3), Some(5), Some(3..=7)) => VersionVerdict::Refused(
            "its watches can misreport progress: upgrade to 3.5.28 or later",
        ),
        (Some(3), Some(5), Some(patch)) if patch < 28 => {
            VersionVerdict::Old("upgrade to 3.5.28 or later")
        }
        (Some(3), Some(6), Some(patch)) if patch < 9 => {
            VersionVerdict::Old("upgrade to 3.6.9 or later")
        }
        (Some(3), Some(0..=4), Some(_)) => {
            VersionVerdict::Refused("it is out of support: upgrade to 3.5.28 or later")
        }
        _ => VersionVerdict::Good,
    }
}

/// Refuses a version that is not safe, and warns of one with known faults.
pub(super) fn check(url: &str, version: &str) -> Result<(), LogError> {
    match judge(version) {
        VersionVerdict::Good => Ok(()),
        VersionVerdict::Old(advice) => {
            tracing::warn!(url, version, "this etcd has known faults with leases: {advice}");
            Ok(())
        }
        VersionVerdict::Refused(why) => {
            Err(LogError::Broken(format!("etcd {version} at {url} is not safe to use: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_where_the_faults_end() {
        for good in ["3.5.28", "3.5.30", "3.6.9", "3.7.0-rc.1"] {
            assert_eq!(judge(good), VersionVerdict::Good, "{good}");
        }
        for old in ["3.5.8", "3.5.27", "3.6.8"] {
            assert!(matches!(judge(old), VersionVerdict::Old(_)), "{old}");
        }
        for refused in ["3.5.0", "3.5.2", "3.5.3", "3.5.7", "3.4.23"] {
            assert!(matches!(judge(refused), VersionVerdict::Refused(_)), "{refused}");
        }
    }
}
