//! Servers that lockd is measured beside: on the host's network and disk, as lockd itself is, so that
//! no address translation and no file system of a container stands between them and the clients.

use std::net::TcpListener;

use testcontainers::core::Mount;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::net::TcpStream;

use crate::docker::{RUN_LABEL, run_name};
use crate::etcd::{START, answers};
use crate::eventually;
use crate::image::Image;

/// Where they keep their data in the container, on a volume: a disk, where every write is synced.
const DATA: &str = "/peer-data";

/// Running servers. They go away with their value.
pub struct Peer {
    _containers: Vec<ContainerAsync<GenericImage>>,
    addresses: Vec<String>,
}

impl Peer {
    /// An etcd cluster of so many members.
    ///
    /// # Panics
    /// When it does not come up in time.
    pub async fn etcd(members: usize) -> Self {
        let ports: Vec<_> = (0..members).map(|_| (free_port(), free_port())).collect();
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<_> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}={}", url(*peer))).collect();
        let mut containers = Vec::new();
        for (n, (client, peer)) in ports.iter().enumerate() {
            let command = [
                "/usr/local/bin/etcd".to_owned(),
                format!("--name=m{n}"),
                format!("--data-dir={DATA}"),
                format!("--listen-client-urls={}", url(*client)),
                format!("--advertise-client-urls={}", url(*client)),
                format!("--listen-peer-urls={}", url(*peer)),
                format!("--initial-advertise-peer-urls={}", url(*peer)),
                format!("--initial-cluster={}", peers.join(",")),
                "--log-level=error".to_owned(),
            ];
            containers.push(start(Image::Etcd, command, None).await);
        }
        let addresses: Vec<_> = ports.iter().map(|(client, _)| url(*client)).collect();
        for address in &addresses {
            answers(address).await;
        }
        Self { _containers: containers, addresses }
    }

    /// A Redis that syncs its log before it answers.
    ///
    /// # Panics
    /// When it does not come up in time.
    pub async fn redis() -> Self {
        let port = free_port().to_string();
        let flags = ["--bind", "127.0.0.1", "--dir", DATA, "--save", "", "--port", &port];
        let durable = ["--appendonly", "yes", "--appendfsync", "always"];
        let command = ["redis-server"].into_iter().chain(flags).chain(durable);
        let container = start(Image::Redis, command.map(str::to_owned), None).await;
        Self::listening(container, format!("127.0.0.1:{port}")).await
    }

    /// A ZooKeeper of one server, as Debian configures its JVM.
    ///
    /// # Panics
    /// When it does not come up in time.
    pub async fn zookeeper() -> Self {
        let port = free_port();
        let configuration = format!(
            "tickTime=2000\ndataDir={DATA}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\nmaxClientCnxns=0\n"
        );
        let command = ["/usr/share/zookeeper/bin/zkServer.sh", "start-foreground"];
        let command = command.map(str::to_owned);
        let container = start(Image::ZooKeeper, command, Some(configuration)).await;
        Self::listening(container, format!("127.0.0.1:{port}")).await
    }

    /// Host and port of each server; URLs of etcd's members.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    async fn listening(container: ContainerAsync<GenericImage>, address: String) -> Self {
        let what = format!("a server listens on {address}");
        eventually(&what, START, async || TcpStream::connect(&address).await).await;
        Self { _containers: vec![container], addresses: vec![address] }
    }
}

async fn start(
    image: Image,
    command: impl IntoIterator<Item = String>,
    zookeeper: Option<String>,
) -> ContainerAsync<GenericImage> {
    let mut request = image
        .generic()
        .with_cmd(command)
        .with_network("host")
        .with_user("0")
        .with_label(RUN_LABEL, run_name())
        // A volume without a name: it goes with the container.
        .with_mount(Mount::volume_mount("", DATA))
        .with_startup_timeout(START);
    if let Some(configuration) = zookeeper {
        request = request.with_copy_to("/etc/zookeeper/conf/zoo.cfg", configuration.into_bytes());
    }
    request.start().await.expect("a container starts")
}

/// A port that no process listens on at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
