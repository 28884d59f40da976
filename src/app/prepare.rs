//! What `check` and `serve` both look at before anything is opened: the files that are named, and sizes.
//!
//! A fault here is one of the configuration, so `check` refuses what `serve` would refuse.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::config::units::{format_duration, format_size};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::mirror::Site;
use crate::server::admin::guard;
use crate::server::connection::tls;
use crate::sites::Sites;
use crate::upstream::{Login, Upstream};

/// In a smaller store hardly an image finds room.
const SMALL: u64 = 64 << 20;

/// What can be built without opening anything.
pub(crate) struct Prepared {
    pub(super) metrics: Arc<Metrics>,
    pub(super) memory: Arc<Memory>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) sites: Sites<Arc<Site>>,
}

impl Prepared {
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.sites.iter().map(|(_, site)| &**site.upstream())
    }
}

/// What works, and is hardly meant.
pub(crate) struct Remark {
    pub(crate) words: String,
    /// False for what an operator may well want.
    pub(crate) is_warning: bool,
}

/// Reads what is named in the configuration and builds what needs nothing else; or every fault of it.
pub(crate) fn prepare(config: &Config) -> Result<Prepared, Vec<String>> {
    let metrics = Metrics::new().map_err(|error| vec![format!("metrics: {error}")])?;
    let metrics = Arc::new(metrics);
    let memory = Memory::new(config.memory.clone());
    let mut faults = Vec::new();
    let tls = config.server.tls.as_ref().map(tls::acceptor).transpose();
    let tls = tls.unwrap_or_else(|fault| {
        faults.push(format!("tls: {fault}"));
        None
    });
    if let Some(path) = &config.server.admin_token_file
        && let Err(error) = guard::read_token(path)
    {
        faults.push(format!("admin_token_file: {}: {error}", path.display()));
    }
    let mut built = Vec::new();
    for configured in &config.upstreams {
        let name = configured.settings.namespace.as_str();
        match Upstream::new(configured.settings.clone(), &memory, &metrics) {
            Ok(upstream) => built.push(Arc::new(Site::new(upstream, configured.freshness.clone()))),
            Err(error) => faults.push(format!("upstream.{name:?}: {error}")),
        }
        for login in &configured.settings.logins {
            if let Login::Password { password, .. } = login
                && let Some(fault) = password.fault()
            {
                faults.push(format!("upstream.{name:?}.password_file: {fault}"));
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Prepared {
        metrics,
        memory,
        tls,
        sites: config.sites(built),
    })
}

/// What an operator should know before a pull tells it.
pub(crate) fn remarks(config: &Config) -> Vec<Remark> {
    let warning = |words| Remark {
        words,
        is_warning: true,
    };
    let mut remarks = sizes(config);
    remarks.extend(shares(config).map(warning));
    remarks.extend(limits(config).map(warning));
    let readable = config
        .secret_files
        .iter()
        .filter(|path| everyone_may_read(path));
    remarks.extend(readable.map(|path| {
        let path = path.display();
        warning(format!(
            "{path} holds a secret, and every user of this machine can read it; chmod o= {path}"
        ))
    }));
    let server = &config.server;
    let logins = config.upstreams.iter().flat_map(|it| &it.settings.logins);
    let users: Vec<_> = logins
        .filter(|login| !matches!(login, Login::Anonymous))
        .map(Login::name)
        .collect();
    let admits_all = server
        .tls
        .as_ref()
        .is_none_or(|tls| tls.client_ca.is_none());
    if !server.listen.ip().is_loopback() && admits_all && !users.is_empty() {
        remarks.push(warning(format!(
            "every client that reaches {} can pull what {} may pull; tls.client_ca or a firewall keeps others out",
            server.listen,
            users.join(", ")
        )));
    }
    let is_closed = server.admin_token_file.is_none() && server.admin_socket.is_none();
    if !server.admin_listen.ip().is_loopback() && is_closed {
        remarks.push(Remark {
            words: format!(
                "{} has metrics and health, but no admin API: beyond loopback that needs admin_token_file",
                server.admin_listen
            ),
            is_warning: false,
        });
    }
    remarks
}

/// Limits that another limit leaves without effect.
fn limits(config: &Config) -> impl Iterator<Item = String> {
    let server = &config.server;
    let all = server.max_connections;
    let share = server.per_client.connections.filter(|share| *share > all);
    let share = share.map(|share| {
        format!("max_connections_per_client is {share}, and max_connections is {all}: one client can have them all")
    });
    let contradictory = config.upstreams.iter().filter_map(|upstream| {
        let freshness = &upstream.freshness;
        let (ttl, stale) = (freshness.tag_ttl, freshness.max_stale);
        (ttl > stale).then(|| {
            let (name, ttl, stale) = (&upstream.settings.namespace, format_duration(ttl), format_duration(stale));
            format!("tag_ttl of {name} is {ttl}, and max_stale is {stale}: its tags are served for {ttl} all the same")
        })
    });
    share.into_iter().chain(contradictory)
}

/// Sizes that cannot work on the disk that is there.
fn sizes(config: &Config) -> Vec<Remark> {
    let store = &config.store;
    let (max_size, min_free) = (format_size(store.max_size), format_size(store.min_free));
    let mut remarks = Vec::new();
    if store.max_size < SMALL {
        remarks.push(Remark {
            words: format!("store.max_size is {max_size}: hardly an image finds room in it"),
            is_warning: true,
        });
    }
    let Some(disk) = disk_size(&store.path) else {
        return remarks;
    };
    let size = format_size(disk);
    let path = store.path.display();
    if store.min_free >= disk {
        remarks.push(Remark {
            words: format!("store.min_free is {min_free}, and the disk of {path} has {size}: nothing can be stored"),
            is_warning: true,
        });
    } else if store.max_size > disk {
        remarks.push(Remark {
            words: format!(
                "store.max_size is {max_size}, and the disk of {path} has {size}: it is filled until {min_free} are left (store.min_free)"
            ),
            is_warning: false,
        });
    }
    remarks
}

/// Shares of the store that do nothing, or leave next to nothing.
fn shares(config: &Config) -> impl Iterator<Item = String> {
    let max_size = config.store.max_size;
    let shares = config.store.shares.iter();
    shares.filter_map(move |share| {
        let (name, most) = (&share.namespace, share.most?);
        let size = format_size(most);
        if most < SMALL && max_size >= SMALL {
            return Some(format!(
                "store_share of {name} is {size}: hardly an image finds room in it"
            ));
        }
        let of = format_size(max_size);
        (most > max_size).then(|| {
            format!("store_share of {name} is {size}, and store.max_size is {of}: it has no effect")
        })
    })
}

/// Of the file system that the store is on, or will be.
fn disk_size(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_blocks.checked_mul(disk.f_frsize)
}

/// Whether the permissions of a file, and of the directories above it, keep no user out.
fn everyone_may_read(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let may = |path: &Path, bit| {
        path.metadata()
            .is_ok_and(|it| it.permissions().mode() & bit != 0)
    };
    may(&path, 0o004)
        && path
            .ancestors()
            .skip(1)
            .all(|directory| may(directory, 0o001))
}
