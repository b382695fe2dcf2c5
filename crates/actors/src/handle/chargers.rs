//! Stations, chargers, sessions and commands.

use super::*;
use std::collections::BTreeSet;
use std::ops::Bound;

impl NodeHandle {
    pub(super) fn station_actor(
        &self,
        station: &StationId,
    ) -> Result<ActorRef<ShardMessage<StationFamily>>, CallError> {
        let shard = self.directory().station_shard(station);
        let actor = self.shared.router.station_shard(shard.index);
        actor.ok_or_else(|| CallError::NotServing(shard.to_string()))
    }

    pub(super) async fn ask_stations<T: Send + 'static>(
        &self,
        actor: &ActorRef<ShardMessage<StationFamily>>,
        question: impl FnOnce(&StationMap) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (reply, wait) = self.reply();
        let question = Box::new(move |map: Result<&StationMap, CallError>| reply.answer(map.map(question)));
        let _ = actor.cast(ShardMessage::Ask(question));
        wait.await
    }

    /// Asks a station's actor through the lane of reads.
    async fn ask_station<T: Send + 'static>(
        &self,
        station: &StationId,
        question: impl FnOnce(Reply<T>, Permit) -> StationMessage,
    ) -> Result<T, CallError> {
        let shard = self.directory().station_shard(station);
        let (reply, wait) = self.reply();
        let key = StationKey::Station(station.clone());
        self.shared
            .router
            .station(shard, key, Lane::Status, 64, move |permit| StationMember::Station(question(reply, permit)));
        wait.await
    }

    /// Stations by id, without their trees.
    pub async fn stations(&self, page: PageOf<StationId>) -> Result<Vec<StationView>, CallError> {
        let directory = self.directory();
        let stations = from(&directory.catalogue.stations, page.after.as_ref());
        let stations = stations.map(|(id, _)| id).filter(|id| page.covers(id.tenant())).take(page.limit);
        let mut views = Vec::new();
        for station in stations {
            views.push(self.station_view(&directory, station, false).await?);
        }
        Ok(views)
    }

    /// A station with its tree.
    pub async fn station(&self, station: &StationId) -> Result<StationView, CallError> {
        self.station_view(&self.directory(), station, true).await
    }

    async fn station_view(
        &self,
        directory: &Directory,
        station: &StationId,
        tree: bool,
    ) -> Result<StationView, CallError> {
        let known = directory.catalogue.stations.get(station);
        let known = known.ok_or_else(|| CallError::NotFound(format!("station {station}")))?;
        let report = self.ask_station(station, move |reply, permit| StationMessage::View { tree, reply, permit });
        let report = report.await?;
        let node =
            |node: NodeReport| NodeLimitView { id: node.id, limit_w: node.limit, worst_w: node.worst, set: node.set };
        Ok(StationView {
            id: station.clone(),
            city: known.city.clone(),
            chargers: directory.chargers_of(station).len(),
            online: report.online,
            charging: report.charging,
            limit_w: report.limit,
            granted_w: report.granted,
            worst_w: report.worst,
            power_w: report.power,
            demand_w: report.demand,
            deficits: report.deficits,
            nodes: report.nodes.into_iter().map(node).collect(),
        })
    }

    /// Sets the limit of a node of a station's tree, or lifts what was set (`None`: what the catalogue says).
    /// Returns when it is durable. A cut is in effect at once for new grants, for grants in force when their
    /// gateways obey or their leases end.
    pub async fn set_limit(
        &self,
        station: &StationId,
        node: &str,
        limit: Option<Watts>,
        by: &str,
    ) -> Result<(), CallError> {
        let node = node.to_owned();
        let order = match limit {
            Some(limit) => LimitOrder::Set { node, limit, from: None },
            None => LimitOrder::Lift { node },
        };
        self.change_limit(station, order, by).await
    }

    /// Changes a station's limits: at once, from a moment on, or for a time. Returns when it is durable. A cut at once
    /// is as with [`Self::set_limit`]; one that is announced a lease ahead or more finds no grant above it in force.
    pub async fn change_limit(&self, station: &StationId, order: LimitOrder, by: &str) -> Result<(), CallError> {
        let directory = self.directory();
        if !directory.catalogue.stations.contains_key(station) {
            return Err(CallError::NotFound(format!("station {station}")));
        }
        let (reply, wait) = self.reply();
        let at = self.shared.clock.wall();
        let command = LimitCommand { order, by: by.to_owned(), at };
        let key = StationKey::Station(station.clone());
        self.shared.router.station(directory.station_shard(station), key, Lane::Safety, 64, move |permit| {
            StationMember::Station(StationMessage::SetLimit { command, reply, permit })
        });
        wait.await
    }

    /// The name of a station's grid connection.
    pub fn grid_of(&self, station: &StationId) -> Result<String, CallError> {
        let directory = self.directory();
        let known = directory.catalogue.stations.get(station);
        let grid = known.and_then(|station| station.limits.iter().find(|node| node.parent.is_none()));
        grid.map(|node| node.id.clone()).ok_or_else(|| CallError::NotFound(format!("station {station}")))
    }

    /// A station's limits over time.
    pub async fn limits(&self, station: &StationId) -> Result<LimitsReport, CallError> {
        if !self.directory().catalogue.stations.contains_key(station) {
            return Err(CallError::NotFound(format!("station {station}")));
        }
        let report = self.ask_station(station, |reply, permit| StationMessage::Limits { reply, permit });
        report.await.map(|report| *report)
    }

    /// Chargers of all stations or of one, by id.
    pub async fn chargers(
        &self,
        station: Option<StationId>,
        page: PageOf<ChargerId>,
    ) -> Result<Vec<ChargerView>, CallError> {
        let directory = self.directory();
        if let Some(station) = &station
            && !directory.catalogue.stations.contains_key(station)
        {
            return Err(CallError::NotFound(format!("station {station}")));
        }
        let shown = from(&directory.catalogue.chargers, page.after.as_ref()).filter_map(|(id, _)| {
            let (_, of) = directory.charger(id)?;
            let wanted = page.covers(id.tenant()) && station.as_ref().is_none_or(|station| station == of);
            wanted.then(|| (of.clone(), id.clone()))
        });
        let mut by_station: BTreeMap<StationId, Vec<ChargerId>> = BTreeMap::new();
        for (of, id) in shown.take(page.limit) {
            by_station.entry(of).or_default().push(id);
        }
        let mut views = Vec::new();
        for (station, ids) in by_station {
            views.extend(self.charger_views(&directory, &station, ids).await?);
        }
        views.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(views)
    }

    /// Views of these chargers of one station. Asks its actors for the fields shown and no more: whole states
    /// copied inside the shard would hold up its commits.
    async fn charger_views(
        &self,
        directory: &Directory,
        station: &StationId,
        ids: Vec<ChargerId>,
    ) -> Result<Vec<ChargerView>, CallError> {
        let of = ids.clone();
        let statuses = self.ask_station(station, move |reply, permit| StationMessage::Statuses { of, reply, permit });
        let mut statuses = statuses.await?;
        let (actor, of) = (self.station_actor(station)?, ids.clone());
        let durable = self.ask_stations(&actor, move |map| {
            let known =
                |id: ChargerId| map.chargers.get(&id).map(|charger| durable_state(charger)).map(|state| (id, state));
            of.into_iter().filter_map(known).collect::<BTreeMap<_, _>>()
        });
        let mut durable = durable.await?;
        let latest = self.latest(directory.station_shard(station), ids.clone()).await?;
        let view = |id: ChargerId| {
            let (charger, _) = directory.charger(&id)?;
            let status = statuses.remove(&id).unwrap_or_default();
            let (state, session) = durable.remove(&id).unwrap_or(("idle", None));
            let newest = latest.get(&id);
            Some(ChargerView {
                station: station.clone(),
                gateway: charger.gateway.clone(),
                online: status.online,
                state: state.to_owned(),
                session,
                power_w: status.power,
                demand_w: status.demand,
                granted_w: status.granted,
                register_wh: newest.map_or(status.register, |newest| newest.sample.register.max(status.register)),
                soc_permille: newest.map(|newest| newest.sample.soc_permille),
                disobeying: status.disobeying,
                id,
            })
        };
        Ok(ids.into_iter().filter_map(view).collect())
    }

    pub(super) async fn latest(
        &self,
        shard: ShardId,
        of: Vec<ChargerId>,
    ) -> Result<BTreeMap<ChargerId, Reading>, CallError> {
        let Some(telemetry) = self.shared.router.telemetry(shard.index) else { return Ok(BTreeMap::new()) };
        let (reply, wait) = self.reply();
        let _ = telemetry.cast(TelemetryMessage::Latest { of, reply });
        wait.await
    }

    /// A charger.
    pub async fn charger(&self, charger: &ChargerId) -> Result<ChargerView, CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("charger {charger}"));
        let (_, station) = directory.charger(charger).ok_or_else(missing)?;
        let views = self.charger_views(&directory, station, vec![charger.clone()]).await?;
        views.into_iter().next().ok_or_else(missing)
    }

    /// Why a charger has the power it has.
    pub async fn explain_power(&self, charger: &ChargerId) -> Result<Explained, CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("charger {charger}"));
        let (_, station) = directory.charger(charger).ok_or_else(missing)?;
        let asked = charger.clone();
        let told =
            self.ask_station(station, move |reply, permit| StationMessage::Explain { charger: asked, reply, permit });
        told.await?.map(|told| *told).ok_or_else(missing)
    }

    /// Gateways by id.
    pub async fn gateways(&self, page: PageOf<GatewayId>) -> Result<Vec<GatewayView>, CallError> {
        let directory = self.directory();
        let shown = from(&directory.catalogue.gateways, page.after.as_ref());
        let shown: Vec<_> = shown.filter(|(id, _)| page.covers(id.tenant())).take(page.limit).collect();
        let stations: BTreeSet<&StationId> = shown.iter().map(|(_, gateway)| &gateway.station).collect();
        let mut online = BTreeSet::new();
        for station in stations {
            let heard = self.ask_station(station, |reply, permit| StationMessage::Online { reply, permit });
            online.extend(heard.await?);
        }
        let view = |(id, gateway): (&GatewayId, &Gateway)| GatewayView {
            id: id.clone(),
            station: gateway.station.clone(),
            online: online.contains(id),
            enrolled: directory.gateway(id).is_some_and(|entry| entry.present().is_some()),
            rotating: directory.gateway(id).is_some_and(|entry| entry.is_rotating()),
        };
        Ok(shown.into_iter().map(view).collect())
    }

    fn to_charger(
        &self,
        charger: &ChargerId,
        lane: Lane,
        message: impl FnOnce(Permit) -> ChargerMessage,
    ) -> Result<(), CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("charger {charger}"));
        let (_, station) = directory.charger(charger).ok_or_else(missing)?;
        let (shard, key) = (directory.station_shard(station), StationKey::Charger(charger.clone()));
        self.shared.router.station(shard, key, lane, 128, move |permit| StationMember::Charger(message(permit)));
        Ok(())
    }

    /// Starts a session from outside the charger. Returns when the account has said yes or no, and that is durable;
    /// after half of the call's time the session is returned as it is then, asked for. Whether the charger takes it
    /// is the session's state.
    pub async fn start_session(&self, request: StartRequest) -> Result<SessionId, CallError> {
        self.refuse_unheard(&request).await?;
        let (reply, wait) = self.reply();
        let charger = request.charger.clone();
        self.to_charger(&charger, Lane::Commands, move |permit| ChargerMessage::Start { request, reply, permit })?;
        wait.await
    }

    /// Refuses a start at a charger whose gateway is not heard: it would hold the driver's money until its deadline.
    /// A key that is known gets its answer also then.
    async fn refuse_unheard(&self, request: &StartRequest) -> Result<(), CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("charger {}", request.charger));
        let (known, station) = directory.charger(&request.charger).ok_or_else(missing)?;
        let heard = self.ask_station(station, |reply, permit| StationMessage::Online { reply, permit }).await?;
        if heard.contains(&known.gateway) {
            return Ok(());
        }
        let (charger, key) = (request.charger.clone(), request.key.clone());
        let is_repeated = move |map: &StationMap| {
            map.chargers.get(&charger).is_some_and(|charger| charger.key_target(&key).is_some())
        };
        if self.ask_stations(&self.station_actor(station)?, is_repeated).await? {
            return Ok(());
        }
        Err(CallError::ChargerOffline { charger: request.charger.clone(), gateway: known.gateway.clone() })
    }

    /// Stops a session from outside the charger. Returns when the command is durable.
    pub async fn stop_session(&self, session: &SessionId, key: String) -> Result<(), CallError> {
        let charger = charger_of(session.tenant(), session.local())
            .ok_or_else(|| CallError::NotFound(format!("session {session}")))?;
        let (reply, wait) = self.reply();
        let session = session.clone();
        self.to_charger(&charger, Lane::Safety, move |permit| ChargerMessage::Stop { session, key, reply, permit })?;
        wait.await
    }

    /// Sends a command to a charger. Returns when it is durable; its end is the command's outcome.
    pub async fn request_command(
        &self,
        charger: &ChargerId,
        action: Action,
        key: String,
    ) -> Result<CommandId, CallError> {
        let (reply, wait) = self.reply();
        self.to_charger(charger, Lane::Commands, move |permit| ChargerMessage::Request { action, key, reply, permit })?;
        wait.await
    }

    /// Open sessions by id.
    pub async fn sessions(&self, page: PageOf<SessionId>) -> Result<Vec<SessionView>, CallError> {
        let mut views = Vec::new();
        for actor in self.shared.router.station_shards() {
            let page = page.clone();
            let open = move |map: &StationMap| {
                let open = map.chargers.iter().filter_map(|(charger, state)| Some((charger, state.current.as_ref()?)));
                let shown =
                    part_of(&page, open.map(|(charger, session)| (&session.id, charger.tenant(), (charger, session))));
                let view = |(charger, session): (&ChargerId, &ChargingSession)| SessionView {
                    charger: charger.clone(),
                    session: session.clone(),
                };
                shown.into_iter().map(view).collect::<Vec<_>>()
            };
            views.extend(self.ask_stations(&actor, open).await?);
        }
        views.sort_by(|a, b| a.session.id.cmp(&b.session.id));
        views.truncate(page.limit);
        Ok(views)
    }

    /// An open session. A closed one is found among the charge records.
    pub async fn session(&self, session: &SessionId) -> Result<SessionView, CallError> {
        let missing = || CallError::NotFound(format!("session {session}"));
        let charger = charger_of(session.tenant(), session.local()).ok_or_else(missing)?;
        let state = self.durable_charger(&charger).await?;
        let current = state.and_then(|state| state.current).filter(|current| current.id == *session);
        current.map(|session| SessionView { charger, session }).ok_or_else(missing)
    }

    /// A session that is open, or a start over the API that the account refused, while its key is remembered.
    pub async fn known_session(&self, session: &SessionId) -> Result<KnownSession, CallError> {
        let missing = || CallError::NotFound(format!("session {session}"));
        let charger = charger_of(session.tenant(), session.local()).ok_or_else(missing)?;
        let state = self.durable_charger(&charger).await?.ok_or_else(missing)?;
        if let Some((request, refusal)) = state.refused_request(session)
            && let KeyedContent::Start { account, connector } = &request.content
        {
            return Ok(KnownSession::Refused(RefusedSessionView {
                session: session.clone(),
                charger,
                connector: *connector,
                account: account.clone(),
                requested_at: request.at,
                refusal: refusal.clone(),
            }));
        }
        let current = state.current.filter(|current| current.id == *session);
        current.map(|session| KnownSession::Open(SessionView { charger, session })).ok_or_else(missing)
    }

    /// How many sessions are open.
    pub(super) async fn count_sessions(&self) -> Result<usize, CallError> {
        let mut count: usize = 0;
        for actor in self.shared.router.station_shards() {
            let open = |map: &StationMap| map.chargers.values().filter(|charger| charger.current.is_some()).count();
            count = count.saturating_add(self.ask_stations(&actor, open).await?);
        }
        Ok(count)
    }

    async fn durable_charger(&self, charger: &ChargerId) -> Result<Option<Charger>, CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("charger {charger}"));
        let (_, station) = directory.charger(charger).ok_or_else(missing)?;
        let (actor, charger) = (self.station_actor(station)?, charger.clone());
        self.ask_stations(&actor, move |map| map.chargers.get(&charger).map(|row| (**row).clone())).await
    }

    /// Commands of a charger: unresolved ones and the latest resolved.
    pub async fn commands(&self, charger: &ChargerId) -> Result<Vec<CommandView>, CallError> {
        let state = self.durable_charger(charger).await?;
        let commands = state.into_iter().flat_map(|state| state.commands.into_values());
        Ok(commands.map(|command| CommandView { charger: charger.clone(), command }).collect())
    }

    /// Commands of all chargers by id.
    pub async fn all_commands(&self, page: PageOf<CommandId>) -> Result<Vec<CommandView>, CallError> {
        let mut views = Vec::new();
        for actor in self.shared.router.station_shards() {
            let page = page.clone();
            let some = move |map: &StationMap| {
                let all = map.chargers.iter().flat_map(|(charger, state)| {
                    state.commands.values().map(move |command| (&command.id, charger.tenant(), (charger, command)))
                });
                let view = |(charger, command): (&ChargerId, &Command)| CommandView {
                    charger: charger.clone(),
                    command: command.clone(),
                };
                part_of(&page, all).into_iter().map(view).collect::<Vec<_>>()
            };
            views.extend(self.ask_stations(&actor, some).await?);
        }
        views.sort_by(|a, b| a.command.id.cmp(&b.command.id));
        views.truncate(page.limit);
        Ok(views)
    }

    /// A command.
    pub async fn command(&self, command: &CommandId) -> Result<CommandView, CallError> {
        let missing = || CallError::NotFound(format!("command {command}"));
        let charger = charger_of(command.tenant(), command.local()).ok_or_else(missing)?;
        let commands = self.commands(&charger).await?;
        commands.into_iter().find(|view| view.command.id == *command).ok_or_else(missing)
    }
}

