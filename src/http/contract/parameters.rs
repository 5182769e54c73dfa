//! What requests carry besides a body, and the headers of answers.

use serde_json::{Value, json};

use super::availability::time_zone;
use super::examples;
use super::operation::{Header, Parameter, Place};
use crate::booking::availability::parse::MAX_DURATION_MINUTES;
use crate::booking::fields::{MAX_CORRELATION_CHARS, MAX_KEY_CHARS};
use crate::http::calendars::{DEFAULT_SLOT, MAX_SEARCH, MAX_STEP};
use crate::http::caller::MAX_WAIT;
use crate::http::listing::{MAX_PAGE, PAGE};
use crate::messages::shapes::{date_time, status, uuid};

const fn header(name: &'static str, about: &'static str, schema: fn() -> Value) -> Parameter {
    Parameter { place: Place::Header, name, required: false, about, schema }
}

pub const fn query(name: &'static str, about: &'static str, schema: fn() -> Value) -> Parameter {
    Parameter { place: Place::Query, name, required: false, about, schema }
}

pub const fn path(about: &'static str) -> Parameter {
    Parameter { place: Place::Path, name: "id", required: true, about, schema: uuid }
}

const fn required(parameter: Parameter) -> Parameter {
    Parameter { required: true, ..parameter }
}

// Paths.
pub const BOOKING: Parameter = path("The booking.");
pub const COMMAND: Parameter = path("The command.");
pub const USER: Parameter = path("Whose calendar. Another user's is answered 403.");

// Headers of any request.
pub const CORRELATION_ID: Parameter = header(
    "X-Correlation-ID",
    "Your id of the request. It is answered, and found again in logs, in the history and in \
     problem documents. One is made where you send none.",
    || visible(MAX_CORRELATION_CHARS),
);
pub const ON_BEHALF_OF: Parameter = header(
    "X-User-ID",
    "With a token or an API key: the user for whom a service acts. It then reaches this user's \
     calendar only. A user may name nobody but themselves.",
    uuid,
);

// Headers of some.
pub const IDEMPOTENCY_KEY: Parameter = header(
    "Idempotency-Key",
    "New for each change and kept for its retries, bare or as a quoted string. The same key with \
     the same content is one effect and one answer; with other content it is 422. \
     `X-Idempotency-Key` is taken in its place.",
    idempotency_key,
);
pub const IDEMPOTENCY_KEY_REQUIRED: Parameter = required(IDEMPOTENCY_KEY);
pub const PREFER: Parameter = header(
    "Prefer",
    "`wait=N` waits up to N seconds, at most 30, for the decision. What cannot be understood is \
     ignored.",
    || json!({ "type": "string", "examples": [format!("wait={}", MAX_WAIT.as_secs().min(10))] }),
);
pub const IF_MATCH: Parameter = header(
    "If-Match",
    "The `ETag` of the version that is to be changed. Where it is no longer that one the answer is \
     412 `VERSION_MISMATCH`. `*` is any version.",
    || {
        let version = json!({ "pattern": "^\"[1-9][0-9]{0,8}\"$" });
        json!({ "type": "string", "anyOf": [{ "const": "*" }, version], "examples": ["\"1\""] })
    },
);
pub const IF_NONE_MATCH: Parameter = header(
    "If-None-Match",
    "The `ETag` of what you have. Where it is still that the answer is 304, without a body.",
    || json!({ "type": "string", "examples": ["\"1\""] }),
);

