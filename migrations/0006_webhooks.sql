-- Whom we post to. An endpoint is registered by its owner and is told of every event that it asks
-- for; a callback target stands for the origin of the callback URLs that a caller names, and is
-- told of those commands alone.
create table webhook_endpoints (
  id uuid primary key,
  kind text not null default 'endpoint',
  -- The principal that registered it, or that named the callback.
  owner text not null,
  -- Whose events: a user's, or everybody's (the nil UUID). Null for callbacks.
  calendar_id uuid,
  -- Of a callback target its origin only; the URL itself is in the delivery.
  url text not null,
  -- Exact types, "booking.*", "command.*" or "*".
  event_types text[] not null default '{}',
  description text,
  -- Signs what is sent. The secret before it signs too, until a rotation is over.
  secret bytea not null,
  previous_secret bytea,
  previous_secret_until timestamptz,
  enabled boolean not null default true,
  disabled_reason text,
  -- Since when no attempt has succeeded; null while they do.
  failing_since timestamptz,
  -- Deliveries of a target are the work of whoever owns its shard (store/webhooks/shards.rs).
  shard smallint not null generated always as (get_byte(uuid_send(id), 15) % 32) stored,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint webhook_endpoints_kind check (kind in ('endpoint', 'callback')),
  constraint webhook_endpoints_calendar check ((kind = 'endpoint') = (calendar_id is not null)),
  constraint webhook_endpoints_previous check (
    (previous_secret is null) = (previous_secret_until is null)),
  constraint webhook_endpoints_reason check (not enabled or disabled_reason is null)
);

-- What a decision looks up, once for each of its events.
create index webhook_endpoints_listening on webhook_endpoints (calendar_id)
  where enabled and kind = 'endpoint';
create index webhook_endpoints_of_owner on webhook_endpoints (owner, id);
create unique index webhook_endpoints_callbacks on webhook_endpoints (owner, url)
  where kind = 'callback';

-- What was to be delivered, as it was at the commit that it tells of; rows never change. No
-- foreign key to the endpoint: one that is being deleted must not end a batch of bookings.
create table webhook_deliveries (
  target_id uuid not null,
  -- The event's id, which is the message id that receivers see.
  event_id uuid not null,
  event_type text not null,
  -- The booking, or the endpoint that a test or a disabling is about.
  subject uuid not null,
  body text not null,
  -- Callbacks only; others go to the endpoint's URL as it is when they are tried.
  url text,
  traceparent text,
  created_at timestamptz not null,
  primary key (target_id, event_id)
);

-- What is still to be tried, written with its delivery and deleted when it has arrived or is given
-- up. A target's rows are the work of one process at a time, so nothing here is claimed.
create table webhook_queue (
  shard smallint not null,
  target_id uuid not null,
  due_at timestamptz not null,
  event_id uuid not null,
  -- How often it was tried since it was queued; the place in the schedule of retries.
  tried smallint not null default 0,
  primary key (shard, target_id, due_at, event_id)
);

-- Every try of every delivery.
create table webhook_attempts (
  target_id uuid not null,
  event_id uuid not null,
  at timestamptz not null,
  -- Only "delivered" is a success.
  outcome text not null,
  -- The HTTP status, where there was an answer.
  status smallint,
  duration_ms integer not null,
  -- Why it failed, or how the receiver's answer begins.
  detail text,
  primary key (target_id, event_id, at),
  constraint webhook_attempts_outcome check (
    outcome in ('delivered', 'refused', 'gone', 'unreachable', 'forbidden'))
);

-- The log is written in the order of time and pruned in that order.
create index webhook_deliveries_by_time on webhook_deliveries using brin (created_at)
  with (pages_per_range = 32);
create index webhook_attempts_by_time on webhook_attempts using brin (at)
  with (pages_per_range = 32);

-- As the outbox: rows live for milliseconds.
alter table webhook_queue set (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- Answers to services that submit by message: a third stream of the outbox, whose routing key is
-- the queue that the sender named.
alter table outbox
  add column correlation_id text,
  -- The AMQP message type of a reply; that of an event is its routing key.
  add column kind text,
  drop constraint outbox_stream,
  add constraint outbox_stream check (
    (stream = 1 and partition is not null and body is null)
    or (stream = 2 and routing_key is not null and body is not null)
    or (stream = 3 and routing_key is not null and body is not null and kind is not null));
