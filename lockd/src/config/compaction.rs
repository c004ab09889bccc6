//! When etcd's history is compacted.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The least age: a replica whose watch was away for a moment goes on where it was.
const MIN: Duration = Duration::from_secs(10);

const OFF: &str = "off";

/// When lockd compacts etcd's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compaction {
    /// Never: other programs share the cluster and see to it.
    Off,
    /// Once it is this old.
    After(Duration),
}

impl Compaction {
    /// The age; `None` if it is off.
    pub(super) fn after(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::After(age) => Some(age),
        }
    }
}

impl FromStr for Compaction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == OFF {
            return Ok(Self::Off);
        }
        match humantime::parse_duration(text) {
            Ok(age) if age >= MIN => Ok(Self::After(age)),
            Ok(_) => Err(format!("give {MIN:?} or more, or {OFF}")),
            Err(error) => Err(format!("{error}: give a duration such as 1m, or {OFF}")),
        }
    }
}

impl fmt::Display for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::After(age) => humantime::format_duration(*age).fmt(f),
        }
    }
}

impl Serialize for Compaction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Compaction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
