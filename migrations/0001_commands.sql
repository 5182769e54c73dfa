-- What was asked and what became of it. One row is the command, its idempotency record and its
-- outcome, so that they can never disagree.
create table commands (
  id uuid primary key,
  booking_id uuid not null,
  calendar_id uuid not null,
  -- The queue partition of the calendar; kept so that operators can see it.
  partition smallint not null,
  kind text not null,
  -- The principal who asked; idempotency keys are theirs alone.
  caller text not null,
  -- Null where the caller gave none (allowed for changes of an existing booking).
  idempotency_key text,
  -- SHA-256 of the checked content: the same key with another fingerprint is refused.
  fingerprint bytea not null,
  -- The command as it travels: the message on the queue is made of this text.
  content text not null,
  status text not null default 'accepted',
  -- The booking's version after a success; with booking_id it finds the audit row.
  booking_version integer,
  -- The problem document of a no.
  error json,
  -- How often this command alone was tried and failed for its own sake.
  attempts smallint not null default 0,
  accepted_at timestamptz not null,
  decided_at timestamptz,
  constraint commands_idempotency_key unique (caller, idempotency_key),
  constraint commands_kind check (kind in ('create', 'confirm', 'cancel', 'reschedule')),
  constraint commands_status check (status in ('accepted', 'succeeded', 'rejected', 'failed')),
  constraint commands_fingerprint check (length(fingerprint) = 32),
  constraint commands_idempotency_key_length check (length(idempotency_key) between 1 and 255),
  constraint commands_decided check ((status = 'accepted') = (decided_at is null)),
  constraint commands_outcome check (
    (status = 'succeeded') = (booking_version is not null)
    and (status in ('rejected', 'failed')) = (error is not null))
);

-- Small at all times: how many wait, in which partition, since when.
create index commands_undecided on commands (partition, accepted_at) where status = 'accepted';

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'rows of % never change: % refused', tg_table_name, tg_op
    using errcode = 'integrity_constraint_violation';
end $$;

-- A final state never changes.
create trigger commands_final before update on commands
  for each row when (old.status <> 'accepted') execute function refuse_change();

alter table commands set (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05);

-- Messages on their way to the broker, written with the rows they speak of and deleted once the
-- broker has confirmed them. Each stream has one relay at a time, which reads in id order.
create table outbox (
  -- 1 = commands, 2 = events.
  stream smallint not null,
  id bigint generated always as identity,
  -- The command's or the event's id, which is the AMQP message id of an event.
  message_id uuid not null,
  -- Commands: the calendar; events: the booking. What shares it keeps its order.
  subject uuid not null,
  -- Commands only.
  partition smallint,
  -- Events only: the event type and the CloudEvent. The content of a command is in its row.
  routing_key text,
  body text,
  -- W3C trace context of the request that led to it.
  traceparent text,
  appended_at timestamptz not null,
  primary key (stream, id),
  constraint outbox_stream check (
    (stream = 1 and partition is not null and body is null)
    or (stream = 2 and routing_key is not null and body is not null))
);

-- Rows live for milliseconds: vacuum by count, without pause, and never take the table lock.
alter table outbox set (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- Messages and commands that could not be processed, kept for people to look at.
create table dead_letters (
  id uuid primary key,
  -- Null where the message was so broken that no command could be read from it.
  command_id uuid,
  -- Which queue or stage it was taken from.
  source text not null,
  reason text not null,
  body text not null,
  parked_at timestamptz not null default now()
);
