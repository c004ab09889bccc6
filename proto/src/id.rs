//! Session and request ids: 16 random bytes each.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// An id that is not 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is malformed: {expected}")]
pub struct IdError {
    what: &'static str,
    expected: &'static str,
}

/// Names a session. 122 random bits, so it can't be guessed; not a secret all the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SessionId([u8; 16]);

/// Names an acquire, so that a retry finds the entry that the first attempt made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RequestId([u8; 16]);

macro_rules! id {
    ($type:ident) => {
        impl $type {
            /// A new random id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4().into_bytes())
            }

            /// The id made of these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }
    };
}

id!(SessionId);
id!(RequestId);

impl FromStr for SessionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError {
            what: "session id",
            expected: "32 hexadecimal digits are expected",
        })?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&[u8]> for RequestId {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| IdError { what: "request id", expected: "16 bytes are expected" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_wire() {
        let session = SessionId::random();
        assert_eq!(session.to_string().parse(), Ok(session));
        let request = RequestId::random();
        assert_eq!(RequestId::try_from(request.as_bytes().as_slice()), Ok(request));
    }

    #[test]
    fn malformed_ids_are_refused() {
        assert!("xyz".parse::<SessionId>().is_err());
        assert!(RequestId::try_from([1u8; 15].as_slice()).is_err());
    }
}
