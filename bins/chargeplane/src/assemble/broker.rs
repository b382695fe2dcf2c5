//! The embedded broker with the rights of the node and of its gateways.

use crate::config;
use crate::exit::{Code, Failure};
use chargeplane_actors::node::Node;
use chargeplane_mqtt::{EmbeddedBroker, Rights, client_id_of};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

/// Starts it. Gateways get their own topics and nothing else; whose credentials end is cut off at once.
pub async fn start(listen: &str, node: &Node, own: String, password: String) -> Result<EmbeddedBroker, Failure> {
    let address = config::address(listen).ok_or_else(|| Failure::usage("mqtt.listen: write address:port"))?;
    let of_gateways = node.authenticator();
    // Before the first gateway is let in.
    let mut ended = node.cut_off();
    let authenticate = move |client_id: &str, username: &str, given: &str| {
        // The node's own password is new at each start and never leaves the process.
        if username == own {
            return (given == password).then_some(Rights::Everything);
        }
        let topics = of_gateways(client_id, username, given)?;
        Some(Rights::Topics { publish: topics.publish, subscribe: vec![topics.subscribe] })
    };
    let broker = tokio::task::spawn_blocking(move || EmbeddedBroker::start(address, Arc::new(authenticate)))
        .await
        .map_err(|_| Failure::internal("starting the broker failed"))?
        .map_err(|e| {
            let taken = matches!(e, chargeplane_mqtt::BrokerError::PortTaken { .. });
            Failure::new(if taken { Code::Busy } else { Code::Internal }, e.to_string())
        })?;
    let cut = broker.cutter();
    tokio::spawn(async move {
        loop {
            match ended.recv().await {
                Ok(gateway) => {
                    let connections = cut(Some(&client_id_of(gateway.as_str())));
                    tracing::info!(%gateway, connections, "its credentials ended; cut off where it was connected");
                }
                // Which ones were missed is not known: all have to show their credentials again.
                Err(RecvError::Lagged(_)) => drop(cut(None)),
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(broker)
}
