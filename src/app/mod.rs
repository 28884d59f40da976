//! Wiring: builds everything from a configuration, binds, spawns, drains.
//!
//! It decides nothing about requests. Reading order: this file (start and stop), `build` (from the configuration to the
//! parts).

mod build;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::config::units::{format_duration, format_size};
use crate::metrics::Metrics;
use crate::server;
use crate::server::admin::Admin;
use crate::server::connection::tls;
use crate::server::registry::service::Service;
use crate::store::{self, Store};
use crate::upstream;

/// A running mirror.
pub(crate) struct App {
    settings: server::Settings,
    admin: Arc<Admin>,
    stop: watch::Sender<bool>,
    /// Stops accepting when told, and hands over what is still open.
    registry: JoinHandle<server::Connections>,
    /// Goes on until the pulls are drained, so that the end can be watched.
    _admin_server: JoinHandle<server::Connections>,
}

/// Why a mirror could not be started.
#[derive(Debug)]
pub(crate) enum StartError {
    /// An address cannot be listened on.
    Bind {
        /// The address.
        address: SocketAddr,
        /// The key that sets it.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The store cannot be opened.
    Store(store::OpenError),
    /// An upstream's certificates cannot be used.
    Upstream(upstream::CertificateError),
    /// The server's own certificate cannot be used.
    Tls(String),
    /// The metrics contradict each other; a defect of the program.
    Metrics(prometheus::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind {
                address,
                key,
                source,
            } => {
                write!(
                    f,
                    "cannot listen on {address}: {source}; is another program there? `{key}` sets the address"
                )
            }
            Self::Store(error) => error.fmt(f),
            Self::Upstream(error) => error.fmt(f),
            Self::Tls(detail) => write!(f, "[tls] {detail}"),
            Self::Metrics(error) => write!(f, "metrics: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl App {
    /// Builds a mirror and starts serving. Says in the log what it is and where.
    pub(crate) async fn start(config: Config) -> Result<Self, StartError> {
        let files = build::raise_file_limit();
        let metrics = Arc::new(Metrics::new().map_err(StartError::Metrics)?);
        let tls = config
            .server
            .tls
            .as_ref()
            .map(tls::acceptor)
            .transpose()
            .map_err(StartError::Tls)?;
        // Addresses first: a second instance should fail over its address before it looks at the store.
        let listener = bind(config.server.listen, "listen").await?;
        let admin_listener = bind(config.server.admin_listen, "admin_listen").await?;
        let listen = listener.local_addr().unwrap_or(config.server.listen);
        let admin_listen = admin_listener
            .local_addr()
            .unwrap_or(config.server.admin_listen);
        let store =
            Store::open(config.store.clone(), Arc::clone(&metrics)).map_err(StartError::Store)?;
        announce_upstreams(&config);
        let mirror = build::mirror(&config, store, &metrics).map_err(StartError::Upstream)?;
        let (stop, stopped) = watch::channel(false);
        let admin = Arc::new(Admin::new(Arc::clone(&mirror), Arc::clone(&metrics)));
        let limits = build::limits_for_clients(&config.server, files, &metrics);
        let service = Arc::new(Service::new(mirror, &metrics));
        let answer = move |request, caller| {
            let service = Arc::clone(&service);
            async move { service.answer(request, caller).await }
        };
        let secure = tls.is_some();
        let stopping = wait_for(stopped);
        let registry = tokio::spawn(server::run(
            listener,
            tls,
            limits,
            Arc::clone(&metrics),
            stopping,
            answer,
        ));
        let admin_answers = Arc::clone(&admin);
        let answer = move |request, _| {
            let admin = Arc::clone(&admin_answers);
            async move { admin.answer(&request).await }
        };
        let limits = build::limits_for_admin(&config.server, &metrics);
        let never = std::future::pending();
        let admin_server = tokio::spawn(server::run(
            admin_listener,
            None,
            limits,
            metrics,
            never,
            answer,
        ));
        announce(&config, listen, admin_listen, secure);
        Ok(Self {
            settings: config.server,
            admin,
            stop,
            registry,
            _admin_server: admin_server,
        })
    }

    /// Stops accepting, lets pulls finish within the drain timeout, and ends.
    pub(crate) async fn stop(self) {
        self.admin.start_draining();
        self.stop.send_replace(true);
        let limit = self.settings.drain_timeout;
        tracing::info!(within = %format_duration(limit), "stopping; pulls may finish");
        let Ok(graceful) = self.registry.await else {
            return;
        };
        if server::drain(graceful, limit).await {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped with pulls unfinished: drain_timeout is over");
        }
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind {
            address,
            key,
            source,
        })
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means that the app is gone, which is a stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// What an operator wants to see at the start, in a few lines.
fn announce(config: &Config, listen: SocketAddr, admin: SocketAddr, secure: bool) {
    let scheme = if secure { "https" } else { "http" };
    tracing::info!(%listen, %admin, url = format!("{scheme}://{listen}"), "listening");
    if !listen.ip().is_loopback() && !secure {
        tracing::info!("everybody who reaches this address can pull, over plain http");
    }
    let path = config.store.path.display();
    tracing::info!(%path, max_size = format_size(config.store.max_size), "store");
}

fn announce_upstreams(config: &Config) {
    let describe = |upstream: &crate::config::UpstreamConfig| {
        let settings = &upstream.settings;
        let default = if upstream.default { ", default" } else { "" };
        format!(
            "{} (as {}{default})",
            settings.namespace,
            settings.identity()
        )
    };
    let upstreams: Vec<_> = config.upstreams.iter().map(describe).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        upstreams = upstreams.join(", "),
        "pierglass"
    );
}
