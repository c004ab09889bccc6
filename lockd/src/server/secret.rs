//! The secret of a session: what proves that a caller owns it. The core sees its hash only.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::core::error::Error;

/// The bytes of a secret.
const BYTES: usize = 32;

/// A secret. Never shown, never logged.
pub(super) struct SessionSecret(String);

impl SessionSecret {
    /// A secret as a client sent it.
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// A new one, of 32 random bytes.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn random() -> Result<Self, Error> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(|error| Error::NoRandomness(error.to_string()))?;
        Ok(Self(hex::encode(bytes)))
    }

    /// Whether a client has made it of enough random bytes, as far as its form says.
    pub(super) fn is_well_formed(&self) -> bool {
        self.0.len() == 2 * BYTES && self.0.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// For the one message that carries it.
    pub(super) fn reveal(self) -> String {
        self.0
    }

    /// What the log keeps of it.
    pub(super) fn hash(&self) -> [u8; BYTES] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(***)")
    }
}
