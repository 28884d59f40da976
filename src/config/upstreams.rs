//! Upstreams: from the tables as written to the settings of each registry.

use std::collections::BTreeMap;

use http::Uri;

use super::environment::Environment;
use super::keys;
use super::lookup::Lookup;
use super::mistake::{Fault, Location, Mistakes, Reported};
use super::value::{self, StoreShare, Value};
use super::written::Section;
use super::{credentials, freshness, url};
use crate::mirror::freshness::Freshness;
use crate::oci::name::Namespace;
use crate::secret::Secret;
use crate::sites::hub;
use crate::upstream::{BaseUrl, ConnectionSettings, Proxy, Settings, Timeouts};

#[derive(Debug, Clone)]
pub(crate) struct UpstreamConfig {
    pub settings: Settings,
    /// Whether requests without a namespace go here.
    pub default: bool,
    /// How long its answers are believed.
    pub freshness: Freshness,
    /// What it may keep of the store when others need room.
    pub store_share: Option<StoreShare>,
}

/// What is mirrored when the configuration names no upstream.
const WELL_KNOWN: [&str; 7] = [
    hub::NAMESPACE,
    "quay.io",
    "ghcr.io",
    "registry.k8s.io",
    "gcr.io",
    "public.ecr.aws",
    "mcr.microsoft.com",
];

/// The variables that name a proxy, in the spellings that count.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Whether an upstream is the default one, as written.
enum Mark {
    Yes,
    No,
    Unmarked,
    /// Written wrongly, so that nothing can be concluded from it.
    Unclear,
}

