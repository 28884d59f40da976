//! `pierglass pin` and `unpin`: images that are never evicted.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::api::{self, PinAnswer, PinList, PinnedImage, UnpinAnswer};
use crate::config::Config;
use crate::config::units::format_size;
use crate::oci::image::{Image, ImageName};
use crate::sites::SelectError;
use crate::store::images::offline::Offline;

use super::exit::{Failure, complain, print};
use super::flags::TargetFlags;
use super::runtime::block_on;
use super::target::{self, AdminClient, Target};

/// `pierglass pin`.
#[derive(Debug, Args)]
pub(super) struct PinFlags {
    #[command(flatten)]
    target: TargetFlags,
    /// The image, named as it is pulled: alpine:3.20, quay.io/org/app@sha256:...
    image: Option<String>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// `pierglass unpin`.
#[derive(Debug, Args)]
pub(super) struct UnpinFlags {
    #[command(flatten)]
    target: TargetFlags,
    /// The image, named as it was pinned.
    image: String,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// What a command found out: for programs, for people, and to warn of.
struct Answer {
    json: Value,
    words: String,
    warning: Option<String>,
}

pub(super) fn pin(flags: &PinFlags) -> Result<(), Failure> {
    let config = flags.target.load()?;
    let answer = match &flags.image {
        None => list(&target::choose(&flags.target, &config)?)?,
        Some(image) => {
            let name = named(image)?;
            match target::choose(&flags.target, &config)? {
                Target::Running(admin) => pin_running(&admin, image)?,
                Target::AtRest(store) => pin_at_rest(&store, &config, &name)?,
            }
        }
    };
    show(answer, flags.json);
    Ok(())
}

pub(super) fn unpin(flags: &UnpinFlags) -> Result<(), Failure> {
    let config = flags.target.load()?;
    let name = named(&flags.image)?;
    let answer = match target::choose(&flags.target, &config)? {
        Target::Running(admin) => unpin_running(&admin, &flags.image)?,
        Target::AtRest(store) => unpin_at_rest(&store, &config, &name)?,
    };
    show(answer, flags.json);
    Ok(())
}

fn show(answer: Answer, as_json: bool) {
    if as_json {
        return print(&answer.json.to_string());
    }
    print(&answer.words);
    if let Some(warning) = answer.warning {
        complain(&warning);
    }
}

fn named(image: &str) -> Result<ImageName, Failure> {
    image
        .parse()
        .map_err(|error: crate::oci::image::ImageNameError| Failure::usage(error.to_string()))
}

fn query(image: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("image", image);
    format!("{}?{}", api::PINS, query.finish())
}

fn list(target: &Target) -> Result<Answer, Failure> {
    match target {
        Target::Running(admin) => {
            let list: PinList = block_on(admin.value(Method::GET, api::PINS))?;
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

fn pin_running(admin: &AdminClient, image: &str) -> Result<Answer, Failure> {
    let done: PinAnswer = block_on(admin.value(Method::POST, &query(image)))?;
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

fn unpin_running(admin: &AdminClient, image: &str) -> Result<Answer, Failure> {
    let done: UnpinAnswer = block_on(admin.value(Method::DELETE, &query(image)))?;
    Ok(let_go(&done.image, done.changed))
}

fn pin_at_rest(store: &Offline, config: &Config, name: &ImageName) -> Result<Answer, Failure> {
    let image = resolve(config, name).map_err(|error| unknown(&error))?;
    let pinned = store.pins().map_err(|error| cannot("read", &error))?;
    if pinned.len() >= api::MAX_PINS && !pinned.contains(&image) {
        let most = api::MAX_PINS;
        return Err(Failure::failed(format!(
            "{most} images are pinned, and no more can be; unpin one"
        )));
    }
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
    config.sites(std::iter::repeat(())).image(name)
}

fn unknown(error: &SelectError) -> Failure {
    Failure::usage(error.to_string())
}

fn cannot(verb: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {verb} the pins: {error}"))
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
fn state(pinned: &PinnedImage) -> String {
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

fn table(images: &[PinnedImage]) -> String {
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
