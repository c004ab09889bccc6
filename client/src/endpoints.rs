//! The addresses of the servers, and connections to them. Which address is tried when is
//! decided by those who connect.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::error::{ErrorKind, Fault};

/// How often a connection is probed, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The most addresses of one client.
const MAX_ADDRESSES: usize = 64;

/// How a connection is made; tests put a connection in memory here.
pub(crate) type Dial =
    Arc<dyn Fn(Endpoint) -> BoxFuture<'static, Result<Channel, Fault>> + Send + Sync>;

/// The servers of one client, never none.
pub(crate) struct Endpoints {
    list: Vec<(String, Endpoint)>,
    preferred: AtomicUsize,
    dial: Dial,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list.iter().map(|(name, _)| name)).finish()
    }
}

impl Endpoints {
    /// Parses addresses separated by commas. Without a scheme, `http://` is meant.
    pub(crate) fn parse(
        addresses: &str,
        connect_timeout: Duration,
        dial: Dial,
    ) -> Result<Self, Fault> {
        let names = addresses.split(',').map(str::trim).filter(|name| !name.is_empty());
        let list =
            names.map(|name| endpoint(name, connect_timeout)).collect::<Result<Vec<_>, _>>()?;
        if list.is_empty() {
            let message = "no address is given: expected such as http://127.0.0.1:7420";
            return Err(Fault::new(ErrorKind::Configuration, message));
        }
        if list.len() > MAX_ADDRESSES {
            let message = format!("{} addresses are given: at most 64 are allowed", list.len());
            return Err(Fault::new(ErrorKind::Configuration, message));
        }
        Ok(Self { list, preferred: AtomicUsize::new(0), dial })
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The turn at which to start.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The address of this turn has answered: others start there.
    pub(crate) fn prefer(&self, turn: usize) {
        self.preferred.store(turn % self.len(), Ordering::Relaxed);
    }

    /// The address of this turn did not answer: others start at the next one.
    pub(crate) fn avoid(&self, turn: usize) {
        let (turn, next) = (turn % self.len(), (turn + 1) % self.len());
        // A concurrent call may move on between the load and the store, which is as good.
        if self.preferred() == turn {
            self.preferred.store(next, Ordering::Relaxed);
        }
    }

    /// The address whose turn it is; turns go round.
    pub(crate) fn name(&self, turn: usize) -> &str {
        self.list.get(turn % self.len()).map_or("", |(name, _)| name)
    }

    /// Makes a new connection to the address whose turn it is.
    pub(crate) fn dial(&self, turn: usize) -> BoxFuture<'static, Result<Channel, Fault>> {
        match self.list.get(turn % self.len()) {
            Some((_, endpoint)) => (self.dial)(endpoint.clone()),
            None => Box::pin(async { Err(Fault::unavailable("no address")) }),
        }
    }
}

/// Connects over the network.
pub(crate) fn network() -> Dial {
    Arc::new(|endpoint| {
        Box::pin(async move { endpoint.connect().await.map_err(Fault::connection) })
    })
}

fn endpoint(name: &str, connect_timeout: Duration) -> Result<(String, Endpoint), Fault> {
    let url = if name.contains("://") { name.to_owned() } else { format!("http://{name}") };
    let bad = |why: &dyn fmt::Display| {
        let message = format!("address {name:?}: {why}; expected such as http://127.0.0.1:7420");
        Fault::new(ErrorKind::Configuration, message)
    };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| bad(&error))?;
    let tls = match endpoint.uri().scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad(&"the scheme must be http or https")),
    };
    let endpoint = endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    if !tls {
        return Ok((url, endpoint));
    }
    let config = ClientTlsConfig::new().with_native_roots();
    Ok((url, endpoint.tls_config(config).map_err(|error| bad(&error))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(addresses: &str) -> Result<Endpoints, Fault> {
        Endpoints::parse(addresses, Duration::from_secs(1), network())
    }

    #[tokio::test]
    async fn a_scheme_is_optional_and_spaces_do_not_matter() {
        let endpoints = parse("127.0.0.1:7420, http://b:1 ,").unwrap();
        assert_eq!(endpoints.len(), 2);
        assert_eq!(endpoints.name(0), "http://127.0.0.1:7420");
        assert_eq!(endpoints.name(3), "http://b:1");
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for addresses in ["", " , ", "ftp://a", "http://", "a b"] {
            let fault = parse(addresses).unwrap_err();
            assert_eq!(fault.kind, ErrorKind::Configuration, "{addresses:?}");
            assert!(fault.message.contains("http://127.0.0.1:7420"), "{}", fault.message);
        }
    }
}
