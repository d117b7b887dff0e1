//! Instances of gateways that fail, and come back when their time is over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use vnet_api::{FailRequest, Failover};
use vnet_config::model::{GatewayType, Topology};
use vnet_dataplane::Nanos;
use vnet_fabric::control::Event;

use super::lab::Lab;
use crate::api::{Answer, ApiError};
use crate::worker::monotonic;

/// Lets an instance of a gateway fail, and says for how long.
pub(super) fn fail(lab: &Arc<Lab>, gateway: &str, request: &FailRequest) -> Answer<Failover> {
    let instance = instance(&lab.view().topology, gateway, request)?;
    let event = Event::InstanceFailed { gateway: gateway.to_owned(), instance, planned: request.planned };
    let now = monotonic();
    lab.take(event)?;
    let until = lab.view().state.outage(gateway, instance).map_or(now, |outage| Nanos(outage.until_ns));
    await_timer(lab);
    Ok(Failover {
        gateway: gateway.to_owned(),
        instance: instance as u16,
        planned: request.planned,
        interruption_ms: until.since(now).as_millis() as u64,
    })
}

fn instance(topology: &Topology, gateway: &str, request: &FailRequest) -> Answer<usize> {
    let gateways = &topology.virtual_network_gateways;
    let found = gateways
        .get(gateway)
        .ok_or_else(|| ApiError::not_among("virtual network gateway", gateway, gateways.keys()))?;
    if found.gateway_type != GatewayType::Vpn {
        return Err(ApiError::conflict(format!(
            "'{gateway}' is no VPN gateway: it carries nothing that could fail."
        )));
    }
    let instance = usize::from(request.instance.unwrap_or(0));
    let last = usize::from(found.active_active);
    if instance > last {
        let message = if found.active_active {
            format!("'{gateway}' has the instances 0 and 1, and no {instance}.")
        } else {
            format!("Of '{gateway}', which is active-standby, only instance 0 carries anything.")
        };
        return Err(ApiError::bad_request(message));
    }
    Ok(instance)
}

/// Takes the control state's next timer when it is due, and the one after that. Called whenever there may be a new one.
pub(super) fn await_timer(lab: &Arc<Lab>) {
    let Some(due) = lab.view().state.next_timeout() else { return };
    let weak = Arc::downgrade(lab);
    let thread = std::thread::Builder::new().name("lab-timer".into());
    if let Err(error) = thread.spawn(move || run(&weak, due)) {
        tracing::error!(lab = %lab.name, %error, "no thread for a timer: what has failed stays so");
    }
}

/// Each thread goes on as long as the timer is the one that it waits for: a later one has a thread of its own.
fn run(lab: &Weak<Lab>, mut due: Nanos) {
    loop {
        let wait = due.since(monotonic());
        if wait > Duration::ZERO {
            std::thread::sleep(wait);
        }
        let Some(lab) = lab.upgrade() else { return };
        match lab.take(Event::Timer) {
            // Taken by another thread before, or the lab is gone.
            Ok(false) | Err(_) => return,
            Ok(true) => {}
        }
        match lab.view().state.next_timeout() {
            Some(next) => due = next,
            None => return,
        }
    }
}
