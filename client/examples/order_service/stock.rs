//! The second hop: gRPC, and what is behind it.

use std::time::Duration;

use deadpool_postgres::Pool;
use lockd_client::{Client, Context, Error, ErrorKind, redis::Redis};
use redis::cmd;
use tonic::{Request, Response, Status};

use crate::shop::{self, ReserveRequest, ReserveResponse};

/// The stock of all items.
pub(crate) struct Stock {
    pub(crate) client: Client,
    pub(crate) pool: Pool,
    pub(crate) redis: Redis,
    /// How long the database is at it.
    pub(crate) work: Duration,
}

/// Fewer items are in stock than the order requests.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("sold out")]
    SoldOut,
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
}

#[tonic::async_trait]
impl shop::stock_server::Stock for Stock {
    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        let ctx = Context::of(&request);
        let ReserveRequest { item, quantity } = request.into_inner();
        match self.take(&ctx, &item, quantity).await {
            Ok(left) => Ok(Response::new(ReserveResponse { left })),
            Err(error) => {
                tracing::warn!("{error}");
                Err(to_status(&error))
            }
        }
    }
}

impl Stock {
    async fn take(&self, ctx: &Context, item: &str, quantity: u32) -> Result<u32, Error> {
        // One at a time for each item. Released when dropped, wherever that is.
        let guard = self.client.lock(format!("stock/{item}")).acquire(ctx).await?;
        let mut count = cmd("INCRBY");
        count.arg(format!("asked:{item}")).arg(quantity);
        let _asked: u64 = guard.redis(&self.redis).query(&count).await?;
        let left = self.take_out(&guard.postgres(&self.pool), item, quantity).await?;
        guard.release().await?;
        Ok(u32::try_from(left).unwrap_or(u32::MAX))
    }

    async fn take_out(
        &self,
        postgres: &lockd_client::postgres::Postgres<Pool>,
        item: &str,
        quantity: u32,
    ) -> Result<i64, Error> {
        let (quantity, work) = (i64::from(quantity), self.work.as_secs_f64());
        let take =
            "UPDATE items SET stock = stock - $1 WHERE name = $2 AND stock >= $1 RETURNING stock";
        let note = "INSERT INTO orders (item, quantity) VALUES ($1, $2)";
        postgres
            .transaction(async |tx| {
                tx.execute("SELECT pg_sleep($1)", &[&work]).await?;
                let left = tx.query_opt(take, &[&quantity, &item]).await?;
                let left = left.ok_or(Refused::SoldOut)?.try_get(0)?;
                tx.execute(note, &[&item, &quantity]).await?;
                Ok::<_, Refused>(left)
            })
            .await
    }
}

fn to_status(error: &Error) -> Status {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::DeadlineExceeded => Status::deadline_exceeded(text),
        ErrorKind::Cancelled => Status::cancelled(text),
        ErrorKind::Fenced | ErrorKind::Lost => Status::aborted(text),
        ErrorKind::Failed => Status::failed_precondition(text),
        _ => Status::unavailable(text),
    }
}