// Queries of lists.
pub const STATUS: Parameter = query(
    "status",
    "Only bookings in one of these states.",
    || json!({ "type": "array", "minItems": 1, "items": status() }),
);
pub const FROM: Parameter = query("from", "Only bookings that end after this time.", date_time);
pub const TO: Parameter = query("to", "Only bookings that start before this time.", date_time);
pub const UPDATED_SINCE: Parameter = query(
    "updatedSince",
    "Only bookings that were changed at this time or later. Ask some seconds back: a change is dated \
     when it was decided, and seen a moment later.",
    date_time,
);
pub const SORT: Parameter = query(
    "sort",
    "The order; with `-` before it the latest first. Equal times are ordered by id.",
    || {
        let orders =
            ["startTime", "-startTime", "createdAt", "-createdAt", "updatedAt", "-updatedAt"];
        json!({ "type": "string", "enum": orders, "default": "startTime" })
    },
);
pub const LIMIT: Parameter = query(
    "limit",
    "So many at most on a page.",
    || json!({ "type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE }),
);
pub const CURSOR: Parameter = query(
    "cursor",
    "The `nextCursor` of the page before, with the same other parameters. What is inside may change.",
    || {
        // A time of at most the year 9999, in microseconds, and an id.
        let place = "^(3[0-8]|[0-2]?[0-9a-f])[0-9a-f]{0,13}-[0-9a-f]{32}$";
        json!({ "type": "string", "pattern": place })
    },
);
pub const HISTORY_CURSOR: Parameter = query(
    "cursor",
    "The `nextCursor` of the page before. What is inside may change.",
    || json!({ "type": "string", "pattern": "^[1-9][0-9]{0,8}$" }),
);

// Queries of the slot search.
pub const START_DATE: Parameter = required(query(
    "startDate",
    "Where the search begins: a date in `timeZone`, or a time with an offset.",
    || date_or_time(examples::DATE),
));
pub const END_DATE: Parameter = required(query(
    "endDate",
    "Where it ends. A date is part of the search as a whole. At most 31 days after the start.",
    || date_or_time(examples::DATE),
));
pub const SLOT_DURATION: Parameter = query(
    "slotDuration",
    "Minutes of a slot; by default 30, or as near to it as the calendar's bounds allow.",
    || {
        let (most, usual) = (MAX_DURATION_MINUTES, DEFAULT_SLOT);
        json!({ "type": "integer", "minimum": 1, "maximum": most, "examples": [usual] })
    },
);
pub const STEP: Parameter = query(
    "step",
    "Minutes from start to start; by default the calendar's `slotStep`, or else the duration.",
    || json!({ "type": "integer", "minimum": 1, "maximum": MAX_STEP }),
);
pub const TIME_ZONE: Parameter =
    query("timeZone", "In which dates are read; by default the calendar's.", time_zone);

// Headers of answers.
const fn answered(name: &'static str, about: &'static str, schema: fn() -> Value) -> Header {
    Header { name, always: true, about, schema }
}

const fn sometimes(header: Header) -> Header {
    Header { always: false, ..header }
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn string() -> Value {
    json!({ "type": "string" })
}

pub const CORRELATION: Header =
    answered("X-Correlation-ID", "The id of the request, yours or ours.", || {
        visible(MAX_CORRELATION_CHARS)
    });
pub const ETAG: Header = answered(
    "ETag",
    "The version of what is answered, for `If-Match` and `If-None-Match`.",
    || json!({ "type": "string", "pattern": "^\"[a-z0-9]+\"$" }),
);
pub const LOCATION: Header = answered(
    "Location",
    "Where it can be read.",
    || json!({ "type": "string", "pattern": "^/api/" }),
);
pub const RETRY_AFTER: Header = answered(
    "Retry-After",
    "Seconds until it is worth asking again.",
    || json!({ "type": "integer", "minimum": 1 }),
);
pub const RETRY_WHILE_ACCEPTED: Header = sometimes(RETRY_AFTER);
pub const REPLAYED: Header = sometimes(answered(
    "Idempotency-Replayed",
    "`true` on the answer to a retry.",
    || json!({ "type": "string", "const": "true" }),
));
pub const PREFERENCE_APPLIED: Header = sometimes(answered(
    "Preference-Applied",
    "How long the answer was waited for; the command is not decided yet.",
    || json!({ "type": "string", "pattern": "^wait=[0-9]+$" }),
));
pub const CHALLENGE: Header = answered("WWW-Authenticate", "What would prove who calls.", string);

/// On the answers of what is limited. Not there where the setting takes the limit away.
pub const RATE_LIMIT: [Header; 3] = [
    sometimes(answered("RateLimit-Limit", "Requests granted in a window.", count)),
    sometimes(answered("RateLimit-Remaining", "How many of them are left.", count)),
    sometimes(answered("RateLimit-Reset", "Seconds until all are granted again.", count)),
];

/// Every header that an answer can have, for the document's list.
pub const ANSWERED: &[Header] = &[
    CORRELATION,
    ETAG,
    LOCATION,
    RETRY_AFTER,
    RETRY_WHILE_ACCEPTED,
    REPLAYED,
    PREFERENCE_APPLIED,
    CHALLENGE,
    RATE_LIMIT[0],
    RATE_LIMIT[1],
    RATE_LIMIT[2],
];

fn visible(most: usize) -> Value {
    json!({ "type": "string", "pattern": format!("^[!-~]{{1,{most}}}$") })
}

/// Bare, or a quoted string in which only `"` and `\` are escaped.
fn idempotency_key() -> Value {
    let bare = format!("[!#-~][!-~]{{0,{}}}", MAX_KEY_CHARS - 1);
    let quoted = format!(r#""([!#-\[\]-~]|\\["\\]){{1,{MAX_KEY_CHARS}}}""#);
    let pattern = format!("^({bare}|{quoted})$");
    json!({ "type": "string", "pattern": pattern, "examples": [examples::KEY] })
}

fn date_or_time(example: &str) -> Value {
    let days = MAX_SEARCH.num_days();
    let about = format!("A date or an RFC 3339 time; a search covers {days} days at most.");
    let date = json!({
        "type": "string", "format": "date", "pattern": "^(19[7-9]|[2-9][0-9]{2})[0-9]-"
    });
    json!({ "description": about, "anyOf": [date, date_time()], "examples": [example] })
}
