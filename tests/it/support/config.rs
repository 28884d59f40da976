//! The configuration of the program under test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::registry::FakeRegistry;

/// A configuration file in the making.
#[derive(Debug, Clone, Default)]
pub struct MirrorConfig {
    top: String,
    store: String,
    freshness: String,
    rest: String,
    pub(super) environment: Vec<(String, String)>,
    pub(super) store_path: Option<PathBuf>,
}

impl MirrorConfig {
    /// Nothing but a place to listen and a place to store: no upstream is named.
    pub fn bare() -> MirrorConfig {
        MirrorConfig::default()
    }

    /// The fake registry is Docker Hub, the default upstream, as the only one.
    pub fn for_upstream(registry: &FakeRegistry) -> MirrorConfig {
        MirrorConfig::for_url(&registry.url())
    }

    /// Docker Hub at that URL.
    pub fn for_url(url: &str) -> MirrorConfig {
        MirrorConfig::bare().toml(&format!(
            "[upstream.\"docker.io\"]\nurl = \"{url}\"\ndefault = true\n"
        ))
    }

    /// A further upstream, or more keys of the last one named: TOML lines.
    #[must_use]
    pub fn upstream(self, name: &str, registry: &FakeRegistry) -> MirrorConfig {
        self.toml(&format!(
            "[upstream.\"{name}\"]\nurl = \"{}\"\n",
            registry.url()
        ))
    }

    /// Appends TOML. Straight after [`MirrorConfig::for_upstream`] plain keys belong to that upstream.
    #[must_use]
    pub fn toml(mut self, text: &str) -> MirrorConfig {
        self.rest.push_str(text);
        self.rest.push('\n');
        self
    }

    /// A key of the top of the file, its value as TOML.
    #[must_use]
    pub fn top(mut self, key: &str, value: &str) -> MirrorConfig {
        let _ = writeln!(self.top, "{key} = {value}");
        self
    }

    #[must_use]
    pub fn max_size(self, size: &str) -> MirrorConfig {
        self.store("max_size", &format!("\"{size}\""))
    }

    /// A key of `[store]`, its value as TOML.
    #[must_use]
    pub fn store(mut self, key: &str, value: &str) -> MirrorConfig {
        let _ = writeln!(self.store, "{key} = {value}");
        self
    }

    #[must_use]
    pub fn tag_ttl(self, span: &str) -> MirrorConfig {
        self.freshness("tag_ttl", span)
    }

    #[must_use]
    pub fn max_stale(self, span: &str) -> MirrorConfig {
        self.freshness("max_stale", span)
    }

    #[must_use]
    pub fn negative_ttl(self, span: &str) -> MirrorConfig {
        self.freshness("negative_ttl", span)
    }

    fn freshness(mut self, key: &str, span: &str) -> MirrorConfig {
        let _ = writeln!(self.freshness, "{key} = \"{span}\"");
        self
    }

    /// Asks upstream about a tag, stored or missing, each time.
    #[must_use]
    pub fn asking_each_time(self) -> MirrorConfig {
        self.tag_ttl("0s").negative_ttl("0s")
    }

    /// For an upstream that is silent: it has a second to accept and one to answer, and stored content is served stale
    /// after 300 ms. Keys of the upstream named last.
    #[must_use]
    pub fn impatient(self) -> MirrorConfig {
        self.timeouts("1s").stale_after("300ms")
    }

    /// Asks upstream each time, and waits long for it before stored content is served stale.
    #[must_use]
    pub fn patient(self) -> MirrorConfig {
        self.stale_after("20s").asking_each_time()
    }

    /// Of connecting to the upstream named last, and of its header.
    #[must_use]
    pub fn timeouts(self, span: &str) -> MirrorConfig {
        self.toml(&format!(
            "connect_timeout = \"{span}\"\nheader_timeout = \"{span}\""
        ))
    }

    /// How long the upstream named last may take until stored content is served stale.
    #[must_use]
    pub fn stale_after(self, span: &str) -> MirrorConfig {
        self.toml(&format!("stale_after = \"{span}\""))
    }

    /// A store elsewhere than in the mirror's temporary directory: it outlives the mirror.
    #[must_use]
    pub fn store_path(self, path: &Path) -> MirrorConfig {
        MirrorConfig {
            store_path: Some(path.to_owned()),
            ..self
        }
    }

    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> MirrorConfig {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(super) fn text(&self, store: &Path, listen: &str, admin: &str) -> String {
        let MirrorConfig {
            top,
            store: keys,
            freshness,
            rest,
            ..
        } = self;
        let store = store.display();
        // What bare sockets in these tests say as their host.
        let hosts = match top.contains("allowed_hosts") {
            true => "",
            false => "allowed_hosts = [\"m\"]\n",
        };
        format!(
            "listen = \"{listen}\"\nadmin_listen = \"{admin}\"\n{hosts}{top}\n[log]\nformat = \"json\"\n\n\
             [store]\npath = \"{store}\"\n{keys}\n[freshness]\n{freshness}\n{rest}"
        )
    }
}
