//! One real Postgres and one real Redis in containers, which all tests of a process share.
//!
//! Tests keep apart by [`unique_name`]s of tables and keys.

use std::sync::atomic::{AtomicU64, Ordering};

use testcontainers::core::{ContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::sync::OnceCell;

use crate::docker::{RUN_LABEL, docker, run_name};
use crate::etcd::START;
use crate::eventually;
use crate::image::Image;

const PASSWORD: &str = "only-for-tests";

/// A real Postgres.
pub struct Postgres {
    container: ContainerAsync<GenericImage>,
    address: String,
}

/// A real Redis.
pub struct Redis {
    container: ContainerAsync<GenericImage>,
    address: String,
}

impl Postgres {
    /// The Postgres that all tests of this process share. Its data is in memory.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A Postgres of the test's own.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start() -> Self {
        // Said twice by the official image, whose first server only sets up: ours says it once.
        let ready = WaitFor::message_on_stderr("listening on IPv4 address");
        let container = Image::Postgres
            .generic()
            .with_exposed_port(ContainerPort::Tcp(5432))
            .with_wait_for(ready)
            .with_cmd(["postgres", "-c", "fsync=off", "-c", "max_connections=200"])
            .with_env_var("POSTGRES_PASSWORD", PASSWORD)
            .with_label(RUN_LABEL, run_name())
            .with_mount(Mount::tmpfs_mount("/pgdata"))
            .with_env_var("PGDATA", "/pgdata/data")
            .with_startup_timeout(START)
            .start()
            .await
            .expect("a Postgres container starts");
        let address = address_of(&container, 5432).await;
        let postgres = Self { container, address };
        eventually("Postgres answers", START, async || postgres.try_sql("SELECT 1").await).await;
        postgres
    }

    /// Host and port, for a proxy in front of it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its URL, with a superuser's name and password, for the database that all share.
    pub fn url(&self) -> String {
        self.url_at(&self.address)
    }

    /// The same by way of another address, such as a proxy's.
    pub fn url_at(&self, address: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@{address}/postgres")
    }

    /// Freezes it: connections stay open and nothing answers.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn pause(&self) {
        self.container.pause().await.expect("docker pause");
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn unpause(&self) {
        self.container.unpause().await.expect("docker unpause");
    }

    /// Runs SQL in a session of its own and gives back what `psql` printed, unaligned.
    ///
    /// # Panics
    /// When it fails.
    pub async fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).await.expect("the SQL succeeds")
    }

    async fn try_sql(&self, sql: &str) -> Result<String, String> {
        let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1/postgres");
        let id = self.container.id();
        docker(&["exec", id, "psql", "-qAtv", "ON_ERROR_STOP=1", "-c", sql, &url]).await
    }
}

impl Redis {
    /// The Redis that all tests of this process share.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Redis> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A Redis of the test's own.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start() -> Self {
        let container = Image::Redis
            .generic()
            .with_exposed_port(ContainerPort::Tcp(6379))
            .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
            .with_cmd(["redis-server", "--save", "", "--protected-mode", "no", "--bind", "0.0.0.0"])
            .with_label(RUN_LABEL, run_name())
            .with_startup_timeout(START)
            .start()
            .await
            .expect("a Redis container starts");
        let address = address_of(&container, 6379).await;
        Self { container, address }
    }

    /// Host and port, for a proxy in front of it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Freezes it: connections stay open and nothing answers.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn pause(&self) {
        self.container.pause().await.expect("docker pause");
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn unpause(&self) {
        self.container.unpause().await.expect("docker unpause");
    }
}

/// A name that no other test uses, for a table or a key: letters, digits and underscores.
pub fn unique_name(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let run = run_name().replace('-', "_");
    format!("{what}_{run}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn address_of(container: &ContainerAsync<GenericImage>, port: u16) -> String {
    let host = container.get_host().await.expect("Docker's host");
    let port = container.get_host_port_ipv4(port).await.expect("a published port");
    format!("{host}:{port}").replace("localhost", "127.0.0.1")
}
