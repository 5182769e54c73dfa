-- The rest of a booking's life: holds, buffers, and what time alone changes.
alter table bookings
  -- A hold lapses then; there is such a time exactly while the booking is PENDING.
  add column hold_expires_at timestamptz,
  -- Minutes kept free on both sides, as the calendar wanted when the time was claimed.
  add column buffer_before smallint not null default 0,
  add column buffer_after smallint not null default 0,
  add constraint bookings_hold check ((status = 'PENDING') = (hold_expires_at is not null)),
  add constraint bookings_buffers check (buffer_before >= 0 and buffer_after >= 0);

-- Lists of a calendar's bookings.
create index bookings_of_calendar on bookings (calendar_id, start_time, id);

-- "during" is the booking's time with its buffers; a hold's claim ends earlier.
alter table allocations add column lapses_at timestamptz;

-- What the sweep looks for: the time from which the claim is over by itself.
create index allocations_due on allocations (least(lapses_at, upper(during)));

-- No command asked for what time did.
alter table audit
  alter column command_id drop not null,
  add constraint audit_command check ((command_id is null) = (action in ('EXPIRED', 'COMPLETED')));
