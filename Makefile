export BOOKING_DATA_DIR ?= .booking

help:
	@echo 'make run    start booking with its own PostgreSQL, RabbitMQ and Redis (data in $(BOOKING_DATA_DIR))'
	@echo 'make test   run all tests against servers of their own'
	@echo 'make contract  hold a running gateway against its OpenAPI document, with schemathesis'
	@echo 'make alerts    test the alert rules, with promtool'
	@echo 'make wave      a load that rises and falls, and as many workers as it takes (5 min)'
	@echo 'make upgrade   the previous release and this one at work together, under load'
	@echo 'make dashboard  ask every query of the dashboard of a running system, with Prometheus'

run: servers
	cargo run --release -- dev

test:
	@deploy/install-servers test
	cargo test

contract:
	@deploy/install-servers contract
	tests/contract/schemathesis

alerts:
	@deploy/install-servers alerts
	deploy/prometheus/check

dashboard:
	@deploy/install-servers alerts
	cargo build
	deploy/grafana/check "$${CARGO_TARGET_DIR:-target}/debug/booking"

wave:
	@deploy/install-servers test
	cargo test --release --test wave

upgrade:
	@deploy/install-servers
	previous=$$(tests/upgrade/build) && BOOKING_PREVIOUS=$$previous cargo test --test upgrade -- --nocapture

servers:
	@deploy/install-servers

.PHONY: help run test contract alerts dashboard upgrade wave servers
