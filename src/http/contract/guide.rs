//! What a client has to know of all operations together. One text for the document, where it is
//! CommonMark, and for the page.

/// A chapter: its title, and paragraphs between blank lines. A paragraph whose lines begin with
/// `- ` is a list; what stands between backticks is code.
pub const CHAPTERS: &[(&str, &str)] = &[
    (
        "The way of a change",
        "A change (book, confirm, cancel, reschedule) is first accepted and then decided. **202** \
         says that it is recorded and will not be lost; the answer is a Command, and `Location` \
         says where to read what becomes of it. It is decided a few milliseconds later, once, and \
         stays so: `succeeded` with the booking, `rejected` with a problem document (a business \
         no, such as `SLOT_CONFLICT`), or `failed`, when it was given up.

With `Prefer: wait=10` the answer waits for the decision, and is the decision: 201 or 200 with the \
         booking, or the problem with its own status. If the time runs out first, it is the 202. \
         `GET /api/commands/{id}` takes `Prefer: wait` too.

The commands of one calendar are decided in the order in which they were accepted.",
    ),
    (
        "How to retry",
        "Send `Idempotency-Key`, with a value that is new for each change and kept for its \
         retries. Then any request may be sent again, blindly and as often as you like: it is one \
         effect, and every answer is the first one again, with `Idempotency-Replayed: true`. With \
         `Prefer: wait` a retry brings the decision.

- No answer, a broken connection, 502, 504: send the same again, with the same key, after 1 s, 2 s, \
         4 s and so on.
- 429 and 503: the same, after `Retry-After` seconds. Nothing was done. `RateLimit-Remaining` says \
         beforehand how many requests are left, and `RateLimit-Reset` when all are granted again.
- 202: nothing to send again; poll the command.
- 409, 410, 412, 422: decided. Read again, then ask for something else, with a new key.
- 500: decided too. The command was given up; tell the operators its `correlationId`.
- 400, 401, 403, 404, 413, 415: mend the request. It left no trace, and its key is still free.",
    ),
    (
        "Versions",
        "Each change counts a booking's `version` up by one, and the version is its `ETag`. Send it \
         back in `If-Match`, and the change is made to that version or answered 412. Send it in \
         `If-None-Match`, and a read of what has not changed is 304, without a body.",
    ),
    (
        "Times and bodies",
        "Times are RFC 3339 with an offset, kept to the microsecond and answered in UTC. An \
         interval holds its start and not its end, so bookings may touch. Durations of an \
         availability are minutes; a hold is seconds.

Bodies are JSON of at most 256 KiB. Unknown fields and parameters are refused, so that nothing is \
         misspelt unnoticed; `null` is the same as nothing. Answers may get more fields: ignore \
         those that you do not know.",
    ),
    (
        "Whose bookings",
        "A user reaches their own calendar, bookings and commands; a service those of every user, \
         as far as its scopes go. Another's booking or command is 404, the same as one that never \
         was. In a path `/api/users/{id}/…` another's id is 403, whether or not there is such a \
         user. Where the operators believe the header `X-User-ID`, it says who calls; otherwise it \
         is `Authorization: Bearer` with a token or an API key, or `X-API-Key`.",
    ),
    (
        "Webhooks",
        "A webhook endpoint gets each event that it asks for as a `POST` with the bytes of the \
         event, at least once, with the headers of Standard Webhooks 1.0: `webhook-id` (the same in \
         every attempt, so a repeated event is known by it), `webhook-timestamp` and \
         `webhook-signature`. Any answer of 2xx is a success; all else is tried again for about 75 \
         hours, except 410, which disables the endpoint. Events may come out of order: compare the \
         booking's `version`. A command with `callbackUrl` posts its own outcome there.

What an endpoint is told of belongs to whoever registered it: a user's endpoints are told of that \
         user's calendar, a service's of every calendar, or of one user's when it names them in \
         `X-User-ID`. Requests about webhooks take no idempotency key: to register twice makes two \
         endpoints, to test twice makes two deliveries; all others may be sent again.",
    ),
    (
        "Refusals",
        "A no is a problem document of RFC 9457, `application/problem+json`, with a `code` for \
         programs. `errors` names every field, parameter or header that is wrong. `HEAD` is \
         answered like `GET`, without the body; another method than those here is 405 with \
         `Allow`. Of a request that is not HTTP, or whose head has more than 16 KiB, nothing is \
         known, so 400 and 431 may come without a document.",
    ),
];

/// The guide as CommonMark.
pub fn markdown() -> String {
    let chapters: Vec<_> =
        CHAPTERS.iter().map(|(title, text)| format!("## {title}\n\n{text}")).collect();
    chapters.join("\n\n")
}
