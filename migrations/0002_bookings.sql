create extension if not exists btree_gist;

-- Each booking as it is now. How it came to be so is in the audit.
create table bookings (
  id uuid primary key,
  calendar_id uuid not null,
  start_time timestamptz not null,
  end_time timestamptz not null,
  status text not null,
  version integer not null,
  -- json, not jsonb: it is given back as it came, never searched.
  metadata json not null,
  cancel_reason text,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  constraint bookings_interval check (start_time < end_time),
  constraint bookings_status check (
    status in ('PENDING', 'CONFIRMED', 'CANCELLED', 'EXPIRED', 'COMPLETED')),
  constraint bookings_version check (version >= 1)
) with (fillfactor = 90);

-- Time that is taken. A row exists only while its booking is active, so that a change of a
-- booking's status never touches the index, and the index stays as small as the future is full.
create table allocations (
  booking_id uuid primary key,
  calendar_id uuid not null,
  during tstzrange not null,
  -- The promise itself: whoever writes, active bookings of one calendar never overlap.
  constraint allocations_no_overlap exclude using gist (calendar_id with =, during with &&),
  constraint allocations_interval check (
    lower_inc(during) and not upper_inc(during) and not isempty(during)
    and not lower_inf(during) and not upper_inf(during))
);

alter table allocations set (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- Every change of a booking, written in the commit of the change. The key makes a version
-- happen once.
create table audit (
  booking_id uuid not null,
  version integer not null,
  calendar_id uuid not null,
  -- The order in which changes were decided.
  seq bigint generated always as identity,
  command_id uuid not null,
  action text not null,
  actor text not null,
  correlation_id text not null,
  at timestamptz not null,
  -- The booking before (null for the creation) and after, as clients see it.
  before json,
  after json not null,
  primary key (booking_id, version)
);

create trigger audit_append_only before update or delete on audit
  for each row execute function refuse_change();
create trigger audit_no_truncate before truncate on audit
  for each statement execute function refuse_change();

-- Who may write for a partition. Taking a partition counts its fence up; a commit that carries
-- an older fence is refused. One row for each of the partitions that the system was set up with.
create table partitions (
  id smallint primary key,
  fence bigint not null default 0,
  owner text,
  taken_at timestamptz,
  constraint partitions_id check (id >= 0)
);

-- Ends the statement, and with it the commit, when a count is not what the writer relied on.
create function expect_rows(what text, actual bigint, expected bigint) returns boolean
language plpgsql as $$
begin
  if actual <> expected then
    raise exception '% rows: % instead of %', what, actual, expected using errcode =
      case what when 'fence' then 'BK001' when 'undecided' then 'BK002' else 'BK003' end;
  end if;
  return true;
end $$;
