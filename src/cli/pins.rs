//! `pierglass pin` and `unpin`: images that are never evicted.

use std::convert::Infallible;
use std::process::ExitCode;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::config::units::format_size;
use crate::oci::image::{Image, ImageName};
use crate::sites::SelectError;
use crate::store::images::offline::Offline;

use super::admin::{Admin, Target, block_on, target};
use super::{FAILED, Pin, USAGE, Unpin, complain, print};

const PINS: &str = "/api/v1/pins";

/// A pinned image, as a running mirror tells it.
#[derive(Serialize, Deserialize)]
struct Pinned {
    image: String,
    digest: Option<String>,
    stored: u64,
    stored_bytes: u64,
    missing: u64,
    missing_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct List {
    images: Vec<Pinned>,
    wanted_bytes: u64,
    max_size: u64,
    fit: bool,
}

#[derive(Serialize, Deserialize)]
struct Done {
    image: String,
    changed: bool,
    pinned: Option<Pinned>,
    wanted_bytes: u64,
    max_size: u64,
    fit: bool,
}

#[derive(Serialize, Deserialize)]
struct LetGo {
    image: String,
    changed: bool,
}

/// What a command found out: for programs, for people, and to warn of.
struct Answer {
    json: Value,
    words: String,
    warning: Option<String>,
}

/// Why there is none, and whether the arguments are to blame.
enum Failure {
    Failed(String),
    Usage(String),
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self::Failed(words)
    }
}

/// Runs `pin`.
pub(super) fn pin(arguments: &Pin, config: &Config) -> ExitCode {
    let answer = match &arguments.image {
        None => target(&arguments.place, config)
            .map_err(Failure::Failed)
            .and_then(|target| list(&target)),
        Some(image) => named(image).and_then(|name| match target(&arguments.place, config)? {
            Target::Running(admin) => Ok(pin_running(&admin, image)?),
            Target::AtRest(store) => pin_at_rest(&store, config, &name),
        }),
    };
    finish(answer, arguments.json)
}

/// Runs `unpin`.
pub(super) fn unpin(arguments: &Unpin, config: &Config) -> ExitCode {
    let answer = named(&arguments.image).and_then(|name| match target(&arguments.place, config)? {
        Target::Running(admin) => Ok(unpin_running(&admin, &arguments.image)?),
        Target::AtRest(store) => unpin_at_rest(&store, config, &name),
    });
    finish(answer, arguments.json)
}

fn finish(answer: Result<Answer, Failure>, as_json: bool) -> ExitCode {
    match answer {
        Ok(answer) => {
            print(&if as_json {
                answer.json.to_string()
            } else {
                answer.words
            });
            if let Some(warning) = answer.warning.filter(|_| !as_json) {
                complain(&warning);
            }
            ExitCode::SUCCESS
        }
        Err(Failure::Failed(words)) => {
            complain(&words);
            ExitCode::from(FAILED)
        }
        Err(Failure::Usage(words)) => {
            complain(&words);
            ExitCode::from(USAGE)
        }
    }
}

fn named(image: &str) -> Result<ImageName, Failure> {
    image
        .parse()
        .map_err(|error: crate::oci::image::ImageNameError| Failure::Usage(error.to_string()))
}

fn query(image: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("image", image);
    format!("{PINS}?{}", query.finish())
}

fn list(target: &Target) -> Result<Answer, Failure> {
    match target {
        Target::Running(admin) => {
            let list: List = block_on(admin.value(Method::GET, PINS))?;
            Ok(Answer {
                words: table(&list.images),
                warning: too_much(list.fit, list.wanted_bytes, list.max_size),
                json: json!(list),
            })
        }
        Target::AtRest(store) => {
            let images = store.pins().map_err(|error| cannot("read", &error))?;
            let names: Vec<_> = images.iter().map(Image::to_string).collect();
            Ok(Answer {
                words: match names.is_empty() {
                    true => "nothing is pinned".to_owned(),
                    false => names.join("\n"),
                },
                warning: None,
                json: json!({ "images": names.iter().map(|name| json!({ "image": name })).collect::<Vec<_>>() }),
            })
        }
    }
}

fn pin_running(admin: &Admin, image: &str) -> Result<Answer, String> {
    let done: Done = block_on(admin.value(Method::POST, &query(image)))?;
    let state = done.pinned.as_ref().map_or_else(String::new, state);
    Ok(Answer {
        words: match done.changed {
            true => format!("pinned {}: {state}", done.image),
            false => format!("{} is pinned already: {state}", done.image),
        },
        warning: too_much(done.fit, done.wanted_bytes, done.max_size),
        json: json!(done),
    })
}

fn unpin_running(admin: &Admin, image: &str) -> Result<Answer, String> {
    let done: LetGo = block_on(admin.value(Method::DELETE, &query(image)))?;
    Ok(let_go(&done.image, done.changed))
}

fn pin_at_rest(store: &Offline, config: &Config, name: &ImageName) -> Result<Answer, Failure> {
    let image = resolve(config, name).map_err(|error| unknown(&error))?;
    let changed = store
        .pin(image.clone())
        .map_err(|error| cannot("write", &error))?;
    Ok(Answer {
        words: match changed {
            true => format!("pinned {image}; it counts once the mirror runs"),
            false => format!("{image} is pinned already"),
        },
        warning: None,
        json: json!({ "image": image.to_string(), "changed": changed }),
    })
}

fn unpin_at_rest(store: &Offline, config: &Config, name: &ImageName) -> Result<Answer, Failure> {
    let image =
        resolve(config, name).or_else(|error| name.literal().ok_or_else(|| unknown(&error)))?;
    let changed = store
        .unpin(&image)
        .map_err(|error| cannot("write", &error))?;
    Ok(let_go(&image.to_string(), changed))
}

/// What a name means to the mirror that has this configuration.
fn resolve(config: &Config, name: &ImageName) -> Result<Image, SelectError> {
    let Ok(sites) = config.sites(|_| Ok::<(), Infallible>(()));
    sites.image(name)
}

fn unknown(error: &SelectError) -> Failure {
    Failure::Usage(error.to_string())
}

fn cannot(verb: &str, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot {verb} the pins: {error}"))
}

fn let_go(image: &str, changed: bool) -> Answer {
    Answer {
        words: match changed {
            true => format!("unpinned {image}; it stays until it is evicted"),
            false => format!("{image} was not pinned"),
        },
        warning: None,
        json: json!({ "image": image, "changed": changed }),
    }
}

fn too_much(fit: bool, wanted: u64, max_size: u64) -> Option<String> {
    (!fit).then(|| {
        format!(
            "what is pinned takes {} and the store may hold {}: what finds no room is passed through and not kept; unpin something or raise max_size",
            format_size(wanted),
            format_size(max_size)
        )
    })
}

/// How much of it is here.
fn state(pinned: &Pinned) -> String {
    let size = format_size(pinned.stored_bytes);
    match (pinned.stored, pinned.missing) {
        (0, _) => "not stored yet; kept once it is pulled".to_owned(),
        (_, 0) => format!("{size} stored"),
        (stored, missing) => format!(
            "{size} stored, {missing} of {} files not pulled yet",
            stored + missing
        ),
    }
}

fn table(images: &[Pinned]) -> String {
    if images.is_empty() {
        return "nothing is pinned".to_owned();
    }
    let width = images
        .iter()
        .map(|pinned| pinned.image.len())
        .max()
        .unwrap_or(0);
    let rows = images
        .iter()
        .map(|pinned| format!("{:width$}  {}", pinned.image, state(pinned)));
    rows.collect::<Vec<_>>().join("\n")
}
