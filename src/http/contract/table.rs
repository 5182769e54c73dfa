//! Every operation: what it takes and what it can answer.

use super::operation::Method::{Get, Post, Put};
use super::operation::{Answer, Body, Content, Group, Header, Link, Operation};
use super::parameters::{
    BOOKING, COMMAND, CURSOR, END_DATE, ETAG, FROM, HISTORY_CURSOR, IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_REQUIRED, IF_MATCH, IF_NONE_MATCH, LIMIT, LOCATION, PREFER, PREFERENCE_APPLIED,
    REPLAYED, RETRY_AFTER, RETRY_WHILE_ACCEPTED, SLOT_DURATION, SORT, START_DATE, STATUS, STEP,
    TIME_ZONE, TO, UPDATED_SINCE, USER,
};
use super::webhooks::WEBHOOKS;
use crate::booking::problem::Code::{self, *};
use crate::metrics;

/// In the order in which people read them.
pub const OPERATIONS: &[Group] = &[BOOKINGS, COMMANDS, CALENDARS, WEBHOOKS, WATCHING, CONTRACT];

impl Operation {
    /// What any operation may refuse, before it does anything.
    pub fn at_the_door(&self) -> &'static [Code] {
        match self.path {
            _ if self.asks_who_calls() => &[
                ValidationFailed,
                Unauthenticated,
                Forbidden,
                RateLimited,
                Overloaded,
                DependencyUnavailable,
            ],
            "/openapi.json" | "/docs" => &[ValidationFailed, RateLimited],
            _ => &[ValidationFailed], // what watches is not kept from it
        }
    }
}

const BOOKINGS: Group = Group {
    name: "Bookings",
    about: "A booking claims a time of a calendar, and no two active ones of a calendar overlap.",
    operations: &[CREATE, GET, CONFIRM, CANCEL, RESCHEDULE, HISTORY],
};

const CREATE: Operation = Operation {
    method: Post,
    path: "/api/bookings",
    id: "createBooking",
    summary: "Book a time, or hold it",
    about: "Claims the time, and confirms it at once; with `hold` the booking is PENDING, and keeps \
            the time from others until it is confirmed or the hold lapses.",
    parameters: &[IDEMPOTENCY_KEY_REQUIRED, PREFER],
    body: Some(Body { schema: "NewBooking", optional: false }),
    answers: &[
        ACCEPTED,
        Answer {
            status: 201,
            about: "Booked or held: the answer to `Prefer: wait`.",
            headers: &[ETAG, LOCATION, REPLAYED],
            content: Content::Json("Booking"),
            links: OF_A_BOOKING,
        },
    ],
    refusals: &[
        IdempotencyKeyMissing,
        SlotConflict,
        PayloadTooLarge,
        UnsupportedMediaType,
        InvalidTime,
        DurationOutOfRange,
        OutsideWorkingHours,
        BlackedOut,
        TooSoon,
        TooFarAhead,
        NotAligned,
        IdempotencyKeyReused,
        CalendarBacklogFull,
        InternalError,
    ],
    ..READ
};

const GET: Operation = Operation {
    path: "/api/bookings/{id}",
    id: "getBooking",
    summary: "Read a booking",
    about: "As it is now. A booking whose creation is not decided yet is not there.",
    parameters: &[BOOKING, IF_NONE_MATCH],
    answers: &[
        Answer { links: OF_A_BOOKING, ..found("The booking.", TAGGED, "Booking") },
        NOT_MODIFIED,
    ],
    refusals: &[NotFound],
    ..READ
};

const CONFIRM: Operation = Operation {
    path: "/api/bookings/{id}/confirm",
    id: "confirmBooking",
    summary: "Confirm a hold",
    about: "Before the hold lapses. After that it is 410, and the time is free for others.",
    body: Some(Body { schema: "Confirmation", optional: true }),
    refusals: &[
        NotFound,
        InvalidState,
        HoldExpired,
        VersionMismatch,
        PayloadTooLarge,
        UnsupportedMediaType,
        IdempotencyKeyReused,
        CalendarBacklogFull,
        InternalError,
    ],
    ..CHANGE
};

