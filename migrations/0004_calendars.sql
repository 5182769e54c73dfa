-- When each calendar takes bookings. A calendar without a row is always open: that is version 1.
create table calendars (
  id uuid primary key,
  -- json, not jsonb: it is given back as it came, never searched.
  availability json not null,
  version integer not null,
  updated_at timestamptz not null default now(),
  constraint calendars_version check (version >= 2)
);
