//! The catalogue and the enrolment of gateways.

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
    async fn change<T, F>(&self, change: impl FnOnce(NodeHandle) -> F) -> Result<T, CallError>
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
    async fn reload_keys(&self) -> Result<(), CallError> {
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

    /// Enrols a gateway (again): a new key, a new password, a new numbering of batches and samples. Former keys
    /// stay readable unless they were revoked, so that a backlog sealed under them is not lost.
    pub async fn enroll(&self, gateway: GatewayId) -> Result<Enrolment, CallError> {
        self.change(|node| async move { node.enroll_alone(gateway).await }).await
    }

    async fn enroll_alone(&self, gateway: GatewayId) -> Result<Enrolment, CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("gateway {gateway}"));
        let entry = directory.gateway(&gateway).ok_or_else(missing)?;
        let former = directory.credentials().iter().filter(|known| known.gateway == gateway);
        let (key_epoch, incarnation) = former.fold((0, 0), |(key_epoch, incarnation), known| {
            (known.key_epoch.max(key_epoch), known.incarnation.max(incarnation))
        });
        let (key_epoch, incarnation) = (key_epoch.saturating_add(1), incarnation.saturating_add(1));
        let root_key: [u8; 32] = random()?;
        let password = hex(&random::<16>()?);
        let credentials = GatewayCredentials {
            gateway: gateway.clone(),
            number: gateway_number(&gateway),
            incarnation,
            key_epoch,
            root_key,
            password_sha256: Sha256::digest(password.as_bytes()).into(),
            revoked: false,
        };
        self.shared.ports.catalogue.save_credentials(credentials).await?;
        self.reload_keys().await?;
        Ok(Enrolment {
            number: gateway_number(&gateway),
            shard: format!("{:04x}", entry.shard.index),
            key_epoch,
            incarnation,
            key: hex(&root_key),
            username: topic::username(&gateway),
            password,
            client_id: topic::client_id(&gateway),
            children: entry.children.iter().map(|(child, charger)| (*child, charger.clone())).collect(),
            gateway,
        })
    }

    /// Revokes all keys of a gateway: it can no longer connect, and nothing in its name is read, however old it
    /// claims to be: whoever took a key can seal anything with it. Once enrolled anew, the gateway is told, and
    /// declares what it still holds under the revoked keys as lost.
    pub async fn revoke(&self, gateway: GatewayId) -> Result<(), CallError> {
        self.change(|node| async move { node.revoke_alone(gateway).await }).await
    }

    async fn revoke_alone(&self, gateway: GatewayId) -> Result<(), CallError> {
        let directory = self.directory();
        let known: Vec<_> = directory.credentials().iter().filter(|known| known.gateway == gateway).cloned().collect();
        if known.is_empty() {
            return Err(CallError::NotFound(format!("an enrolment of gateway {gateway}")));
        }
        for credentials in known {
            let revoked = GatewayCredentials { revoked: true, ..credentials };
            self.shared.ports.catalogue.save_credentials(revoked).await?;
        }
        self.reload_keys().await
    }
}

/// Where a charger is reached: its station, its gateway, its number there.
fn place<'a>(catalogue: &'a Catalogue, charger: &ChargerId) -> Option<(&'a StationId, &'a GatewayId, u16)> {
    let charger = catalogue.chargers.get(charger)?;
    let gateway = catalogue.gateways.get(&charger.gateway)?;
    Some((&gateway.station, &charger.gateway, charger.child))
}

fn random<const N: usize>() -> Result<[u8; N], CallError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| CallError::Invalid(format!("no randomness: {error}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
