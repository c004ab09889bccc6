//! Lock names and namespaces: parsed once at the edge, valid ever after.
//!
//! The rules keep every name printable and unambiguous as a key: control characters are
//! refused, so the store's key layout can use NUL as a separator that no name contains.

use std::{fmt, str::FromStr};

/// The longest name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 512;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing in it.
    #[error("{what} is empty: give it 1 to 512 bytes")]
    Empty {
        /// "lock name" or "namespace".
        what: &'static str,
    },
    /// More than [`MAX_NAME_BYTES`].
    #[error("{what} has {bytes} bytes: at most 512 are allowed")]
    TooLong {
        /// "lock name" or "namespace".
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A character that can't be printed.
    #[error("{what} {name:?} has a control character at byte {at}: use printable characters")]
    ControlCharacter {
        /// "lock name" or "namespace".
        what: &'static str,
        /// The name.
        name: String,
        /// The byte where the character starts.
        at: usize,
    },
    /// A part between slashes that is empty or made of dots only.
    #[error(
        "{what} {name:?} has the part {part:?}: parts between '/' must not be empty or only dots"
    )]
    BadPart {
        /// "lock name" or "namespace".
        what: &'static str,
        /// The name.
        name: String,
        /// The part.
        part: String,
    },
}

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > MAX_NAME_BYTES {
        let bytes = name.len();
        return Err(NameError::TooLong { what, bytes });
    }
    if let Some((at, _)) = name.char_indices().find(|(_, c)| c.is_control()) {
        let name = name.to_owned();
        return Err(NameError::ControlCharacter { what, name, at });
    }
    match name.split('/').find(|part| part.chars().all(|c| c == '.')) {
        None => Ok(()),
        Some(part) => {
            Err(NameError::BadPart { what, name: name.to_owned(), part: part.to_owned() })
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// Checks the naming rules: UTF-8, 1 to 512 bytes, no control characters, and
            /// no part between slashes that is empty or only dots.
            ///
            /// # Errors
            /// [`NameError`] says which rule is broken, and where.
            pub fn parse(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check($what, &name)?;
                Ok(Self(name))
            }

            /// The name as given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::parse(name)
            }
        }
    };
}

name!(
    /// The name of a lock within its namespace, such as `orders/42`.
    LockName,
    "lock name"
);
name!(
    /// A namespace: locks in different namespaces never meet.
    Namespace,
    "namespace"
);

impl Namespace {
    /// Parses a namespace as the wire carries it, where empty means `default`.
    ///
    /// # Errors
    /// As [`Namespace::parse`].
    pub fn parse_or_default(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Ok(Self::default());
        }
        Self::parse(name)
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_accepted() {
        for name in ["a", "orders/42", "a b", "ü/日本", ".hidden", "a..b", &"x".repeat(512)] {
            assert!(LockName::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_be_misread_are_refused() {
        for name in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a\0b", "a\nb", "a\u{85}b"] {
            assert!(LockName::parse(name).is_err(), "{name:?}");
        }
        assert!(LockName::parse("x".repeat(513)).is_err());
    }

    #[test]
    fn the_error_names_the_rule() {
        let error = LockName::parse("a/../b").unwrap_err().to_string();
        assert_eq!(
            error,
            r#"lock name "a/../b" has the part "..": parts between '/' must not be empty or only dots"#
        );
    }
}
