export BOOKING_DATA_DIR ?= .booking

help:
	@echo 'make run    start booking with its own PostgreSQL, RabbitMQ and Redis (data in $(BOOKING_DATA_DIR))'
	@echo 'make test   run all tests against servers of their own'
	@echo 'make contract  hold a running gateway against its OpenAPI document, with schemathesis'

run: servers
	cargo run --release -- dev

test: servers
	cargo test

contract:
	@deploy/install-servers contract
	tests/contract/schemathesis

servers:
	@deploy/install-servers

.PHONY: help run test contract servers
