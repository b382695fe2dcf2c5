//! The catalogue.

use super::*;

impl NodeHandle {
    /// The catalogue and its version.
    pub fn catalogue(&self) -> (u64, Arc<Catalogue>) {
        let directory = self.directory();
        (directory.version, Arc::clone(&directory.catalogue))
    }

    /// Applies a catalogue with stations, or says what would change.
    pub async fn apply_catalogue(&self, catalogue: Catalogue, dry_run: bool) -> Result<CatalogueDiff, CallError> {
        self.apply_catalogue_as(catalogue, ApplyOptions { dry_run, allow_empty: false }).await
    }

    /// Applies a catalogue, or says what would change. It is checked here too: nothing unchecked is stored. A dry
    /// run is refused for the same reasons.
    pub async fn apply_catalogue_as(
        &self,
        catalogue: Catalogue,
        options: ApplyOptions,
    ) -> Result<CatalogueDiff, CallError> {
        let ApplyOptions { dry_run, allow_empty } = options;
        catalogue_check::validate(&catalogue).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            CallError::Invalid(lines.join("\n"))
        })?;
        self.change(|node| async move {
            let directory = node.directory();
            if catalogue.stations.is_empty() && !directory.catalogue.stations.is_empty() && !allow_empty {
                return Err(CallError::CatalogueEmpty { stations: directory.catalogue.stations.len() });
            }
            node.refuse_orphans(&directory, &catalogue).await?;
            let changes = catalogue_check::diff(&directory.catalogue, &catalogue);
            let from_version = directory.version;
            if dry_run || changes.is_empty() {
                return Ok(CatalogueDiff { from_version, to_version: from_version, changes });
            }
            let to_version = node.shared.ports.catalogue.save(from_version, catalogue.clone()).await?;
            // The keys are as they were: nothing can fail any more between the store and the memory.
            node.replace_directory(to_version, Arc::new(catalogue), directory.credentials().to_vec());
            node.tell_stations();
            Ok(CatalogueDiff { from_version, to_version, changes })
        })
        .await
    }

    /// Refuses a catalogue that takes a charger away from under its open session: nobody could stop it any more. A
    /// start that comes between this look and the change goes unnoticed.
    async fn refuse_orphans(&self, directory: &Directory, next: &Catalogue) -> Result<(), CallError> {
        let mut moved: BTreeMap<StationId, Vec<ChargerId>> = BTreeMap::new();
        for id in directory.catalogue.chargers.keys() {
            if let Some(place) = place(&directory.catalogue, id)
                && Some(place) != self::place(next, id)
            {
                moved.entry(place.0.clone()).or_default().push(id.clone());
            }
        }
        let mut sessions: Vec<SessionId> = Vec::new();
        for (station, chargers) in moved {
            let open = move |map: &StationMap| {
                let open = chargers.iter().filter_map(|charger| map.chargers.get(charger)?.current.as_ref());
                open.map(|session| session.id.clone()).collect::<Vec<_>>()
            };
            sessions.extend(self.ask_stations(&self.station_actor(&station)?, open).await?);
        }
        if sessions.is_empty() { Ok(()) } else { Err(CallError::InUse { sessions }) }
    }

    /// Runs a change of the catalogue or of keys, one at a time from reading the directory to replacing it:
    /// what two changes read in parallel, the later one would put back over the earlier one's. It runs to its
    /// end also when the caller goes away, so that memory never stays behind the store.
    pub(super) async fn change<T, F>(&self, change: impl FnOnce(NodeHandle) -> F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let change = change(self.clone());
        let alone = async move {
            let _alone = shared.catalogue_change.lock().await;
            change.await
        };
        tokio::spawn(alone).await.map_err(|_gone| CallError::Interrupted)?
    }

    fn replace_directory(&self, version: u64, catalogue: Arc<Catalogue>, credentials: Vec<GatewayCredentials>) {
        let directory = Directory::new(version, catalogue, credentials, self.shared.config.shards);
        self.shared.directory.store(Arc::new(directory));
    }

    /// The directory with the keys as they are in the store now. Within [`Self::change`] only.
    pub(super) async fn reload_keys(&self) -> Result<(), CallError> {
        let credentials = self.shared.ports.catalogue.credentials().await?;
        let directory = self.directory();
        self.replace_directory(directory.version, Arc::clone(&directory.catalogue), credentials);
        Ok(())
    }

    fn tell_stations(&self) {
        let directory = self.directory();
        for station in directory.catalogue.stations.keys() {
            let (shard, key) = (directory.station_shard(station), StationKey::Station(station.clone()));
            // A station that is not told for want of room notices at its next tick.
            self.shared.router.station(shard, key, Lane::Safety, 16, |permit| {
                StationMember::Station(StationMessage::CatalogueChanged { permit })
            });
        }
    }
}

/// Where a charger is reached: its station, its gateway, its number there.
fn place<'a>(catalogue: &'a Catalogue, charger: &ChargerId) -> Option<(&'a StationId, &'a GatewayId, u16)> {
    let charger = catalogue.chargers.get(charger)?;
    let gateway = catalogue.gateways.get(&charger.gateway)?;
    Some((&gateway.station, &charger.gateway, charger.child))
}