/// Resolves the upstreams in the order they were written; the well-known registries if there are none.
///
/// `common` is what `[freshness]` says, for what an upstream leaves out; `None` if that one is wrong.
pub(super) fn resolve(
    written: &[Section],
    common: Option<&Freshness>,
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Result<Vec<UpstreamConfig>, Reported> {
    let well_known;
    let sections = if written.is_empty() {
        well_known = WELL_KNOWN.map(|name| Section::upstream(name, None));
        &well_known[..]
    } else {
        written
    };

    let namespaces = namespaces(sections, mistakes);
    let default = default(sections, &namespaces, mistakes);
    let upstreams: Vec<_> = sections
        .iter()
        .zip(namespaces)
        .enumerate()
        .map(|(index, (section, namespace))| {
            upstream(
                &mut Lookup::new(section, mistakes),
                namespace,
                default == Ok(index),
                common,
                environment,
            )
        })
        .collect();
    default?;
    let upstreams = upstreams.into_iter().collect::<Result<Vec<_>, _>>()?;
    proxy_variables(&upstreams, environment, mistakes)?;
    Ok(upstreams)
}

/// Where the proxy variables count, one that names no proxy would be passed over in silence.
fn proxy_variables(
    upstreams: &[UpstreamConfig],
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Result<(), Reported> {
    let counts = |it: &UpstreamConfig| matches!(it.settings.connection.proxy, Proxy::Environment);
    if !upstreams.iter().any(counts) {
        return Ok(());
    }
    let mut result = Ok(());
    for name in PROXY_VARIABLES {
        if let Err(fault) = url::check_proxy_variable(environment.get(name).unwrap_or_default()) {
            let location = Location::Variable(name.to_owned());
            result = Err(mistakes.note(location, None, fault));
        }
    }
    result
}

/// The namespace of each table, each at most once.
fn namespaces(sections: &[Section], mistakes: &mut Mistakes) -> Vec<Result<Namespace, Reported>> {
    let mut seen: BTreeMap<Namespace, &str> = BTreeMap::new();
    let mut resolved = Vec::new();
    for section in sections {
        let namespace = parse_namespace(section.namespace()).and_then(|namespace| {
            match seen.insert(namespace.clone(), section.namespace()) {
                Some(first) => Err(Fault::new(
                    format!("is the same registry as {first:?}"),
                    "keep one of the two tables",
                )),
                None => Ok(namespace),
            }
        });
        resolved.push(
            namespace
                .map_err(|fault| mistakes.note(section.start(), section.path().to_owned(), fault)),
        );
    }
    resolved
}

fn parse_namespace(name: &str) -> Result<Namespace, Fault> {
    const RIGHT: &str =
        "write a registry's host, such as \"quay.io\" or \"registry.example.com:5000\"";
    let namespace = name.parse::<Namespace>();
    namespace
        .map(|namespace| hub::canonical(&namespace))
        .map_err(|_| Fault::new("is not a namespace", RIGHT))
}

/// The index of the upstream that repositories without a namespace go to: the one marked so; else Docker Hub; else the
/// only one.
fn default(
    sections: &[Section],
    namespaces: &[Result<Namespace, Reported>],
    mistakes: &mut Mistakes,
) -> Result<usize, Reported> {
    let marks: Vec<Mark> = sections
        .iter()
        .map(|section| mark(&mut Lookup::new(section, mistakes)))
        .collect();
    let marked = positions(&marks, |mark| matches!(mark, Mark::Yes));
    let unmarked = positions(&marks, |mark| matches!(mark, Mark::Unmarked));
    let is_hub =
        |index: &usize| matches!(namespaces.get(*index), Some(Ok(namespace)) if hub::is(namespace));
    let hub = || unmarked.iter().copied().find(is_hub);

    match (marked.as_slice(), unmarked.as_slice()) {
        ([only], _) => Ok(*only),
        ([first, others @ ..], _) => {
            let first = sections[*first].namespace();
            for index in others {
                let section = &sections[*index];
                let fault = Fault::new(
                    format!("{first:?} is the default already"),
                    "mark one upstream alone",
                );
                Lookup::new(section, mistakes).wrong(&keys::UPSTREAM_DEFAULT, fault);
            }
            Err(Reported)
        }
        ([], [only]) if sections.len() == 1 => Ok(*only),
        _ => hub().ok_or_else(|| no_default(sections, &marks, namespaces, mistakes)),
    }
}

fn mark(lookup: &mut Lookup<'_>) -> Mark {
    match lookup.optional(&keys::UPSTREAM_DEFAULT, value::boolean) {
        Ok(Some(true)) => Mark::Yes,
        Ok(Some(false)) => Mark::No,
        Ok(None) => Mark::Unmarked,
        Err(Reported) => Mark::Unclear,
    }
}

fn no_default(
    sections: &[Section],
    marks: &[Mark],
    namespaces: &[Result<Namespace, Reported>],
    mistakes: &mut Mistakes,
) -> Reported {
    let unclear = marks.iter().any(|mark| matches!(mark, Mark::Unclear))
        || namespaces.contains(&Err(Reported));
    if unclear {
        // Correcting the other mistake may name a default.
        return Reported;
    }
    let location = sections.first().map_or(Location::Absent, Section::start);
    let fault = Fault::new(
        "none is the default, where repositories without a namespace go",
        "write default = true in one of them",
    );
    mistakes.note(location, "upstream".to_owned(), fault)
}

fn positions(marks: &[Mark], wanted: impl Fn(&Mark) -> bool) -> Vec<usize> {
    (0..marks.len())
        .filter(|index| wanted(&marks[*index]))
        .collect()
}

/// Every key is read before any failure ends the function: that is what reports all mistakes at once.
fn upstream(
    lookup: &mut Lookup<'_>,
    namespace: Result<Namespace, Reported>,
    default: bool,
    common: Option<&Freshness>,
    environment: &Environment,
) -> Result<UpstreamConfig, Reported> {
    let url = url_of(lookup, namespace.as_ref());
    let endpoints = lookup.required(&keys::UPSTREAM_ENDPOINTS, url::base_urls);
    let prefix = lookup.optional(&keys::UPSTREAM_PREFIX, url::prefix);
    let logins = credentials::resolve(lookup, environment);
    let ca_file = lookup.optional(&keys::UPSTREAM_CA_FILE, value::file);
    let realms = lookup.required(&keys::UPSTREAM_REALMS, url::hosts);
    let redirects = lookup.required(&keys::UPSTREAM_REDIRECTS, url::hosts);
    let proxy = lookup.optional(&keys::UPSTREAM_PROXY, url::proxy);
    let timeouts = timeouts(lookup);
    let store_share = lookup.optional(&keys::UPSTREAM_STORE_SHARE, value::store_share);
    let freshness = freshness::resolve(lookup, common);

    let settings = Settings {
        namespace: namespace?,
        registry: BaseUrl {
            url: url?,
            prefix: prefix?,
        },
        endpoints: endpoints?,
        logins: logins?,
        realms: realms?,
        redirects: redirects?,
        connection: ConnectionSettings {
            ca_file: ca_file?,
            proxy: proxy?.unwrap_or(Proxy::Environment),
            timeouts: timeouts?,
        },
    };
    Ok(UpstreamConfig {
        settings,
        default,
        freshness: freshness?,
        store_share: store_share?,
    })
}

fn url_of(
    lookup: &mut Lookup<'_>,
    namespace: Result<&Namespace, &Reported>,
) -> Result<Uri, Reported> {
    if let Some(url) = lookup.optional(&keys::UPSTREAM_URL, url::registry)? {
        return Ok(url);
    }
    let namespace = namespace.map_err(|reported| *reported)?;
    let url = if hub::is(namespace) {
        hub::URL
    } else {
        namespace.as_str()
    };
    url::registry(&Value::Untyped(Secret::new(url.to_owned())))
        .map_err(|fault| lookup.wrong(&keys::UPSTREAM_URL, fault))
}

fn timeouts(lookup: &mut Lookup<'_>) -> Result<Timeouts, Reported> {
    let connect = lookup.required(&keys::UPSTREAM_CONNECT_TIMEOUT, value::timeout);
    let headers = lookup.required(&keys::UPSTREAM_HEADER_TIMEOUT, value::timeout);
    let idle = lookup.required(&keys::UPSTREAM_IDLE_TIMEOUT, value::timeout);
    Ok(Timeouts {
        connect: connect?,
        headers: headers?,
        idle: idle?,
    })
}
