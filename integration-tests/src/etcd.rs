//! One real etcd in a container: the one that all tests of a process share, or one of a test's own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, ResponseHeader, StatusResponse};
use testcontainers::core::{ContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};
use tokio::sync::OnceCell;

use crate::docker::{RUN_LABEL, docker, run_name};
use crate::eventually;
use crate::image::Image;

/// Where etcd keeps its data in the container.
pub(crate) const DATA_DIR: &str = "/etcd-data";
/// Where a snapshot lies in the container.
const SNAPSHOT: &str = "/tmp/snapshot";
/// How long a member may take to answer; a machine under load is slow to start a container.
pub(crate) const START: Duration = Duration::from_secs(30);

/// A real etcd of one member. It goes away with its value, the shared one with the process.
pub struct Etcd {
    container: ContainerAsync<GenericImage>,
    endpoint: String,
}

/// What an [`Etcd`] is started with beyond the defaults.
#[derive(Default)]
#[must_use = "nothing runs before start()"]
pub struct EtcdBuilder {
    args: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    snapshot: Option<Vec<u8>>,
}

impl Etcd {
    /// The etcd that all tests of this process share. Its data is in memory: a test that restarts etcd
    /// needs one of its own. Tests keep apart by [`unique_prefix`].
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Etcd> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::builder().start()).await
    }

    /// An etcd of the test's own.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// Its URL, with an address that the host reaches.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The same, for what takes a list.
    pub fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint.clone()]
    }

    /// Host and port, for a proxy in front of it.
    pub fn address(&self) -> &str {
        self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_scheme, address)| address)
    }

    /// A client, for what a test wants to see or do behind lockd's back.
    ///
    /// # Panics
    /// When the endpoint cannot be a URL.
    pub async fn client(&self) -> Client {
        client(&self.endpoint).await
    }

    /// Freezes it: connections stay open and nothing answers.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn pause(&self) {
        self.container.pause().await.expect("docker pause");
    }

    /// Everything that is in it, as `etcdctl snapshot save` writes it.
    ///
    /// # Panics
    /// When it can't be made.
    pub async fn snapshot(&self) -> Vec<u8> {
        let (id, to) = (self.container.id(), tempfile::NamedTempFile::new().expect("a file"));
        let from = format!("{id}:{SNAPSHOT}");
        let path = to.path().to_str().expect("a path of text");
        for args in
            [&["exec", id, "etcdctl", "snapshot", "save", SNAPSHOT][..], &["cp", &from, path]]
        {
            docker(args).await.expect("a snapshot of etcd");
        }
        std::fs::read(path).expect("the snapshot")
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn unpause(&self) {
        self.container.unpause().await.expect("docker unpause");
    }
}

impl EtcdBuilder {
    /// A further flag of etcd, `--name=value`; it wins over a default of ours.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A file in the container, there before etcd starts.
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }

    /// Starts from a snapshot, as a cluster of another token.
    pub fn restored(mut self, snapshot: Vec<u8>) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// Starts it and waits until it answers. With `--cert-file` among the flags the endpoint is an
    /// `https` one, and etcd's own word that it is ready is what is waited for.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub async fn start(self) -> Etcd {
        let tls = self.args.iter().any(|arg| arg.starts_with("--cert-file"));
        let scheme = if tls { "https" } else { "http" };
        let flags = [
            format!("--data-dir={DATA_DIR}"),
            format!("--listen-client-urls={scheme}://0.0.0.0:2379"),
            format!("--advertise-client-urls={scheme}://127.0.0.1:2379"),
        ];
        let flags: Vec<_> = flags.into_iter().chain(self.args).collect();
        let mut request = etcd_request(flags.clone(), &Mount::tmpfs_mount(DATA_DIR));
        if tls {
            let ready = WaitFor::message_on_stderr("ready to serve client requests");
            request = request.with_ready_conditions(vec![ready]);
        }
        if let Some(snapshot) = self.snapshot {
            let restore = format!(
                "etcdctl snapshot restore {SNAPSHOT} --data-dir {DATA_DIR} \
                 --initial-cluster-token restored && exec \"$@\""
            );
            let script = ["sh", "-c", &restore, "sh", "/usr/local/bin/etcd"].map(str::to_owned);
            let command: Vec<_> = script.into_iter().chain(flags).collect();
            request = request.with_cmd(command).with_copy_to(SNAPSHOT, snapshot);
        }
        for (path, content) in self.files {
            request = request.with_copy_to(path, content);
        }
        let container = request.start().await.expect("an etcd container starts");
        let host = container.get_host().await.expect("Docker's host");
        let port = container.get_host_port_ipv4(2379).await.expect("a published port");
        let endpoint = format!("{scheme}://{host}:{port}").replace("localhost", "127.0.0.1");
        if !tls {
            answers(&endpoint).await;
        }
        Etcd { container, endpoint }
    }
}

/// A key prefix that no other test uses, on any etcd: what keeps tests on the shared one apart.
pub fn unique_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("/test/{}/{}/", run_name(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A container of etcd with these flags, with its data on `data`.
pub(crate) fn etcd_request(
    flags: impl IntoIterator<Item = String>,
    data: &Mount,
) -> ContainerRequest<GenericImage> {
    let command = ["/usr/local/bin/etcd".to_owned()].into_iter().chain(flags);
    Image::Etcd
        .generic()
        .with_exposed_port(ContainerPort::Tcp(2379))
        .with_cmd(command)
        .with_label(RUN_LABEL, run_name())
        .with_mount(data.clone())
        .with_startup_timeout(START)
}

/// Waits until the member at `endpoint` answers a status call and gives back its id.
pub(crate) async fn answers(endpoint: &str) -> u64 {
    let what = format!("etcd at {endpoint} answers");
    eventually(&what, START, async || {
        let status = client(endpoint).await.status().await;
        status.map(|status| member_id(&status))
    })
    .await
}

/// The id of the member that answered.
pub(crate) fn member_id(status: &StatusResponse) -> u64 {
    status.header().map_or(0, ResponseHeader::member_id)
}

/// A client of one endpoint; the connection is made by its first call.
pub(crate) async fn client(endpoint: &str) -> Client {
    let patience = Duration::from_secs(5);
    let options = ConnectOptions::new().with_connect_timeout(patience).with_timeout(patience);
    Client::connect([endpoint], Some(options)).await.expect("an endpoint is a URL")
}
