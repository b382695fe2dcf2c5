//! Gateways and their keys: enrolled, rotated, confirmed, revoked.
//!
//! A key is named by its epoch, which only rises. An *enrolment* begins the numbering of samples anew and ends the
//! key before it at once. A *rotation* goes on with the numbering; the key before it stays good until the gateway was heard
//! under the new one, so nothing has to stop. What was sealed under former keys stays readable until they are revoked.

use super::*;

/// What a new key begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// A numbering of samples, boots and batches.
    Enrolment,
    /// Only itself.
    Rotation,
}

impl NodeHandle {
    /// Enrols a gateway (again): a new key, a new password, a new numbering of batches and samples. Who is connected
    /// with the password before is cut off. Former keys stay readable unless they were revoked, so that a backlog
    /// sealed under them is not lost.
    pub async fn enroll(&self, gateway: GatewayId) -> Result<Enrolment, CallError> {
        self.change(|node| async move { node.new_key(gateway, Begins::Enrolment).await }).await
    }

    /// Makes a new key and a new password of the same enrolment. The ones before stay good until the gateway was heard
    /// under the new key.
    pub async fn rotate(&self, gateway: GatewayId) -> Result<Enrolment, CallError> {
        self.change(|node| async move { node.new_key(gateway, Begins::Rotation).await }).await
    }

    async fn new_key(&self, gateway: GatewayId, begins: Begins) -> Result<Enrolment, CallError> {
        let directory = self.directory();
        let missing = || CallError::NotFound(format!("gateway {gateway}"));
        let entry = directory.gateway(&gateway).ok_or_else(missing)?;
        let former = directory.credentials().iter().filter(|known| known.gateway == gateway);
        let (last_epoch, last_incarnation) = former.fold((0u32, 0u32), |(key_epoch, incarnation), known| {
            (known.key_epoch.max(key_epoch), known.incarnation.max(incarnation))
        });
        let incarnation = match begins {
            Begins::Enrolment => last_incarnation.saturating_add(1),
            Begins::Rotation if entry.present().is_some() => last_incarnation,
            Begins::Rotation => return Err(CallError::NotFound(format!("an enrolment of gateway {gateway}"))),
        };
        let root_key: [u8; 32] = random()?;
        let password = hex(&random::<16>()?);
        let credentials = GatewayCredentials {
            gateway: gateway.clone(),
            number: gateway_number(&gateway),
            incarnation,
            key_epoch: last_epoch.saturating_add(1),
            root_key,
            password_sha256: Sha256::digest(password.as_bytes()).into(),
            confirmed: begins == Begins::Enrolment,
            revoked: false,
        };
        let key_epoch = credentials.key_epoch;
        self.shared.ports.catalogue.save_credentials(credentials).await?;
        self.reload_keys().await?;
        if begins == Begins::Enrolment {
            self.cut_off(&gateway);
        }
        let terms = |charger: &ChargerId| {
            let (charger, _) = directory.charger(charger)?;
            let (rated, min, fallback) = (charger.rated_w, charger.min_w, charger.fallback_w);
            Some(ChildTerms { rated, min, fallback, connectors: charger.connectors })
        };
        let child = |(child, charger): (&u16, &ChargerId)| Some((*child, charger.clone(), terms(charger)?));
        Ok(Enrolment {
            number: gateway_number(&gateway),
            shard: format!("{:04x}", entry.shard.index),
            key_epoch,
            incarnation,
            key: hex(&root_key),
            username: topic::username(&gateway),
            password,
            client_id: topic::client_id(&gateway),
            children: entry.children.iter().filter_map(child).collect(),
            gateway,
        })
    }

    /// The gateway was heard under a rotated key: from now on the node seals with it, and the passwords before it let
    /// nobody in.
    pub(crate) async fn confirm_key(&self, gateway: GatewayId, key_epoch: u32) -> Result<(), CallError> {
        self.change(|node| async move {
            let directory = node.directory();
            let mut known = directory.credentials().iter().filter(|known| known.gateway == gateway);
            let Some(key) = known.find(|known| known.key_epoch == key_epoch && !known.confirmed && !known.revoked)
            else {
                return Ok(());
            };
            let confirmed = GatewayCredentials { confirmed: true, ..key.clone() };
            node.shared.ports.catalogue.save_credentials(confirmed).await?;
            tracing::info!(%gateway, key_epoch, "the gateway speaks under its new key");
            node.reload_keys().await
        })
        .await
    }

    /// Revokes all keys of a gateway: it can no longer connect, is cut off where it is connected, and nothing in its
    /// name is read, however old it claims to be: whoever took a key can seal anything with it. Once enrolled anew, the
    /// gateway is told, and declares what it still holds under the revoked keys as lost.
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
        self.reload_keys().await?;
        self.cut_off(&gateway);
        Ok(())
    }

    fn cut_off(&self, gateway: &GatewayId) {
        // Without a broker of our own nobody listens.
        let _ = self.shared.cut_off.send(gateway.clone());
    }
}

fn random<const N: usize>() -> Result<[u8; N], CallError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| CallError::Invalid(format!("no randomness: {error}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
