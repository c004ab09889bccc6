#!/usr/bin/env bash
# Builds lockd and the example order_service as static binaries, and starts them with Postgres and Redis.
# ^C stops it all.
#
#   PROTOC           what the build needs (`make order-service` sees to it)
#   POSTGRES_IMAGE   the images of the databases; without them, and without a registry that answers,
#   REDIS_IMAGE      those of the tests are used
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS='-C target-feature=+crt-static' CARGO_TARGET_DIR=target/static
cargo build --release --target "$target" -p lockd
cargo build --release --target "$target" -p lockd-client --example order_service \
    --features grpc,http,postgres,redis
bin=deploy/order-service/bin
mkdir -p "$bin/data"
cp "$CARGO_TARGET_DIR/$target/release/lockd" "$CARGO_TARGET_DIR/$target/release/examples/order_service" "$bin/"

export POSTGRES_IMAGE=${POSTGRES_IMAGE:-$(deploy/test-images/image.sh postgres)}
export REDIS_IMAGE=${REDIS_IMAGE:-$(deploy/test-images/image.sh redis)}
compose=(docker compose)
docker compose version >/dev/null 2>&1 || compose=(docker-compose)
exec "${compose[@]}" -f deploy/order-service/compose.yaml up --build "$@"
