//! Flags that several commands have: where the configuration comes from, and which mirror is meant.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Config, Environment, Mistakes, Overrides};

/// The file, and the flags that count more than the file.
#[derive(Debug, Args)]
pub(super) struct ConfigFlags {
    /// The configuration; without it the file that PIERGLASS_CONFIG names, or the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients find the registry API, such as 127.0.0.1:5000.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where metrics, health and the admin API are, such as 127.0.0.1:5001.
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// The directory of the store.
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// How much is stored at most, such as 50GiB.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
}

/// Where a command finds the mirror, or its store while it is not running.
#[derive(Debug, Args)]
pub(super) struct TargetFlags {
    /// The configuration of the mirror; without it the file that PIERGLASS_CONFIG names, or the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory of the store.
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// A running mirror's admin API: http://127.0.0.1:5001, or unix:/run/pierglass/admin.sock.
    ///
    /// Default: the one in the configuration.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

impl ConfigFlags {
    pub(super) fn load(&self) -> Result<Config, Mistakes> {
        load(self.config.as_deref(), &self.overrides())
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            admin_listen: self.admin_listen.clone(),
            store: self.store.clone(),
            max_size: self.max_size.clone(),
        }
    }
}

impl TargetFlags {
    pub(super) fn load(&self) -> Result<Config, Mistakes> {
        let overrides = Overrides {
            store: self.store.clone(),
            ..Overrides::default()
        };
        load(self.config.as_deref(), &overrides)
    }

    /// Whether a store was named beside the mirror.
    pub(super) fn names_store(&self) -> bool {
        self.store.is_some()
    }

    /// The running mirror that was named.
    pub(super) fn admin(&self) -> Option<&str> {
        self.admin.as_deref()
    }
}

fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, Mistakes> {
    Config::load(file, overrides, &Environment::of_process())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        flags: ConfigFlags,
    }

    fn parse(arguments: &str) -> ConfigFlags {
        Parsed::parse_from(arguments.split_whitespace()).flags
    }

    #[test]
    fn flags_become_overrides() {
        let flags =
            parse("serve --config a.toml --listen :1 --admin-listen :2 --store /s --max-size 1GiB");
        assert_eq!(flags.config.as_deref(), Some(Path::new("a.toml")));
        let text = |text: &str| Some(text.to_owned());
        let expected = Overrides {
            listen: text(":1"),
            admin_listen: text(":2"),
            store: text("/s"),
            max_size: text("1GiB"),
        };
        assert_eq!(flags.overrides(), expected);
        assert_eq!(parse("check").overrides(), Overrides::default());
    }
}
