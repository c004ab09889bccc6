//! The first hop: HTTP.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use deadpool_postgres::Pool;
use lockd_client::{Client, Context, grpc::DeadlineLayer, http::ContextLayer};
use tonic::{Code, transport::Endpoint};
use tower::ServiceBuilder;

use crate::shop::{ReserveRequest, stock_client::StockClient};

/// How long a caller waits that does not say so.
const PATIENCE: Duration = Duration::from_secs(10);

type Channel = lockd_client::grpc::DeadlineService<tonic::transport::Channel>;

/// What the handlers share.
#[derive(Clone)]
struct Front {
    stock: StockClient<Channel>,
    client: Client,
    pool: Pool,
}

/// The routes, each of whose requests has a context.
pub(crate) async fn router(
    stock: SocketAddr,
    client: Client,
    pool: Pool,
    root: &Context,
) -> anyhow::Result<Router> {
    let channel = Endpoint::from_shared(format!("http://{stock}"))?.connect_lazy();
    // What is left of a context goes with each call.
    let channel = ServiceBuilder::new().layer(DeadlineLayer::new()).service(channel);
    let front = Front { stock: StockClient::new(channel), client, pool };
    Ok(Router::new()
        .route("/orders/{item}", post(order))
        .route("/status", get(status))
        .layer(ContextLayer::new().within(root).default_timeout(PATIENCE))
        .with_state(front))
}

/// Orders one of an item. When the caller hangs up this future is dropped, and with it the call.
async fn order(
    State(mut front): State<Front>,
    Path(item): Path<String>,
) -> Result<String, (StatusCode, String)> {
    let reserved = front.stock.reserve(ReserveRequest { item, quantity: 1 }).await;
    match reserved {
        Ok(reserved) => Ok(format!("ordered; {} are left\n", reserved.into_inner().left)),
        Err(status) => Err((code(status.code()), format!("{}\n", status.message()))),
    }
}

fn code(code: Code) -> StatusCode {
    match code {
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        Code::FailedPrecondition => StatusCode::CONFLICT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// What goes on: nothing, a moment after the last request.
async fn status(State(front): State<Front>) -> Json<serde_json::Value> {
    let locks = front.client.list("stock/").await.unwrap_or_default();
    let pool = front.pool.status();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    Json(serde_json::json!({
        "locks_held": locks.iter().map(|lock| lock.holders.len()).sum::<usize>(),
        "waiters": locks.iter().map(|lock| lock.waiters.len()).sum::<usize>(),
        "connections": pool.size,
        "connections_idle": pool.available,
        "cleaning_up": lockd_client::leak::tasks(),
        "tasks": tasks,
    }))
}
