//! The node itself: shards, dead letters, health.

use super::*;

impl NodeHandle {
    /// All shards of this node.
    pub async fn shards(&self) -> Result<Vec<ShardView>, CallError> {
        let statuses = self.shared.shard_statuses();
        let mut views = Vec::new();
        for shard in ShardId::all(self.shared.config.shards) {
            let (reply, wait) = self.reply();
            let router = &self.shared.router;
            let asked = match shard.family {
                Family::Station => {
                    router.station_shard(shard.index).map(|actor| actor.cast(ShardMessage::View(reply)).is_ok())
                }
                Family::Account => {
                    router.account_shard(shard.index).map(|actor| actor.cast(ShardMessage::View(reply)).is_ok())
                }
            };
            let view = if asked == Some(true) { wait.await.ok() } else { None };
            views.push(view.unwrap_or_else(|| closed_view(shard, statuses.get(&shard))));
        }
        Ok(views)
    }

    /// Dead letters of all shards.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetterView>, CallError> {
        let mut views = Vec::new();
        for shard in ShardId::all(self.shared.config.shards) {
            let (reply, wait) = self.reply();
            let router = &self.shared.router;
            match shard.family {
                Family::Station => {
                    let Some(actor) = router.station_shard(shard.index) else { continue };
                    let _ = actor.cast(ShardMessage::DeadLetters(reply));
                }
                Family::Account => {
                    let Some(actor) = router.account_shard(shard.index) else { continue };
                    let _ = actor.cast(ShardMessage::DeadLetters(reply));
                }
            }
            views.extend(wait.await?.into_iter().map(|letter| letter_view(shard, letter)));
        }
        Ok(views)
    }

    /// Hands a dead letter to its entity again. It is gone when the entity has handled it, and stays otherwise.
    pub async fn retry_dead_letter(&self, id: &str) -> Result<(), CallError> {
        self.take_dead_letter(id, true).await
    }

    /// Forgets a dead letter; its entity may live again.
    pub async fn drop_dead_letter(&self, id: &str) -> Result<(), CallError> {
        self.take_dead_letter(id, false).await
    }

    async fn take_dead_letter(&self, id: &str, retry: bool) -> Result<(), CallError> {
        let missing = || CallError::NotFound(format!("dead letter {}", id.chars().take(60).collect::<String>()));
        let (shard, number) = id.rsplit_once('/').ok_or_else(missing)?;
        let shard: ShardId = shard.parse().map_err(|_| missing())?;
        let number: u64 = number.parse().map_err(|_| missing())?;
        let (reply, wait) = self.reply();
        let not_serving = || CallError::NotServing(shard.to_string());
        match shard.family {
            Family::Station => {
                let actor = self.shared.router.station_shard(shard.index).ok_or_else(not_serving)?;
                let _ = actor.cast(ShardMessage::TakeDeadLetter { number, retry, reply });
            }
            Family::Account => {
                let actor = self.shared.router.account_shard(shard.index).ok_or_else(not_serving)?;
                let _ = actor.cast(ShardMessage::TakeDeadLetter { number, retry, reply });
            }
        }
        wait.await
    }

    /// The node itself.
    pub async fn node(&self) -> NodeView {
        let statuses = self.shared.shard_statuses();
        let open = statuses.values().filter(|status| **status == ShardStatus::Open).count();
        let lag = match self.shared.projection.get() {
            Some(projection) => {
                let (reply, wait) = self.reply();
                let _ = projection.cast(ProjectionMessage::Lag(reply));
                wait.await.unwrap_or(u64::MAX)
            }
            None => u64::MAX,
        };
        NodeView {
            node: self.shared.config.node.to_string(),
            pid: std::process::id(),
            incarnation: self.incarnation,
            started_at: self.started_at,
            shards_open: open,
            shards_wanted: usize::from(self.shared.config.shards).saturating_mul(2),
            projection_lag: lag,
            open_sessions: self.count_sessions().await.unwrap_or(0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether the node serves, and why not.
    pub fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let statuses = self.shared.shard_statuses();
        let wanted = usize::from(self.shared.config.shards).saturating_mul(2);
        let open = statuses.values().filter(|status| **status == ShardStatus::Open).count();
        if open < wanted {
            reasons.push(format!("{open} of {wanted} shards are open"));
        }
        for (shard, status) in &statuses {
            if let ShardStatus::Failed(reason) = status {
                reasons.push(format!("{shard}: {reason}"));
            }
        }
        if !self.shared.router.may_serve() {
            reasons.push("the node's lease is not renewed".to_owned());
        }
        if self.shared.router.is_closed() {
            reasons.push("the node drains".to_owned());
        }
        if !self.shared.is_link_up() {
            reasons.push("the broker is not connected".to_owned());
        }
        if self.shared.fatal.is_raised() {
            reasons.push("a store failed".to_owned());
        }
        Readiness { ready: reasons.is_empty(), reasons }
    }

    /// False once the node can only be restarted.
    pub fn live(&self) -> bool {
        !self.shared.fatal.is_raised()
    }
}

fn closed_view(shard: ShardId, status: Option<&ShardStatus>) -> ShardView {
    let state = match status {
        Some(ShardStatus::Failed(reason)) => format!("failed: {reason}"),
        _ => "closed".to_owned(),
    };
    let shard = shard.to_string();
    ShardView { shard, state, epoch: 0, last_lsn: 0, rows: 0, live: 0, parked: 0, quarantined: 0 }
}

fn letter_view(shard: ShardId, letter: DeadLetter) -> DeadLetterView {
    let DeadLetter { number, entity, summary, error, at, .. } = letter;
    DeadLetterView { id: format!("{shard}/{number}"), entity, message: summary, error, at }
}
