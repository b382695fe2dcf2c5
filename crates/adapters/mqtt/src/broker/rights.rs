//! What a client may do, and the way to end its connection when it may no longer.
//!
//! rumqttd has no access rules: each connection asks here before it hands a packet to the router.

use rumqttd::protocol::{Packet, Publish, Subscribe};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// What a client may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// Everything: the node's own link.
    Everything,
    /// To publish to these topics, and to subscribe to these filters, each by its exact text. So a filter with a
    /// wildcard, or of a shared subscription, is nobody's unless it stands here.
    Topics {
        /// Where it may publish.
        publish: Vec<String>,
        /// What it may subscribe to.
        subscribe: Vec<String>,
    },
}

impl Rights {
    /// The topic or filter of a packet that is not the client's, if there is one.
    ///
    /// An empty topic (an alias of MQTT 5, which this broker does not offer) is nobody's.
    pub(super) fn forbidden(&self, packet: &Packet) -> Option<String> {
        let Self::Topics { publish, subscribe } = self else { return None };
        match packet {
            Packet::Publish(Publish { topic, .. }, _) => {
                let own = publish.iter().any(|own| own.as_bytes() == &topic[..]);
                (!own).then(|| String::from_utf8_lossy(topic).chars().take(120).collect())
            }
            Packet::Subscribe(Subscribe { filters, .. }, _) => {
                filters.iter().map(|filter| &filter.path).find(|path| !subscribe.contains(path)).cloned()
            }
            _ => None,
        }
    }
}

/// The open connections by client id, to end those of one client.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<BTreeMap<(String, u64), oneshot::Sender<()>>>,
    numbers: AtomicU64,
}

impl Connections {
    /// Notes a connection, before its credentials are looked at: so whoever is let in with credentials that end at
    /// that moment is found. Several may claim one client id.
    pub(super) fn note(self: &Arc<Self>, client_id: &str) -> (Noted, oneshot::Receiver<()>) {
        let key = (client_id.to_owned(), self.numbers.fetch_add(1, Ordering::Relaxed));
        let (end, ended) = oneshot::channel();
        self.lock().insert(key.clone(), end);
        (Noted { connections: Arc::clone(self), key }, ended)
    }

    /// Ends every connection of a client; those that were none any more are not counted.
    pub(super) fn end(&self, client_id: &str) -> usize {
        let mut open = self.lock();
        let range = (client_id.to_owned(), 0)..=(client_id.to_owned(), u64::MAX);
        let keys: Vec<_> = open.range(range).map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| open.remove(key)).map(tell).sum()
    }

    pub(super) fn end_all(&self) -> usize {
        let open = std::mem::take(&mut *self.lock());
        open.into_values().map(tell).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, u64), oneshot::Sender<()>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One, if there was still a connection to end.
fn tell(end: oneshot::Sender<()>) -> usize {
    usize::from(end.send(()).is_ok())
}

/// A connection is forgotten with this.
#[derive(Debug)]
pub(super) struct Noted {
    connections: Arc<Connections>,
    key: (String, u64),
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttd::protocol::{Filter, QoS, RetainForwardRule};

    fn rights() -> Rights {
        Rights::Topics { publish: vec!["a/up/fast".to_owned()], subscribe: vec!["a/down".to_owned()] }
    }

    fn publish(topic: &'static str) -> Packet {
        let publish = Publish::new(topic, "payload", false);
        Packet::Publish(publish, None)
    }

    fn subscribe(paths: &[&str]) -> Packet {
        let filter = |path: &&str| Filter {
            path: (*path).to_owned(),
            qos: QoS::AtLeastOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        Packet::Subscribe(Subscribe { pkid: 1, filters: paths.iter().map(filter).collect() }, None)
    }

    #[test]
    fn only_its_own_topics_are_a_clients() {
        assert_eq!(rights().forbidden(&publish("a/up/fast")), None);
        assert_eq!(rights().forbidden(&subscribe(&["a/down"])), None);
        for topic in ["b/up/fast", "a/up/fast/x", "a/up", "a/down", ""] {
            assert_eq!(rights().forbidden(&publish(topic)).as_deref(), Some(topic));
            assert_eq!(Rights::Everything.forbidden(&publish(topic)), None);
        }
        for filter in ["#", "+/down", "a/+", "a/down/#", "$share/g/a/down", "b/down", "a/up/fast"] {
            assert_eq!(rights().forbidden(&subscribe(&["a/down", filter])).as_deref(), Some(filter));
        }
    }

    #[test]
    fn all_connections_of_one_client_are_ended_and_no_other() {
        let connections = Arc::new(Connections::default());
        let (_a1, mut first) = connections.note("a");
        let (_a2, mut second) = connections.note("a");
        let (gone, _) = connections.note("a");
        let (_b, mut other) = connections.note("b");
        let (_ab, mut longer) = connections.note("ab");
        drop(gone);
        assert_eq!(connections.end("a"), 2);
        assert_eq!(connections.end("a"), 0);
        assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
        assert!(other.try_recv().is_err() && longer.try_recv().is_err());
        assert_eq!(connections.end_all(), 2);
        assert!(other.try_recv().is_ok() && longer.try_recv().is_ok());
    }
}
