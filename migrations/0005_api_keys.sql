-- Keys by which programs prove who they are. Rows stay when a key is revoked, to tell whose it was.
create table api_keys (
  -- The part of the key that is no secret.
  id text primary key,
  -- SHA-256 of the secret part, which has 256 bits of chance and so needs no slower hash.
  secret_hash bytea not null,
  -- Whose key it is: a user's, or a service's with its scopes.
  user_id uuid,
  service text,
  scopes text[] not null default '{}',
  description text,
  created_at timestamptz not null default now(),
  -- Null: never.
  expires_at timestamptz,
  revoked_at timestamptz,
  constraint api_keys_secret_hash check (length(secret_hash) = 32),
  constraint api_keys_holder check ((user_id is null) <> (service is null)),
  constraint api_keys_scopes check (
    scopes <@ array['bookings.read', 'bookings.write'] and (user_id is null or scopes = '{}'))
);
