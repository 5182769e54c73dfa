//! `booking doctor` is silent on a sound installation, and finds each planted fault by the check
//! that is made for it, with the remedy named. Where the remedy is SQL, the fault is healed by it.
//!
//! One installation is used for all faults, one after the other. After each it must be as it was.

mod fake_broker;
mod installation;
mod of_postgres;
mod of_rabbitmq;
mod of_redis;
mod of_settings;

use installation::Installation;

#[tokio::test]
async fn a_sound_installation_is_one_line_and_each_planted_fault_is_found() {
    let mut installation = Installation::start().await;
    installation.is_silent_while_it_serves().await;
    installation.is_as_before("the start");

    of_settings::are_found(&installation);
    of_postgres::are_found(&installation).await;
    of_postgres::that_keep_us_out_are_found(&installation).await;
    of_rabbitmq::are_found(&installation).await;
    of_rabbitmq::of_permissions_are_found(&installation).await;
    of_redis::are_found(&installation).await;
    of_redis::of_ownership_are_found(&installation).await;

    // The other way about: nothing was left behind that would be found.
    installation.is_silent_while_it_serves().await;
    of_redis::of_a_server_that_is_down_is_found(&mut installation).await;
    installation.stop().await;
}