/// The part of a list that a page shows, by id. Items are (id, tenant, what is shown), not copied yet: the shard
/// waits for this.
fn part_of<'a, K: Ord + 'a, T>(page: &PageOf<K>, all: impl Iterator<Item = (&'a K, &'a str, T)>) -> Vec<T> {
    let after = |id: &K| page.after.as_ref().is_none_or(|after| id > after);
    let mut shown: Vec<_> = all.filter(|(id, tenant, _)| after(id) && page.covers(tenant)).collect();
    shown.sort_by_key(|(id, ..)| *id);
    shown.truncate(page.limit);
    shown.into_iter().map(|(.., item)| item).collect()
}

/// The entries after a key, or all.
fn from<'a, K: Ord, V>(map: &'a BTreeMap<K, V>, after: Option<&K>) -> impl Iterator<Item = (&'a K, &'a V)> {
    map.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
}

/// The charger in a session's or command's id: everything before the last dot.
pub(super) fn charger_of(tenant: &str, local: &str) -> Option<ChargerId> {
    let (charger, _) = local.rsplit_once('.')?;
    format!("{tenant}/{charger}").parse().ok()
}

fn durable_state(charger: &Charger) -> (&'static str, Option<SessionId>) {
    let session = charger.current.as_ref();
    let state = match session.map(|session| session.state) {
        Some(SessionState::Requested | SessionState::Authorised) => "starting",
        Some(SessionState::Charging) => "charging",
        Some(SessionState::Stopped) => "settling",
        Some(SessionState::Settled | SessionState::Refused) | None if charger.fault.is_some() => "faulted",
        Some(SessionState::Settled | SessionState::Refused) | None if !charger.available => "unavailable",
        Some(SessionState::Settled | SessionState::Refused) | None => "idle",
    };
    (state, session.map(|session| session.id.clone()))
}
