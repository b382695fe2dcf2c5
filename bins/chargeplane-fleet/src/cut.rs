//! The cable between a gateway and its broker, for gateways whose link is to be cut.
//!
//! A small relay on the loopback: what the gateway says goes to the broker and back, until the cable is cut. Then
//! both ends see their connection break in mid-packet, and new ones are refused until it is mended. So the gateway's
//! own MQTT client notices, backs off and reconnects by itself, as it would in the field.

use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A cable that can be cut.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    relay: JoinHandle<()>,
}

impl Cable {
    /// Lays a cable to `broker` (`host:port`).
    pub async fn lay(broker: String) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (cut, seen) = watch::channel(false);
        let relay = tokio::spawn(relay(listener, broker, seen));
        Ok(Self { address, cut, relay })
    }

    /// What the gateway takes for its broker.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts or mends it.
    pub fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

async fn relay(listener: TcpListener, broker: String, cut: watch::Receiver<bool>) {
    loop {
        let Ok((near, _)) = listener.accept().await else {
            continue;
        };
        if *cut.borrow() {
            continue;
        }
        let (broker, mut cut) = (broker.clone(), cut.clone());
        tokio::spawn(async move {
            let connection = async {
                let mut near = near;
                let mut far = TcpStream::connect(&broker).await?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                copy_bidirectional(&mut near, &mut far).await
            };
            // Either way both sockets are dropped here, with whatever was under way.
            tokio::select! {
                _ = connection => {}
                _ = cut.wait_for(|cut| *cut) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    /// True when a byte comes back; false when the connection is closed instead.
    async fn answers(socket: &mut TcpStream) -> bool {
        let mut byte = [0];
        let talk = async {
            socket.write_all(b"x").await?;
            socket.read_exact(&mut byte).await
        };
        timeout(Duration::from_secs(5), talk).await.expect("neither an answer nor an end").is_ok()
    }

    #[tokio::test]
    async fn a_cut_breaks_what_is_connected_and_refuses_what_comes() {
        let cable = Cable::lay(echo().await.to_string()).await.unwrap();
        let mut first = TcpStream::connect(cable.address()).await.unwrap();
        assert!(answers(&mut first).await);
        cable.set_cut(true);
        let mut rest = Vec::new();
        let end = timeout(Duration::from_secs(5), first.read_to_end(&mut rest)).await.expect("still connected");
        assert!(end.is_err() || rest.is_empty());
        let mut second = TcpStream::connect(cable.address()).await.unwrap();
        assert!(!answers(&mut second).await);
        cable.set_cut(false);
        let mut third = TcpStream::connect(cable.address()).await.unwrap();
        assert!(answers(&mut third).await);
    }
}
