//! Where an acquire stands in its queue.

use std::fmt;

use lockd_proto::v1;

/// Where an acquire stands in its queue, as the server last reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The holder's name and token.
    pub(crate) holder: Option<(String, u64)>,
    /// How many are ahead, the holder included.
    pub(crate) ahead: u32,
}

impl Place {
    /// Where an acquire stands, unless nothing is known about it.
    pub(crate) fn from_wire(holder: Option<v1::Entry>, ahead: u32) -> Option<Self> {
        let holder = holder.map(|entry| {
            let client = entry.client.unwrap_or_default();
            let names = [client.name, client.host, entry.session_id];
            let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
            (name, entry.token)
        });
        (holder.is_some() || ahead > 0).then_some(Self { holder, ahead })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, token)) = &self.holder {
            write!(f, "held by {name}, token {token}, ")?;
        }
        write!(f, "{} ahead", self.ahead)
    }
}