const CANCEL: Operation = Operation {
    path: "/api/bookings/{id}/cancel",
    id: "cancelBooking",
    summary: "Cancel a booking",
    about: "Gives its time back. A second cancel is 409 `ALREADY_CANCELLED`.",
    body: Some(Body { schema: "Cancellation", optional: true }),
    refusals: &[
        NotFound,
        InvalidState,
        AlreadyCancelled,
        VersionMismatch,
        PayloadTooLarge,
        UnsupportedMediaType,
        IdempotencyKeyReused,
        CalendarBacklogFull,
        InternalError,
    ],
    ..CHANGE
};

const RESCHEDULE: Operation = Operation {
    path: "/api/bookings/{id}/reschedule",
    id: "rescheduleBooking",
    summary: "Move a booking",
    about: "To another time, by the same rules as a new booking. The id stays; where the new time is \
            taken the booking keeps the old one. To the same time it is a success without a change.",
    body: Some(Body { schema: "Rescheduling", optional: false }),
    refusals: &[
        NotFound,
        SlotConflict,
        InvalidState,
        VersionMismatch,
        PayloadTooLarge,
        UnsupportedMediaType,
        InvalidTime,
        DurationOutOfRange,
        OutsideWorkingHours,
        BlackedOut,
        TooSoon,
        TooFarAhead,
        NotAligned,
        IdempotencyKeyReused,
        CalendarBacklogFull,
        InternalError,
    ],
    ..CHANGE
};

/// What the changes of a booking have in common.
const CHANGE: Operation = Operation {
    method: Post,
    parameters: &[BOOKING, IF_MATCH, IDEMPOTENCY_KEY, PREFER],
    answers: &[
        ACCEPTED,
        found("The booking after it: the answer to `Prefer: wait`.", DECIDED, "Booking"),
    ],
    ..READ
};

const HISTORY: Operation = Operation {
    path: "/api/bookings/{id}/history",
    id: "getBookingHistory",
    summary: "Read what happened to a booking",
    about: "Every change in its order, with who asked for it.",
    parameters: &[BOOKING, LIMIT, HISTORY_CURSOR],
    answers: &[found("A page of changes.", &[], "History")],
    refusals: &[NotFound],
    ..READ
};

const COMMANDS: Group = Group {
    name: "Commands",
    about: "A command asks for a change. It is accepted, and then decided once.",
    operations: &[Operation {
        path: "/api/commands/{id}",
        id: "getCommand",
        summary: "Read what became of a command",
        about: "Poll it once a second, or let `Prefer: wait` tell you as soon as it is decided.",
        parameters: &[COMMAND, IF_NONE_MATCH, PREFER],
        answers: &[
            found("The command.", &[ETAG, RETRY_WHILE_ACCEPTED], "Command"),
            Answer { headers: &[ETAG, RETRY_WHILE_ACCEPTED], ..NOT_MODIFIED },
        ],
        refusals: &[NotFound],
        ..READ
    }],
};

const CALENDARS: Group = Group {
    name: "Calendars",
    about: "A calendar is a user's time. It is there without being made, and open until its \
            availability says otherwise.",
    operations: &[LIST, AVAILABILITY, SET_AVAILABILITY, SLOTS],
};

const LIST: Operation = Operation {
    path: "/api/users/{id}/bookings",
    id: "listBookings",
    summary: "List a calendar's bookings",
    about: "Page by page. Bookings that come and go meanwhile neither repeat nor hide others.",
    parameters: &[USER, STATUS, FROM, TO, UPDATED_SINCE, SORT, LIMIT, CURSOR],
    answers: &[found("A page of bookings.", &[], "Bookings")],
    ..READ
};

const AVAILABILITY: Operation = Operation {
    path: "/api/users/{id}/availability",
    id: "getAvailability",
    summary: "Read when a calendar takes bookings",
    about: "As it was set. `{}`, which is no limit at all, where it never was.",
    parameters: &[USER, IF_NONE_MATCH],
    answers: &[found("The availability.", TAGGED, "Availability"), NOT_MODIFIED],
    ..READ
};

const SET_AVAILABILITY: Operation = Operation {
    method: Put,
    path: "/api/users/{id}/availability",
    id: "setAvailability",
    summary: "Say when a calendar takes bookings",
    about: "Replaces the availability as a whole. It binds what is decided from then on, and leaves \
            the bookings that are made as they are.",
    parameters: &[USER, IF_MATCH],
    body: Some(Body { schema: "Availability", optional: false }),
    answers: &[found("The availability as it is kept.", TAGGED, "Availability")],
    refusals: &[
        VersionMismatch,
        PayloadTooLarge,
        UnsupportedMediaType,
        InvalidTime,
        DurationOutOfRange,
    ],
    ..READ
};

