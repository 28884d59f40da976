//! Wiring: builds everything from a configuration, binds, spawns, drains.
//!
//! It decides nothing about requests. Reading order: this file (start and stop), `build` (what the server may take of the
//! system), [`prepare`] (what `check` looks at as well).

mod build;
pub(crate) mod prepare;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::config::units::{format_duration, format_size};
use crate::mirror::Mirror;
use crate::server;
use crate::server::admin::guard::Guard;
use crate::server::admin::{Admin, unix_socket};
use crate::server::browser::Gate;
use crate::server::origins::Origins;
use crate::server::registry::service::Service;
use crate::store::{self, Store};

use prepare::Prepared;

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
    /// What the configuration names cannot be used.
    Configuration(Vec<String>),
    /// An address or socket cannot be listened on.
    Bind {
        place: String,
        /// The key that sets it.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The store cannot be opened.
    Store(store::OpenError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Configuration(faults) => f.write_str(&faults.join("\n")),
            Self::Bind { place, key, source } => {
                let advice = match source.kind() {
                    io::ErrorKind::AddrInUse => "is another program there?",
                    io::ErrorKind::PermissionDenied => {
                        "ports below 1024 need CAP_NET_BIND_SERVICE, and a socket a directory that is writable;"
                    }
                    _ => "is it an address of this machine?",
                };
                write!(
                    f,
                    "cannot listen on {place}: {source}; {advice} `{key}` sets it"
                )
            }
            Self::Store(error) => {
                error.fmt(f)?;
                match error {
                    store::OpenError::Io { path, source }
                        if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
                    {
                        let path = path.display();
                        write!(
                            f,
                            "; a systemd unit with ProtectSystem= needs ReadWritePaths={path}, see deploy/README.md"
                        )
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for StartError {}

impl App {
    /// Builds a mirror and starts serving. Says in the log what it is and where.
    pub(crate) async fn start(config: Config) -> Result<Self, StartError> {
        let files = build::raise_file_limit();
        let prepared = prepare::prepare(&config).map_err(StartError::Configuration)?;
        let Prepared {
            metrics,
            memory,
            tls,
            sites,
        } = prepared;
        let settings = &config.server;
        // Addresses first: a second instance should fail over its address before it looks at the store.
        let listener = bind(settings.listen, "listen").await?;
        let admin_listener = bind(settings.admin_listen, "admin_listen").await?;
        let listen = listener.local_addr().unwrap_or(settings.listen);
        let admin_listen = admin_listener.local_addr().unwrap_or(settings.admin_listen);
        let store = Store::open(config.store.clone(), &memory.share(), Arc::clone(&metrics));
        let store = store.map_err(StartError::Store)?;
        announce_upstreams(&config);
        let mirror = Mirror::new(store, sites, &metrics);
        let admin = Arc::new(Admin::new(Arc::clone(&mirror), Arc::clone(&metrics)));
        // After the store: its lock shows that no other mirror has this socket.
        if let Some(path) = &settings.admin_socket {
            serve_socket(path, settings.header_timeout, &admin)?;
        }
        let limits = build::limits_for_clients(settings, files, &metrics);
        let gate = Gate::new(listen.ip(), &settings.allowed_hosts)
            .open_to(Origins::new(&settings.allowed_origins));
        let service = Arc::new(Service::new(mirror, gate, memory.share(), &metrics));
        let answer = move |request, caller| {
            let service = Arc::clone(&service);
            async move { service.answer(request, caller).await }
        };
        let secure = tls.is_some();
        let (stop, stopped) = watch::channel(false);
        let registry = tokio::spawn(server::run(
            listener,
            tls,
            limits,
            Arc::clone(&metrics),
            wait_for(stopped),
            answer,
        ));
        let guard = Guard::of_address(
            admin_listen.ip(),
            &settings.allowed_hosts,
            settings.admin_token_file.as_deref(),
            settings.admin_socket.as_deref(),
        );
        let (asked, guard) = (Arc::clone(&admin), Arc::new(guard));
        let answer = move |request, _| {
            let (admin, guard) = (Arc::clone(&asked), Arc::clone(&guard));
            async move { admin.answer(&request, &guard).await }
        };
        let limits = build::limits_for_admin(settings, &metrics);
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
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Bind {
        place: address.to_string(),
        key,
        source,
    })
}

fn serve_socket(
    path: &Path,
    header_timeout: Duration,
    admin: &Arc<Admin>,
) -> Result<(), StartError> {
    let listener = unix_socket::bind(path).map_err(|source| StartError::Bind {
        place: path.display().to_string(),
        key: "admin_socket",
        source,
    })?;
    let (admin, guard) = (Arc::clone(admin), Arc::new(Guard::of_socket()));
    let answer = move |request| {
        let (admin, guard) = (Arc::clone(&admin), Arc::clone(&guard));
        async move { admin.answer(&request, &guard).await }
    };
    tokio::spawn(unix_socket::run(listener, header_timeout, answer));
    Ok(())
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
        tracing::info!("every client that reaches this address can pull, over plain http");
    }
    for remark in prepare::remarks(config) {
        match remark.is_warning {
            true => tracing::warn!("{}", remark.words),
            false => tracing::info!("{}", remark.words),
        }
    }
    let path = config.store.path.display();
    tracing::info!(%path, max_size = format_size(config.store.max_size), "store");
    if !secure && listen.ip().is_loopback() {
        tracing::info!(
            "for Docker, /etc/docker/daemon.json: {{\"registry-mirrors\": [\"{scheme}://{listen}\"]}}; metrics: http://{admin}/metrics"
        );
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_it_from_starting_is_told_with_what_to_do() {
        let bind = |kind: io::ErrorKind| {
            let error = StartError::Bind {
                place: "127.0.0.1:80".to_owned(),
                key: "listen",
                source: kind.into(),
            };
            error.to_string()
        };
        assert!(bind(io::ErrorKind::AddrInUse).contains("another program"));
        let denied = bind(io::ErrorKind::PermissionDenied);
        assert!(denied.contains("CAP_NET_BIND_SERVICE") && !denied.contains("another program"));
        let store = |kind: io::ErrorKind| {
            let path = "/srv/pierglass".into();
            let source = kind.into();
            StartError::Store(store::OpenError::Io { path, source }).to_string()
        };
        let read_only = store(io::ErrorKind::ReadOnlyFilesystem);
        assert!(
            read_only.contains("ReadWritePaths=/srv/pierglass"),
            "{read_only}"
        );
        assert!(!store(io::ErrorKind::PermissionDenied).contains("ReadWritePaths"));
    }
}
