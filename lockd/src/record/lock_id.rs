//! A lock's namespace and name, as one path.

use std::{borrow::Borrow, fmt, sync::Arc};

use lockd_proto::{LockName, Namespace};
use serde::{Deserialize, Serialize};

/// A lock: its namespace and name, as one path `<namespace> NUL <name>`, which sorts locks by
/// namespace and then by name. Names hold no control characters, so NUL ends a namespace without
/// doubt. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockId {
    path: Arc<str>,
}

impl LockId {
    /// The lock of this name.
    #[must_use]
    pub fn new(namespace: &Namespace, name: &LockName) -> Self {
        let path = prefix_path(namespace, name.as_str()).into();
        Self { path }
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    /// Whether its path starts with `prefix`, as made by `prefix_path`.
    #[must_use]
    pub fn is_under(&self, prefix: &str) -> bool {
        self.path.starts_with(prefix)
    }

    fn parts(&self) -> (&str, &str) {
        self.path.split_once('\0').unwrap_or_default()
    }
}

impl Borrow<str> for LockId {
    fn borrow(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace(), self.name())
    }
}

impl fmt::Debug for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockId({self})")
    }
}

/// What the paths of all locks of a namespace start with whose names start with `prefix`.
#[must_use]
pub(crate) fn prefix_path(namespace: &Namespace, prefix: &str) -> String {
    format!("{namespace}\0{prefix}")
}