const SLOTS: Operation = Operation {
    path: "/api/users/{id}/slots",
    nameless: true,
    id: "listFreeSlots",
    summary: "Find free times of a calendar",
    about: "Each can be booked as long as nothing else changes. Slots lie wholly inside the search, \
            and start on a grid that bookings do not move.",
    parameters: &[USER, START_DATE, END_DATE, SLOT_DURATION, STEP, TIME_ZONE],
    answers: &[found("The free slots in their order.", &[], "Slots")],
    refusals: &[InvalidTime, DurationOutOfRange, RangeTooLarge],
    ..READ
};

const WATCHING: Group = Group {
    name: "Watching",
    about: "For operators and their tools. Nobody is asked who they are.",
    operations: &[
        Operation {
            path: "/health",
            id: "getHealth",
            summary: "Whether PostgreSQL answers",
            answers: &[
                found("It does.", &[], "Health"),
                Answer { status: 503, ..found("It does not.", &[], "Health") },
            ],
            ..READ
        },
        Operation {
            path: "/health/live",
            id: "getLiveness",
            summary: "Whether the process runs",
            about: "Where it does not answer, start it anew.",
            answers: &[found("It does.", &[], "Live")],
            ..READ
        },
        Operation {
            path: "/health/ready",
            id: "getReadiness",
            summary: "Whether the process can do its work",
            about: "Where it cannot, send it none.",
            answers: &[
                found("It can.", &[], "Readiness"),
                Answer { status: 503, ..found("It cannot, or it stops.", &[], "Readiness") },
            ],
            ..READ
        },
        Operation {
            path: "/metrics",
            id: "getMetrics",
            summary: "Counts and times",
            answers: &[text("OpenMetrics.", metrics::CONTENT_TYPE)],
            ..READ
        },
    ],
};

const CONTRACT: Group = Group {
    name: "Contract",
    about: "What is promised. Nobody is asked who they are.",
    operations: &[
        Operation {
            path: "/openapi.json",
            id: "getContract",
            summary: "This contract, for programs",
            answers: &[text("OpenAPI 3.1.", "application/json")],
            ..READ
        },
        Operation {
            path: "/docs",
            id: "readContract",
            summary: "This contract, for people",
            answers: &[text("A page that needs nothing else.", "text/html; charset=utf-8")],
            ..READ
        },
    ],
};

/// What most reads have in common.
pub const READ: Operation = Operation {
    method: Get,
    path: "",
    id: "",
    summary: "",
    about: "",
    nameless: false,
    parameters: &[],
    body: None,
    answers: &[],
    refusals: &[],
};

const TAGGED: &[Header] = &[ETAG];
const DECIDED: &[Header] = &[ETAG, REPLAYED];

const ACCEPTED: Answer = Answer {
    status: 202,
    about: "Recorded and not lost; not decided yet.",
    headers: &[LOCATION, RETRY_AFTER, REPLAYED, PREFERENCE_APPLIED],
    content: Content::Json("Command"),
    links: &[Link { operation: "getCommand", id: "/commandId" }],
};

const NOT_MODIFIED: Answer = Answer {
    status: 304,
    about: "What you have is what there is.",
    headers: TAGGED,
    content: Content::None,
    links: &[],
};

const OF_A_BOOKING: &[Link] = &[
    Link { operation: "getBooking", id: "/id" },
    Link { operation: "getBookingHistory", id: "/id" },
    Link { operation: "confirmBooking", id: "/id" },
    Link { operation: "rescheduleBooking", id: "/id" },
    Link { operation: "cancelBooking", id: "/id" },
];

pub const fn found(
    about: &'static str,
    headers: &'static [Header],
    schema: &'static str,
) -> Answer {
    Answer { status: 200, about, headers, content: Content::Json(schema), links: &[] }
}

const fn text(about: &'static str, media_type: &'static str) -> Answer {
    Answer { status: 200, about, headers: &[], content: Content::Text(media_type), links: &[] }
}
