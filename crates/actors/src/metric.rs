//! Names of the node's metrics. Never an id as a label: the number of series does not grow with the fleet.

/// Messages under way in a lane of the router, label `lane`.
pub const LANE_DEPTH_MESSAGES: &str = "chargeplane_lane_depth_messages";
/// Most messages that were under way at once since the start, label `lane`.
pub const LANE_PEAK_MESSAGES: &str = "chargeplane_lane_peak_messages";
/// Bound of a lane, label `lane`.
pub const LANE_LIMIT_MESSAGES: &str = "chargeplane_lane_limit_messages";
/// Messages refused because a lane was full, label `lane`.
pub const SHED_TOTAL: &str = "chargeplane_shed_total";
/// Violations the node found on itself, label `invariant`. Must stay zero.
pub const INVARIANT_VIOLATIONS_TOTAL: &str = "chargeplane_invariant_violations_total";
/// Checks of an invariant the node made on itself, label `invariant`.
pub const INVARIANT_CHECKS_TOTAL: &str = "chargeplane_invariant_checks_total";
/// Frames committed.
pub const FRAMES_TOTAL: &str = "chargeplane_journal_frames_total";
/// Time of one group commit.
pub const COMMIT_SECONDS: &str = "chargeplane_journal_commit_seconds";
/// Snapshots of shards that were kept.
pub const SNAPSHOTS_TOTAL: &str = "chargeplane_snapshots_total";
/// Their bytes.
pub const SNAPSHOT_BYTES_TOTAL: &str = "chargeplane_snapshot_bytes_total";
/// Snapshots that were not kept; the log has all.
pub const SNAPSHOTS_FAILED_TOTAL: &str = "chargeplane_snapshots_failed_total";
/// Frames in one group commit.
pub const COMMIT_FRAMES: &str = "chargeplane_journal_commit_frames";
/// Commits refused because another epoch owns the shard.
pub const FENCED_TOTAL: &str = "chargeplane_journal_fenced_total";
/// Debits posted.
pub const DEBITS_TOTAL: &str = "chargeplane_debits_total";
/// Money taken from drivers, in 1/10,000 of the currency unit.
pub const BILLED_MONEY_TOTAL: &str = "chargeplane_billed_money_total";
/// Money given back at settlements because a wrong reading had been billed, in 1/10,000 of the currency unit.
pub const REFUNDED_MONEY_TOTAL: &str = "chargeplane_refunded_money_total";
/// Holds that ended by time: nothing was read of their sessions for long.
pub const HOLDS_ENDED_TOTAL: &str = "chargeplane_holds_ended_total";
/// Money paid out of operators' tills to banks, in 1/10,000 of the currency unit.
pub const PAID_OUT_MONEY_TOTAL: &str = "chargeplane_paid_out_money_total";
/// Energy billed to drivers.
pub const BILLED_WH_TOTAL: &str = "chargeplane_billed_wh_total";
/// Energy that nobody paid for.
pub const OVERSHOOT_WH_TOTAL: &str = "chargeplane_overshoot_wh_total";
/// Sessions settled, label `reason`.
pub const SESSIONS_SETTLED_TOTAL: &str = "chargeplane_sessions_settled_total";
/// Sessions started by their charger.
pub const SESSIONS_STARTED_TOTAL: &str = "chargeplane_sessions_started_total";
/// Station ticks with at least one session.
pub const TICKS_TOTAL: &str = "chargeplane_station_ticks_total";
/// Station ticks at which a node was over its limit with an excuse: after a cut, until grants end.
pub const POWER_DEFICIT_TICKS_TOTAL: &str = "chargeplane_power_deficit_ticks_total";
/// From the start of a tick to its last grant handed to the link.
pub const TICK_SECONDS: &str = "chargeplane_station_tick_seconds";
/// Longest tick since the start.
pub const TICK_MAX_SECONDS: &str = "chargeplane_station_tick_max_seconds";
/// Time HiGHS took for one programme.
pub const SOLVE_SECONDS: &str = "chargeplane_allocation_solve_seconds";
/// Longest solve since the start.
pub const SOLVE_MAX_SECONDS: &str = "chargeplane_allocation_solve_max_seconds";
/// Ticks answered by HiGHS.
pub const SOLVES_TOTAL: &str = "chargeplane_highs_solves_total";
/// Ticks answered by water-filling because HiGHS was late, busy or refused, label `reason`.
pub const SOLVER_FALLBACKS_TOTAL: &str = "chargeplane_solver_fallbacks_total";
/// Grants sent.
pub const GRANTS_TOTAL: &str = "chargeplane_grants_total";
/// Samples accepted (not yet durable).
pub const SAMPLES_ACCEPTED_TOTAL: &str = "chargeplane_samples_accepted_total";
/// Samples made durable.
pub const SAMPLES_STORED_TOTAL: &str = "chargeplane_samples_stored_total";
/// Samples that had been there already.
pub const SAMPLES_DUPLICATE_TOTAL: &str = "chargeplane_samples_duplicate_total";
/// Samples held in memory, waiting for their flush.
pub const SAMPLES_BUFFERED: &str = "chargeplane_samples_buffered";
/// Time of one telemetry flush.
pub const FLUSH_SECONDS: &str = "chargeplane_telemetry_flush_seconds";
/// Chunks written.
pub const CHUNKS_TOTAL: &str = "chargeplane_chunks_written_total";
/// Hours of chargers rolled up, again after late data.
pub const ROLLUPS_TOTAL: &str = "chargeplane_rollups_total";
/// Batches that were not used, label `reason`; `repeated` is an exact re-delivery, which is answered.
pub const BATCHES_REFUSED_TOTAL: &str = "chargeplane_batches_refused_total";
/// Batches taken in, label `stream`.
pub const BATCHES_TOTAL: &str = "chargeplane_batches_total";
/// Events of gateways handled.
pub const EVENTS_TOTAL: &str = "chargeplane_gateway_events_total";
/// Events of gateways that the charger's machine refused, label `reason`.
pub const EVENTS_REFUSED_TOTAL: &str = "chargeplane_gateway_events_refused_total";
/// Meter readings not used for money, label `reason`.
pub const READINGS_REFUSED_TOTAL: &str = "chargeplane_readings_refused_total";
/// Sessions closed at their last reading because their end could not be used, label `reason`.
pub const METER_FAULTS_TOTAL: &str = "chargeplane_meter_faults_total";
/// Restarts of actors, label `kind`.
pub const ACTOR_RESTARTS_TOTAL: &str = "chargeplane_actor_restarts_total";
/// Messages in the dead-letter lists.
pub const DEAD_LETTERS: &str = "chargeplane_dead_letters";
/// Dead letters that found no room: their senders were refused.
pub const DEAD_LETTERS_REFUSED_TOTAL: &str = "chargeplane_dead_letters_refused_total";
/// Entities that failed too often.
pub const ENTITIES_PARKED: &str = "chargeplane_entities_parked";
/// Entities whose log cannot be applied.
pub const ENTITIES_QUARANTINED: &str = "chargeplane_entities_quarantined";
/// Shards open on this node.
pub const SHARDS_OPEN: &str = "chargeplane_shards_open";
/// Times a shard was opened, each with a raised epoch.
pub const SHARD_OPENS_TOTAL: &str = "chargeplane_shard_opens_total";
/// Journal frames not yet in the read models.
pub const PROJECTION_LAG_FRAMES: &str = "chargeplane_projection_lag_frames";
/// Charge records that differ from one that is there and were not taken. Must stay zero.
pub const RECORD_CONFLICTS_TOTAL: &str = "chargeplane_record_conflicts_total";
/// Commands that ended, label `outcome`.
pub const COMMANDS_TOTAL: &str = "chargeplane_commands_total";
/// 1 while the link to the broker is up.
pub const LINK_UP: &str = "chargeplane_mqtt_link_up";
/// Messages the link refused (queue full or closed).
pub const LINK_REFUSED_TOTAL: &str = "chargeplane_mqtt_refused_total";
