//! Upstreams: from the tables as written to the settings of each registry.

use std::collections::BTreeMap;

use http::Uri;

use super::UpstreamConfig;
use super::environment::Environment;
use super::keys;
use super::lookup::Reader;
use super::mistake::{Fault, Mistakes, Place, Reported};
use super::value::{self, Value};
use super::written::Section;
use super::{credentials, url};
use crate::mirror::freshness::Policy;
use crate::oci::name::Namespace;
use crate::sites::hub;
use crate::upstream::{ConnectionSettings, Login, Proxy, Settings, Timeouts};

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
/// `common` is the policy of `[freshness]`, for what an upstream leaves out.
pub(super) fn resolve(
    written: &[Section],
    common: Result<&Policy, Reported>,
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Result<Vec<UpstreamConfig>, Reported> {
    let well_known;
    let sections = if written.is_empty() {
        well_known = WELL_KNOWN.map(|name| Section::named(name, None));
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
                &mut Reader { section, mistakes },
                namespace,
                default == Ok(index),
                common,
                environment,
            )
        })
        .collect();
    default?;
    upstreams.into_iter().collect()
}

/// The namespace of each section, each at most once.
fn namespaces(sections: &[Section], mistakes: &mut Mistakes) -> Vec<Result<Namespace, Reported>> {
    let mut seen: BTreeMap<Namespace, &str> = BTreeMap::new();
    let mut resolved = Vec::new();
    for section in sections {
        let namespace = parse_namespace(&section.name).and_then(|namespace| {
            match seen.insert(namespace.clone(), &section.name) {
                Some(first) => Err(Fault::new(
                    format!("is the same registry as {first:?}"),
                    "keep one of the two tables",
                )),
                None => Ok(namespace),
            }
        });
        resolved.push(namespace.map_err(|fault| {
            let place = section.place.clone().unwrap_or(Place::Absent);
            mistakes.note(place, format!("upstream.{:?}", section.name), fault)
        }));
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
        .map(|section| mark(&mut Reader { section, mistakes }))
        .collect();
    let marked = positions(&marks, |mark| matches!(mark, Mark::Yes));
    let unmarked = positions(&marks, |mark| matches!(mark, Mark::Unmarked));
    let is_hub =
        |index: &usize| matches!(namespaces.get(*index), Some(Ok(namespace)) if hub::is(namespace));
    let hub = || unmarked.iter().copied().find(is_hub);

    match (marked.as_slice(), unmarked.as_slice()) {
        ([only], _) => Ok(*only),
        ([first, others @ ..], _) => {
            let first = &sections[*first].name;
            for index in others {
                let section = &sections[*index];
                let fault = Fault::new(
                    format!("{first:?} is the default already"),
                    "mark one upstream alone",
                );
                Reader { section, mistakes }.wrong(&keys::UPSTREAM_DEFAULT, fault);
            }
            Err(Reported)
        }
        ([], [only]) if sections.len() == 1 => Ok(*only),
        _ => hub().ok_or_else(|| no_default(sections, &marks, namespaces, mistakes)),
    }
}

fn mark(reader: &mut Reader<'_>) -> Mark {
    match reader.optional(&keys::UPSTREAM_DEFAULT, value::boolean) {
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
        // Whoever corrects the other mistake may have named a default by it.
        return Reported;
    }
    let place = sections
        .first()
        .and_then(|section| section.place.clone())
        .unwrap_or(Place::Absent);
    let fault = Fault::new(
        "none is the default, where repositories without a namespace go",
        "write default = true in one of them",
    );
    mistakes.note(place, "upstream".to_owned(), fault)
}

fn positions(marks: &[Mark], wanted: impl Fn(&Mark) -> bool) -> Vec<usize> {
    (0..marks.len())
        .filter(|index| wanted(&marks[*index]))
        .collect()
}

/// Every key is read before any failure ends the function: that is what reports all mistakes at once.
fn upstream(
    reader: &mut Reader<'_>,
    namespace: Result<Namespace, Reported>,
    default: bool,
    common: Result<&Policy, Reported>,
    environment: &Environment,
) -> Result<UpstreamConfig, Reported> {
    let url = url_of(reader, namespace.as_ref());
    let endpoints = reader.required(&keys::UPSTREAM_ENDPOINTS, url::registries);
    let credentials = credentials::resolve(reader, environment);
    let more_credentials = credentials::resolve_more(reader, environment);
    let ca_file = reader.optional(&keys::UPSTREAM_CA_FILE, value::file);
    let realms = reader.required(&keys::UPSTREAM_REALMS, url::hosts);
    let proxy = reader.optional(&keys::UPSTREAM_PROXY, url::proxy);
    let timeouts = timeouts(reader);
    let policy = freshness(reader, common);

    let settings = Settings {
        namespace: namespace?,
        url: url?,
        endpoints: endpoints?,
        logins: std::iter::once(credentials?.unwrap_or(Login::Anonymous))
            .chain(more_credentials?)
            .collect(),
        realms: realms?,
        connection: ConnectionSettings {
            ca_file: ca_file?,
            proxy: proxy?.unwrap_or(Proxy::Environment),
            timeouts: timeouts?,
        },
    };
    Ok(UpstreamConfig {
        settings,
        default,
        policy: policy?,
    })
}

fn url_of(
    reader: &mut Reader<'_>,
    namespace: Result<&Namespace, &Reported>,
) -> Result<Uri, Reported> {
    if let Some(url) = reader.optional(&keys::UPSTREAM_URL, url::registry)? {
        return Ok(url);
    }
    let namespace = namespace.map_err(|reported| *reported)?;
    let url = if hub::is(namespace) {
        hub::URL
    } else {
        namespace.as_str()
    };
    url::registry(&Value::Untyped(url.to_owned()))
        .map_err(|fault| reader.wrong(&keys::UPSTREAM_URL, fault))
}

fn timeouts(reader: &mut Reader<'_>) -> Result<Timeouts, Reported> {
    let connect = reader.required(&keys::UPSTREAM_CONNECT_TIMEOUT, value::timeout);
    let headers = reader.required(&keys::UPSTREAM_HEADER_TIMEOUT, value::timeout);
    let idle = reader.required(&keys::UPSTREAM_IDLE_TIMEOUT, value::timeout);
    Ok(Timeouts {
        connect: connect?,
        headers: headers?,
        idle: idle?,
    })
}

fn freshness(
    reader: &mut Reader<'_>,
    common: Result<&Policy, Reported>,
) -> Result<Policy, Reported> {
    let tag_ttl = reader.optional(&keys::UPSTREAM_TAG_TTL, value::duration);
    let max_stale = reader.optional(&keys::UPSTREAM_MAX_STALE, value::duration);
    let negative_ttl = reader.optional(&keys::UPSTREAM_NEGATIVE_TTL, value::duration);
    let stale_after = reader.optional(&keys::UPSTREAM_STALE_AFTER, value::duration);
    let quota_reserve = reader.optional(&keys::UPSTREAM_QUOTA_RESERVE, value::percent);
    let common = common?;
    Ok(Policy {
        tag_ttl: tag_ttl?.unwrap_or(common.tag_ttl),
        max_stale: max_stale?.unwrap_or(common.max_stale),
        negative_ttl: negative_ttl?.unwrap_or(common.negative_ttl),
        stale_after: stale_after?.unwrap_or(common.stale_after),
        quota_reserve: quota_reserve?.unwrap_or(common.quota_reserve),
    })
}
