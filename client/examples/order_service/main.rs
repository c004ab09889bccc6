//! The whole chain as a small service: HTTP → gRPC → lock → Redis → Postgres.
//!
//! An order goes from an HTTP server to a gRPC server, which takes the item's lock, counts in Redis
//! and takes the item out of the stock in Postgres, for which it needs two seconds. Whatever ends the
//! request ends all of that: the caller's patience, the caller that hangs up, ^C here.
//!
//! `make order-service` starts it with all that it needs. Then, in another shell:
//!
//! ```console
//! $ curl -X POST localhost:8080/orders/chair                                    # two seconds
//! $ curl -X POST localhost:8080/orders/chair -H 'x-request-timeout-ms: 300'     # 504 after 0.3 s
//! $ timeout 0.5 curl -X POST localhost:8080/orders/chair                        # hangs up
//! $ curl localhost:8080/status                                                  # nothing runs any more
//! ```

mod front;
mod stock;

use std::{env, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use futures::future::try_join_all;
use lockd_client::{Client, Context, grpc, postgres::FENCE_TABLE, redis::Redis};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use self::stock::Stock;

/// The generated gRPC code of `stock.proto`.
#[allow(
    clippy::all,
    clippy::missing_errors_doc,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated code"
)]
mod shop;

/// What the shop sells, and how many of it there are.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS items (name text PRIMARY KEY, stock bigint NOT NULL CHECK (stock >= 0));
    CREATE TABLE IF NOT EXISTS orders (id bigserial PRIMARY KEY, item text, quantity bigint);
    INSERT INTO items SELECT name, 1000000 FROM unnest(ARRAY['chair', 'table', 'lamp', 'shelf']) AS name
    ON CONFLICT DO NOTHING;";

/// Connections to Postgres.
const POOL: usize = 8;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "order_service=info,lockd_client=debug".into());
    tracing_subscriber::fmt().with_env_filter(filter).init();
    let http: SocketAddr = or("ORDER_HTTP", "127.0.0.1:8080").parse()?;
    let grpc: SocketAddr = or("ORDER_GRPC", "127.0.0.1:50051").parse()?;

    // Every request's context is a child of this one, so ^C ends them all.
    let (root, cancel) = Context::background().with_cancel();
    let (http, grpc) = (TcpListener::bind(http).await?, TcpListener::bind(grpc).await?);
    let stock = stock().await?;
    let (client, pool) = (stock.client.clone(), stock.pool.clone());
    let front = front::router(grpc.local_addr()?, client.clone(), pool, &root).await?;
    tracing::info!(http = %http.local_addr()?, grpc = %grpc.local_addr()?, "listening");

    let mut servers = tokio::task::JoinSet::new();
    let stopped = root.clone();
    servers.spawn(async move {
        let stop = async move { drop(stopped.cancelled().await) };
        axum::serve(http, front).with_graceful_shutdown(stop).await.map_err(anyhow::Error::from)
    });
    let stopped = root.clone();
    servers.spawn(async move {
        let mut server = Server::builder().layer(grpc::ContextLayer::within(&stopped));
        let server = server.add_service(shop::stock_server::StockServer::new(stock));
        let stop = async { drop(stopped.cancelled().await) };
        Ok(server.serve_with_incoming_shutdown(TcpIncoming::from(grpc), stop).await?)
    });

    tokio::select! {
        _ = tokio::signal::ctrl_c() => tracing::info!("stopping: all requests end now"),
        Some(ended) = servers.join_next() => ended??,
    }
    cancel.cancel();
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    client.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// The stock, with all that it is kept in.
async fn stock() -> anyhow::Result<Stock> {
    let url = or("DATABASE_URL", "postgres://postgres:order@127.0.0.1:5432/postgres");
    let manager = deadpool_postgres::Manager::new(url.parse()?, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(POOL).build()?;
    // All of them, so that `/status` shows whether one is missing later.
    let all = try_join_all((0..POOL).map(|_| pool.get())).await;
    let all = all.context("connect to Postgres: see DATABASE_URL")?;
    let [database, ..] = all.as_slice() else { anyhow::bail!("the pool is empty") };
    database.batch_execute(&format!("{FENCE_TABLE}; {TABLES}")).await?;
    drop(all);
    let redis = redis::Client::open(or("REDIS_URL", "redis://127.0.0.1:6379/"))?;
    let work = Duration::from_millis(or("ORDER_WORK_MS", "2000").parse()?);
    let client = Client::from_env().await?;
    Ok(Stock { client, pool, redis: Redis::new(redis)?, work })
}

fn or(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}
