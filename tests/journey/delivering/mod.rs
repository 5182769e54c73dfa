//! Webhooks that arrive: from a decision to whoever asked for it, whatever happens on the way.

mod again;
mod arriving;
mod failing;
mod ten_thousand;
mod verified;

use crate::stage::{Process, Stage};

/// Receivers are on this machine, and nobody waits for hours.
const SETTINGS: [(&str, &str); 2] =
    [("WEBHOOK_ALLOW_INSECURE", "true"), ("WEBHOOK_RETRY_SCHEDULE", "1,1,1")];

/// A process that delivers, with further settings.
async fn webhooks(stage: &Stage, settings: &[(&str, &str)]) -> Process {
    let settings: Vec<(&str, &str)> = SETTINGS.iter().chain(settings).copied().collect();
    let webhooks = stage.start("webhooks", &settings).await;
    webhooks.is_ready().await;
    webhooks
}
