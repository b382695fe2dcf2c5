//! A bounded memory: the newest entries by key, the oldest forgotten first.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, VecDeque};

/// Entries by key in the order they came. Stored as the list of (key, value), oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent<K, V> {
    entries: BTreeMap<K, V>,
    /// Every key of `entries` once, oldest first.
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// What is remembered of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Number of keys remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry that would be forgotten first.
    pub fn oldest(&self) -> Option<&V> {
        self.order.front().and_then(|key| self.entries.get(key))
    }

    /// Remembers a key, and forgets the oldest ones beyond `bound`. A key that is remembered keeps its
    /// place and its first value.
    pub fn remember(&mut self, key: K, value: V, bound: usize) {
        self.remember_while(key, value, bound, |_| false);
    }

    /// The same, but nothing is forgotten that is still to be `kept`.
    pub fn remember_while(&mut self, key: K, value: V, bound: usize, kept: impl Fn(&V) -> bool) {
        if self.entries.contains_key(&key) {
            return;
        }
        self.order.push_back(key.clone());
        self.entries.insert(key, value);
        while self.entries.len() > bound && !self.oldest().is_some_and(&kept) {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.entries.remove(&oldest);
        }
    }

    /// Keys and values, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().filter_map(|key| self.entries.get_key_value(key))
    }
}

impl<K: Ord + Clone + Serialize, V: Serialize> Serialize for Recent<K, V> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de, K, V> Deserialize<'de> for Recent<K, V>
where
    K: Ord + Clone + Deserialize<'de>,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut recent = Self::default();
        for (key, value) in Vec::<(K, V)>::deserialize(from)? {
            recent.remember(key, value, usize::MAX);
        }
        Ok(recent)
    }
}
