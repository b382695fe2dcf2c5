//! Stations, chargers, sessions and commands.

use super::*;

impl NodeHandle {
    fn station_actor(&self, station: &StationId) -> Result<ActorRef<ShardMessage<StationFamily>>, CallError> {
        let shard = self.directory().station_shard(station);
        let actor = self.shared.router.station_shard(shard.index);
        actor.ok_or_else(|| CallError::NotServing(shard.to_string()))
    }

    async fn ask_stations<T: Send + 'static>(
        &self,
        actor: &ActorRef<ShardMessage<StationFamily>>,
        question: impl FnOnce(&StationMap) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (reply, wait) = self.reply();
        let question = Box::new(move |map: &StationMap| reply.answer(Ok(question(map))));
        let _ = actor.cast(ShardMessage::Ask(question));
        wait.await
    }

    async fn report(&self, station: &StationId) -> Result<Box<StationReport>, CallError> {
        let shard = self.directory().station_shard(station);
        let (reply, wait) = self.reply();
        let key = StationKey::Station(station.clone());
        self.shared.router.station(shard, key, Lane::Status, 64, move |permit| {
            StationMember::Station(StationMessage::View { reply, permit })
        });
        wait.await
    }

    /// All stations.
    pub async fn stations(&self) -> Result<Vec<StationView>, CallError> {
        let mut views = Vec::new();
        for station in self.directory().catalogue.stations.keys() {
            views.push(self.station(station).await?);
        }
        Ok(views)
    }

    /// A station.
    pub async fn station(&self, station: &StationId) -> Result<StationView, CallError> {
        let directory = self.directory();
        let known = directory.catalogue.stations.get(station);
        let known = known.ok_or_else(|| CallError::NotFound(format!("station {station}")))?;
        let report = self.report(station).await?;
        Ok(StationView {
            id: station.clone(),
            city: known.city.clone(),
            chargers: directory.chargers_of(station).len(),
            online: report.chargers.values().filter(|status| status.online).count(),
            charging: report.charging,
            limit_w: report.limit,
            granted_w: report.granted,
            worst_w: report.worst,
            power_w: report.power,
            demand_w: report.demand,
            nodes: report.nodes,
        })
    }

    /// Sets the limit of a node of a station's tree; in effect at once for new grants, for grants in force
    /// when their gateways obey or their leases end.
    pub async fn set_limit(&self, station: &StationId, node: &str, limit: Watts) -> Result<(), CallError> {
        let directory = self.directory();
        if !directory.catalogue.stations.contains_key(station) {
            return Err(CallError::NotFound(format!("station {station}")));
        }
        let (reply, wait) = self.reply();
        let (node, key) = (node.to_owned(), StationKey::Station(station.clone()));
        self.shared.router.station(directory.station_shard(station), key, Lane::Safety, 64, move |permit| {
            StationMember::Station(StationMessage::SetLimit { node, limit, reply, permit })
        });
        wait.await
    }

    /// Chargers of all stations or of one, by id.
    pub async fn chargers(&self, station: Option<StationId>) -> Result<Vec<ChargerView>, CallError> {
        let directory = self.directory();
        let stations: Vec<StationId> = match station {
            Some(station) if !directory.catalogue.stations.contains_key(&station) => {
                return Err(CallError::NotFound(format!("station {station}")));
            }
            Some(station) => vec![station],
            None => directory.catalogue.stations.keys().cloned().collect(),
        };
        let mut views = Vec::new();
        for station in stations {
            views.extend(self.chargers_of(&directory, &station).await?);
        }
        views.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(views)
    }

    async fn chargers_of(&self, directory: &Directory, station: &StationId) -> Result<Vec<ChargerView>, CallError> {
        let report = self.report(station).await?;
        let actor = self.station_actor(station)?;
        let durable = self.ask_stations(&actor, |map| map.chargers.clone()).await?;
        let latest = self.latest(directory.station_shard(station)).await?;
        let of = directory.chargers_of(station);
        let views = of.into_iter().map(|(id, charger)| {
            let status = report.chargers.get(&id).copied().unwrap_or_default();
            let (state, session) = durable.get(&id).map_or(("idle", None), durable_state);
            let newest = latest.get(&id);
            ChargerView {
                station: station.clone(),
                gateway: charger.gateway,
                online: status.online,
                state: state.to_owned(),
                session,
                power_w: status.power,
                demand_w: status.demand,
                granted_w: status.granted,
                register_wh: newest.map_or(status.register, |sample| sample.register.max(status.register)),
                soc_permille: newest.map(|sample| sample.soc_permille),
                disobeying: status.disobeying,
                id,
            }
        });
        Ok(views.collect())
    }

    async fn latest(&self, shard: ShardId) -> Result<BTreeMap<ChargerId, Sample>, CallError> {
        let Some(telemetry) = self.shared.router.telemetry(shard.index) else { return Ok(BTreeMap::new()) };
        let (reply, wait) = self.reply();
        let _ = telemetry.cast(TelemetryMessage::Latest(reply));
        wait.await
    }

    /// A charger.
    pub async fn charger(&self, charger: &ChargerId) -> Result<ChargerView, CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("charger {charger}"));
        let (_, station) = directory.charger(charger).ok_or_else(missing)?;
        let views = self.chargers_of(&directory, station).await?;
        views.into_iter().find(|view| view.id == *charger).ok_or_else(missing)
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

    /// Starts a session from outside the charger. Returns when the request is durable; whether the account
    /// and the charger take it is the session's state.
    pub async fn start_session(&self, request: StartRequest) -> Result<SessionId, CallError> {
        let (reply, wait) = self.reply();
        let charger = request.charger.clone();
        self.to_charger(&charger, Lane::Commands, move |permit| ChargerMessage::Start { request, reply, permit })?;
        wait.await
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

    /// Open sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionView>, CallError> {
        let mut views = Vec::new();
        for actor in self.shared.router.station_shards() {
            let open = |map: &StationMap| {
                let open = map.chargers.iter().filter_map(|(charger, state)| {
                    let session = state.current.clone()?;
                    Some(SessionView { charger: charger.clone(), session })
                });
                open.collect::<Vec<_>>()
            };
            views.extend(self.ask_stations(&actor, open).await?);
        }
        views.sort_by(|a, b| a.session.id.cmp(&b.session.id));
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

    async fn durable_charger(&self, charger: &ChargerId) -> Result<Option<Charger>, CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("charger {charger}"));
        let (_, station) = directory.charger(charger).ok_or_else(missing)?;
        let (actor, charger) = (self.station_actor(station)?, charger.clone());
        self.ask_stations(&actor, move |map| map.chargers.get(&charger).cloned()).await
    }

    /// Commands of a charger: unresolved ones and the latest resolved.
    pub async fn commands(&self, charger: &ChargerId) -> Result<Vec<CommandView>, CallError> {
        let state = self.durable_charger(charger).await?;
        let commands = state.into_iter().flat_map(|state| state.commands.into_values());
        Ok(commands.map(|command| CommandView { charger: charger.clone(), command }).collect())
    }

    /// Commands of all chargers.
    pub async fn all_commands(&self) -> Result<Vec<CommandView>, CallError> {
        let mut views = Vec::new();
        for actor in self.shared.router.station_shards() {
            let all = |map: &StationMap| {
                let all = map.chargers.iter().flat_map(|(charger, state)| {
                    let view = |command: &chargeplane_domain::command::Command| CommandView {
                        charger: charger.clone(),
                        command: command.clone(),
                    };
                    state.commands.values().map(view).collect::<Vec<_>>()
                });
                all.collect::<Vec<_>>()
            };
            views.extend(self.ask_stations(&actor, all).await?);
        }
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

/// The charger in a session's or command's id: everything before the last dot.
fn charger_of(tenant: &str, local: &str) -> Option<ChargerId> {
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
