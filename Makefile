# The commands of this repository. `make run` and `make test` are all that a newcomer needs.
.DEFAULT_GOAL := help

# Each target that builds starts with this: it installs what is missing, or says what to install.
prepared := PROTOC=$$(deploy/build-tools/setup.sh) && export PROTOC &&

# Arguments for the daemon: make run ARGS="--log debug"
ARGS ?=
# What to test: make test TEST=fifo
TEST ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## run the daemon on the embedded store, in ./lockd-data
	@$(prepared) cargo run -p lockd -- serve $(ARGS)

.PHONY: build
build: ## build everything, tests and examples included
	@$(prepared) cargo build --workspace --bins --tests --examples

.PHONY: test
test: build test-images deploy-check ## run every test, real etcd included
	@$(prepared) cargo test --workspace $(TEST)

# What to measure: make bench-context ONLY=redis
ONLY ?=

.PHONY: bench-context
bench-context: test-images ## measure contexts and fencing on real databases, and print a table
	@$(prepared) cargo build --release --workspace --bins --example order_service
	@$(prepared) ONLY=$(ONLY) cargo bench -p integration-tests --bench context

.PHONY: bench-peers
bench-peers: test-images ## measure lockd beside etcd, Redis and ZooKeeper; write docs/benchmarks.md (40 minutes)
	@deploy/test-images/image.sh zookeeper
	@$(prepared) cargo build --release -p lockd
	@$(prepared) ONLY='$(ONLY)' cargo bench -p integration-tests --bench peers

# Write the counts instead of checking them: make bench-check UPDATE=1
UPDATE ?=

.PHONY: bench-check
bench-check: ## count the instructions of the hot path, and compare them with the stored counts
	@PROTOC=$$(deploy/build-tools/setup.sh valgrind) && export PROTOC && \
		UPDATE=$(UPDATE) cargo bench --quiet -p lockd --no-default-features --bench instructions --profile instructions

.PHONY: order-service
order-service: ## run the example order_service with docker compose, on http://localhost:8080
	@$(prepared) deploy/order-service/up.sh

.PHONY: lint
lint: ## check format, clippy and docs, with warnings denied
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	cargo fmt --all --check
	@$(prepared) cargo clippy --workspace --all-targets -- -D warnings
	@$(prepared) RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

.PHONY: format
format: ## format the code
	cargo fmt --all

.PHONY: deny
deny: ## check licences and advisories of the dependencies (needs cargo-deny)
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny"; exit 1; }
	cargo deny check

.PHONY: setup
setup: ## install what the build needs beyond a Rust toolchain
	@protoc=$$(deploy/build-tools/setup.sh) && echo "protoc: $$protoc"

.PHONY: test-images
test-images: ## get or build the images that the tests need
	@for name in etcd postgres redis python; do \
		image=$$(deploy/test-images/image.sh $$name) && echo "$$name: $$image" || exit 1; \
	done

.PHONY: deploy-check
deploy-check: ## hold the Helm chart and the kustomizations against Kubernetes' schemas, and test the alerts
	@deploy/validate/run.sh

.PHONY: clean
clean: ## remove what was built, and the tools that setup fetched
	cargo clean
	rm -rf .tools
