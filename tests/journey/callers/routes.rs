//! Every route of the API, and what it answers to whom.

use Standing::{Forbidden, Owner, Reader, Stranger, Unknown, Writer};
use reqwest::Method;

/// What the `{id}` of a path, or the body, is about.
#[derive(Clone, Copy, PartialEq)]
pub enum About {
    /// The owner's calendar.
    User,
    /// A booking of the owner.
    Booking,
    /// A hold of the owner.
    Hold,
    /// The command that made it.
    Command,
    /// The endpoints of whoever asks.
    Endpoints,
    /// An endpoint of the owner.
    Endpoint,
    /// A delivery of it.
    Delivery,
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub about: About,
    pub writes: bool,
    /// The answer to who may.
    pub status: u16,
}

const fn get(path: &'static str, about: About) -> Route {
    Route { method: Method::GET, path, about, writes: false, status: 200 }
}

const fn post(path: &'static str, about: About, status: u16) -> Route {
    Route { method: Method::POST, path, about, writes: true, status }
}

const fn put(path: &'static str, about: About) -> Route {
    Route { method: Method::PUT, path, about, writes: true, status: 200 }
}

const fn patch(path: &'static str, about: About) -> Route {
    Route { method: Method::PATCH, path, about, writes: true, status: 200 }
}

const fn delete(path: &'static str, about: About) -> Route {
    Route { method: Method::DELETE, path, about, writes: true, status: 204 }
}

/// Every route below `/api`.
pub const ROUTES: &[Route] = &[
    post("/api/bookings", About::User, 201),
    get("/api/bookings/{id}", About::Booking),
    get("/api/bookings/{id}/history", About::Booking),
    post("/api/bookings/{id}/confirm", About::Hold, 200),
    post("/api/bookings/{id}/cancel", About::Booking, 200),
    post("/api/bookings/{id}/reschedule", About::Booking, 200),
    get("/api/commands/{id}", About::Command),
    get("/api/users/{id}/bookings", About::User),
    get("/api/users/{id}/availability", About::User),
    put("/api/users/{id}/availability", About::User),
    get("/api/users/{id}/slots?startDate=2033-01-01&endDate=2033-01-02", About::User),
    post("/api/webhooks", About::Endpoints, 201),
    get("/api/webhooks", About::Endpoints),
    get("/api/webhooks/{id}", About::Endpoint),
    patch("/api/webhooks/{id}", About::Endpoint),
    delete("/api/webhooks/{id}", About::Endpoint),
    post("/api/webhooks/{id}/rotate-secret", About::Endpoint, 200),
    post("/api/webhooks/{id}/test", About::Endpoint, 202),
    post("/api/webhooks/{id}/recover", About::Endpoint, 202),
    get("/api/webhooks/{id}/deliveries", About::Endpoint),
    get("/api/webhooks/{id}/deliveries/{deliveryId}", About::Delivery),
    get("/api/webhooks/{id}/deliveries/{deliveryId}/attempts", About::Delivery),
    post("/api/webhooks/{id}/deliveries/{deliveryId}/redeliver", About::Delivery, 202),
];

/// What a caller is to the owner's calendar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// May all, under this principal's name.
    Owner,
    Writer,
    Reader,
    /// Another user, or a service that names one.
    Stranger,
    /// Known, and refused whatever is asked.
    Forbidden,
    Unknown,
}
impl Route {
    /// The status and the code of the answer to a caller.
    pub fn answer(&self, standing: Standing) -> (u16, &'static str) {
        match standing {
            Unknown => (401, "UNAUTHENTICATED"),
            Forbidden => (403, "FORBIDDEN"),
            // Whoever may read has endpoints, and nobody but their owner reaches them.
            _ if self.about == About::Endpoints => (self.status, ""),
            Writer | Reader if self.is_of_webhooks() => (404, "NOT_FOUND"),
            Owner | Writer => (self.status, ""),
            Reader if !self.writes => (self.status, ""),
            Reader => (403, "FORBIDDEN"),
            Stranger if self.about == About::User => (403, "FORBIDDEN"),
            Stranger => (404, "NOT_FOUND"),
        }
    }

    pub fn is_of_webhooks(&self) -> bool {
        matches!(self.about, About::Endpoints | About::Endpoint | About::Delivery)
    }
}
