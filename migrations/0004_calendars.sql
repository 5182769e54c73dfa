-- When each calendar takes bookings. A calendar without a row is always open: that is version 1.
create table calendars (
  id uuid primary key,
  -- json, not jsonb: it is given back as it came, never searched.
  availability json not null,
  -- Its buffers in minutes, for the search of what a new booking meets.
  buffer_before smallint not null default 0,
  buffer_after smallint not null default 0,
  version integer not null,
  updated_at timestamptz not null default now(),
  constraint calendars_version check (version >= 2)
);

-- Bookings of a calendar that are over and used some of the time, with their buffers. They have no
-- allocation any more, but what is decided late must not be given their time once more. No booking
-- is longer than 31 days, no buffer than one.
create function completed_in(calendar uuid, from_time timestamptz, to_time timestamptz)
returns table (id uuid, since timestamptz, until timestamptz) language sql stable as $$
  select id, since, until from (
    select b.id, b.start_time - make_interval(mins => b.buffer_before) as since,
           b.end_time + make_interval(mins => b.buffer_after) as until
    from bookings b
    where b.calendar_id = calendar and b.status = 'COMPLETED'
      and b.start_time > from_time - interval '32 days' and b.start_time < to_time + interval '1 day'
  ) b
  where since < to_time and until > from_time
$$;
